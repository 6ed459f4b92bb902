"""An attachment in a thread, and an engine that only takes what is sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bluesky_scans import STEP

from streamrecon.bluesky import attach as module
from streamrecon.bluesky.attach import Attachment
from streamrecon.bluesky.documents import DocumentQueue
from streamrecon.bluesky.mapping import mapping_from_dict
from streamrecon.config import from_dict
from streamrecon.transport import SendReport


class Engine:
    """Takes what is sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scans: dict[str, list[Any]] = {}
        self.infos: dict[str, Any] = {}
        self.errors: dict[str, Exception] = {}
        self.hold = threading.Event()
        self.hold.set()
        monkeypatch.setattr(module, "send_scan", self.send)

    def send(self, info: Any, frames: Callable[[slice], Iterator[Any]], endpoint: str, **options: Any) -> SendReport:
        assert self.hold.wait(20)
        self.infos[info.uid] = info
        found = self.scans[info.uid] = []
        try:
            for item in frames(slice(0, info.geometry.rows)):
                found.append(item)
        except Exception as error:
            self.errors[info.uid] = error
            raise
        return SendReport(len(found), 0, 0.1, 0.0, ())


class Attached:
    """An attachment in a thread of its own."""

    def __init__(self, folder: Path, *rules: dict[str, Any], keep: Path | None = None, **options: Any) -> None:
        self.queue, self.events = DocumentQueue(), list[tuple[str, str]]()
        documents = options.pop("documents", self.queue)
        source = {"roots": [str(folder)], "patience": options.pop("patience", 2.0)}
        tables = {name: options.pop(name, {}) for name in ("attach", "engine")}
        config = from_dict({"source": source, **tables})
        mappings = [mapping_from_dict({"name": f"m{n}", **each}) for n, each in enumerate(rules or (STEP,))]
        self.attachment = Attachment(
            documents, "ipc:///nowhere", mappings, config, keep=keep,
            listener=lambda event, text: self.events.append((event, text)), **options,
        )  # fmt: skip
        self.thread = threading.Thread(target=self.attachment.run, daemon=True)
        self.thread.start()

    def say(self, documents: Any) -> None:
        for name, doc in documents:
            self.queue(name, doc)

    def close(self) -> None:
        self.queue.close()
        self.thread.join(20)
        assert not self.thread.is_alive()

    def told(self, event: str) -> list[str]:
        return [text for name, text in self.events if name == event]


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
