"""Looking at a volume that grows, and at one that is finished.

`subscribe` gives slices to a program, `ViewServer` shows them in a page.
"""

from streamrecon.transport.subscription import Slices, subscribe
from streamrecon.viewer.finished import FileSource
from streamrecon.viewer.live import LiveSource
from streamrecon.viewer.server import ViewServer

__all__ = ["FileSource", "LiveSource", "Slices", "ViewServer", "subscribe"]
