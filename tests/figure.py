"""What figures have in common: see figures.py."""


class Failed(Exception):
    """What was promised did not hold."""
