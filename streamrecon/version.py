"""The version, read by the build and written into every volume."""

__version__ = "0.1.0"
