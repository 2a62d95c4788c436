"""The global fedmsg config -> one frozen :class:`Settings`.  This is the manual of every key.

The configuration is fedmsg's own: every ``*.py`` file in ``/etc/fedmsg.d``, ``~/.fedmsg.d``,
``./fedmsg.d`` and ``$VIRTUAL_ENV/etc/fedmsg.d``, or the one file named by ``--config-filename``;
each defines a dictionary named ``config``.  The loader is that of every fedmsg command.  But
``--check``, ``--status``, ``--test``, ``--help`` and ``--version`` pass over a ``./fedmsg.d`` to
which others may write.

Where to listen:

``relay_inbound`` (string or list of strings; required)
    The addresses that scripts publish to.  Every one that is local to this host is bound; one that
    is not, or whose name does not resolve, is skipped with a warning.
``endpoints["relay_outbound"]``, else ``relay_outbound`` (string or list of strings; required)
    The addresses that consumers listen to.  The first that is local and free is bound.

An address is ``tcp://HOST:PORT``, with an IPv4 address, an IPv6 address in brackets, ``*`` or a
host name (which stands for all its addresses on this host), or ``ipc:///PATH``, with a path of 107
bytes at most.  Inbound and outbound must not include each other.

How (the keys and defaults are fedmsg's, and count for both sockets):

``io_threads`` (whole number, default 1)
    Threads of libzmq for the network.  Of several the first serves the publishers, and the others
    share the consumers.
``high_water_mark`` (messages, default 0: no limit)
    How many messages may wait for one peer before more are dropped.
``zmq_linger`` (milliseconds, default 1000)
    How long a stop may wait for consumers to take what was sent to them.
``zmq_tcp_keepalive`` (-1, 0 or 1), ``zmq_tcp_keepalive_cnt`` (probes),
``zmq_tcp_keepalive_idle``, ``zmq_tcp_keepalive_intvl`` (seconds)
    TCP keepalive, so that a peer which vanished while idle is noticed.  Default -1: on for
    publishers (10 probes, 60 s, 30 s); as the operating system has it for consumers.
``zmq_reconnect_ivl_max`` (milliseconds, default 1000), ``zmq_reconnect_ivl`` (default 100)
    Within what time consumers reconnect.  Only the default of ``relay_hold`` depends on them.
``srv_endpoints``
    Ignored: no name server is asked for them.
``zmq_enabled`` (must be true)
    A site without ZeroMQ has no use for this relay.
``logging`` (a ``logging.config`` dictionary)
    The relay logs as ``fedmsg.relay``; what a handler, filter or formatter fails to write goes to
    standard error, as does the whole log if this cannot be applied.
``moksha.monitoring.socket`` (address; default: none)
    Where every daemon of fedmsg says how it is, every 5 seconds and to whoever begins to listen:
    what ``fedmsg-check`` and ``fedmsg-relay --status`` read.  If it cannot be bound, fails later,
    or has a name that is not known within half a second, the relay logs that and goes without.
    While the config is loaded, psutil calls the process ``fedmsg-relay``, for addresses made of it.
    ``backlog``: messages held, or in the kernel for the consumer that is furthest behind, where
    something has waited for 3 seconds without a break.
``moksha.monitoring.socket.mode`` (permissions in octal, ``"770"``; default ``relay_ipc_mode``)
    Of its socket file, if it is an ``ipc://`` address; to listen takes the permission to write.

The relay's own:

``relay_hold`` (seconds, default ``zmq_reconnect_ivl_max`` + 0.5)
    After a start, and when the relay before has drained, keep messages for this long, until the
    consumers that were cut off by that are back.
``relay_drain`` (seconds, default 5)
    At a stop, spend at most this long on passing on what has come in.
``relay_inbound_allow``, ``relay_outbound_allow`` (string or list of strings; default: everybody)
    The IPv4 and IPv6 addresses and networks (``192.0.2.0/24``) from which scripts and consumers may
    connect.  Others are disconnected before anything of theirs is read.  Applies to ``tcp://``
    addresses only.
``relay_ipc_mode`` (permissions in octal, ``"0660"`` or ``0o660``; default ``0o660``)
    Of the socket files of ``ipc://`` addresses; to connect takes the permission to write.
``relay_max_message_size`` (bytes, default 16 MiB; 0: no limit)
    A peer that sends a larger frame is disconnected, and that frame is lost.  ``fedmsg_relay`` and
    ``fedmsg-relay-publish`` refuse such a message, and say why.
``relay_stall_timeout`` (seconds, default 30; 0: never)
    A consumer whose host answers, but that takes nothing of what waits for it for this long, as it
    is stopped or hung, is disconnected, and its backlog dropped.  Not at ``ipc://`` addresses.
``relay_unreachable_timeout`` (seconds, default 900; 0: never)
    For this long what waits for a consumer whose host does not answer is kept, and the connection
    with it, whatever ``zmq_tcp_keepalive_cnt`` says.
``relay_memory_max`` (bytes, default 512 MiB, at least 256 MiB; 0: no limit)
    When the relay's resident memory is above this, the consumer that is furthest behind is
    disconnected.
``relay_http`` (``"HOST:PORT"`` or a port of 127.0.0.1; default: none)
    Where the relay shows its status over HTTP, to whoever reaches the port: ``/`` is a page,
    ``/healthz`` for load balancers, ``/metrics`` for Prometheus (needs the package
    prometheus-client), ``/status.json`` what ``--status --json`` prints.  Asked for by HOST, a name
    of this host, ``localhost`` or the numeric address.  If the port cannot be bound, the relay goes
    without, as above.
"""
