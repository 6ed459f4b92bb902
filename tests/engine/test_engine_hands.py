"""What viewers ask for: the volume is then as if it had been so from the start, in all slabs, and nothing is lost by it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_ranks import stream_ranks
from engine_scans import Scan, Streamed, batch, config, difference, simulated

from streamrecon.config import Config
from streamrecon.engine import Engine
from streamrecon.engine.kept_requests import KeptRequests
from streamrecon.scan import Frame, FrameKind
from streamrecon.transport import Slices, Subscription, private_ipc, subscribe
from streamrecon.transport.subscription import Pictures
from streamrecon.wire.messages import Control, Result, Want

pytestmark = pytest.mark.slow


@pytest.fixture(name="scan", scope="module")
def _scan() -> Scan:
    return simulated(rows=8)


class Watched:
    """A scan that stands still after half of its projections until it is let go, and a viewer with the control token."""

    def __init__(self, scan: Scan, tmp_path: Path, ranks: int, **options: dict[str, Any]) -> None:
        self.scan, self._out, self._ranks = scan, tmp_path, ranks
        emit = {"every": 10, "publish": private_ipc()} | options.pop("emit", {})
        self.options: Config = config(emit=emit, **options)
        self.endpoint = str(self.options.emit.publish)
        self._go = threading.Event()
        self._end = threading.Event()
        self._end.set()
        self.halfway = threading.Event()
        self.advice: list[str] = []
        self.engine: Engine | None = None
        self._serial = 0

    def _frames(self, rows: slice) -> Iterator[Frame]:
        for frame in self.scan.frames(rows):
            if frame.kind is FrameKind.PROJECTION and frame.index == 30:
                self.halfway.set()
                assert self._go.wait(30)
            if frame.kind is FrameKind.PROJECTION and frame.index == 45:
                assert self._end.wait(30)
            yield frame

    def run(self, script: Callable[[], None]) -> Streamed:
        """Stream it; the script is run halfway."""
        errors: list[BaseException] = []

        def at_half() -> None:
            try:
                assert self.halfway.wait(30)
                self.see(lambda slices: slices.update.projections >= 20)
                script()
            except BaseException as error:
                errors.append(error)
            finally:
                self._go.set()
                self._end.set()

        thread = threading.Thread(target=at_half, daemon=True)

        def watch(engine: Engine) -> None:
            self.engine = engine
            thread.start()

        def heard(end: Any) -> None:
            if end.advice and end.advice not in self.advice:
                self.advice.append(end.advice)

        streamed = stream_ranks(
            self.scan, self.options, self._out, self._ranks, frames=self._frames, watch=watch, progress=heard,
            can_replay=False,
        )  # fmt: skip
        thread.join(10)
        if errors:
            raise errors[0]
        return streamed

    def ask(self, action: Any, *numbers: float, text: str = "") -> tuple[Result, Pictures]:
        assert self.engine is not None
        self._serial += 1
        with Subscription(self.endpoint) as viewer:
            token = str(self.engine.control_token)
            viewer.ask(Control(serial=self._serial, token=token, action=action, numbers=numbers, text=text))
            answer = viewer.receive(20)
        assert answer is not None
        assert isinstance(answer[0], Result)
        assert answer[0].serial == self._serial
        return answer[0], answer[1]

    def done(self, action: Any, *numbers: float, text: str = "") -> str:
        result, _ = self.ask(action, *numbers, text=text)
        assert result.done, result.text
        return result.text

    def refused(self, action: Any, *numbers: float, text: str = "") -> str:
        result, _ = self.ask(action, *numbers, text=text)
        assert not result.done
        return result.text

    def see(self, condition: Callable[[Slices], Any], **wanted: Any) -> Slices:
        for slices in subscribe(self.endpoint, timeout=20, **wanted):
            if condition(slices):
                return slices
        raise AssertionError("the scan has ended before it was seen")


@pytest.mark.parametrize("ranks", [1, 2])
def test_another_center(scan: Scan, tmp_path: Path, ranks: int) -> None:
    each = Watched(scan, tmp_path, ranks)

    def script() -> None:
        assert "22.50" in each.done("center", 22.5)
        seen = each.see(lambda slices: slices.update.center == 22.5)
        assert not seen.update.final, "while the scan goes on"

    streamed = each.run(script)
    assert difference(streamed.volume, batch(scan, each.options, center=22.5)) < 1e-5
    assert [event["action"] for event in streamed.told("control")] == ["center"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_center_that_is_looked_for_again(scan: Scan, tmp_path: Path, ranks: int) -> None:
    """What it was set to by eye leaves no trace."""
    each = Watched(scan, tmp_path / "a", ranks, recon={"center": None})

    def script() -> None:
        each.done("center", 15.0)
        each.see(lambda slices: slices.update.center == 15.0)
        each.done("center")

    volume = each.run(script).volume
    plain = Watched(scan, tmp_path / "b", 1, recon={"center": None})
    assert difference(volume, plain.run(lambda: None).volume) < 1e-5


@pytest.mark.parametrize("ranks", [1, 2])
def test_another_filter_and_a_smaller_field_of_view(scan: Scan, tmp_path: Path, ranks: int) -> None:
    each = Watched(scan, tmp_path, ranks)

    def script() -> None:
        each.done("filter", text="hann")
        each.see(lambda slices: slices.update.filter == "hann")
        each.done("side", 32)
        seen = each.see(lambda slices: slices.update.full == (8, 32, 32))
        assert seen.axial.shape == (32, 32)

    recon = replace(each.options.recon, filter="hann", side=32)
    expected = batch(scan, replace(each.options, recon=recon))
    assert difference(each.run(script).volume, expected) < 1e-5


def test_a_restart_does_again_what_viewers_had_changed(scan: Scan, tmp_path: Path) -> None:
    each = Watched(scan, tmp_path, 1)

    def script() -> None:
        each.done("filter", text="hann")
        each.done("center", 22.5)
        each.done("center", 22.0)
        each.see(lambda slices: slices.update.center == 22.0)
        assert each.engine is not None
        each.engine.stop("the operator stops it")
        each._go.set()

    streamed = each.run(script)
    assert streamed.result is not None
    assert not streamed.result.final
    assert (tmp_path / "changes.json").exists()

    options = config(emit={"every": 10, "publish": private_ipc()}, engine={"return_timeout": 20.0})
    resumed = stream_ranks(scan, options, tmp_path, 1, resume=True)
    recon = replace(each.options.recon, filter="hann")
    assert difference(resumed.volume, batch(scan, replace(each.options, recon=recon), center=22.0)) < 1e-5
    assert not (tmp_path / "changes.json").exists()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"uid": "UID", "changes": [{"action": "center"}]}', '{"uid": "UID", "changes": 3}']
)
def test_changes_that_cannot_be_read_are_left_out(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "changes.json").write_text(text.replace("UID", "s"))
    assert KeptRequests(tmp_path, "s").load() == []
    assert "cannot be read" in caplog.text


def test_changes_of_another_scan_are_left_out(tmp_path: Path) -> None:
    KeptRequests(tmp_path, "s").add(Control(serial=1, token="t", action="center", numbers=(3.0,)))
    assert [each.numbers for each in KeptRequests(tmp_path, "s").load()] == [(3.0,)]
    assert "t" not in (tmp_path / "changes.json").read_text().replace("text", "").replace("center", "").replace(
        "action", ""
    )
    assert KeptRequests(tmp_path, "other").load() == []


def test_changes_before_anything_is_accumulated(scan: Scan, tmp_path: Path) -> None:
    """The center is still waited for; what was asked for holds once it is known."""
    each = Watched(scan, tmp_path, 1, recon={"center": None, "center_wait": 1.0, "center_frames": 40})
    each.see = lambda *_, **__: None  # type: ignore[assignment, return-value]

    def script() -> None:
        assert "nothing is reconstructed yet" in each.refused("centers", 2, 20, 28, 3)
        each.done("filter", text="cosine")
        each.done("center", 24.3)

    recon = replace(each.options.recon, filter="cosine", center=24.3)
    assert difference(each.run(script).volume, batch(scan, replace(each.options, recon=recon))) < 1e-5


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_version_where_others_are_binned(scan: Scan, tmp_path: Path, ranks: int) -> None:
    """Ten full versions do not fit the disk, two do."""
    volume, frames = 8 * 48 * 48 * 4, 70 * 8 * 48 * 2
    room = (frames + 4 * volume) * (2 if ranks == 2 else 1)
    each = Watched(scan, tmp_path, ranks, engine={"disk_bytes": room}, emit={"every": 5, "preview": 2})

    def script() -> None:
        assert each.see(lambda slices: True).update.binning == 2
        each.done("snapshot")
        each._end.clear()  # as versions that are asked for late are the last one
        each._go.set()
        seen = each.see(lambda slices: slices.update.binning == 1)
        assert seen.update.shape == (8, 48, 48)

    streamed = each.run(script)
    assert difference(streamed.volume, batch(scan, each.options)) < 1e-5
    binnings = [event["binning"] for event in streamed.told("version")]
    assert binnings[-1] == 1
    assert binnings.count(1) == 2, "that one and the last"


def test_a_full_version_that_does_not_fit(scan: Scan, tmp_path: Path) -> None:
    volume, frames = 8 * 48 * 48 * 4, 70 * 8 * 48 * 2
    each = Watched(scan, tmp_path, 1, engine={"disk_bytes": frames + volume + volume // 2}, emit={"preview": 4})
    each.run(lambda: print(each.refused("snapshot")))


@pytest.mark.parametrize("ranks", [1, 2])
def test_candidates_for_the_center(scan: Scan, tmp_path: Path, ranks: int) -> None:
    each = Watched(scan, tmp_path, ranks)
    found: list[Any] = []

    def script() -> None:
        each.done("snapshot")  # of all that came
        each.see(lambda slices: slices.update.projections == 30)
        for row in (1, 6):  # one of each rank
            result, pictures = each.ask("centers", row, 20.3, 28.3, 9)
            assert result.done, result.text
            ((picture, slices),) = pictures
            assert (picture.kind, picture.index, slices.shape) == ("centers", row, (9, 48, 48))
            now = each.see(lambda slices: slices.update.projections == 30, z=row).axial
            found.append((slices, now))

    each.run(script)
    for slices, now in found:
        alike = [np.corrcoef(each.ravel(), now.ravel())[0, 1] for each in slices]
        assert int(np.argmax(alike)) == 4, "that of the reconstruction, 24.3"
        assert alike[4] > 0.98
        assert slices[4].std() == pytest.approx(now.std(), rel=0.1), "in the same unit"


def test_no_versions_while_paused(scan: Scan, tmp_path: Path) -> None:
    each = Watched(scan, tmp_path, 1, emit={"every": 2})

    def script() -> None:
        each.done("pause")
        time.sleep(0.2)
        assert each.engine is not None
        before = each.engine.status().version
        each._go.set()
        deadline = time.monotonic() + 20
        while each.engine.status().in_volume < 60 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert each.engine.status().version <= before + 1

    streamed = each.run(script)
    assert difference(streamed.volume, batch(scan, each.options)) < 1e-5
    assert not [event for event in streamed.told("version")[:-1] if event["projections"] > 40]


def test_more_versions(scan: Scan, tmp_path: Path) -> None:
    each = Watched(scan, tmp_path, 1, emit={"every": 20})

    def script() -> None:
        each.done("every", 3)
        each.done("interval", 100)
        each.done("interval")

    counts = [event["projections"] for event in each.run(script).told("version")]
    assert len([count for count in counts if 30 < count < 60]) >= 5


def test_the_sender_hears_of_the_advice_to_stop(scan: Scan, tmp_path: Path) -> None:
    each = Watched(scan, tmp_path, 1)

    def script() -> None:
        each.done("advise_stop", text="the sample has moved")
        deadline = time.monotonic() + 10
        while not each.advice and time.monotonic() < deadline:
            time.sleep(0.02)

    streamed = each.run(script)
    assert each.advice == ["the sample has moved"]
    assert streamed.result is not None
    assert streamed.result.final, "it is advice"


REFUSED: list[tuple[str, tuple[float, ...], str, str]] = [
    ("center", (1e9,), "", "beside the detector"),
    ("center", (1.0, 2.0), "", "takes 1 numbers; got 2"),
    ("filter", (), "sharpest", "expected one of ramp"),
    ("side", (3,), "", "expected 16 to"),
    ("side", (33.5,), "", "expected 16 to"),
    ("every", (0,), "", "whole number"),
    ("every", (), "", "takes 1 numbers"),
    ("interval", (0.0,), "", "expected 0.01"),
    ("centers", (8, 20, 28, 3), "", "expected 0 to 7"),
    ("centers", (-1, 20, 28, 3), "", "expected 0 to 7"),
    ("centers", (1, 28, 20, 3), "", "within the columns"),
    ("centers", (1, 20, 28, 33), "", "expected 1 to 32"),
    ("centers", (1, 20, 28), "", "takes 4 numbers"),
]


def test_what_is_refused_changes_nothing(scan: Scan, tmp_path: Path) -> None:
    each = Watched(scan, tmp_path, 1)

    def script() -> None:
        for action, numbers, text, why in REFUSED:
            assert why in each.refused(action, *numbers, text=text)
        assert "given when the engine was started" in each.refused("center")

    streamed = each.run(script)
    assert difference(streamed.volume, batch(scan, each.options)) < 1e-5
    assert not streamed.told("control")
    assert not streamed.told("start_over")


def test_a_field_of_view_that_does_not_fit_is_refused(scan: Scan, tmp_path: Path) -> None:
    each = Watched(scan, tmp_path, 1, engine={"disk_bytes": 70 * 8 * 48 * 2 + 14 * 8 * 48 * 48 * 4})
    streamed = each.run(lambda: print(each.refused("side", 96)))
    assert difference(streamed.volume, batch(scan, each.options)) < 1e-5


def test_the_last_version_stays_to_be_seen_and_nothing_can_be_changed(scan: Scan, tmp_path: Path) -> None:
    """Of an engine that serves scan after scan, where nobody has begun the next one."""
    from streamrecon.engine import Service
    from streamrecon.transport import send_scan

    options = config(emit={"every": 20, "publish": private_ipc()})
    with Service(options, tmp_path) as service:
        thread = threading.Thread(target=service.run, daemon=True)
        thread.start()
        send_scan(scan.info, scan.frames, service.endpoint, connect_timeout=20)
        token = (tmp_path / "control.token").read_text().strip()
        assert token == service.control_token
        assert (tmp_path / "control.token").stat().st_mode & 0o077 == 0
        assert service.publish_endpoint is not None
        for _ in subscribe(service.publish_endpoint, timeout=20):
            pass
        deadline = time.monotonic() + 20
        while service.done < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        with Subscription(service.publish_endpoint) as viewer:
            viewer.ask(Control(serial=1, token=token, action="pause"))
            answer = viewer.receive(10)
            assert answer is not None
            assert isinstance(answer[0], Result)
            assert "no scan is in work" in answer[0].text
            viewer.ask(Want(after=0))
            answer = viewer.receive(10)
            assert answer is not None
            assert len(answer[1]) == 3
        service.stop()
        thread.join(20)
    assert not (tmp_path / "control.token").exists()
