"""The page's own process: it yields to the engine's, comes back where it dies, and never outlives who started it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from test_viewer_command import asked_to_pause, connected, look, until_it_shows
from viewer_client import until
from viewer_live import TOKEN, FakeEngine

from streamrecon import cli_view
from streamrecon.config import Config, EmitConfig
from streamrecon.viewer import page_process
from streamrecon.viewer.page_process import PageProcess


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(shape=(4, 8, 8)) as engine:
        engine.step()
        yield engine


@pytest.fixture
def process(engine: FakeEngine) -> Iterator[PageProcess]:
    process = PageProcess(engine.endpoint, 0, "to-change", "to-look")
    yield process
    process.stop()


def test_it_yields_to_others(process: PageProcess) -> None:
    look(process.view_url)
    tasks = [int(task.name) for task in Path(f"/proc/{process._process.pid}/task").iterdir()]
    nice = [os.getpriority(os.PRIO_PROCESS, task) for task in tasks]
    assert nice.count(19) >= 3, "its threads for the socket, the stream and the pictures"


def test_who_opened_it_is_noticed(process: PageProcess) -> None:
    assert not process.opened
    assert look(process.view_url)["role"] == "view"
    until(lambda: process.opened)


def test_tokens_are_not_in_its_command(process: PageProcess) -> None:
    process.use_token(TOKEN)
    command = " ".join(psutil.Process(process._process.pid).cmdline())
    assert not [token for token in ("to-change", "to-look", TOKEN) if token in command]


def test_an_interrupt_from_the_terminal_is_not_for_it(process: PageProcess) -> None:
    assert os.getpgid(process._process.pid) != os.getpgid(0)
    assert os.getsid(process._process.pid) == os.getsid(0), "else it may weigh as much as all of the engine"


def test_it_comes_back_as_it_was(process: PageProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["volume"] = np.zeros((3, 4, 5), np.float32)
    process.use_token("another one")
    process.use_token(TOKEN)
    urls = process.control_url, process.view_url
    assert asked_to_pause(process.control_url)[0]
    assert process.revive() is None
    monkeypatch.setattr(page_process, "RESTART_EVERY", math.inf)
    kill(process)
    assert process.revive() is None, "not at once"
    monkeypatch.setattr(page_process, "RESTART_EVERY", 0.0)
    assert "killed by signal 9 and was started again" in str(process.revive())
    assert (process.control_url, process.view_url) == urls
    assert asked_to_pause(process.control_url)[0]
    process.show(path)
    assert until_it_shows(process.view_url, "a.h5") == "a.h5"
    kill(process)
    process.use_token(TOKEN)  # says nothing to nobody
    assert "2 times by now" in str(process.revive())
    assert until_it_shows(process.view_url, "a.h5") == "a.h5"


def test_a_volume_that_cannot_be_shown_leaves_the_page_as_it_is(
    engine: FakeEngine, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    process = PageProcess(engine.endpoint, 0, "to-change", "to-look")
    try:
        process.show(tmp_path / "none.h5")
        assert look(process.view_url)["uid"] == "fake-1"
    finally:
        process.stop()  # after all that it was told
    assert "there is no file" in capfd.readouterr().err


def test_where_it_cannot_come_back_that_is_said_once(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the port is another program's meanwhile, say. When it can, it does."""
    import socket

    monkeypatch.setattr(page_process, "RESTART_EVERY", 0.0)
    events: list[dict[str, Any]] = []

    class Engine:
        publish_endpoint, control_token = engine.endpoint, TOKEN

    with cli_view.Page(0, Config(emit=EmitConfig(publish=engine.endpoint))) as page:
        page.tell(events.append)
        page.watch(Engine)
        del events[:]
        assert page._process is not None
        kill(page._process)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", int(page._process.view_url.split("/#")[0].rsplit(":", 1)[1])))
            other.listen()
            for _ in range(3):
                page.watch(Engine)
        assert [("in use" in event["text"], event["event"]) for event in events] == [(True, "page")]
        page.watch(Engine)
        assert "started again" in events[-1]["text"]
        assert asked_to_pause(page._process.control_url)[0]


def test_it_comes_back_while_somebody_is_waited_for(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_process, "RESTART_EVERY", 0.0)
    with cli_view.Page(0, Config(emit=EmitConfig(publish=engine.endpoint))) as page:
        assert page._process is not None
        kill(page._process)
        waiting = threading.Thread(target=page.wait_for_somebody, args=(lambda event: None,), daemon=True)
        waiting.start()
        until(lambda: page._process is not None and page._process._deaths)
        assert look(page._process.view_url)["uid"] == "fake-1"
        waiting.join(20)
        assert not waiting.is_alive()


def test_it_ends_with_who_started_it(engine: FakeEngine) -> None:
    code = (
        "import time; from streamrecon.viewer.page_process import PageProcess\n"
        f"process = PageProcess({engine.endpoint!r}, 0, 'a', 'b'); print(process._process.pid, process.view_url, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid, url = starter.stdout.readline().split()
        with connected(url):
            starter.kill()
            starter.wait()
            until(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == "zombie")


def kill(process: PageProcess) -> None:
    """And wait until it is dead."""
    process._process.send_signal(signal.SIGKILL)
    process._process.wait()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads have no priority of their own here")
def test_threads_of_libraries_yield_too() -> None:
    script = (
        "import os, zmq; from streamrecon.viewer.page_process import yield_to_others;"
        "context = zmq.Context(); socket = context.socket(zmq.PULL); yield_to_others();"
        "print(*(os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir('/proc/self/task')))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout
    priorities = [int(each) for each in said.split()]
    assert len(priorities) >= 3, "libzmq has two threads"
    assert set(priorities) == {page_process.NICENESS}
