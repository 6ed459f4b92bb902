"""What is read from a file that is being written is what was written, once and in order, and what is hostile is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from source_writer import Writer, writing

from streamrecon.errors import SourceBusyError, SourceError, SourceFileError
from streamrecon.sources.growing import LINGER, GrowingStack
from streamrecon.sources.roots import Roots
from streamrecon.sources.storage import Limits
from streamrecon.sources.visit import NotYetError

ROWS, COLUMNS = 4, 6
PLACE = "entry/data/data"
PATIENCE = 30.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def writer() -> Iterator[Writer]:
    with writing() as started:
        yield started


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _stack(path: Path, clock: Clock, name: str = PLACE, **options: Any) -> GrowingStack:
    return GrowingStack(path, name, Roots([path.parent]), clock=clock, **({"patience": PATIENCE} | options))


def _poll(stack: GrowingStack, clock: Clock, seconds: float = 0.2) -> int:
    clock.now += seconds
    return stack.poll()


def _later(stack: GrowingStack, clock: Clock) -> int:
    """After the file has been left alone for so long that it counts as complete."""
    _poll(stack, clock)
    _poll(stack, clock, LINGER + 0.1)
    return _poll(stack, clock)


def _frame(index: int, dtype: str = "u2") -> NDArray[Any]:
    return (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) % 7 + 1 + 10 * index).astype(dtype)


def _code(index: int) -> str:
    return (
        f"d[{index}] = (np.arange({ROWS * COLUMNS}).reshape({ROWS}, {COLUMNS}) % 7 + 1 + 10 * {index}).astype(d.dtype)"
    )


CREATE = (
    "f = h5py.File(path, 'w', libver=libver)\n"
    f"d = f.create_dataset('{PLACE}', (extent, {ROWS}, {COLUMNS}), maxshape=(None, {ROWS}, {COLUMNS}), dtype=dtype, **how)"
)


class Schedule:
    """A writer with moods, and what it has written so far."""

    def __init__(self, seed: int, path: Path, writer: Writer) -> None:
        self.rng, self.path, self.writer = np.random.default_rng(seed), path, writer
        rng = self.rng
        self.total = int(rng.integers(5, 14))
        self.dtype = str(rng.choice(["u2", ">u2", "f4", "u1"]))
        self.swmr = bool(rng.random() < 0.75)
        self.libver = "latest" if self.swmr or rng.random() < 0.5 else "earliest"
        self.ahead = int(rng.choice([0, 1, 3, self.total]))
        """Rows by which the extent runs ahead of what is written."""
        hows: list[dict[str, Any]] = [
            {"chunks": (1, ROWS, COLUMNS)},
            {"chunks": (1, 2, 4)},
            {"chunks": (3, ROWS, COLUMNS)},
            {"chunks": (3, 2, COLUMNS), "compression": "gzip"},
            {"chunks": (1, ROWS, COLUMNS), "compression": "lzf", "shuffle": True},
            {"chunks": (1, ROWS, COLUMNS), "fillvalue": 3},
        ]
        self.how = hows[int(rng.integers(len(hows)))]
        self.blank = {int(i) for i in rng.integers(0, self.total, 2)} if rng.random() < 0.4 else set()
        """Frames that are the fill value all over."""
        self.truth: list[NDArray[Any]] = []
        self.extent = 0
        self.open = self.created = self.is_swmr = False

    @property
    def sparse_rows(self) -> bool:
        return self.how["chunks"][0] == 1

    def content(self, index: int) -> NDArray[Any]:
        if index in self.blank:
            return np.full((ROWS, COLUMNS), self.how.get("fillvalue", 0), self.dtype)
        return _frame(index, self.dtype)

    def step(self) -> bool:
        """One thing; False when there is no more to do."""
        rng, tell = self.rng, self.writer.tell
        if not self.created:
            if rng.random() < 0.4:
                return True  # the file appears late
            tell(
                CREATE, path=str(self.path), libver=self.libver, dtype=self.dtype, how=self.how,
                extent=self.total if self.ahead == self.total else 0,
            )  # fmt: skip
            self.extent = self.total if self.ahead == self.total else 0
            self.created = self.open = True
        elif not self.open:
            tell("f = h5py.File(path, 'a', libver=libver); d = f[place]", place=PLACE)
            self.open, self.is_swmr = True, False
        elif self.swmr and not self.is_swmr and rng.random() < 0.6:
            tell("f.swmr_mode = True")
            self.is_swmr = True
        elif rng.random() < 0.25:
            tell("d.flush()" if rng.random() < 0.5 else "f.flush()")
        elif rng.random() < 0.12 and len(self.truth) < self.total:
            tell("f.close()")
            self.open = False
        elif len(self.truth) < self.total:
            index = len(self.truth)
            wanted = min(self.total, index + 1 + self.ahead)
            if wanted > self.extent:
                tell(f"d.resize({wanted}, 0)")
                self.extent = wanted
                return True
            content = self.content(index)
            self.truth.append(content)
            tell(f"d[{index}] = np.array(v, d.dtype)", v=content.tolist())
        else:
            tell("f.close()")
            self.open = False
            return False
        return True


@pytest.mark.parametrize("seed", range(50))
def test_every_schedule_gives_what_was_written(seed: int, tmp_path: Path, writer: Writer, clock: Clock) -> None:
    schedule = Schedule(seed, tmp_path / "scan.h5", writer)
    stack = _stack(schedule.path, clock, patience=1e6)
    seen: list[NDArray[Any]] = []

    def look() -> None:
        count = stack.poll()
        if count <= len(seen) or schedule.rng.random() < 0.2:
            return
        # What is the fill value can only be told from what is not written by its place in the file.
        assert count <= len(schedule.truth) or stack.complete
        try:
            block = stack.read(len(seen), count)
        except SourceBusyError:
            return  # opened again since the last look
        for frame in block:
            seen.append(frame)
            assert np.array_equal(frame, schedule.content(len(seen) - 1)), len(seen) - 1
            assert frame.dtype.isnative

    going = True
    while going:
        going = schedule.step()
        clock.now += float(schedule.rng.choice([0.05, 0.2, 1.3]))
        look()
    for _ in range(100):
        clock.now += 1.0
        look()
    assert stack.complete
    assert len(seen) == len(schedule.truth) == stack.poll()
    assert not stack.replaced
    # Where places in the file do not tell, an image that is the fill value all over counts as none.
    blank = {index for index in schedule.blank if index < schedule.total and not schedule.sparse_rows}
    assert {index for hole in stack.holes for index in range(*hole)} <= blank
    assert stack.why is None


@pytest.mark.parametrize("chunk", [1, 3])
def test_frames_come_while_the_writer_goes_on(chunk: int, tmp_path: Path, writer: Writer, clock: Clock) -> None:
    path = tmp_path / "scan.h5"
    writer.tell(CREATE, path=str(path), libver="latest", dtype="u2", extent=0, how={"chunks": (chunk, ROWS, COLUMNS)})
    stack = _stack(path, clock)
    assert _poll(stack, clock) == 0
    assert stack.why is not None
    assert "not turned SWMR on" in stack.why
    writer.tell("f.swmr_mode = True")
    for index in range(7):
        writer.tell(f"d.resize({index + 1}, 0)\n{_code(index)}\nd.flush()")
        _poll(stack, clock)
        assert _poll(stack, clock) == index + 1
        assert np.array_equal(stack.read(index, index + 1, slice(1, 3))[0], _frame(index)[1:3])
    assert not stack.complete
    with pytest.raises(SourceError, match="7 can be read"):
        stack.read(0, 8)
    writer.tell("f.close()")
    assert _later(stack, clock) == 7
    assert stack.complete


def test_an_unflushed_extent_and_unwritten_chunks_are_waited_for(tmp_path: Path, writer: Writer, clock: Clock) -> None:
    path = tmp_path / "scan.h5"
    writer.tell(CREATE, path=str(path), libver="latest", dtype="u2", extent=0, how={"chunks": (1, 2, COLUMNS)})
    writer.tell("f.swmr_mode = True\nd.resize(3, 0)\nd.flush()")
    stack = _stack(path, clock)
    assert _poll(stack, clock) == 0
    writer.tell("d[0, :2] = 5\nd.flush()")  # half of the frame
    assert [_poll(stack, clock) for _ in range(3)] == [0, 0, 0]
    assert "not written yet" in str(stack.why)
    writer.tell("d[0, 2:] = 5\nd.flush()")
    assert _poll(stack, clock) == 1
    writer.tell("f.close()")


def test_a_frame_in_a_shared_chunk_counts_when_it_stays_the_same(tmp_path: Path, writer: Writer, clock: Clock) -> None:
    path = tmp_path / "scan.h5"
    writer.tell(CREATE, path=str(path), libver="latest", dtype="u2", extent=3, how={"chunks": (3, ROWS, COLUMNS)})
    writer.tell("f.swmr_mode = True\nd[0, :2] = 5\nd.flush()")
    stack = _stack(path, clock)
    assert _poll(stack, clock) == 0
    writer.tell("d[0, 2:] = 5\nd.flush()")
    assert [_poll(stack, clock) for _ in range(3)] == [0, 1, 1]
    assert stack.read(0, 1).min() == 5
    writer.tell("f.close()")


def test_what_was_read_while_a_swmr_writer_left_does_not_count(tmp_path: Path, writer: Writer, clock: Clock) -> None:
    path = tmp_path / "scan.h5"
    writer.tell(CREATE, path=str(path), libver="latest", dtype="u2", extent=1, how={"chunks": (1, ROWS, COLUMNS)})
    writer.tell(f"f.swmr_mode = True\n{_code(0)}\nd.flush()")
    stack = _stack(path, clock)
    with pytest.raises(NotYetError, match="changed"), stack._arrive():
        writer.tell("f.close()\nf = h5py.File(path, 'a')")
    assert _poll(stack, clock) == 0
    writer.tell("f.close()")


def test_a_frame_that_the_writer_passed_over_is_a_hole_in_the_end(tmp_path: Path, writer: Writer, clock: Clock) -> None:
    path = tmp_path / "scan.h5"
    writer.tell(CREATE, path=str(path), libver="latest", dtype="u2", extent=6, how={"chunks": (1, ROWS, COLUMNS)})
    writer.tell(f"f.swmr_mode = True\n{_code(0)}\n{_code(2)}\nd.flush()")
    stack = _stack(path, clock)
    assert [_poll(stack, clock) for _ in range(5)] == [1] * 5
    _poll(stack, clock, PATIENCE)
    assert _poll(stack, clock) == 3
    assert stack.holes == [(1, 2)]
    assert any("passed over" in note for note in stack.notes)
    # But what no later frame was written after is never given up, however long it takes.
    _poll(stack, clock, 10 * PATIENCE)
    assert _poll(stack, clock) == 3
    writer.tell("f.close()")
    assert _later(stack, clock) == 6
    assert stack.holes == [(1, 2), (3, 6)]


def test_files_of_older_kinds_are_read_when_they_are_closed(tmp_path: Path, writer: Writer, clock: Clock) -> None:
    path = tmp_path / "scan.h5"
    writer.tell(CREATE, path=str(path), libver="earliest", dtype="u2", extent=2, how={})
    writer.tell(f"{_code(0)}\n{_code(1)}\nf.flush()")
    with h5py.File(path, "r", locking=False):
        pass  # HDF5 itself would read it
    stack = _stack(path, clock)
    assert [_poll(stack, clock) for _ in range(20)] == [0] * 20
    writer.tell("f.close()")
    assert _poll(stack, clock) == 0
    assert "older kind" in str(stack.why)
    assert _later(stack, clock) == 2


@pytest.mark.parametrize("libver", ["latest", "earliest"])
def test_our_handle_never_hinders_the_writer(libver: str, tmp_path: Path, writer: Writer, clock: Clock) -> None:
    path = tmp_path / "scan.h5"
    writer.tell(CREATE, path=str(path), libver=libver, dtype="u2", extent=2, how={})
    writer.tell(f"{_code(0)}\n{_code(1)}\nf.close()")
    stack = _stack(path, clock)
    _later(stack, clock)
    with pytest.raises(NotYetError, match="changed"), stack._arrive() as arrival:  # noqa: PT012
        assert arrival.dataset.shape[0] == 2
        writer.tell("f = h5py.File(path, 'r+', libver=libver)")
        if libver == "latest":
            writer.tell("f.swmr_mode = True")
        writer.tell("f.close()\nf = h5py.File(path, 'a')\nf.close()")
        writer.tell(CREATE, path=str(path), libver=libver, dtype="u2", extent=2, how={})
        writer.tell("f.close()")


def _exchange(path: Path, count: int = 3, first: int = 0, shape: tuple[int, int] = (ROWS, COLUMNS)) -> Path:
    with h5py.File(path, "w", libver="latest") as file:
        data = np.stack([np.full(shape, first + i + 1, "u2") for i in range(count)])
        file.create_dataset(PLACE, data=data, chunks=(1, *shape), maxshape=(None, *shape))
    return path


@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_that_is_replaced_is_noticed(in_place: bool, tmp_path: Path, clock: Clock) -> None:
    path = _exchange(tmp_path / "scan.h5")
    stack = _stack(path, clock)
    assert _later(stack, clock) == 3
    stack.read(0, 3)
    if in_place:
        _exchange(path, 5, first=50)
    else:
        _exchange(tmp_path / "other.h5", 5, first=50).replace(path)
    with pytest.raises(SourceBusyError, match="replaced"):
        stack.read(0, 3)
    assert stack.replaced == 1
    assert _later(stack, clock) == 5
    assert stack.read(0, 1).max() == 51
    assert stack.replaced == 1


def test_a_copy_of_the_same_file_is_the_same_scan(tmp_path: Path, clock: Clock) -> None:
    path = _exchange(tmp_path / "scan.h5")
    stack = _stack(path, clock)
    _later(stack, clock)
    stack.read(0, 2)
    _exchange(tmp_path / "other.h5", 5).replace(path)
    assert _later(stack, clock) == 5
    assert stack.replaced == 0
    assert stack.read(2, 5)[:, 0, 0].tolist() == [3, 4, 5]


def test_a_file_with_fewer_frames_or_others_is_another(tmp_path: Path, clock: Clock) -> None:
    path = _exchange(tmp_path / "scan.h5")
    stack = _stack(path, clock)
    _later(stack, clock)
    stack.read(0, 3)
    _exchange(path, 2)
    assert _later(stack, clock) == 2
    assert stack.replaced == 1
    _exchange(path, 2, shape=(2, 2))
    assert _later(stack, clock) == 2
    assert stack.replaced == 1, "nothing had been read of the one before"
    assert stack.shape == (2, 2)
    stack.read(0, 2)
    _exchange(path, 2)
    assert _later(stack, clock) == 2
    assert stack.replaced == 2


def test_what_is_missing_is_waited_for_and_said(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "scan.h5"
    stack = _stack(path, clock)
    assert _poll(stack, clock) == 0
    assert "has not appeared" in str(stack.why)
    assert stack.shape is None
    assert not stack.overdue()
    clock.now += PATIENCE / 2
    path.write_bytes(b"")
    _poll(stack, clock)
    assert "not an HDF5 file (yet)" in str(stack.why)
    clock.now += PATIENCE / 2
    assert not stack.overdue()  # it became better, half the time ago
    with h5py.File(path, "w", libver="latest") as file:
        file.create_group("entry")
    _poll(stack, clock)
    assert "is not there yet" in str(stack.why)
    whole = _exchange(tmp_path / "other.h5").read_bytes()
    path.write_bytes(whole[: len(whole) - 10])
    _poll(stack, clock)
    assert "being copied" in str(stack.why)
    _poll(stack, clock, PATIENCE)
    assert stack.overdue()
    path.write_bytes(whole)
    assert _later(stack, clock) == 3
    path.unlink()
    assert _poll(stack, clock) == 0
    assert "has not appeared" in str(stack.why)


def test_the_word_of_another_makes_a_closed_file_complete_at_once(tmp_path: Path, clock: Clock) -> None:
    stack = _stack(_exchange(tmp_path / "scan.h5"), clock)
    _poll(stack, clock)
    assert not stack.complete
    stack.finish()
    assert _poll(stack, clock) == 3
    assert stack.complete


def test_polling_often_opens_the_file_seldom(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = _stack(_exchange(tmp_path / "scan.h5"), clock)
    opened = []
    original = h5py.File
    monkeypatch.setattr(h5py, "File", lambda *a, **k: opened.append(k) or original(*a, **k))
    for _ in range(1000):
        clock.now += 0.001
        stack.poll()
    assert 5 <= len(opened) <= 12
    assert all(options["locking"] is False for options in opened)


@pytest.mark.parametrize("frames", [3, 1])
def test_events_of_several_frames_are_counted_as_frames(frames: int, tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "scan.h5"
    data = np.arange(4 * frames * ROWS * COLUMNS, dtype="u4").reshape(4, frames, ROWS, COLUMNS)
    with h5py.File(path, "w") as file:
        file[PLACE] = data
    stack = _stack(path, clock)
    assert _later(stack, clock) == 4 * frames
    assert (stack.shape, stack.frames_per_row) == ((ROWS, COLUMNS), frames)
    flat = data.reshape(-1, ROWS, COLUMNS)
    for first, end in [(0, 1), (1, 3), (0, 4 * frames), (2, 4 * frames)]:
        if first < end <= len(flat):
            assert np.array_equal(stack.read(first, end), flat[first:end])
            assert np.array_equal(stack.read(first, end, slice(1, 2)), flat[first:end, 1:2])


def test_a_single_frame_and_numbers(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["single"] = _frame(3)
        file["angles"] = np.array([0.0, 1.5, 0.0], ">f8")
        file["angles"].attrs["units"] = "deg"
        file["column"] = np.array([[1], [2]])
    single, angles = _stack(path, clock, "single"), _stack(path, clock, "/angles", values=True)
    assert _later(single, clock) == 1
    assert np.array_equal(single.read(0, 1, slice(1, 4))[0], _frame(3)[1:4])
    assert _later(angles, clock) == 3
    assert angles.read(1, 3).tolist() == [1.5, 0.0]
    assert (angles.units, angles.shape) == ("deg", None)
    column = _stack(path, clock, "column", values=True)
    assert _later(column, clock) == 2
    assert column.read(0, 2).tolist() == [1, 2]


@pytest.mark.parametrize("settle", [None, 2.0])
def test_numbers_that_are_the_fill_value_wait_for_another(
    settle: float | None, tmp_path: Path, writer: Writer, clock: Clock
) -> None:
    path = tmp_path / "scan.h5"
    writer.tell(
        "f = h5py.File(path, 'w', libver='latest')\n"
        "d = f.create_dataset('a', (0,), maxshape=(None,), chunks=(16,), dtype='f8')\nf.swmr_mode = True\n"
        "d.resize(3, 0)\nd[:] = [0, 1, 0]\nd.flush()",
        path=str(path),
    )
    stack = _stack(path, clock, "a", values=True, settle=settle)
    assert [_poll(stack, clock) for _ in range(3)] == [0, 2, 2]
    for _ in range(30):
        count = _poll(stack, clock)
    assert count == (2 if settle is None else 3)
    writer.tell("d.resize(5, 0)\nd[3:] = [0, 2]\nd.flush()")
    _poll(stack, clock)
    assert _poll(stack, clock) == 5
    assert stack.read(0, 5).tolist() == [0, 1, 0, 0, 2]
    writer.tell("f.close()")


def test_a_virtual_dataset_is_read_when_its_sources_are_closed(tmp_path: Path, writer: Writer, clock: Clock) -> None:
    part = tmp_path / "part.h5"
    writer.tell(CREATE, path=str(part), libver="latest", dtype="u2", extent=2, how={"chunks": (1, ROWS, COLUMNS)})
    writer.tell("f.swmr_mode = True")
    master = tmp_path / "master.h5"
    with h5py.File(master, "w", libver="latest") as file:
        layout = h5py.VirtualLayout((2, ROWS, COLUMNS), "u2")
        layout[:] = h5py.VirtualSource("part.h5", PLACE, (2, ROWS, COLUMNS))
        file.create_virtual_dataset(PLACE, layout, fillvalue=9)
        file["link"] = h5py.ExternalLink("part.h5", PLACE)
    stack, linked = _stack(master, clock), _stack(master, clock, "link")
    writer.tell(f"{_code(0)}\nd.flush()")
    assert _poll(stack, clock) == 0
    assert _poll(linked, clock) == 1  # a link is followed to a file that is looked after by itself
    assert "not closed" in str(stack.why)
    writer.tell(f"{_code(1)}\nf.close()")
    assert _later(stack, clock) == 2
    assert _later(linked, clock) == 2
    assert np.array_equal(stack.read(0, 2), np.stack([_frame(0), _frame(1)]))
    assert np.array_equal(linked.read(0, 2), np.stack([_frame(0), _frame(1)]))


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "huge": "bytes a row",
        "chunk": "has chunks of",
        "tiles": "chunks each",
        "five": "has shape",
        "flat": "has shape",
        "none": "no pixels",
        "null": "has shape None",
        "text": "dtype",
        "compound": "dtype",
        "complex": "dtype",
        "half": "dtype",
        "group": "is a group",
        "raw": "beneath none",
        "external": "beneath none",
        "dots": "beneath none",
        "soft": "beneath none",
        "virtual": "beneath none",
        "printf": "beneath none",
        "nested": "beneath none",
        "nul\0": "names no dataset",
        "/": "names no dataset",
        "circle": "links",
    }.items(),
)
def test_what_is_hostile_is_refused_before_anything_is_read(name: str, said: str, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    outside = tmp_path / "out" / "passwd0"
    outside.write_bytes(b"root:x:0:0:root:" * 8)
    path = tmp_path / "in" / "scan.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("huge", (1, 2**31, 2**31), "u2", chunks=(1, 2**15, 2**14))
        file.create_dataset("chunk", (1, 64, 64), "u1", chunks=(2**15, 64, 64), maxshape=(None, 64, 64))
        file.create_dataset("tiles", (1, 512, 512), "u1", chunks=(1, 1, 1))
        file.create_dataset("five", (1, 1, 1, 4, 4), "u1")
        file.create_dataset("flat", (4,), "u1")
        file.create_dataset("none", (3, 0, 4), "u1")
        file.create_dataset("null", data=h5py.Empty("u1"))
        file.create_dataset("text", (1, 2, 2), h5py.string_dtype())
        file.create_dataset("compound", (2, 4, 4), np.dtype([("a", "u2"), ("b", "f4")]))
        file.create_dataset("complex", (2, 4, 4), "c8")
        file.create_dataset("half", (2, 4, 4), "f2")
        file.create_group("group")
        file.create_dataset("raw", (2, 4, 4), "u1", external=[(str(outside), 0, 32)])
        file["external"] = h5py.ExternalLink(str(outside), "/d")
        file["dots"] = h5py.ExternalLink("../out/passwd0", "/d")
        file["soft"] = h5py.SoftLink("external")
        file["circle"] = h5py.SoftLink("circle")
        for virtual, source in {
            "virtual": h5py.VirtualSource(outside, "d", (2, 4, 4)),
            "nested": h5py.VirtualSource(path, "virtual", (2, 4, 4)),
        }.items():
            layout = h5py.VirtualLayout((2, 4, 4), "u1")
            layout[:] = source
            file.create_virtual_dataset(virtual, layout)
        endless = h5py.h5s.create_simple((1, 4, 4), (h5py.h5s.UNLIMITED, 4, 4))
        endless.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), block=(1, 4, 4))
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        part = h5py.h5s.create_simple((1, 4, 4))
        properties.set_virtual(endless, b"../out/passwd%b", b"d", part)
        space = h5py.h5s.create_simple((1, 4, 4), (h5py.h5s.UNLIMITED, 4, 4))
        h5py.h5d.create(file.id, b"printf", h5py.h5t.STD_U8LE, space, properties)
    stack = _stack(path, clock, name, limits=Limits(1 << 28, 1 << 26))
    with pytest.raises(SourceError, match=said):
        _poll(stack, clock)


def test_a_damaged_file_is_an_error(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset(PLACE, data=np.zeros((2, 64, 64), "u2"), chunks=(1, 64, 64), compression="gzip")
        where = file[PLACE].id.get_chunk_info(1)
    stack = _stack(path, clock)
    assert _later(stack, clock) == 2
    raw = bytearray(path.read_bytes())
    raw[where.byte_offset : where.byte_offset + where.size] = bytes(where.size)
    path.write_bytes(raw)
    assert _later(stack, clock) == 2
    with pytest.raises(SourceFileError, match="damaged"):
        stack.read(0, 2)
