"""The global fedmsg config -> one frozen :class:`Settings`.  This is the manual of every key.

The configuration is fedmsg's own: every ``*.py`` file in ``/etc/fedmsg.d``, ``~/.fedmsg.d``,
``./fedmsg.d`` and ``$VIRTUAL_ENV/etc/fedmsg.d``, or the one file that ``--config-filename`` names.
Each file defines a dictionary named ``config``.  The loader is the same for every fedmsg command,
with one exception: ``--check``, ``--status``, ``--test``, ``--help`` and ``--version`` skip a
``./fedmsg.d`` that belongs to another user or that other users may write to.

A wrong value is an error that names the key, the value and the valid values.  An unknown key that
begins with ``relay_`` is also an error.  Every key is there since version 1.0.0, unless its entry
says otherwise.

Where to listen:

``relay_inbound`` (string or list of strings; required)
    The addresses that scripts publish to.  The relay binds every address that is local to this
    host.  It skips other addresses, and names that do not resolve, with a warning.
    Example: ``"relay_inbound": ["tcp://127.0.0.1:2003", "tcp://192.0.2.1:2003"]``
``endpoints["relay_outbound"]``, else ``relay_outbound`` (string or list of strings; required)
    The addresses that consumers connect to.  The relay binds the first address that is local and
    free.
    Example: ``"endpoints": {"relay_outbound": ["tcp://192.0.2.1:4001"]}``

An address is ``tcp://HOST:PORT`` or ``ipc:///PATH``.  HOST is an IPv4 address, an IPv6 address in
brackets, ``*`` (IPv4 and IPv6), or a host name, which stands for all its addresses on this host.
PATH has at most 107 bytes.  Inbound and outbound must not overlap: they need different ports or
paths.

How to forward (keys and defaults are fedmsg's, and apply to both sockets):

``io_threads`` (whole number from 1 to 64, default 1)
    I/O threads of libzmq.  With several, the first serves the publishers, and the others share the
    consumers.
    Example: ``"io_threads": 2``
``high_water_mark`` (messages, default 0: no limit)
    How many messages the relay queues for one peer; further messages for that peer are dropped.
    Example: ``"high_water_mark": 100_000``
``zmq_linger`` (milliseconds, default 1000)
    At a stop, wait at most this long for consumers to take their messages.
    Example: ``"zmq_linger": 2000``
``zmq_tcp_keepalive`` (-1, 0 or 1), ``zmq_tcp_keepalive_cnt`` (probes),
``zmq_tcp_keepalive_idle``, ``zmq_tcp_keepalive_intvl`` (seconds)
    TCP keepalive, which detects that an idle peer has vanished.  The default of each is -1: for
    publishers keepalive is on (10 probes, 60 s, 30 s); for consumers the operating system's
    settings apply.
    Example: ``"zmq_tcp_keepalive": 1, "zmq_tcp_keepalive_idle": 30``
``zmq_reconnect_ivl_max`` (milliseconds, default 1000), ``zmq_reconnect_ivl`` (default 100)
    The longest time until consumers reconnect; the second key applies if the first is 0.  The relay
    uses both keys only for the default of ``relay_hold``.
    Example: ``"zmq_reconnect_ivl": 100, "zmq_reconnect_ivl_max": 1000``
``srv_endpoints``
    Ignored: the relay does not look up these services.
    Example: ``"srv_endpoints": ["example.org"]``
``zmq_enabled`` (must be true)
    If this is false, the relay refuses to start, with an error and exit status 6, as the
    relay has no other transport.
    Example: ``"zmq_enabled": True``
``logging`` (a ``logging.config`` dictionary)
    The relay logs as ``fedmsg.relay``.  A line that a handler, filter or formatter fails to write
    goes to standard error, as does the whole log if this dictionary cannot be applied.
    Example: ``"logging": {"version": 1, "loggers": {"fedmsg.relay": {"level": "DEBUG"}}}``
``moksha.monitoring.socket`` (address; default: none)
    Where the relay publishes its status, as every daemon of fedmsg does: every 5 seconds, and
    immediately to a new subscriber.  ``fedmsg-check`` and ``fedmsg-relay --status`` read the
    status.  If the address cannot be bound, is not resolved within half a second, or fails later,
    the relay logs a warning and runs without this socket.
    While the config is loaded, psutil calls the process ``fedmsg-relay``, for a config that
    derives the address from the name of the process.
    ``backlog`` in the status counts the messages that are held, or that wait in the kernel for the
    consumer that is furthest behind, once some have waited for 3 seconds without a break.
    Example: ``"moksha.monitoring.socket": "ipc:///var/run/fedmsg/monitoring-fedmsg-relay.socket"``
``moksha.monitoring.socket.mode`` (permissions in octal, ``"770"``; default ``relay_ipc_mode``)
    Permissions of the socket file, if the address is ``ipc://``.  A subscriber needs the permission
    to write.
    Example: ``"moksha.monitoring.socket.mode": "0666"``

The relay's own keys:

``relay_hold`` (seconds; default: ``zmq_reconnect_ivl_max`` in seconds, plus 0.5)
    After a start, and at a hand-over once the previous relay has drained, hold messages for this
    long, so that consumers which were disconnected can reconnect before the relay forwards.  The
    default is 1.5 if ``zmq_reconnect_ivl_max`` is not set.
    Example: ``"relay_hold": 3``
``relay_drain`` (seconds, default 5)
    At a stop, spend at most this long on forwarding what publishers have sent, and at
    most as long before that on a hold in progress.
    Example: ``"relay_drain": 10``
``relay_inbound_allow``, ``relay_outbound_allow`` (string or list of strings; default: every peer)
    The IPv4 and IPv6 addresses and networks from which scripts and consumers may connect.  Any
    other peer is disconnected before the relay reads a byte.  Applies to ``tcp://`` addresses only.
    Example: ``"relay_inbound_allow": ["127.0.0.1", "192.0.2.0/24", "2001:db8::/32"]``
``relay_ipc_mode`` (permissions in octal, ``"0660"`` or ``0o660``; default ``0o660``)
    Permissions of the socket files of ``ipc://`` addresses.  A peer needs the permission to write.
    Example: ``"relay_ipc_mode": "0666"``
``relay_max_message_size`` (bytes, default 16 MiB; 0: no limit)
    A peer that sends a larger frame is disconnected, and that frame is lost.  ``fedmsg_relay`` and
    ``fedmsg-relay-publish`` refuse to send such a message, with an error.
    Example: ``"relay_max_message_size": 1_000_000``
``relay_stall_timeout`` (seconds, default 30; 0: never)
    A consumer is disconnected, and its backlog dropped, if it takes nothing for this long although
    data waits and its host answers: such a consumer is stopped or hung.  Does not apply to
    ``ipc://`` addresses.
    Example: ``"relay_stall_timeout": 60``
``relay_unreachable_timeout`` (seconds, default 900; 0: never)
    A consumer whose host does not answer keeps its connection and its backlog for this long,
    whatever ``zmq_tcp_keepalive_cnt`` says, and is then disconnected.
    Example: ``"relay_unreachable_timeout": 3600``
``relay_memory_max`` (bytes, default 512 MiB, at least 256 MiB; 0: no limit)
    When the resident memory of the relay is above this, the relay disconnects the consumer that is
    furthest behind.  With ``relay_journal`` messages that wait for the disk may take up to 128 MiB.
    Example: ``"relay_memory_max": 2 * 2**30``
``relay_http`` (``"HOST:PORT"``, or a port of 127.0.0.1; default: none)
    Where the relay shows its status over HTTP, to every client that reaches the port.  ``/`` is the
    status page, ``/healthz`` is for load balancers, ``/metrics`` for Prometheus, and
    ``/status.json`` is what ``--status --json`` prints.  ``/metrics`` needs the package
    prometheus-client.  The Host of a request must be HOST, a name of this host, ``localhost``, or
    the numeric address.  If the port cannot be bound, the relay logs a warning and runs without
    HTTP.
    Example: ``"relay_http": "192.0.2.1:9411"``
``relay_http_allow`` (string or list of strings; default: ``["127.0.0.0/8", "::1"]``)
    With ``relay_journal``, ``/raw`` and ``/id`` of ``relay_http`` serve the journal's messages, as
    datagrepper does, for consumers that missed messages: see docs/catching-up.md.  Clients at these
    addresses and networks may read them; any other client gets status 403.  The other paths of
    ``relay_http`` are open to every client.
    Example: ``"relay_http_allow": ["127.0.0.1", "192.0.2.0/24"]``
``relay_journal`` (absolute path of a directory; default: none)
    Where the relay keeps a journal: a copy of every message, all frames byte for byte, in the order
    of forwarding, with the time.  The relay makes the directory, with mode 0750, if its parent
    exists.  One relay at a time writes a journal; a second relay logs a warning and runs without a
    journal.  The disk never delays a message: messages that cannot be written are discarded and
    counted, the log and ``--check`` report them, and the relay tries again each second.  For
    ``--check`` to test the journal, set ``moksha.monitoring.socket``.
    The systemd unit lets the relay write only below ``/var/lib/fedmsg-relay``.  For a directory
    elsewhere type ``systemctl edit fedmsg-relay``, add these two lines, and then type
    ``systemctl restart fedmsg-relay``::

        [Service]
        ReadWritePaths=/srv/journal

    Example: ``"relay_journal": "/var/lib/fedmsg-relay/journal"``
``relay_journal_size`` (bytes, default 1 GiB, at least 1 MiB)
    The oldest messages are deleted when the journal is larger.
    Example: ``"relay_journal_size": 10 * 2**30``
``relay_journal_age`` (seconds, default 7 days; 0: no limit)
    Messages are deleted when they are older, unless a registered reader has not read them yet:
    ``fedmsg-relay-amqp``, as long as the journal has the file ``readers/amqp``.
    Example: ``"relay_journal_age": 30 * 24 * 3600``
``relay_journal_sync`` (default True)
    Whether messages are on the disk (fdatasync(2)) 50 ms after they came, with up to 20 flushes a
    second while messages come.  If True, a power failure loses the messages of the last 100 ms.
    If False, a power failure loses what the kernel had not written, some 30 seconds.  In both cases
    a crash of the relay loses the messages of the last 20 ms.
    Example: ``"relay_journal_sync": False``

Validation and signing (``docs/signing.md`` describes how to make keys; needs ``pip install
'fedmsg-relay[crypto]'``, which ``make install`` includes):

``relay_validate`` (True or False; default False)
    Forward a message only if a consumer with ``validate_signatures`` would accept it: the topic of
    the envelope is that of the body, the certificate is of the authority, valid and not revoked,
    the signature is right, and ``routing_policy`` permits the topic.  Other messages are dropped,
    counted by reason, and logged, at most ten a minute.  Valid messages are forwarded byte for
    byte.  A publisher that is faster than the relay validates or signs has to wait.
    Example: ``"relay_validate": True``
``relay_sign`` (``"unsigned"`` or ``"all"``; default: nothing)
    Sign messages that are not signed, or all messages, with the key and certificate that
    ``certnames["signing_relay"]`` names in ``ssldir``, as fedmsg-signing-relay does.  White space
    behind the JSON is kept.  A message that is not fedmsg's (a topic, and a JSON object with the
    same topic) cannot be signed, and is dropped and counted.  With ``relay_validate`` too, a signed
    message is validated first, and an unsigned message is signed and forwarded: every peer that may
    connect, by ``relay_inbound_allow`` or the permissions of the socket file, then publishes in the
    name of the relay.  ``routing_policy`` must permit the relay's certificate for the topic of an
    unsigned message.
    Example: ``"relay_sign": "unsigned"``
``ssldir`` (directory, default ``/etc/pki/fedmsg``), ``certnames`` (dictionary),
``ca_cert_location``, ``crl_location`` (paths, or URLs with ``https://``), ``routing_policy``,
``routing_nitpicky``, ``crypto_backend``, ``crypto_validate_backends``, ``gpg_home``
    Keys of ``fedmsg.crypto``, with its defaults.  A key, certificate, authority or list that is
    missing, unreadable or expired is an error at the start, and so is an authority or a list of
    more than 16 MiB from a web server.  Keys are read once: reload the relay to apply a change.
    Before an expiry the relay logs a warning each day.
    Example: ``"certnames": {"signing_relay": "relay"}``
``crl_cache_expiry`` (seconds, default 3600)
    Read the authority and its revocation list again at this age, and when a certificate is not
    accepted; at most once a minute.  If that fails, the relay logs a warning and continues with the
    previous ones.
    Example: ``"crl_cache_expiry": 600``

The bridge to RabbitMQ:

``fedmsg-relay-amqp`` reads these keys, and the keys above that locate the relay of its host.  The
relay reads none of these.  docs/several-hosts.md describes how to connect several hosts.

``relay_amqp`` (1 to 64 of ``a-z``, ``0-9``, ``.`` and ``-``; required for the bridge)
    The name of this relay at the broker, different from that of every other relay: for example the
    host's name.  A name cannot end in ``.lock``.  The bridge publishes the messages of
    ``relay_journal``, and delivers to the relay what others have published.
    Example: ``"relay_amqp": "host1"``
``relay_amqp_config`` (path; default ``$FEDORA_MESSAGING_CONF``, else
``/etc/fedora-messaging/config.toml``)
    fedora-messaging's configuration, of which the bridge reads ``amqp_url``, ``[tls]``,
    ``publish_exchange``, ``passive_declares`` and ``client_properties``.  A ``topic_prefix`` is
    refused, as topics of fedmsg include their prefix.
    Example: ``"relay_amqp_config": "/etc/fedora-messaging/bus.toml"``
``relay_amqp_urls`` (string or list of strings; default: ``amqp_url``)
    The brokers of a cluster, tried in turn.  Certificates are those of ``[tls]``.  Characters such
    as ``@``, ``/``, ``?``, ``#`` and ``%`` in a password are percent-encoded: ``%40`` for ``@``.
    Example: ``"relay_amqp_urls": ["amqps://mq1.example.org", "amqps://mq2.example.org"]``
``relay_amqp_exchanges`` (string or list of strings; default ``["amq.topic"]``)
    The topic exchanges to consume from; with fedmsg-migration-tools add ``"zmq.topic"``.
    Example: ``"relay_amqp_exchanges": ["amq.topic", "zmq.topic"]``
``relay_amqp_send``, ``relay_amqp_receive`` (string or list of strings; default ``["#"]``)
    The topics to publish and to consume, as patterns of a topic exchange: ``*`` is one word, ``#``
    any number of words.  A pattern that is removed from ``relay_amqp_receive`` stays bound to
    the queue until you unbind it at the broker.  Messages that the broker drops are counted only
    if ``relay_amqp_receive`` includes ``#``.
    Example: ``"relay_amqp_receive": ["org.fedoraproject.#"]``
``relay_amqp_window`` (messages, default 1000), ``relay_amqp_prefetch`` (default 200)
    How many messages may be published but not confirmed, and delivered but not acknowledged.  Set
    each to twice the rate times the round trip to the broker: 1,000 messages a second at 300 ms
    need 600.  At most 64 MiB are not confirmed, and at most 256 MiB wait for the relay.
    Example: ``"relay_amqp_prefetch": 1000``
``relay_amqp_heartbeat`` (seconds, default 10)
    If a broker is silent for two to three times as long, the bridge closes the connection and
    reconnects.
    Example: ``"relay_amqp_heartbeat": 30``
``relay_amqp_monitoring`` (address; default
``"ipc:///var/run/fedmsg/monitoring-fedmsg-relay-amqp.socket"``; ``""``: none)
    Where the bridge publishes its status, as the relay does at ``moksha.monitoring.socket``, and
    with the same permissions.  ``fedmsg-relay-amqp --check`` and ``--status`` read it.
    Example: ``"relay_amqp_monitoring": "tcp://127.0.0.1:9413"``
``relay_amqp_http`` (``"HOST:PORT"``, or a port of 127.0.0.1; default: none)
    Where the bridge shows its status over HTTP, as the relay does at ``relay_http``, of which the
    port must be another one.  ``/`` is the status page, ``/metrics`` is for Prometheus, and
    ``/status.json`` is what ``fedmsg-relay-amqp --status --json`` prints.  ``/healthz`` is 200 with
    the line of ``--check`` while that is OK or WARNING, and 503 with the reason while it is
    CRITICAL.  If the port cannot be bound, the bridge logs a warning and runs without HTTP.
    Example: ``"relay_amqp_http": "127.0.0.1:9412"``
"""
