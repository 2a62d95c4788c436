"""What figures have in common: see __main__.py."""


class Failed(Exception):
    """What was promised did not hold."""
