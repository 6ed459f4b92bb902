"""Endpoints that only this user can reach, and a check that nothing is left behind."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder with a short path, as ipc paths are limited."""
    path = Path(tempfile.mkdtemp(prefix="srt-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def ipc(folder: Path) -> str:
    """A private ipc endpoint."""
    return f"ipc://{folder / 's'}"


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    threads, context = set(threading.enumerate()), zmq.Context.instance()
    before = {socket for socket in getattr(context, "_sockets", ()) if not socket.closed}
    yield
    # The first frame that is sent without a copy starts a thread of pyzmq's that stays for good.
    ours = [each for each in threading.enumerate() if type(each).__name__ != "GarbageCollectorThread"]
    left = [each for each in ours if each not in threads and each.is_alive()]
    assert not left, f"threads left: {left}"
    open_ones = {socket for socket in getattr(context, "_sockets", ()) if not socket.closed} - before
    assert not open_ones, f"sockets left: {open_ones}"
