"""Streaming tomographic reconstruction: the volume grows while the scan is being measured.

```
import streamrecon

volume = streamrecon.reconstruct("scan.h5")          # one call: (slice, y, x), float32

with streamrecon.Engine(streamrecon.Config(), "out") as engine:   # the pieces
    streamrecon.replay("scan.h5", engine.endpoint, streamrecon.Config())
    result = engine.wait()
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamrecon.config import Config
from streamrecon.errors import StreamreconError
from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo, VolumeUpdate
from streamrecon.version import __version__

if TYPE_CHECKING:
    from streamrecon.engine import Engine, Result, Service
    from streamrecon.replayer import replay
    from streamrecon.run import reconstruct, run_scan
    from streamrecon.sources import open_source
    from streamrecon.transport import send_scan, subscribe

__all__ = [
    "Config",
    "Engine",
    "Frame",
    "FrameKind",
    "Geometry",
    "Result",
    "ScanInfo",
    "Service",
    "StreamreconError",
    "VolumeUpdate",
    "__version__",
    "open_source",
    "reconstruct",
    "replay",
    "run_scan",
    "send_scan",
    "subscribe",
]

_LAZY = {
    "Engine": "streamrecon.engine",
    "Result": "streamrecon.engine",
    "Service": "streamrecon.engine",
    "open_source": "streamrecon.sources",
    "reconstruct": "streamrecon.run",
    "replay": "streamrecon.replayer",
    "run_scan": "streamrecon.run",
    "send_scan": "streamrecon.transport",
    "subscribe": "streamrecon.transport",
}
"""Loaded when asked for: a sender or a viewer need not load the kernels."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'streamrecon' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
