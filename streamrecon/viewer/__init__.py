"""A bare page with the newest picture and the counters."""

from streamrecon.viewer.page import serve

__all__ = ["serve"]
