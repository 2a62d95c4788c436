"""README.md: each command of it, typed as it stands, on a machine with the service.

The rows of the troubleshooting table are tested with the set-up that each is for.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import box
import pytest
from harness import wait_for

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "README.md").read_text()
SHARED = "/etc/fedmsg.d/relay.py"
LOCAL = """
config = {
    "relay_inbound": "tcp://127.0.0.1:2003",
    "endpoints": {"relay_outbound": ["tcp://127.0.0.1:4001"]},
}
"""


def section(title: str) -> str:
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## )", TEXT, re.DOTALL | re.MULTILINE)
    return text


def blocks(title: str, language: str = "sh") -> list[str]:
    """The blocks of code in a section."""
    return re.findall(rf"^```{language}\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)


def row(symptom: str) -> tuple[str, list[str]]:
    """The command of a row of the troubleshooting table, and what it is to say."""
    (cells,) = re.findall(rf"^\| {symptom} \|(.*)\|$", section("Troubleshooting"), re.MULTILINE)
    command, says, *_ = cells.split(" | ")
    (command,) = re.findall("`([^`]+)`", command)
    # A, B and C stand for addresses.
    patterns = (re.escape(part).rstrip("…") for part in re.findall("`([^`]+)`", says))
    return command, [re.sub(r"\b[ABC]\b", r"\\S+", pattern) for pattern in patterns]


@pytest.fixture
def bare(installed: Path) -> Iterator[box.Box]:
    """A machine on which the service is installed, and has not been started."""
    with box.Box(installed) as made:
        made.check(f"echo '{LOCAL}' > {SHARED}")
        yield made


@pytest.fixture
def machine(bare: box.Box) -> box.Box:
    bare.check("service fedmsg-relay start")
    return bare


def begin(machine: box.Box, command: str, output: str) -> None:
    machine.check(f"{{ {command}\n}} > {output} 2>&1 < /dev/null &")


def test_install_and_see_a_message(bare: box.Box) -> None:
    start, tail, publish, change = blocks("Install the service")
    install, start, enable = start.splitlines()
    assert install == "make install"  # which has made this machine
    bare.check(start)
    assert enable.startswith("systemctl ")  # of which there is none in this one
    begin(bare, tail, "/tail")
    say_hello, ask = publish.splitlines()

    def comes_out() -> bool:
        bare.check(say_hello)
        return "hello" in bare.check("cat /tail")

    wait_for(comes_out, "hello from fedmsg-tail")
    assert "OK - forwarding" in bare.check(ask)
    assert "configuration OK" in bare.check(f"set -e; {change}")


def test_publish(machine: box.Box) -> None:
    begin(machine, "fedmsg-tail", "/tail")
    line, follow = blocks("Publish")[0].splitlines()
    (python,) = blocks("Publish", "python")
    link = blocks("Publish")[1]
    begin(machine, f"touch /var/log/messages; {follow}", "/follow")
    machine.check("git init -q --bare -b main /srv/git/nethack.git")
    machine.check(link)
    push = """
        git init -q -b main /work && cd /work && git config user.email a@example.org
        git config user.name A && git commit -q --allow-empty -m nethack-commit
        git push -q /srv/git/nethack.git main
    """

    def comes_out(text: str) -> bool:
        return text in machine.check("cat /tail")

    def from_shell() -> bool:
        machine.check(line)
        return comes_out("Disk full on")

    wait_for(from_shell, "the line of the shell")
    machine.check(f"/usr/local/lib/fedmsg-relay/bin/python -c {shlex.quote(python)}")
    wait_for(lambda: comes_out("nethack"), "the message of Python")
    assert "warning" not in machine.check(push)
    wait_for(lambda: comes_out("nethack-commit"), "the commit")

    def from_file() -> bool:
        machine.check("echo from-messages >> /var/log/messages")
        return comes_out("from-messages")

    wait_for(from_file, "the line of the file")


def test_several_hosts(installed: Path) -> None:
    """Both relays run with the one config that the README shows; a consumer hears both."""
    (config,) = blocks("Several hosts", "python")
    there = "ip netns exec peer"
    relay = "/usr/local/lib/fedmsg-relay/bin/python -I -m fedmsg_relay"
    with box.Box(installed) as machine:
        machine.check(box.LINK)
        machine.check(f"cat > {SHARED} <<'END'\n{config}\nEND")
        machine.check("service fedmsg-relay start")
        begin(machine, f"{there} {relay}", "/there")
        wait_for(lambda: "forwarding;" in machine.check("cat /there"), "the relay there")
        begin(machine, "fedmsg-tail", "/tail")

        def both_come_out() -> bool:
            machine.check("fedmsg-relay-publish --message from-here")
            machine.check(f"{there} fedmsg-relay-publish --message from-there")
            heard = machine.check("cat /tail")
            return "from-here" in heard and "from-there" in heard

        wait_for(both_come_out, "the messages of both hosts")
        # A script whose own relay is down goes to the other.
        machine.check("service fedmsg-relay stop")
        machine.check("fedmsg-relay-publish --message from-the-other")
        wait_for(lambda: "from-the-other" in machine.check("cat /tail"), "the message")


def found(machine: box.Box, symptom: str) -> None:
    """The table's command for a symptom says what the table says that it says."""
    command, patterns = row(symptom)
    done = machine.run(command)
    said = done.stdout + done.stderr
    for pattern in patterns:
        assert re.search(pattern, said, re.MULTILINE), (pattern, said)


def test_no_relay_runs(bare: box.Box) -> None:
    found(bare, "nothing arrives at all")


def test_the_configuration_is_wrong(bare: box.Box) -> None:
    bare.check("echo \"config = {'relay_hold': 'long'}\" > /etc/fedmsg.d/wrong.py")
    command, _ = row("the service does not start")
    assert bare.run("service fedmsg-relay start").returncode != 0
    assert "relay_hold = 'long'" in bare.run(command).stderr
    bare.check("echo 'config = {' > /etc/fedmsg.d/wrong.py")
    assert "/etc/fedmsg.d/wrong.py:1:" in bare.run(command).stderr


def test_a_change_that_was_not_applied(machine: box.Box) -> None:
    machine.check(f"sed -i s/4001/4005/ {SHARED}")
    found(machine, "nothing arrives after a change")
    machine.check("service fedmsg-relay reload")
    machine.check("fedmsg-relay --check")


def test_a_relay_that_hangs(machine: box.Box) -> None:
    machine.check("kill -STOP $(cat /var/run/fedmsg/fedmsg-relay.pid)")
    found(machine, "nothing arrives, or scripts hang")


def test_an_allow_list_that_lacks_a_host(machine: box.Box) -> None:
    machine.check(box.LINK)
    config = LOCAL.replace("127.0.0.1", box.HERE_IP)
    allow = config.replace("}\n", f'    "relay_inbound_allow": "{box.HERE_IP}",\n}}\n')
    machine.check(f"cat > {SHARED} <<'END'\n{allow}\nEND")
    machine.check("service fedmsg-relay restart")
    machine.check("ip netns exec peer fedmsg-relay-publish --message x || test $? = 69")
    command, _ = row("one host cannot publish")
    wait_for(lambda: machine.run(command).stdout, "the line in the log")
    found(machine, "one host cannot publish")


def test_a_script_whose_config_names_another_address(machine: box.Box) -> None:
    elsewhere = LOCAL.replace("2003", "2009")
    machine.check(f"mkdir -p /root/.fedmsg.d; cat > /root/.fedmsg.d/x.py <<'END'\n{elsewhere}\nEND")
    machine.check("fedmsg-logger --message test")  # and nobody knows
    (symptom,) = re.findall(r"^\| (.*messages of one script are missing) \|", TEXT, re.MULTILINE)
    found(machine, symptom)


def test_a_consumer_of_another_topic(machine: box.Box) -> None:
    begin(machine, "fedmsg-tail --topic org.fedoraproject.prod", "/filtered")
    command, _ = row("one consumer receives nothing, but is connected")
    begin(machine, command, "/tail")

    def comes_out() -> bool:
        machine.check("fedmsg-logger --message hello")
        return "org.fedoraproject.dev.logger.log" in machine.check("cat /tail")

    wait_for(comes_out, "the topic")
    assert "hello" not in machine.check("cat /filtered")


def test_a_consumer_that_is_not_connected(bare: box.Box) -> None:
    socket = "ipc:///var/run/fedmsg/monitoring-fedmsg-relay.socket"
    bare.check(f"echo \"config = {{'moksha.monitoring.socket': '{socket}'}}\" > /etc/fedmsg.d/m.py")
    bare.check("service fedmsg-relay start")
    found(bare, "one consumer receives nothing")
    command, _ = row("one consumer receives nothing")
    begin(bare, "fedmsg-tail", "/tail")
    wait_for(lambda: "1 consumer" in bare.check(command), "the consumer")


def test_what_make_run_says_works_when_it_is_pasted() -> None:
    box.require_boxes()
    with box.Box() as machine:
        venv = Path(sys.prefix)
        begin(machine, f"cd {PROJECT}; touch {venv}/.run; make run VENV={venv}", "/run.txt")
        wait_for(lambda: "forwarding;" in machine.check("cat /run.txt"), "the relay")
        pasted = [line for line in machine.check("cat /run.txt").splitlines() if "  # " in line]
        tail, publish, check = pasted
        begin(machine, tail, "/tail")

        def comes_out() -> bool:
            machine.check(publish)
            return "hello" in machine.check("cat /tail")

        wait_for(comes_out, "hello from fedmsg-tail")
        assert "OK - forwarding" in machine.check(check)
