"""Where senders and viewers come in."""

from __future__ import annotations

import shutil
from pathlib import Path

from streamrecon.config import Config
from streamrecon.errors import StreamreconError
from streamrecon.transport import Publisher, Receiver, private_ipc


class Doors:
    """The sockets that a rank listens at; used by one thread at a time.

    Where they stay from scan to scan, an endpoint is the same for all of them, nobody else can take it in between, and who
    comes between two scans waits at it: what it says is heard by the next engine.

    Parameters
    ----------
    config
        The options.
    listen
        Endpoint to bind for senders; None is an ipc socket in a private folder.
    rank
        Of this process; viewers come to rank 0.
    stay
        Whether they outlive an engine; then whoever made them closes them.

    Raises
    ------
    EndpointError
        If an endpoint cannot be used.
    """

    def __init__(self, config: Config, listen: str | None, rank: int = 0, stay: bool = False) -> None:
        self.stay = stay
        endpoint = private_ipc() if listen is None else listen
        self._folder = Path(endpoint.removeprefix("ipc://")).parent if listen is None else None
        insecure = config.engine.insecure
        self.publisher: Publisher | None = None
        try:
            self.receiver = Receiver(endpoint, config.engine.max_frame_bytes, insecure)
            try:
                if config.emit.publish and not rank:
                    self.publisher = Publisher(config.emit.publish, insecure)
            except StreamreconError:
                self.receiver.close()
                raise
        except StreamreconError:
            self._remove()
            raise
        self.endpoint = self.receiver.endpoint
        """Where senders are to connect, as it was bound."""
        self.publish_endpoint = self.publisher.endpoint if self.publisher else None
        """Where viewers are to connect, or None."""

    def close(self) -> None:
        """Close them; once is enough however often it is called."""
        self.receiver.close()
        if self.publisher is not None:
            self.publisher.close()
        self._remove()

    def _remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
