# The relay's part of the global fedmsg config, which every program that uses fedmsg here reads.
config = {
    # Where scripts publish to: an address, or a list of which those of this host are bound.
    "relay_inbound": "tcp://127.0.0.1:2003",
    "endpoints": {
        # Where consumers listen: the first that is an address of this host and free is bound.
        "relay_outbound": ["tcp://127.0.0.1:4001"],
    },
    # Below: the relay's own keys with their defaults.
    #
    # After a start, keep messages for this many seconds, until consumers have reconnected.
    # The default is zmq_reconnect_ivl_max (milliseconds, 1000 if not set) and half a second.
    # "relay_hold": 1.5,
    #
    # At a stop, spend at most this many seconds on passing on what has come in.
    # "relay_drain": 5,
}
