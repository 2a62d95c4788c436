"""fedmsg-relay: a relay from short-lived scripts to the long-lived consumers of a fedmsg bus.

For scripts: :func:`publish`, :func:`destroy`, and their exceptions.
"""

TYPE_CHECKING = False  # as in typing, the import of which Ctrl-C could interrupt
if TYPE_CHECKING:
    from fedmsg_relay.client.api import destroy, publish
    from fedmsg_relay.errors import ConfigError, NotConfirmed, RelayUnavailable

__all__ = ["ConfigError", "NotConfirmed", "RelayUnavailable", "destroy", "publish"]

__version__ = "1.0.0"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fedmsg_relay import errors
    from fedmsg_relay.client import api  # not before they are used: the daemon never does

    return getattr(api if name in ("destroy", "publish") else errors, name)
