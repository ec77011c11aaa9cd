"""The pure library: no sockets, no clock, no randomness, no files."""

__version__ = "0.1.0"
