"""Layouts of journals: other ranks find what the old ones had in common, and no crash leaves less than a whole layout."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrecon import failpoints
from streamrecon.engine.journal import Journal, Record
from streamrecon.engine.journal_entries import HEAD
from streamrecon.engine.journal_layout import Layout, assemble, begin_next, clear, find, place, settle
from streamrecon.errors import DiskFullError, JournalError, OutputError
from streamrecon.scan import FrameKind, Geometry, ScanInfo
from streamrecon.wire.digest import Digest, frame_hash
from streamrecon.wire.messages import Range

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK
COLUMNS = 3
INFO = ScanInfo("s-1", Geometry(40, COLUMNS), np.dtype("<u2"), {P: None, F: None, D: None})
BEGINNING = 4096
SETTINGS = settings(max_examples=150, deadline=None)

Operation = tuple[str, ...] | tuple[str, int] | tuple[str, int | None, int] | tuple[str, FrameKind, int, int, float]
"""What happens to a journal: ("frame", kind, index, version of its pixels, theta), ("withdraw", index, number), ("sender",
epoch) or ("end",). Each is one entry."""


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    yield
    failpoints.arm("")


def image(kind: int, index: int, version: int, rows: Range, columns: int = COLUMNS) -> np.ndarray:
    """Each pixel tells where it is from."""
    values = np.add.outer(np.arange(*rows) * columns, np.arange(columns))
    return (1000 * (16 * kind + index) + 17000 * version + values).astype(np.uint16)


def act(each: Journal, operation: Operation, before: Sequence[Operation]) -> None:
    what, *rest = operation
    if what == "frame":
        kind, index, version, theta = rest
        data = image(kind, index, version, each.rows, each.shape[1])
        position = None if kind is P else int(theta)
        each.append(kind, index, theta if kind is P else None, data, 0.0, frame_hash(data.data.cast("B")), position)
    elif what == "withdraw":
        each.withdraw(*rest)
    elif what == "sender":
        each.sender(*rest)
    else:
        here = present(before)
        digest = Digest()
        for (kind, index), version in here.items():
            digest.add(kind, index, frame_hash(image(kind, index, version, each.rows).data.cast("B")))
        each.end(len(here), digest.value)


def present(operations: Iterable[Operation]) -> dict[tuple[int, int], int]:
    """The frames that count after these, and which pixels each has: others under a name tell that the first were withdrawn."""
    here = dict[tuple[int, int], int]()
    for what, *rest in operations:
        if what == "frame":
            here[rest[0], rest[1]] = rest[2]
        elif what == "damaged":
            if here.get((rest[0], rest[1])) != rest[2]:
                here.pop((rest[0], rest[1]), None)
        elif what == "withdraw":
            here.pop((P, rest[0]), None)
    return here


@dataclass
class Story:
    """One journal, and what is done to it afterwards."""

    rows: Range
    operations: list[Operation]
    damage: dict[int, str] = field(default_factory=dict)
    """By place: "head" or "pixels"."""
    torn: bool = False
    """The file ends a byte before the end of its last entry."""
    epoch: int = 1

    def write(self, path: Path, whole: Range) -> None:
        each = Journal(path, INFO, self.rows, 3600.0, epoch=self.epoch, whole=whole)
        for at, operation in enumerate(self.operations):
            act(each, operation, self.operations[:at])
        each.close(keep=True)
        data = bytearray(path.read_bytes())
        nbytes = (self.rows[1] - self.rows[0]) * COLUMNS * 2
        stride = HEAD.size + -(-nbytes // HEAD.size) * HEAD.size
        for at, where in self.damage.items():
            data[BEGINNING + at * stride + (HEAD.size + at % nbytes if where == "pixels" else at % 4)] ^= 1
        path.write_bytes(data[: len(data) - self.torn])


@dataclass
class State:
    """The oracle: what a journal comes to."""

    epoch: int = 0
    followed: int = 0
    ended: bool = False
    ended_by_heads: bool = False
    """As assembling sees it, which looks at the pixels of a frame only where it needs them."""
    frames: dict[tuple[int, int], tuple[float, np.ndarray]] = field(default_factory=dict)
    known: set[tuple[int, int]] = field(default_factory=set)
    """Frames that are there, damaged ones included."""
    versions: dict[tuple[int, int], int] = field(default_factory=dict)
    """Which pixels each of `frames` has."""
    lost: bool = False
    """A head is lost, which may have been that of a withdrawal."""


def state(story: Story) -> State:
    now, sound, heads = State(story.epoch), list[Operation](), list[Operation]()
    for at, operation in enumerate(story.operations):
        what, *rest = operation
        bad = story.damage.get(at)
        if story.torn and at == len(story.operations) - 1 and bad is None:
            bad = "pixels" if what == "frame" else "head"
        if bad == "head":
            now.lost = True
            continue
        heads.append(operation)
        sound.append(("damaged", *rest) if bad else operation)
        if what == "frame":
            kind, index, version, theta = rest
            now.known.add((kind, index))
            if now.versions.get((kind, index)) != version:
                now.frames.pop((kind, index), None)
                now.versions.pop((kind, index), None)
            if bad is None and (kind, index) not in now.frames:
                now.frames[kind, index] = theta, image(kind, index, version, story.rows)
                now.versions[kind, index] = version
        elif what == "withdraw":
            now.followed = now.followed if now.lost else rest[1]
            now.known.discard((P, rest[0]))
            now.frames.pop((P, rest[0]), None)
            now.versions.pop((P, rest[0]), None)
        elif what == "sender":
            now.epoch, now.followed = rest[0], now.followed if rest[0] == now.epoch else 0
        else:
            everything = present(story.operations[:at])
            now.ended, now.ended_by_heads = present(sound) == everything, present(heads) == everything
    return now


def assembled(old: Sequence[tuple[Range, State]], rows: Range) -> State:
    """What the journal of these rows has to come to; the frames of `known` that are not in `frames` are left out."""
    parts = sorted(((r, s) for r, s in old if set(range(*r)) & set(range(*rows))), key=lambda part: part[0])
    new = State(max((s.epoch for _, s in parts), default=0), known=set().union(*(s.known for _, s in parts)))
    if not set(range(*rows)) <= {row for r, _ in parts for row in range(*r)}:
        return new
    for identity, (theta, _) in parts[0][1].frames.items():
        if all(s.frames.get(identity, (None,))[0] == theta for _, s in parts):
            by_row = {row: line for r, s in parts for row, line in zip(range(*r), s.frames[identity][1], strict=True)}
            new.frames[identity] = theta, np.array([by_row[row] for row in range(*rows)])
    new.followed = min(s.followed if s.epoch == new.epoch else 0 for _, s in parts)
    new.ended = all(s.ended_by_heads for _, s in parts) and set(new.frames) == new.known
    return new


def placed(record: Record) -> float:
    """The angle of a projection, the position of a flat or dark."""
    return record.theta if record.kind is P else record.position


def check(path: Path, rows: Range, expected: State) -> None:
    """What a rank finds that goes on with a journal."""
    each = Journal(path, INFO, rows, resume=True)
    records = list(each.recovered())
    assert [(r.kind, r.index) for r in records] == list(expected.frames)
    assert each.damaged == 0
    for record, (theta, pixels) in zip(records, expected.frames.values(), strict=True):
        assert placed(record) == theta
        np.testing.assert_array_equal(each.read([record])[0], pixels)
        assert each.inventory.hash_of(record.kind, record.index) == frame_hash(pixels.data.cast("B"))
    assert len(each.inventory) == len(records)
    assert (each.inventory.epoch, each.inventory.followed, each.ended) == (
        expected.epoch, expected.followed, expected.ended,
    )  # fmt: skip
    each.close(keep=True)


@contextlib.contextmanager
def quick_folder() -> Iterator[Path]:
    """Which need not survive the machine."""
    with tempfile.TemporaryDirectory() as name, patch.object(os, "fsync"), patch.object(os, "fdatasync"):
        yield Path(name) / "journal"


def slabs(cuts: Sequence[int]) -> list[Range]:
    return list(itertools.pairwise(cuts))


THETA = st.sampled_from([0.5, 0.5, 0.5, 0.75])
VERSION = st.sampled_from([0, 0, 1])
FRAME = st.one_of(
    st.tuples(st.just("frame"), st.just(P), st.integers(0, 3), VERSION, THETA),
    st.tuples(
        st.just("frame"), st.sampled_from([F, D]), st.integers(0, 1), VERSION, st.sampled_from([0.0, 0.0, 0.0, 7.0])
    ),
)
OTHER = st.one_of(
    st.tuples(st.just("withdraw"), st.one_of(st.none(), st.integers(0, 3)), st.integers(1, 3)),
    st.tuples(st.just("sender"), st.integers(1, 3)),
)


@st.composite
def partitions(draw: st.DrawFn, whole: Range) -> list[Range]:
    inner = draw(st.lists(st.integers(whole[0], whole[1]), min_size=1, max_size=4))
    return slabs(sorted({*whole, *inner}))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Range, list[Story]]:
    """The rows of all ranks, and the journals of those that had made one; each has most of what happened to the scan."""
    first = draw(st.integers(0, 3))
    whole = first, first + draw(st.integers(2, 9))
    happened: list[Operation] = draw(st.lists(st.one_of(FRAME, FRAME, FRAME, OTHER), min_size=3, max_size=10))
    if draw(st.booleans()):
        happened.append(("end",))
    stories = []
    for rows in draw(partitions(whole)):
        if draw(st.integers(0, 9)) == 9:
            continue
        turned = draw(st.sampled_from([None, None, 0, 1]))  # a projection that has another angle here
        operations = [(*o[:4], 0.75) if o[:3] == ("frame", P, turned) else o for o in happened]
        for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
            if operations:
                del operations[draw(st.integers(0, len(operations) - 1))]
        if draw(st.integers(0, 3)) == 3:
            del operations[draw(st.integers(0, len(operations))) :]
        operations += draw(
            st.sampled_from([[], [], [("frame", P, 1, 1, 0.5)], [("frame", P, 2, 0, 0.75)], [("withdraw", 1, 2)]])
        )
        story = Story(rows, operations, epoch=draw(st.sampled_from([1, 1, 1, 2])))
        if operations and draw(st.integers(0, 2)) == 2:
            at = draw(st.integers(0, len(operations) - 1))
            frame = operations[at][0] == "frame"
            story.damage[at] = draw(st.sampled_from(["head", "pixels"])) if frame else "head"
            if frame and draw(st.booleans()):  # it came once more
                operations.append(operations[at])
        story.torn = bool(operations) and draw(st.integers(0, 5)) == 5
        stories.append(story)
    return whole, stories


def write(folder: Path, number: int, whole: Range, stories: Sequence[Story]) -> None:
    for story in stories:
        story.write(place(folder, number, story.rows), whole)


def found(folder: Path) -> Layout:
    layout = find(folder)
    assert layout is not None
    return layout


@SETTINGS
@given(layouts(), st.data())
def test_other_ranks_find_what_all_old_ones_had(layout: tuple[Range, list[Story]], data: st.DataObject) -> None:
    whole, stories = layout
    with quick_folder() as folder:
        write(folder, 1, whole, stories)
        if not stories:
            assert find(folder) is None
            return
        old = found(folder)
        assert (old.number, old.whole, old.info.uid) == (1, whole, "s-1")
        before = {f.path: f.path.read_bytes() for f in old.files}
        states = [(story.rows, state(story)) for story in stories]
        new, number = data.draw(partitions(whole)), begin_next(old)
        for rows in new:
            done, expected = assemble(old, rows, place(folder, number, rows)), assembled(states, rows)
            assert (done.frames, done.left_out) == (len(expected.frames), len(expected.known) - len(expected.frames))
        assert {f.path: f.path.read_bytes() for f in found(folder).files} == before, "the old journals were touched"
        settle(folder, number)
        now = found(folder)
        assert (now.number, [f.rows for f in now.files], now.whole, now.can_replay) == (2, new, whole, True)
        for file in now.files:
            check(file.path, file.rows, assembled(states, file.rows))
        # Back to one rank: what all had.
        settled = begin_next(now)
        assemble(now, whole, place(folder, settled, whole))
        settle(folder, settled)
        (one,) = found(folder).files
        check(one.path, whole, assembled(states, whole))


@SETTINGS
@given(layouts())
def test_a_journal_by_itself_comes_to_what_the_oracle_says(layout: tuple[Range, list[Story]]) -> None:
    """Else the tests here would test nothing."""
    whole, stories = layout
    with quick_folder() as folder:
        for story in stories:
            path = place(folder, 1, story.rows)
            story.write(path, whole)
            each, expected = Journal(path, INFO, story.rows, resume=True), state(story)
            assert [(r.kind, r.index, placed(r)) for r in each.recovered()] == [
                (*identity, theta) for identity, (theta, _) in expected.frames.items()
            ]
            assert (each.inventory.epoch, each.inventory.followed) == (expected.epoch, expected.followed)
            assert each.ended == expected.ended
            each.close(keep=True)


def scan(count: int, end: bool = False) -> list[Operation]:
    last: list[Operation] = [("end",)] if end else []
    return [("frame", D, 0, 0, 0.0), *(("frame", P, i, 0, i / 8) for i in range(count)), *last]


def test_from_three_ranks_to_two_to_five_to_one(tmp_path: Path) -> None:
    """Each goes on with the scan for a while, at its own pace, and is asked only for what it does not have."""
    whole, everything = (3, 23), scan(30, end=True)
    chain = [slabs([3, 9, 15, 23]), slabs([3, 12, 23]), slabs([3, 6, 10, 11, 20, 23]), slabs(whole)]
    progress = dict.fromkeys(range(*whole), 0)
    """Operations that the journal of a row has had."""
    first: int | None = None
    for step, ranks in enumerate(chain):
        layout, number = find(tmp_path), 1
        if layout is not None:
            assert not layout.fits(ranks)
            number = begin_next(layout)
            for rows in ranks:
                assemble(layout, rows, place(tmp_path, number, rows))
            settle(tmp_path, number)
        new = dict[int, int]()
        for n, rows in enumerate(ranks):
            path = place(tmp_path, number, rows)
            each = Journal(path, INFO, rows, epoch=1, resume=layout is not None, whole=whole)
            first = each.reconstruction if first is None else first
            assert rows != ranks[0] or each.reconstruction == first, "it is the same reconstruction, by other ranks"
            had, reached = min(progress[row] for row in range(*rows)), 8 + 6 * step + (n * step + n) % 5
            assert [(r.kind, r.index) for r in each.recovered()] == [o[1:3] for o in everything[:had]]
            for at in range(had, len(everything) if len(ranks) == 1 else min(reached, len(everything))):
                act(each, everything[at], everything[:at])
            each.close(keep=True)
            new |= dict.fromkeys(range(*rows), max(had, reached))
        progress = new
    (one,) = found(tmp_path).files
    expected = state(Story(whole, everything))
    check(one.path, whole, expected)
    assert [d.name for d in tmp_path.iterdir()] == ["0004"]


def test_ranks_whose_rows_are_those_of_the_files_go_on_with_them(tmp_path: Path) -> None:
    write(tmp_path, 1, (2, 8), [Story((2, 4), scan(2)), Story((6, 8), scan(1))])
    layout = found(tmp_path)
    assert [f.rows for f in layout.files] == [(2, 4), (6, 8)]
    assert layout.folder == tmp_path / "0001"
    assert layout.fits([(2, 4), (4, 6), (6, 8)])
    assert layout.fits([(6, 8), (4, 6), (2, 4)])
    assert not layout.fits([(2, 4), (4, 8)])
    assert not layout.fits([(2, 8)])
    assert not layout.fits([(2, 4), (4, 6), (6, 7), (7, 8)])


def test_rows_that_no_file_has(tmp_path: Path) -> None:
    write(tmp_path, 1, (0, 6), [Story((0, 2), [*scan(3, True), ("withdraw", None, 4)], epoch=7)])
    layout, target = found(tmp_path), tmp_path / "0002" / "x.frames"
    for rows, epoch, left_out in [((1, 3), 7, 4), ((4, 6), 0, 0)]:
        done = assemble(layout, rows, target)
        assert (done.frames, done.left_out) == (0, left_out)
        assert target.stat().st_size == BEGINNING
        check(target, rows, State(epoch))


def test_frames_are_of_any_size_and_few_are_in_memory(tmp_path: Path) -> None:
    info = dataclasses.replace(INFO, geometry=Geometry(40, 5000))
    for rows in slabs([0, 13, 27, 40]):
        each = Journal(place(tmp_path, 1, rows), info, rows, whole=(0, 40))
        for index in range(30):
            act(each, ("frame", P, index, 0, 0.5), [])
        each.close(keep=True)
    layout, target = found(tmp_path), place(tmp_path, 2, (0, 40))
    tracemalloc.start()
    assert assemble(layout, (0, 40), target).frames == 30
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 40 * 5000 * 2
    each = Journal(target, info, (0, 40), resume=True)
    np.testing.assert_array_equal(each.read(list(each.recovered()))[7], image(P, 7, 0, (0, 40), 5000))
    each.close()


# Which layout counts.


def test_where_nothing_was_left(tmp_path: Path) -> None:
    assert find(tmp_path / "not there") is None
    assert find(tmp_path) is None
    (tmp_path / "0001").mkdir()
    assert find(tmp_path) is None
    (tmp_path / "file").touch()
    assert find(tmp_path / "file") is None
    clear(tmp_path / "file")
    clear(tmp_path / "not there")


def test_a_later_layout_counts_once_it_is_marked(tmp_path: Path) -> None:
    write(tmp_path, 1, (0, 4), [Story((0, 4), scan(2))])
    write(tmp_path, 2, (0, 4), [Story((0, 2), scan(2)), Story((2, 4), scan(2))])
    write(tmp_path, 10000, (0, 4), [Story((0, 1), scan(2))])
    assert found(tmp_path).number == 1
    settle(tmp_path, 2)
    layout = found(tmp_path)
    assert (layout.number, len(layout.files)) == (2, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0002"]


def test_what_an_earlier_attempt_left_is_not_mixed_with_the_next(tmp_path: Path) -> None:
    write(tmp_path, 1, (0, 4), [Story((0, 4), scan(2))])
    write(tmp_path, 2, (0, 4), [Story((0, 3), scan(1))])
    place(tmp_path, 2, (3, 4)).with_suffix(".new").touch()
    layout = found(tmp_path)
    number = begin_next(layout)
    for rows in slabs([0, 2, 4]):
        assemble(layout, rows, place(tmp_path, number, rows))
    settle(tmp_path, number)
    assert [f.rows for f in found(tmp_path).files] == [(0, 2), (2, 4)]
    assert len(list((tmp_path / "0002").iterdir())) == 3


@pytest.mark.parametrize("deletion", [lambda folder: settle(folder, 2), clear], ids=["settle", "clear"])
def test_what_is_someone_elses_stays(tmp_path: Path, deletion: Callable[[Path], None]) -> None:
    folder, elsewhere = tmp_path / "journal", tmp_path / "elsewhere"
    for number in (1, 2, 3):
        write(folder, number, (0, 4), [Story((0, 4), scan(2))])
    for other in (elsewhere, folder / "notes", folder / "001"):
        other.mkdir()
        (other / "x.frames").touch()
    (folder / "0007").write_text("a file")
    (folder / "0008").symlink_to(elsewhere)
    deletion(folder)
    left = {"0007", "0008", "001", "notes"}
    assert {p.name for p in folder.iterdir()} == (left if deletion is clear else left | {"0002"})
    assert all((other / "x.frames").exists() for other in (elsewhere, folder / "notes", folder / "001"))


def test_a_new_scan_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    write(folder, 1, (0, 4), [Story((0, 4), scan(2))])
    write(folder, 2, (0, 4), [Story((0, 4), scan(2))])
    (folder / "0002/rows-00000-00004.frames").write_bytes(b"damaged")
    settle(folder, 2)
    clear(folder)
    assert not folder.exists()


@pytest.mark.parametrize("gone", ["files", "folder"])
def test_ranks_that_delete_their_own_journals_meanwhile_are_no_error(tmp_path: Path, gone: str) -> None:
    """At the end each rank deletes its own, and rank 0 all that is left."""
    folder = tmp_path / "journal"
    write(folder, 1, (0, 4), [Story((0, 2), scan(2)), Story((2, 4), scan(2))])

    def others(name: str) -> None:
        for path in (folder / "0001").glob("*"):
            path.unlink()
        if gone == "folder":
            (folder / "0001").rmdir()

    with patch("streamrecon.engine.journal_layout.fail", others):
        clear(folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("change", "rows", "whole", "why"),
    [
        ({"uid": "s-2"}, (2, 4), (0, 4), "s-1 and s-2"),
        ({"geometry": Geometry(40, 4)}, (2, 4), (0, 4), "columns=4"),
        ({"dtype": np.dtype("<u4")}, (2, 4), (0, 4), "uint32"),
        ({}, (1, 4), (0, 4), "both have rows"),
        ({}, (2, 4), (0, 5), r"\(0, 4\) and \(0, 5\)"),
    ],
)
def test_files_that_do_not_belong_together(
    tmp_path: Path, change: dict[str, object], rows: Range, whole: Range, why: str
) -> None:
    write(tmp_path, 1, (0, 4), [Story((0, 2), scan(2))])
    info = dataclasses.replace(INFO, **change)  # type: ignore[arg-type]
    Journal(place(tmp_path, 1, rows), info, rows, whole=whole).close(keep=True)
    with pytest.raises(OutputError, match=f"{why}.*--overwrite"):
        find(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, 1, (0, 4), [Story((0, 2), scan(2)), Story((2, 4), scan(2))])
    place(tmp_path, 1, (2, 4)).write_bytes(b"no journal")
    with pytest.raises(OutputError, match="rows-00002-00004"):
        find(tmp_path)


# Crashes and disks.

OLD, NEW = [Story(rows, scan(3)) for rows in slabs([0, 4, 8, 12])], slabs([0, 6, 12])

CHILD = """
from pathlib import Path
from streamrecon.engine.journal_layout import assemble, begin_next, find, place, settle
folder = Path({folder!r})
layout = find(folder)
number = begin_next(layout)
for rows in {ranks}:
    assemble(layout, rows, place(folder, number, rows))
settle(folder, number)
"""


def move(folder: Path, ranks: Sequence[Range]) -> None:
    layout = found(folder)
    number = begin_next(layout)
    for rows in ranks:
        assemble(layout, rows, place(folder, number, rows))
    settle(folder, number)


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("journal.write=kill:1", 1),
        ("layout.frame=kill:2", 1),
        ("layout.written=kill:1", 1),
        ("layout.frame=kill:6", 1),
        ("layout.written=kill:2", 1),
        ("layout.marker=kill", 1),
        ("layout.delete=kill:1", 2),
        ("layout.delete=kill:2", 2),
        ("layout.delete=kill:3", 2),
    ],
)
def test_killed_anywhere_a_whole_layout_is_left(tmp_path: Path, where: str, number: int) -> None:
    folder = tmp_path / "journal"
    write(folder, 1, (0, 12), OLD)
    child = subprocess.run(
        [sys.executable, "-c", CHILD.format(folder=str(folder), ranks=NEW)],
        env={**os.environ, failpoints.VARIABLE: where},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    layout = found(folder)
    assert layout.number == number
    assert [f.rows for f in layout.files] == (NEW if number == 2 else [story.rows for story in OLD])
    for file in layout.files:
        check(file.path, file.rows, state(Story(file.rows, scan(3))))
    # The next attempt is one with other ranks.
    again = slabs([0, 1, 12])
    move(folder, again)
    assert [p.name for p in folder.iterdir()] == [f"{number + 1:04d}"]
    for file, rows in zip(found(folder).files, again, strict=True):
        check(file.path, rows, state(Story(rows, scan(3))))


def nothing_was_touched(folder: Path, before: dict[Path, bytes]) -> None:
    assert {f.path: f.path.read_bytes() for f in found(folder).files} == before
    assert not list((folder / "0002").glob("*")), "something half written is left"


@pytest.mark.parametrize("call", [1, 3])
@pytest.mark.parametrize(("action", "error"), [("full", DiskFullError), ("error", JournalError)])
def test_a_disk_that_is_full_or_fails(tmp_path: Path, action: str, error: type[OutputError], call: int) -> None:
    write(tmp_path, 1, (0, 12), OLD)
    layout, target = found(tmp_path), place(tmp_path, 2, (0, 6))
    before = {f.path: f.path.read_bytes() for f in layout.files}
    failpoints.arm(f"journal.write={action}:{call}")
    with pytest.raises(error) as raised:
        assemble(layout, (0, 6), target)
    text = str(raised.value)
    assert "--resume" in text
    assert str(layout.folder) in text
    if action == "full":
        assert "space" in text
        assert "0 to 4, 4 to 8, 8 to 12" in text
    nothing_was_touched(tmp_path, before)
    failpoints.arm("")
    assert assemble(layout, (0, 6), target).frames == 4


@pytest.mark.parametrize("call", ["pwrite", "fsync", "open"])
def test_a_disk_that_is_full_before_or_after_the_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write(tmp_path, 1, (0, 12), OLD)
    layout, real = found(tmp_path), getattr(os, call)
    before = {f.path: f.path.read_bytes() for f in layout.files}
    (tmp_path / "0002").mkdir()

    def full(file: object, *rest: int) -> object:
        if call == "open" and not str(file).endswith(".new"):
            return real(file, *rest)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(DiskFullError):
            assemble(layout, (0, 6), place(tmp_path, 2, (0, 6)))
    nothing_was_touched(tmp_path, before)


def test_a_file_that_was_damaged_since_it_was_found(tmp_path: Path) -> None:
    """Trying again would not help, so it is no error of the disk."""
    write(tmp_path, 1, (0, 12), OLD)
    layout = found(tmp_path)
    layout.files[1].path.write_bytes(b"no journal")
    with pytest.raises(OutputError, match=r"rows-00004-00008.*beginning") as raised:
        assemble(layout, (0, 6), place(tmp_path, 2, (0, 6)))
    assert not isinstance(raised.value, JournalError)
    assert not list((tmp_path / "0002").iterdir())


def test_a_disk_that_fails_as_a_layout_is_settled(tmp_path: Path) -> None:
    write(tmp_path, 1, (0, 12), OLD)
    write(tmp_path, 2, (0, 12), [Story((0, 12), scan(3))])
    failpoints.arm("layout.marker=error")
    with pytest.raises(OutputError, match="settle"):
        settle(tmp_path, 2)
    assert found(tmp_path).number == 1
    settle(tmp_path, 2)
    assert found(tmp_path).number == 2
