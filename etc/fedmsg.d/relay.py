# The relay's part of the global fedmsg config, which every program that uses fedmsg here reads.
config = {
    # Where scripts publish to: an address, or a list of which those of this host are bound.
    "relay_inbound": "tcp://127.0.0.1:2003",
    "endpoints": {
        # Where consumers listen: the first that is an address of this host and free is bound.
        "relay_outbound": ["tcp://127.0.0.1:4001"],
    },
    # Below: keys of the relay with their defaults; `man fedmsg-relay.conf` explains every key.
    #
    # After a start, keep messages for this many seconds, until consumers have reconnected.
    # The default is zmq_reconnect_ivl_max (milliseconds, 1000 if not set) and half a second.
    # "relay_hold": 1.5,
    #
    # At a stop, spend at most this many seconds on passing on what has come in.
    # "relay_drain": 5,
    #
    # The addresses and networks that may connect; the default is whoever reaches the port.
    # "relay_inbound_allow": ["127.0.0.1", "192.0.2.0/24", "2001:db8::/32"],
    # "relay_outbound_allow": ["127.0.0.1", "192.0.2.0/24", "2001:db8::/32"],
    #
    # Permissions of the socket files of ipc:// addresses.
    # "relay_ipc_mode": "0660",
    #
    # Disconnect whoever sends a frame of more bytes than this; 0 is no limit.
    # "relay_max_message_size": 16 * 2**20,
    #
    # Disconnect a consumer whose host answers, but that takes nothing of what waits for it for this
    # many seconds; 0 is never.
    # "relay_stall_timeout": 30,
    #
    # Keep what waits for a consumer whose host does not answer for this many seconds.
    # "relay_unreachable_timeout": 900,
    #
    # Disconnect the consumer that is furthest behind when the relay has more bytes of memory.
    # "relay_memory_max": 512 * 2**20,
    #
    # Threads of libzmq for the network; of several the first serves the publishers, the others the
    # consumers.
    # "io_threads": 1,
    #
    # Where the relay says how it is, to fedmsg-check, Nagios and `fedmsg-relay --status`, and over
    # HTTP to browsers, load balancers and Prometheus; the default is nowhere.
    # "moksha.monitoring.socket": "ipc:///var/run/fedmsg/monitoring-fedmsg-relay.socket",
    # "moksha.monitoring.socket.mode": "0660",
    # "relay_http": "127.0.0.1:9411",
    #
    # Keep what was said in a directory, up to so many bytes and seconds; the default is nowhere.
    # "relay_journal": "/var/lib/fedmsg-relay/journal",
    # "relay_journal_size": 2**30,
    # "relay_journal_age": 7 * 24 * 3600,
}
