"""What `attach` tells people: each run as it ends in a dry run, and now and then why nothing happens."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bluesky_scans import STEP, Scan, step_scan, write

from streamrecon import cli_attach
from streamrecon.bluesky import describe as describing
from streamrecon.bluesky.documents import DocumentQueue, ZmqDocuments
from streamrecon.bluesky.mapping import mapping_from_dict
from streamrecon.config import from_dict


class DryRun:
    """In a thread of its own."""

    def __init__(self, folder: Path, out: Callable[[], str]) -> None:
        self.queue, self._read, self.out = DocumentQueue(), out, ""
        mappings = [mapping_from_dict({"name": "step", **STEP})]
        config = from_dict({"source": {"roots": [str(folder)]}})
        self.thread = threading.Thread(target=cli_attach._dry_run, args=(self.queue, mappings, config), daemon=True)
        self.thread.start()

    def shows(self, words: str, seconds: float = 10) -> bool:
        deadline = time.monotonic() + seconds
        while words not in self.out and time.monotonic() < deadline:
            time.sleep(0.02)
            self.out += self._read()
        return words in self.out

    def say(self, documents: Any) -> None:
        for name, doc in documents:
            self.queue(name, doc)

    def close(self) -> None:
        self.queue.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


def test_a_host_that_does_not_answer_is_told_soon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_attach, "QUIET", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        documents = ZmqDocuments(address)
        monkeypatch.setattr(ZmqDocuments, "ended", property(lambda _: time.monotonic() > end))
        end = time.monotonic() + 1.5
        try:
            assert cli_attach._dry_run(documents, [mapping_from_dict({"name": "step", **STEP})], from_dict({})) == 0
        finally:
            documents.close()
        told = capsys.readouterr().err
        assert told.count(f"{address} does not answer") == 1
        taken.listen()
        assert documents.silence() is None


@pytest.fixture
def dry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> DryRun:
    return DryRun(tmp_path, lambda: "".join(capsys.readouterr()))


def test_a_run_is_described_as_it_ends_while_documents_flow(tmp_path: Path, dry: DryRun) -> None:
    stopped = threading.Event()
    flowing = step_scan(tmp_path / "b.h5", 1, stop=False)
    dry.say(flowing.documents[:2])

    def flow() -> None:
        number = 0
        while not stopped.wait(0.01):
            number += 1
            dry.say([("event", {**flowing.documents[-1][1], "uid": f"e{number}", "seq_num": number})])

    thread = threading.Thread(target=flow)
    thread.start()
    scan = step_scan(write(tmp_path / "a.h5", 2), 2)
    dry.say(scan.documents)
    found = dry.shows(f"run {scan.uid}")
    stopped.set()
    thread.join()
    dry.close()
    assert found


def test_a_run_that_is_no_scan_is_told_at_once(dry: DryRun) -> None:
    other = Scan(plan_name="count")
    dry.say(other.documents)
    assert dry.shows("no scan, as plan_name is 'count'")
    dry.close()


def test_a_description_that_fails_is_told(tmp_path: Path, dry: DryRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(describing, "_mapped", fail)
    dry.say(step_scan(tmp_path / "a.h5", 1).documents)
    assert dry.shows("a bug in streamrecon: ZeroDivisionError: nobody thought of this")
    assert dry.thread.is_alive()
    dry.close()


def test_it_says_what_comes_while_a_run_goes_on(tmp_path: Path, dry: DryRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_attach, "TOLD_EVERY", 0.3)
    dry.say(step_scan(tmp_path / "a.h5", 1, stop=False).documents)
    assert dry.shows("1 runs are going on")
    dry.close()


def test_the_same_reason_is_said_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = cli_attach._Reasons()
    for number in range(5):
        reasons.say(f"nothing for {number} s")
    reasons.say("the engine is busy")
    assert capsys.readouterr().err.splitlines() == ["nothing for 0 s", "the engine is busy"]
    monkeypatch.setattr(cli_attach, "TOLD_AGAIN", 0.0)
    reasons.say("the engine is busy")
    assert capsys.readouterr().err.splitlines() == ["the engine is busy"]
