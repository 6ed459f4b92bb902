"""Where senders come in."""

from __future__ import annotations

import shutil
from pathlib import Path

from streamrecon.config import Config
from streamrecon.errors import StreamreconError
from streamrecon.transport import Receiver, private_ipc


class Doors:
    """The socket that a rank listens at; used by one thread at a time.

    Where it stays from scan to scan, the endpoint is the same for all of them, nobody else can take it in between, and who
    comes between two scans waits at it: what it says is heard by the next engine.

    Parameters
    ----------
    config
        The options.
    listen
        Endpoint to bind for senders; None is an ipc socket in a private folder.
    stay
        Whether it outlives an engine; then whoever made it closes it.

    Raises
    ------
    EndpointError
        If the endpoint cannot be used.
    """

    def __init__(self, config: Config, listen: str | None, stay: bool = False) -> None:
        self.stay = stay
        endpoint = private_ipc() if listen is None else listen
        self._folder = Path(endpoint.removeprefix("ipc://")).parent if listen is None else None
        try:
            self.receiver = Receiver(endpoint, config.engine.max_frame_bytes, config.engine.insecure)
        except StreamreconError:
            self._remove()
            raise
        self.endpoint = self.receiver.endpoint
        """Where senders are to connect, as it was bound."""

    def close(self) -> None:
        """Close it; once is enough however often it is called."""
        self.receiver.close()
        self._remove()

    def _remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
