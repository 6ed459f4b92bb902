"""What viewers have changed, beside the volume: an engine that goes on with the scan after a crash does it again."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

from streamrecon.engine.sync import sync
from streamrecon.wire.messages import Action, Control

log = logging.getLogger(__name__)

NAME = "changes.json"
KEPT: tuple[Action, ...] = ("center", "filter", "side")
"""Of what is kept, the last of each."""


class KeptRequests:
    """Those of one scan; used by one thread.

    Parameters
    ----------
    folder
        OUT.
    uid
        Of the scan.
    """

    def __init__(self, folder: Path, uid: str) -> None:
        self._path, self._uid = folder / NAME, uid
        self._requests: dict[str, Control] = {}

    def add(self, control: Control) -> None:
        """A request was carried out. A disk that fails is told, and the scan goes on."""
        if control.action not in KEPT:
            return
        self._requests.pop(control.action, None)
        self._requests[control.action] = control
        lines = [{"action": c.action, "numbers": c.numbers, "text": c.text} for c in self._requests.values()]
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps({"uid": self._uid, "changes": lines}))
            sync(temporary)
            temporary.replace(self._path)
        except OSError as error:
            log.warning("a restart would not know of the change of %s: %s", control.action, error)

    def load(self) -> list[Control]:
        """What was changed by an earlier engine, in its order; nothing where that cannot be read."""
        try:
            kept = json.loads(self._path.read_text())
            if kept["uid"] != self._uid:
                return []
            return [
                Control(
                    serial=0, token="", action=c["action"], numbers=tuple(map(float, c["numbers"])), text=str(c["text"])
                )
                for c in kept["changes"]
                if c["action"] in KEPT
            ]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("what viewers had changed cannot be read from %s: %s", self._path, error)
            return []

    def forget(self) -> None:
        """The scan is over."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
