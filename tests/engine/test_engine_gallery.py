"""What viewers see: the latest wins, nobody waits for a viewer, and whoever has the token changes the reconstruction."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from numpy.typing import NDArray

from streamrecon.config import Config, EmitConfig, EngineConfig
from streamrecon.engine import gallery
from streamrecon.engine.exhibit import Exhibit
from streamrecon.engine.gallery import LINGER, REQUESTS, REST, ROUND, Answer, Gallery
from streamrecon.engine.series import Series
from streamrecon.engine.slab_files import SlabFiles
from streamrecon.engine.status import Counters
from streamrecon.engine.world import Alone
from streamrecon.errors import ConfigError, EndpointError, PeerLostError
from streamrecon.transport import Slices, Subscription, private_ipc, subscribe, subscription
from streamrecon.wire.audience import LIMIT
from streamrecon.wire.codec import MAGIC, encode
from streamrecon.wire.messages import PLANES, Control, Look, Picture, Plane, Progress, Result, Status, Update, Want

SHAPE = (4, 6, 6)
TOKEN = "token"


def values(version: int, shape: tuple[int, int, int] = SHAPE) -> NDArray[np.float32]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1000 * version


def until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Call(threading.Thread):
    """A function in a thread, and what came of it."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._call, self._arguments, self._value, self._error = call, arguments, None, None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._call(*self._arguments)
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self.join(60)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error
        return self._value


class Shown:
    """A gallery at work, and the slabs of what it shows on the disk."""

    def __init__(self, folder: Path, token: str | None = TOKEN) -> None:
        self._folder = folder
        self.gallery = Gallery(private_ipc(), token=token)
        self.endpoint = self.gallery.endpoint
        self.gallery.start()

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self.gallery.stop()
        assert not self.gallery.is_alive()

    def exhibit(
        self, version: int, final: bool = False, uid: str = "s", binning: int = 1, reconstruction: int = 0, **more: Any
    ) -> Exhibit:
        """Two slabs, whose pixels begin 8 bytes into their files."""
        full, files = SHAPE, []
        shape = full[0] // binning, full[1] // binning, full[2] // binning
        volume = values(version, shape)
        for number, slab in enumerate((volume[:1], volume[1:])):
            path = self._folder / f"{uid}-{version}-{number}"
            path.write_bytes(bytes(8) + slab.tobytes())
            files.append((path, 8, slab.shape))
        update = Update(
            version=version, uid=uid, reconstruction=reconstruction, projections=version, coverage=0.5, final=final,
            binning=binning, shape=shape, full=full,
        )  # fmt: skip
        preview = volume[::2, ::2, ::2]
        known: dict[str, Any] = {
            "projection": None,
            "projection_shape": (4, 6),
            "sinograms": {},
            "planes": {},
            **more,
        }
        return Exhibit(update, SlabFiles(files), preview, **known)

    def show(self, version: int, final: bool = False, uid: str = "s", binning: int = 1, **more: Any) -> None:
        self.gallery.show(self.exhibit(version, final, uid, binning, **more))

    @property
    def waiting(self) -> int:
        return len(self.gallery._audience._waiting)


@pytest.fixture
def shown(tmp_path: Path) -> Any:
    with Shown(tmp_path) as each:
        yield each


def versions(endpoint: str, **options: Any) -> list[int]:
    return [slices.update.version for slices in subscribe(endpoint, timeout=5, **options)]


def test_what_is_kept_for_others_is_bounded(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were cut last, and of one version only."""
    one = 4 * SHAPE[1] * SHAPE[2]
    monkeypatch.setattr(gallery, "CACHED", 2 * one)
    shown.show(1)
    kept = []
    with Subscription(shown.endpoint) as viewer:
        for z in (0, 1, 2, 3, 2):
            viewer.ask(Want(after=0, planes=(Plane(axis="z", index=z),)))
            assert viewer.receive(60) is not None
            kept.append([index for _, index, _ in shown.gallery._shots])
        assert kept == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [1, 2, 3]]
        shown.show(2)
        viewer.ask(Want(after=1, uid="s", planes=(Plane(axis="z", index=0),)))
        assert viewer.receive(60) is not None
        assert [index for _, index, _ in shown.gallery._shots] == [0]


def test_the_slices_that_are_asked_for(shown: Shown) -> None:
    sinogram, projection = np.ones((5, 6), np.float32), np.full((4, 6), 7, np.float32)
    shown.show(1, final=True, sinograms={2: sinogram}, projection=(11, projection))
    (got,) = subscribe(shown.endpoint, 5, z=3, y=0, x=5, preview=3, projection=True, sinogram=2)
    assert isinstance(got, Slices)
    volume = values(1)
    np.testing.assert_array_equal(got.axial, volume[3])
    np.testing.assert_array_equal(got.coronal, volume[:, 0])
    np.testing.assert_array_equal(got.sagittal, volume[:, :, 5])
    assert got.preview is not None
    np.testing.assert_array_equal(got.preview, volume[::2, ::2, ::2])
    np.testing.assert_array_equal(got.projection, projection)
    np.testing.assert_array_equal(got.sinogram, sinogram)
    assert [(p.kind, p.axis, p.index, p.full) for p in got.update.pictures] == [
        ("slice", "z", 3, (6, 6)), ("slice", "y", 0, (4, 6)), ("slice", "x", 5, (4, 6)), ("preview", "", 0, SHAPE),
        ("projection", "", 11, (4, 6)), ("sinogram", "", 2, (5, 6)),
    ]  # fmt: skip


def test_the_middle_is_shown_where_nothing_is_asked_for(shown: Shown) -> None:
    shown.show(1, final=True)
    (got,) = subscribe(shown.endpoint, 5)
    np.testing.assert_array_equal(got.axial, values(1)[2])
    np.testing.assert_array_equal(got.coronal, values(1)[:, 3])
    assert got.preview is None
    assert got.sinogram is None


def test_indices_are_of_the_full_volume_and_those_beyond_it_are_its_last(shown: Shown) -> None:
    shown.show(1, final=True, binning=2)
    (got,) = subscribe(shown.endpoint, 5, z=3, y=1, x=1000)
    volume = values(1, (2, 3, 3))
    np.testing.assert_array_equal(got.axial, volume[1])
    np.testing.assert_array_equal(got.coronal, volume[:, 0])
    np.testing.assert_array_equal(got.sagittal, volume[:, :, 2])
    assert [picture.index for picture in got.update.pictures] == [3, 1, 5]


def test_pictures_are_no_larger_than_is_asked_for(shown: Shown) -> None:
    shown.show(1, final=True)
    (got,) = subscribe(shown.endpoint, 5, most=3)
    np.testing.assert_allclose(got.axial, values(1)[2].reshape(3, 2, 3, 2).mean(axis=(1, 3)))
    assert got.coronal.shape == (2, 3)


def test_who_asks_before_the_first_version_gets_it(shown: Shown) -> None:
    call = Call(versions, shown.endpoint)
    until(lambda: [want.after for want in shown.gallery._audience._waiting.values()] == [0])
    shown.show(1)
    until(lambda: [want.after for want in shown.gallery._audience._waiting.values()] == [1])
    shown.show(2, final=True)
    assert call.result() == [1, 2]


def test_other_slices_of_the_same_version(shown: Shown) -> None:
    """`after` 0 asks for what is there: so a viewer scrolls between two versions."""
    shown.show(1)
    with Subscription(shown.endpoint) as viewer:
        for index in (0, 3):
            viewer.ask(Want(after=0, planes=(Plane(axis="z", index=index),)))
            answer = viewer.receive(60)
            assert answer is not None
            np.testing.assert_array_equal(answer[1][0][1], values(1)[index])
        viewer.ask(Want(after=1, uid="s"))
        assert viewer.receive(0.2) is None


def test_a_newer_request_replaces_the_one_before(shown: Shown) -> None:
    with Subscription(shown.endpoint) as viewer:
        viewer.ask(Want(after=0, planes=(Plane(axis="z", index=0),)))
        viewer.ask(Want(after=0, planes=(Plane(axis="x", index=2),)))
        viewer.ask(Look())
        until(lambda: shown.waiting == 1)
        shown.show(1)
        answer = viewer.receive(60)
        assert answer is not None
        assert [picture.axis for picture, _ in answer[1]] == ["x"]
        assert viewer.receive(0.2) is None


def test_a_request_for_many_slices_is_cut(shown: Shown) -> None:
    shown.show(1)
    with Subscription(shown.endpoint) as viewer:
        viewer.ask(Want(after=0, planes=(Plane(axis="z", index=0),) * 60))
        answer = viewer.receive(60)
        assert answer is not None
        assert len(answer[1]) == PLANES


@pytest.mark.parametrize("asks_before", [True, False])
def test_the_versions_of_another_scan_begin_anew(shown: Shown, asks_before: bool) -> None:
    """A viewer that has version 7 of one is not kept waiting for version 8 of the next."""
    shown.show(7)
    viewer = subscribe(shown.endpoint, timeout=60)
    assert next(viewer).update.version == 7
    if asks_before:
        call = Call(next, viewer)
        until(lambda: shown.waiting)
    shown.show(7, uid="another")
    if not asks_before:
        call = Call(next, viewer)
    assert (call.result().update.uid, call.result().update.version) == ("another", 7)
    viewer.close()  # type: ignore[attr-defined]


def test_it_goes_on_with_the_next_scan_where_that_is_asked_for(shown: Shown) -> None:
    shown.show(3, final=True)
    viewer = subscribe(shown.endpoint, timeout=5, once=False)
    assert next(viewer).update.final
    call = Call(next, viewer)
    until(lambda: shown.waiting)
    shown.show(1, uid="another")
    assert call.result().update.uid == "another"
    viewer.close()  # type: ignore[attr-defined]


def test_a_scan_that_is_reconstructed_again_is_a_next_one(shown: Shown) -> None:
    """With the same number of versions, too."""
    shown.show(3, final=True, reconstruction=1)
    viewer = subscribe(shown.endpoint, timeout=5, once=False)
    assert next(viewer).update.reconstruction == 1
    call = Call(next, viewer)
    until(lambda: shown.waiting)
    shown.show(3, final=True, reconstruction=2)
    assert call.result().update.reconstruction == 2
    viewer.close()  # type: ignore[attr-defined]


def test_a_slow_viewer_skips_and_sees_the_final_one(shown: Shown) -> None:
    shown.show(1)
    got = []
    for slices in subscribe(shown.endpoint, timeout=60):
        got.append(slices.update.version)
        if len(got) == 1:
            for version in range(2, 50):
                shown.show(version)
            shown.show(50, final=True)
            until(lambda: not shown.gallery._calls)
    assert got[0] == 1
    assert got[-1] == 50
    assert len(got) <= 3
    assert got == sorted(set(got))


def test_several_viewers_do_not_disturb_each_other(shown: Shown) -> None:
    def view(pause: float) -> list[int]:
        found = []
        for slices in subscribe(shown.endpoint, timeout=60):
            found.append(slices.update.version)
            time.sleep(pause)
        return found

    calls = [Call(view, pause) for pause in (0.0, 0.01, 0.1, 0.1)]
    for version in range(1, 21):
        shown.show(version, final=version == 20)
        time.sleep(0.01)
    for call in calls:
        found = call.result()
        assert found[-1] == 20
        assert found == sorted(set(found))


def test_viewers_that_wait_for_ever_keep_nobody_out(shown: Shown) -> None:
    """Each asks for what is there already, or left long ago; the next viewer is still answered."""
    shown.show(1, final=True)
    crowd = [Subscription(shown.endpoint) for _ in range(LIMIT + 5)]
    for each in crowd:
        each.ask(Want(after=1, uid="s"))
    until(lambda: shown.waiting >= LIMIT)
    for each in crowd:
        each.close()
    assert versions(shown.endpoint) == [1]


def test_garbage_is_ignored(shown: Shown) -> None:
    context = zmq.Context.instance()
    stranger, big = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    for each in (stranger, big):
        each.setsockopt(zmq.LINGER, 0)
        each.connect(shown.endpoint)
    for parts in [[b""], [b"x"] * 9, [MAGIC + b"\x01\x12", b"\xc1"], encode(Status(session=1, sent=0))]:
        stranger.send_multipart(parts)
    big.send_multipart([b"x" * 2_000_000])
    shown.show(1, final=True)
    assert versions(shown.endpoint) == [1]
    assert shown.gallery.is_alive()
    stranger.close()
    big.close()


def test_an_engine_that_is_busy_between_two_versions_is_not_lost(shown: Shown) -> None:
    shown.gallery.look = Counters().progress
    shown.show(1)
    viewer = subscribe(shown.endpoint, timeout=3.0)
    assert next(viewer).update.version == 1
    call = Call(next, viewer)
    time.sleep(4.0)
    shown.show(2)
    assert call.result().update.version == 2
    shown.gallery.look = None
    shown.gallery._word = 0.0, None
    with pytest.raises(PeerLostError):
        next(viewer)


def test_a_viewer_whose_machine_slept_does_not_take_its_engine_for_dead(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown.show(1)
    viewer = subscribe(shown.endpoint, timeout=60)
    assert next(viewer).update.version == 1
    call, now = Call(next, viewer), time.monotonic
    time.sleep(0.3)
    monkeypatch.setattr(time, "monotonic", lambda: now() + 1000.0)
    time.sleep(0.3)
    shown.show(2)
    assert call.result().update.version == 2


def test_a_version_that_is_gone_from_the_disk_is_waited_out(
    shown: Shown, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exhibit = shown.exhibit(1)
    for path in tmp_path.iterdir():
        path.unlink()
    shown.gallery.show(exhibit)
    call = Call(versions, shown.endpoint)
    until(lambda: "version 1 cannot be shown any more" in caplog.text)
    shown.show(2, final=True)
    assert call.result() == [2]


def test_a_slab_that_was_cut_off_is_an_error_of_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "slab"
    path.write_bytes(bytes(100))
    with pytest.raises(OSError, match="shorter"):
        SlabFiles([(path, 8, (4, 3, 3))]).slice("x", 0)


def test_how_much_a_version_differs_from_the_one_before(shown: Shown) -> None:
    shown.show(1)
    viewer = subscribe(shown.endpoint, timeout=60)
    assert next(viewer).update.change is None
    until(lambda: not shown.waiting)
    shown.show(2)
    expected = 1000 / values(2)[::2, ::2, ::2].std()
    assert next(viewer).update.change == pytest.approx(expected)
    until(lambda: not shown.waiting)
    shown.show(3, reconstruction=7)
    assert next(viewer).update.change is None, "that one is no part of this reconstruction"
    shown.show(1, uid="another")
    assert next(viewer).update.change is None
    viewer.close()  # type: ignore[attr-defined]


def test_progress(shown: Shown) -> None:
    counters = Counters(phase="accumulating", uid="s", title="a sample", expected=9)
    counters.angles[3] = 2
    shown.gallery.look = counters.progress
    with Subscription(shown.endpoint) as viewer:
        viewer.ask(Look())
        answer = viewer.receive(60)
        assert answer is not None
        word = answer[0]
        assert isinstance(word, Progress)
        assert (word.phase, word.title, word.expected, word.viewers) == ("accumulating", "a sample", 9, 1)
        assert (sum(word.angles), word.angles[3], len(word.angles)) == (2, 2, 360)


class Taken:
    """Stands for the hands of an engine."""

    def __init__(self) -> None:
        self.asked: list[Control] = []
        self.pixels: Sequence[NDArray[np.float32]] = ()

    def __call__(self, control: Control, answer: Answer) -> None:
        self.asked.append(control)
        threading.Thread(target=lambda: answer(Result(serial=control.serial, done=True, text="done"), [])).start()


def asked(endpoint: str, token: str) -> Result:
    with Subscription(endpoint) as viewer:
        viewer.ask(Control(serial=7, token=token, action="pause"))
        answer = viewer.receive(60)
        assert answer is not None
        assert isinstance(answer[0], Result)
        assert answer[0].serial == 7
        return answer[0]


def test_who_has_the_token_is_heard(shown: Shown) -> None:
    shown.gallery.control = taken = Taken()
    assert asked(shown.endpoint, TOKEN).done
    assert [control.action for control in taken.asked] == ["pause"]


@pytest.mark.parametrize("token", ["", "tokem", TOKEN + "x", "tök"])
def test_a_wrong_token_changes_nothing(shown: Shown, token: str, caplog: pytest.LogCaptureFixture) -> None:
    shown.gallery.control = taken = Taken()
    result = asked(shown.endpoint, token)
    assert not result.done
    assert "token is wrong" in result.text
    assert not taken.asked
    until(lambda: "wrong control token" in caplog.text)
    assert TOKEN not in caplog.text.replace("control token", "")


def test_no_scan_is_in_work(shown: Shown) -> None:
    assert "no scan is in work" in asked(shown.endpoint, TOKEN).text


def test_an_engine_that_takes_no_requests(tmp_path: Path) -> None:
    with Shown(tmp_path, token=None) as shown:
        shown.gallery.control = taken = Taken()
        assert "takes no requests" in asked(shown.endpoint, "").text
        assert not taken.asked


def test_the_sinograms_that_are_looked_at(shown: Shown) -> None:
    heard: list[tuple[int, ...]] = []
    shown.gallery.attend = lambda attended: heard.append(attended.sinograms)
    with Subscription(shown.endpoint) as one, Subscription(shown.endpoint) as other:
        one.ask(Want(after=0, planes=(), sinograms=(3,)))
        until(lambda: heard == [(3,)])
        one.ask(Want(after=0, planes=(), sinograms=(3,)))
        other.ask(Want(after=0, planes=(), sinograms=(1,)))
        until(lambda: heard == [(3,), (3, 1)])
        one.ask(Want(after=0, planes=(), sinograms=(2,)))
        until(lambda: heard == [(3,), (3, 1), (1, 2)])
        other.ask(Want(after=0, planes=(), sinograms=(6, 7, 8, 9, 10)))
        until(lambda: heard[3:] == [(6, 7, 8, 9)])


def test_what_is_looked_at_besides_comes_with_the_version_and_is_not_sent(shown: Shown) -> None:
    attended: list[Any] = []
    shown.gallery.attend = attended.append
    with Subscription(shown.endpoint) as viewer:
        viewer.ask(
            Want(
                after=0,
                planes=(Plane(axis="x", index=2),),
                also=(Plane(axis="x", index=3), Plane(axis="y")),
                sinograms=(1,),
                also_sinograms=(2,),
            )
        )
        until(lambda: len(attended) == 1)
        assert attended[0].planes == (("x", 3), ("y", None), ("x", 2))
        assert attended[0].sinograms == (1, 2)
        shown.show(1)
        answer = viewer.receive(60)
        assert answer is not None
        assert [(picture.axis, picture.index) for picture, _ in answer[1]] == [("x", 2)]


def test_who_looks_elsewhere_is_the_last_to_have_asked(shown: Shown) -> None:
    attended: list[Any] = []
    shown.gallery.attend = attended.append
    with Subscription(shown.endpoint) as one, Subscription(shown.endpoint) as other:
        for viewer, z in (one, 1), (other, 2), (one, 3), (other, 2), (one, 2):
            count = len(attended)
            viewer.ask(Want(after=0, planes=(Plane(axis="z", index=z),)))
            if (viewer, z) == (other, 2) and count > 1:
                time.sleep(0.5)  # it looks at what it looked at before
            else:
                until(lambda: len(attended) > count)  # noqa: B023
    assert [each.planes for each in attended] == [
        (("z", 1),), (("z", 1), ("z", 2)), (("z", 2), ("z", 3)), (("z", 2),)
    ]  # fmt: skip


def test_what_an_earlier_viewer_looks_at_too_is_of_the_later_one(shown: Shown) -> None:
    attended: list[Any] = []
    shown.gallery.attend = attended.append
    with (
        Subscription(shown.endpoint) as one,
        Subscription(shown.endpoint) as two,
        Subscription(shown.endpoint) as three,
    ):
        for viewer, z in (one, 1), (two, 2), (three, 1):
            viewer.ask(Want(after=0, planes=(Plane(axis="z", index=z),)))
            time.sleep(0.3)
        until(lambda: attended[-1].planes == (("z", 2), ("z", 1)))


@pytest.mark.parametrize(
    "wrong", [{"z": -1}, {"y": 5.0}, {"x": "middle"}, {"most": -1}, {"preview": None}, {"sinogram": -2}, {"z": 2**64}]
)
def test_numbers_that_cannot_be_asked_for(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} = .*whole number from 0"):
        next(subscribe(private_ipc(), **wrong))


def test_numbers_of_numpy_can_be_asked_for(shown: Shown) -> None:
    shown.show(1)
    np.testing.assert_array_equal(next(subscribe(shown.endpoint, z=np.int64(2))).axial, values(1)[2])  # type: ignore[arg-type]


def test_slices_across_x_that_are_looked_at_come_with_the_version(shown: Shown) -> None:
    attended: list[tuple[int | None, ...]] = []
    shown.gallery.attend = lambda all_: attended.append(all_.sagittal)
    with Subscription(shown.endpoint) as one, Subscription(shown.endpoint) as other:
        one.ask(Want(after=0, planes=(Plane(axis="x", index=2), Plane(axis="y", index=4))))
        until(lambda: attended == [(2,)])
        other.ask(Want(after=0, planes=(Plane(axis="x"),)))
        until(lambda: attended == [(2,), (2, None)])
        shown.show(1)
        assert one.receive(60) is not None
        assert other.receive(60) is not None
        # Both have been answered, and one of them has come back: what the other one saw is still looked at.
        one.ask(Want(after=1, planes=(Plane(axis="x", index=3),)))
        until(lambda: attended[2:] == [(None, 3)])
        shown.show(2)
        assert one.receive(60) is not None
        # The other one has not come back for two versions.
        one.ask(Want(after=2, planes=(Plane(axis="x", index=3),)))
        until(lambda: attended[3:] == [(3,)])


def test_a_bug_in_it_ends_no_scan(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Gallery, "_serve", lambda *_: 1 / 0)
    with Subscription(shown.endpoint) as viewer, caplog.at_level(logging.ERROR):
        viewer.ask(Look())
        until(lambda: "viewers are not served any more" in caplog.text)
    shown.show(1)
    shown.gallery.stop()


def test_an_endpoint_that_others_can_reach_is_refused() -> None:
    with pytest.raises(EndpointError, match="insecure"):
        Gallery("tcp://0.0.0.0:*")


@pytest.mark.parametrize("rank", [0, 1])
def test_an_endpoint_that_a_rank_listens_at_is_refused(tmp_path: Path, rank: int) -> None:
    listen = f"ipc://{tmp_path / 'lane'}"
    publish = listen if rank == 0 else f"{listen}.1"
    config = Config(engine=EngineConfig(listen=listen), emit=EmitConfig(publish=publish))
    with pytest.raises(EndpointError, match=f"rank {rank} listens there"):
        Series(config, Two())


class Two(Alone):
    """Rank 0 of two on one machine."""

    size = 2

    def share(self, thing: Any, *_: Any) -> list[Any]:
        return [thing, thing]


def test_a_viewer_that_asks_and_does_not_read_fills_nothing(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each WANT of a version that is there is answered, but not before what was sent before has gone."""
    big = np.zeros((64, 512, 512), np.float32)
    shown.show(1)
    sent: list[bool] = []
    send = shown.gallery._publisher.send

    def counting(*arguments: Any) -> bool:
        sent.append(send(*arguments))
        return sent[-1]

    monkeypatch.setattr(shown.gallery._publisher, "send", counting)
    monkeypatch.setattr(
        Exhibit, "small", lambda self, most: (Picture(kind="preview", shape=big.shape, full=big.shape), big)
    )
    context = zmq.Context.instance()
    greedy = context.socket(zmq.DEALER)
    greedy.setsockopt(zmq.LINGER, 0)
    greedy.setsockopt(zmq.RCVHWM, 1)
    greedy.connect(shown.endpoint)
    deadline = time.monotonic() + 20
    while False not in sent and time.monotonic() < deadline:
        greedy.send_multipart(encode(Want(after=0, preview=64)))
        time.sleep(0.02)
    taken = sent.count(True)
    time.sleep(1.0)
    for _ in range(20):
        greedy.send_multipart(encode(Want(after=0, preview=64)))
    time.sleep(1.0)
    assert sent.count(True) <= taken + 1
    assert taken < 10
    # Others are served, and so is this one once it reads.
    shown.show(2, final=True)
    assert versions(shown.endpoint) == [2]
    before = sent.count(True)
    while greedy.poll(2000):
        greedy.recv_multipart()
    assert sent.count(True) > before
    greedy.close()


def test_what_is_happening_is_told_while_a_slow_disk_is_waited_for(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown.gallery.look = Counters().progress
    cut, begun, may = SlabFiles.slice, threading.Event(), threading.Event()

    def slow(self: SlabFiles, *arguments: Any) -> Any:
        begun.set()
        assert may.wait(20)
        return cut(self, *arguments)

    monkeypatch.setattr(SlabFiles, "slice", slow)
    shown.show(1)
    with Subscription(shown.endpoint) as viewer, Subscription(shown.endpoint) as other:
        viewer.ask(Want(after=0))
        assert begun.wait(5)
        other.ask(Look())
        assert other.receive(60) is not None
        assert viewer.receive(0.1) is None
        may.set()
        answer = viewer.receive(60)
        assert answer is not None
        assert isinstance(answer[0], Update)


def test_the_last_version_of_a_scan_is_not_the_end_of_the_next_one(shown: Shown) -> None:
    counters = Counters(uid="another")
    shown.gallery.look = counters.progress
    shown.show(5, final=True, uid="s")
    viewer = subscribe(shown.endpoint, timeout=60)
    assert next(viewer).update.uid == "s"
    call = Call(next, viewer)
    until(lambda: shown.waiting)
    shown.show(1, final=True, uid="another")
    assert call.result().update.uid == "another"
    with pytest.raises(StopIteration):
        next(viewer)


def test_a_request_that_an_engine_took_with_it_is_said_again(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "REMINDERS", 0.2)
    viewer = subscribe(shown.endpoint, timeout=60)
    shown.show(1)
    assert next(viewer).update.version == 1
    call = Call(next, viewer)
    until(lambda: shown.waiting == 1)
    shown.gallery._audience._waiting.clear()  # as by an engine that was killed, or a tunnel that was made again
    time.sleep(0.5)
    shown.show(2)
    assert call.result().update.version == 2
    shown.show(3, final=True)
    assert [slices.update.version for slices in viewer] == [3], "what came twice is one"


def test_a_greedy_viewer_is_answered_at_a_pace_and_keeps_nobody_waiting(shown: Shown) -> None:
    shown.show(1)
    answers, stop = [0], threading.Event()

    def greedy() -> None:
        with Subscription(shown.endpoint) as viewer:
            while not stop.is_set():
                for _ in range(20):
                    viewer.ask(Want(after=0))
                while viewer.receive(0.001) is not None:
                    answers[0] += 1

    thread = threading.Thread(target=greedy)
    thread.start()
    until(lambda: answers[0])
    before = answers[0]
    with Subscription(shown.endpoint) as other:
        began = time.monotonic()
        for _ in range(10):
            other.ask(Want(after=0))
            assert other.receive(30.0) is not None
            time.sleep(0.1)
        seconds = time.monotonic() - began
    got = answers[0] - before
    stop.set()
    thread.join()
    assert got <= 1.5 * seconds / REST + 5


def test_a_flood_of_requests_is_taken_at_a_pace(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    serve = shown.gallery._serve
    monkeypatch.setattr(shown.gallery, "_serve", lambda *each: (taken.append(time.monotonic()), serve(*each)))
    context = zmq.Context.instance()
    flood = context.socket(zmq.DEALER)
    flood.setsockopt(zmq.LINGER, 0)
    flood.connect(shown.endpoint)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        try:
            flood.send_multipart(encode(Look()), zmq.NOBLOCK)
        except zmq.Again:
            time.sleep(0.001)
    flood.close()
    assert taken
    assert len(taken) <= REQUESTS * (1.5 / ROUND + 1)


def test_who_looks_gets_the_last_version_of_an_engine_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "LINGER", 30.0)
    monkeypatch.setattr(gallery, "RECENT", 30.0)
    with Shown(tmp_path) as shown:
        viewer = subscribe(shown.endpoint, timeout=60)
        shown.show(1)
        assert next(viewer).update.version == 1
        call = Call(lambda: (time.sleep(0.2), next(viewer))[1])
        shown.show(2, final=True)
        shown.gallery.stop()
    assert call.result().update.version == 2


def test_a_version_that_comes_just_before_the_end_is_shown(tmp_path: Path) -> None:
    """While the gallery was busy with something else, and so hears of both at once."""
    with Shown(tmp_path) as shown:
        viewer = subscribe(shown.endpoint, timeout=60)
        shown.show(1)
        assert next(viewer).update.version == 1
        call = Call(lambda: next(viewer))
        time.sleep(0.2)
        told, go = threading.Event(), threading.Event()
        send_results = shown.gallery._send_results

        def busy() -> None:
            told.set()
            assert go.wait(10)
            send_results()

        shown.gallery._send_results = busy  # type: ignore[method-assign]
        assert told.wait(10)
        shown.gallery._send_results = send_results  # type: ignore[method-assign]
        shown.show(2, final=True)
        ending = Call(shown.gallery.stop)
        time.sleep(0.1)
        go.set()
        ending.result()
    assert call.result().update.version == 2


def test_who_does_not_take_it_keeps_no_engine_from_ending(tmp_path: Path) -> None:
    with Shown(tmp_path) as shown, Subscription(shown.endpoint) as gone:
        gone.ask(Want(after=0))
        shown.show(1)
        assert gone.receive(60) is not None
        shown.show(2, final=True)
        began = time.monotonic()
        shown.gallery.stop()
        assert time.monotonic() - began < LINGER + 20
