"""fedmsg-relay: from the scripts that connect and leave to the consumers that connect and stay."""

__version__ = "1.0.0"
