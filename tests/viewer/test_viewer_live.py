"""A running engine: one subscription for all, the newest wins, and a stream that goes comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from viewer_client import PATIENCE, until
from viewer_live import TOKEN, FakeEngine

from streamrecon.errors import ConfigError, EndpointError
from streamrecon.viewer import LiveSource, live
from streamrecon.viewer.source import Place, Shown
from streamrecon.viewer.wants import Wanted, Wants
from streamrecon.wire.messages import Plane, Result

ALL: tuple[Place, ...] = (("z", 10), ("y", 20), ("x", 30))
SHAPE = 16, 24, 32


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(shape=SHAPE) as made:
        yield made


@pytest.fixture
def source(engine: FakeEngine) -> Iterator[LiveSource]:
    made = LiveSource(engine.endpoint, TOKEN)
    made.start(lambda: None)
    yield made
    made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SILENCE", 0.3)
    monkeypatch.setattr(live, "LOOKS", 0.05)
    monkeypatch.setattr(live, "PATIENCE", 0.1)
    monkeypatch.setattr(live, "REMINDERS", 0.2)


def has(source: LiveSource, version: int, *places: Place) -> bool:
    found = [source.slice(place) for place in places]
    return all(shown is not None and shown.key[2] == version for shown in found)


def test_the_slices_that_are_wanted(engine: FakeEngine, source: LiveSource) -> None:
    assert source.link.state in ("waiting", "live")
    source.want("a", ALL)
    engine.step()
    until(lambda: has(source, 1, *ALL))
    for axis, index in ALL:
        shown = source.slice((axis, index))
        assert shown is not None
        assert (shown.key[0], shown.picture.axis, shown.picture.index) == ("fake-1", axis, index)
        np.testing.assert_array_equal(shown.pixels, engine.plane(axis, index))
    assert source.update is not None
    assert (source.update.version, source.update.full, source.update.pictures) == (1, SHAPE, ())
    until(lambda: source.progress is not None and source.progress.version == 1)
    assert source.link.state == "live"
    engine.step(3)
    until(lambda: has(source, 4, *ALL))


def test_other_places_of_a_version_that_is_there(engine: FakeEngine, source: LiveSource) -> None:
    source.want("a", ALL)
    engine.step()
    until(lambda: has(source, 1, *ALL))
    until(lambda: engine.asked[-1].after == 1)  # and asks for the next one
    engine.asked.clear()
    source.want("a", [("z", 3), *ALL[1:]])
    until(lambda: has(source, 1, ("z", 3)))
    assert engine.asked[0].planes == (Plane(axis="z", index=3),), "only what it did not have"
    assert set(engine.asked[0].also) == {Plane(axis=axis, index=index) for axis, index in ALL[1:]}, (
        "and what it looks at"
    )
    assert source.slice(("z", 10)) is None, "nobody wants it any more"


def test_the_sinogram_is_looked_at_while_another_slice_is_asked_for(engine: FakeEngine, source: LiveSource) -> None:
    source.want("a", ALL, beside=True)
    engine.step()
    until(lambda: has(source, 1, *ALL) and source.other("sinogram", 10) is not None)
    until(lambda: engine.asked[-1].after == 1)
    engine.asked.clear()
    source.want("a", [*ALL, ("y", 3)], beside=True)
    until(lambda: has(source, 1, ("y", 3)))
    assert (engine.asked[0].sinograms, engine.asked[0].also_sinograms) == ((), (10,))


def test_a_slice_that_was_asked_for_in_vain_is_asked_for_again(
    engine: FakeEngine, source: LiveSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as by an engine so busy that it had not read of it when more was said; after it there may be no other version."""
    monkeypatch.setattr(live, "PATIENCE", 0.1)
    monkeypatch.setattr(live, "SILENCE", 600.0)
    source.want("a", ALL)
    engine.step()
    until(lambda: has(source, 1, *ALL))
    until(lambda: engine.asked[-1].after == 1)
    engine.deaf.set()
    source.want("a", [("z", 3), *ALL[1:]])
    time.sleep(0.5)
    engine.deaf.clear()
    until(lambda: has(source, 1, ("z", 3)))


def test_what_was_asked_for_last_comes_last(engine: FakeEngine, source: LiveSource) -> None:
    """Of that the engine takes the last ones, where it has not room for all."""
    for viewer, z in ("a", 1), ("b", 2), ("c", 3), ("a", 4):
        source.want(viewer, [("z", z)])
    engine.step()
    until(lambda: has(source, 1, ("z", 2), ("z", 3), ("z", 4)))
    until(lambda: engine.asked[-1].after == 1)
    assert [plane.index for plane in engine.asked[-1].planes] == [2, 3, 4]
    source.want("b", [("z", 5)])
    until(lambda: has(source, 1, ("z", 5)))
    until(lambda: engine.asked[-1].after == 1 and len(engine.asked[-1].planes) == 3)
    assert [plane.index for plane in engine.asked[-1].planes] == [3, 4, 5]


def test_who_comes_back_to_a_slice_of_the_same_version_sees_it(engine: FakeEngine, source: LiveSource) -> None:
    engine.step()
    for z in (10, 11, 10, 12, 11, 10):
        source.want("a", [("z", z)])
        until(lambda: has(source, 1, ("z", z)), 3.0)  # noqa: B023
    source.want("b", [("z", 11), ("z", 12)])
    until(lambda: has(source, 1, ("z", 10), ("z", 11), ("z", 12)), 3.0)


def test_all_viewers_share_one_request(engine: FakeEngine, source: LiveSource) -> None:
    source.want("a", ALL, preview=8)
    source.want("b", [("z", 10), ("y", 2)], preview=16, beside=True)
    engine.step()
    until(lambda: has(source, 1, *ALL, ("y", 2)))
    until(lambda: source.other("projection") and source.other("sinogram", 10) and source.other("preview"))
    preview = source.other("preview")
    assert preview is not None
    assert preview.pixels.shape == (8, 12, 16)
    engine.step()
    until(lambda: has(source, 2, *ALL, ("y", 2)))
    until(lambda: engine.asked[-1].after == 2)
    asked = engine.asked[-1]
    assert len(asked.planes) == len(set(asked.planes)) == 4
    assert (asked.most, asked.preview, asked.projection, asked.sinograms) == (0, 16, True, (10,))
    source.want("b", ())
    until(lambda: engine.asked[-1].preview == 8 and not engine.asked[-1].projection)
    assert set(engine.asked[-1].planes) == {Plane(axis=axis, index=index) for axis, index in ALL}
    until(lambda: source.other("projection") is None and source.slice(("y", 2)) is None)


def test_more_slices_than_one_request_may_have(
    engine: FakeEngine, source: LiveSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PLANES", 4)
    places: list[Place] = [("x", index) for index in range(10)]
    for number, place in enumerate(places):
        source.want(number, [place])
    for version in (1, 2):
        engine.step()
        until(lambda version=version: has(source, version, *places))
    assert max(len(want.planes) for want in engine.asked) == 4


def test_what_cannot_be_had_is_not_asked_for_again_and_again(engine: FakeEngine, source: LiveSource) -> None:
    """What is not there, and what comes with later versions only."""
    source.want("a", [("z", 500), ("z", 3)], beside=True)
    engine.withheld = {"sinogram"}
    engine.step()
    until(lambda: has(source, 1, ("z", 3)))
    until(lambda: source.other("projection"))
    until(lambda: engine.asked[-1].after == 1)
    assert len(engine.asked) < 10
    assert source.slice(("z", 500)) is None
    engine.withheld = set()
    engine.step()
    until(lambda: source.other("sinogram", 500) is not None)


def test_the_next_scan_begins_anew(engine: FakeEngine, source: LiveSource) -> None:
    source.want("a", ALL)
    engine.step(engine.versions)
    until(lambda: has(source, engine.versions, *ALL))
    assert source.update is not None
    assert source.update.final
    engine.withheld = {"slice"}
    engine.step()
    until(lambda: source.update is not None and source.update.uid == "fake-2")
    assert source.slice(("z", 10)) is None, "a slice of the scan before is none of this"
    engine.withheld = set()
    engine.step()
    until(lambda: has(source, 2, *ALL))


@pytest.mark.usefixtures("impatient")
def test_a_stream_that_goes_and_comes_back(engine: FakeEngine, source: LiveSource) -> None:
    source.want("a", ALL)
    engine.step()
    until(lambda: has(source, 1, *ALL))
    engine.deaf.set()
    until(lambda: source.link.state == "gone")
    assert engine.endpoint in source.link.text
    assert has(source, 1, *ALL), "what was seen last is still there"
    engine.step()
    engine.deaf.clear()
    until(lambda: source.link.state == "live")
    until(lambda: has(source, 2, *ALL))


@pytest.mark.usefixtures("impatient")
def test_an_engine_that_is_started_again(engine: FakeEngine, source: LiveSource) -> None:
    source.want("a", ALL)
    engine.step(5)
    until(lambda: has(source, 5, *ALL))
    engine.stop()
    until(lambda: source.link.state == "gone")
    with FakeEngine(engine.endpoint, shape=SHAPE) as again:
        again.step()
        until(lambda: source.link.state == "live" and has(source, 1, *ALL))


@pytest.mark.usefixtures("impatient")
def test_a_scan_that_is_reconstructed_again(engine: FakeEngine, source: LiveSource) -> None:
    """Its versions begin at 1 again, and a version after 5 is not waited for."""
    source.want("a", ALL)
    engine.step(5)
    until(lambda: has(source, 5, *ALL))
    engine.version = 0
    engine.step()
    until(lambda: has(source, 1, *ALL))


@pytest.mark.usefixtures("impatient")
def test_an_engine_that_comes_later(tmp_path: Any) -> None:
    endpoint = f"ipc://{tmp_path / 'later'}"
    tmp_path.chmod(0o700)
    source = LiveSource(endpoint)
    source.start(lambda: None)
    try:
        source.want("a", ALL)
        assert source.link.state == "waiting"
        with FakeEngine(endpoint, shape=SHAPE) as engine:
            engine.step()
            until(lambda: has(source, 1, *ALL))
    finally:
        source.close()


@pytest.mark.usefixtures("impatient")
def test_a_malformed_answer_does_not_end_it(engine: FakeEngine, source: LiveSource) -> None:
    source.want("a", ALL)
    engine.mangle = lambda payload: payload[:-1]
    engine.step()
    until(lambda: source.link.state == "gone" and "bytes for pictures" in source.link.text)
    engine.mangle = lambda payload: payload
    until(lambda: source.link.state == "live" and has(source, 1, *ALL))


def answer(future: Future[tuple[Result, list[Shown]]]) -> tuple[Result, list[Shown]]:
    return future.result(PATIENCE)


def test_changes_are_answered(engine: FakeEngine, source: LiveSource) -> None:
    engine.step()
    futures = [source.control("center", (40.5,)), source.control("filter", text="hann"), source.control("pause")]
    assert all(answer(future)[0].done for future in futures)
    assert (engine.center, engine.filter, engine.paused) == (40.5, "hann", True)
    assert {control.token for control in engine.controls} == {TOKEN}
    assert len({control.serial for control in engine.controls}) == 3
    result, (strip,) = answer(source.control("centers", (8, 40, 50, 5)))
    assert result.done
    assert (strip.picture.kind, strip.pixels.shape) == ("centers", (5, 16, 32))


def test_changes_that_are_refused(engine: FakeEngine, source: LiveSource) -> None:
    refused, _ = answer(source.control("side"))
    assert not refused.done
    source.token = "wrong"
    assert "token is wrong" in answer(source.control("center", (1.0,)))[0].text
    source.token = lambda: TOKEN
    assert answer(source.control("resume"))[0].done

    def gone() -> str:
        raise ConfigError("the token's file is gone")

    source.token = gone
    assert "file is gone" in answer(source.control("resume"))[0].text
    source.token = None
    assert "control token" in answer(source.control("center", (1.0,)))[0].text
    assert len(engine.controls) == 3
    source.token = TOKEN
    too_long, _ = answer(source.control("advise_stop", text="x" * 2000))
    assert not too_long.done
    assert "more than 1024 bytes" in too_long.text


def test_changes_that_are_not_answered_in_time(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SILENCE", 600.0)
    source = LiveSource(engine.endpoint, TOKEN, timeout=0.1)
    source.start(lambda: None)
    try:
        until(lambda: source.link.state == "live")
        engine.deaf.set()
        assert "in time" in answer(source.control("center", (1.0,)))[0].text
    finally:
        source.close()


@pytest.mark.usefixtures("impatient")
def test_changes_whose_engine_went_away(engine: FakeEngine, source: LiveSource) -> None:
    until(lambda: source.link.state == "live")
    engine.deaf.set()
    lost = source.control("centers", (1.0, 2.0, 3.0, 4.0))
    assert "went away" in answer(lost)[0].text
    for future in [source.control("pause") for _ in range(live.WAITING + 10)]:
        assert not answer(future)[0].done


def test_changes_when_it_is_closed(engine: FakeEngine) -> None:
    source = LiveSource(engine.endpoint, TOKEN)
    source.start(lambda: None)
    until(lambda: source.link.state == "live")
    engine.deaf.set()
    waits = source.control("center", (1.0,))
    source.close()
    assert "closed" in answer(waits)[0].text
    assert "closed" in answer(source.control("center", (1.0,)))[0].text
    source.want("a", ALL)
    source.close()


def test_it_says_when_something_changed(engine: FakeEngine) -> None:
    calls: list[int] = []
    source = LiveSource(engine.endpoint)
    source.start(lambda: calls.append(1))
    try:
        until(lambda: calls)
        calls.clear()
        source.want("a", ALL)
        engine.step()
        until(lambda: calls and has(source, 1, *ALL))
    finally:
        source.close()


def test_a_malformed_endpoint() -> None:
    with pytest.raises(EndpointError):
        LiveSource("nonsense")


def test_what_all_want() -> None:
    wants = Wants()
    assert wants.together() == Wanted()
    wants.put("a", [("z", 1), ("y", 2)], 16)
    wants.put("b", [("z", 5), ("z", 1)], 0, True)
    assert wants.together() == Wanted((("z", 5), ("z", 1), ("y", 2)), 16, True, (5,))
    wants.put("a", [("z", 7)], beside=True)
    assert wants.together() == Wanted((("z", 7), ("z", 5), ("z", 1)), 0, True, (7, 5))
    wants.put("b", ())
    wants.put("a", ())
    assert wants.together() == Wanted()


def test_who_looks_at_the_same_as_before_is_not_the_latest() -> None:
    """A page asks anew with every version: two that do not move would take each other's room by turns."""
    wants = Wants()
    for viewer, z in ("a", 1), ("b", 2), ("a", 1):
        wants.put(viewer, [("z", z)])
    assert wants.together().places == (("z", 2), ("z", 1))
    wants.put("a", [("z", 3)])
    assert wants.together().places == (("z", 3), ("z", 2))
