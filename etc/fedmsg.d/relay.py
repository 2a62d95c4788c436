# The relay's part of the global fedmsg config, which every program that uses fedmsg here reads.
config = {
    # Where scripts publish: an address or a list. The relay binds each address of this host.
    "relay_inbound": "tcp://127.0.0.1:2003",
    "endpoints": {
        # Where consumers connect. The relay binds the first address that is local and free.
        "relay_outbound": ["tcp://127.0.0.1:4001"],
    },
    # Below: more keys of the relay; `man fedmsg-relay.conf` explains every key. Each value is the
    # default, unless the comment says what the default is.
    #
    # After a start, keep messages for this many seconds, until consumers have reconnected.
    # The default is zmq_reconnect_ivl_max in seconds, plus 0.5; 1.5 if that is not set.
    # "relay_hold": 1.5,
    #
    # At a stop, spend at most this many seconds on forwarding what publishers have sent.
    # "relay_drain": 5,
    #
    # The addresses and networks that may connect; by default every peer may.
    # "relay_inbound_allow": ["127.0.0.1", "192.0.2.0/24", "2001:db8::/32"],
    # "relay_outbound_allow": ["127.0.0.1", "192.0.2.0/24", "2001:db8::/32"],
    #
    # Permissions of the socket files of ipc:// addresses.
    # "relay_ipc_mode": "0660",
    #
    # Disconnect a peer that sends a frame of more bytes than this; 0 is no limit.
    # "relay_max_message_size": 16 * 2**20,
    #
    # Disconnect a consumer that takes no message for this many seconds although messages wait and
    # its host answers; 0 is never.
    # "relay_stall_timeout": 30,
    #
    # Keep the messages of a consumer whose host does not answer for this many seconds, then
    # disconnect the consumer.
    # "relay_unreachable_timeout": 900,
    #
    # Disconnect the consumer that is furthest behind when the relay uses more bytes of memory.
    # "relay_memory_max": 512 * 2**20,
    #
    # I/O threads of libzmq. With several, the first serves the publishers, the others serve the
    # consumers.
    # "io_threads": 1,
    #
    # Where the relay publishes its status: for fedmsg-check, Nagios and `fedmsg-relay --status`,
    # and over HTTP for browsers, load balancers and Prometheus; the default is nowhere.
    # "moksha.monitoring.socket": "ipc:///var/run/fedmsg/monitoring-fedmsg-relay.socket",
    # "moksha.monitoring.socket.mode": "0660",
    # "relay_http": "127.0.0.1:9411",
    #
    # Keep every message in a directory, up to this many bytes and seconds; the default is nowhere.
    # "relay_journal": "/var/lib/fedmsg-relay/journal",
    # "relay_journal_size": 2**30,
    # "relay_journal_age": 7 * 24 * 3600,
    #
    # Who may read these messages over relay_http; by default this host alone.
    # "relay_http_allow": ["127.0.0.0/8", "::1", "192.0.2.0/24"],
}
