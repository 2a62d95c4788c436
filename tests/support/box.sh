#!/bin/sh
# box.sh INIT...: a throw-away copy of this machine, as a mount, process, network, IPC and host-name
# namespace; INIT is its first process.  What is written in it is in memory and gone with its INIT.
#
# BOX_LAYERS are directories, separated by colons, with files that it has beyond this machine's.
# BOX_NETWORK=host lets it use this machine's network; else it has a loopback interface of its own.
# BOX_UPPER names a directory to which INIT's end copies what was written.
# BOX_SYSTEMD=1 gives it what systemd needs as INIT: a /dev, /sys and cgroup tree of its own.
#
# To be started as `unshare --mount --pid --fork --kill-child --uts --ipc [--net] [--cgroup] sh box.sh ...`.
set -eu
new=/mnt
mount --make-rprivate /
[ "${BOX_NETWORK:-}" = host ] || ip link set lo up
mount -t tmpfs -o mode=755 tmpfs $new
mkdir $new/upper $new/work $new/root
IFS=:
for layer in ${BOX_LAYERS:-}; do
    cp -a "$layer/." $new/upper
done
mount -t overlay overlay -o "lowerdir=/,upperdir=$new/upper,workdir=$new/work" $new/root
cd $new/root
mount -t proc proc proc
if [ -n "${BOX_SYSTEMD:-}" ]; then
    hostname box
    mount -t sysfs sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs dev
    for device in null zero full random urandom tty; do
        : >dev/$device
        mount --bind /dev/$device dev/$device
    done
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
else
    mount --rbind /dev dev
    mount --rbind /sys sys
fi
mount -t tmpfs -o mode=755 tmpfs run
mkdir -m 1777 run/lock
mkdir -p .old
if [ -n "${BOX_UPPER:-}" ]; then
    chroot . "$@"
    rmdir .old
    cp -a ../upper/. "$BOX_UPPER"
else
    pivot_root . .old
    cd /
    umount -l /.old
    : >/run/box # the sign that it is one
    exec "$@"
fi
