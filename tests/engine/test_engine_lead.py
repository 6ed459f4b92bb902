"""Slabs that tell in any order are told what one slab would be: the axis by all projections that every slab has."""

from __future__ import annotations

import functools
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamrecon.config import ReconConfig
from streamrecon.engine.alignment import Alignment
from streamrecon.engine.decompose import decompose
from streamrecon.engine.journal import Record
from streamrecon.engine.lead import QUESTIONS, Lead
from streamrecon.engine.orders import (
    SETTLED,
    Align,
    Ask,
    Failed,
    Finish,
    Finished,
    Order,
    Reduced,
    Stop,
    Studied,
    Tag,
    pack,
    unpack,
)
from streamrecon.engine.study import Study
from streamrecon.errors import GeometryError, RankError, StreamreconError
from streamrecon.recon.center import PAIR_ROWS
from streamrecon.scan import FrameKind, Geometry, ScanInfo
from streamrecon.wire.messages import Range
from streamrecon.wire.ranges import Ranges

ROWS, COLUMNS, COUNT = 150, 48, 48
"""More rows than the bands of an opposed pair, so that slabs share bands."""

HALF = tuple(np.arange(COUNT) * math.pi / (COUNT - 1))
FULL = tuple(np.arange(COUNT) * 2 * math.pi / COUNT)
GOLDEN = tuple(np.arange(COUNT) * math.pi * (math.sqrt(5) - 1) / 2)

BETTER = (*np.arange(23) * math.pi / 23, math.pi + 0.02, *(math.pi + 0.001 + np.arange(1, 25) * math.pi / 23))
"""The first half of them has one opposed pair; the others make better ones."""


@functools.cache
def line_integrals(theta: Sequence[float], center: float, wide: bool) -> NDArray[np.float32]:
    """(projection, row, column) of blobs, as whole numbers: their sums are exact in whatever order they are added."""
    u, rows = np.arange(COLUMNS) - center, 1 + np.arange(ROWS)[:, None] % 3
    image = np.zeros((len(theta), ROWS, COLUMNS))
    for i, angle in enumerate(theta):
        for x, y, width, height in ((3.0, -2.0, 4.0, 60), (-5.0, 4.0, 1.5, 40), (1.0, 6.0, 1.0, 50)):
            offset = u - x * math.cos(angle) - y * math.sin(angle)
            image[i] += rows * height * np.exp(-((offset / width) ** 2) / 2)
        if wide:
            image[i] += rows * 60 * (np.abs(u) < 30)
    return np.rint(image).astype(np.float32)


def scan_of(theta: Sequence[float], center: float | None = None, announced: bool = True) -> ScanInfo:
    counts: dict[FrameKind, int | None] = {FrameKind.PROJECTION: len(theta) if announced else None}
    counts |= {FrameKind.FLAT: None, FrameKind.DARK: None}
    geometry = Geometry(ROWS, COLUMNS, None, center)
    return ScanInfo("s", geometry, np.dtype("<u2"), counts, np.array(theta) if announced else None)


Happening = tuple[str, int]
"""`come` and `withdrawn` with the index of a projection, `flats`: line integrals change."""


class Slab:
    """One rank, as far as the center goes: what comes, what is known, and what it is asked."""

    def __init__(
        self, rank: int, rows: Range, story: Sequence[Happening], theta: Sequence[float], center: float, wide: bool,
        find: bool,
    ) -> None:  # fmt: skip
        self.rank, self.rows, self._theta = rank, rows, theta
        self._images = [line_integrals(tuple(theta), center + off, wide) for off in (-3.0, 2.0, 0.0)]
        """Before and after flats, and at the end."""
        self.left = deque(story)
        self.projections: list[Record] = []
        self.gaps = self.flats = 0
        self.settled = False
        self.asks: deque[Ask] = deque()
        self.study = Study(rows, (0, ROWS), COLUMNS, find, self._read)

    @property
    def tag(self) -> Tag:
        return SETTLED if self.settled else (0, 1, self.gaps, self.flats, 0)

    def _read(self, records: Sequence[Record]) -> NDArray[np.float32]:
        images = self._images[2 if self.settled else min(1, self.flats)]
        return np.stack([images[record.index, slice(*self.rows)] for record in records])

    def go_on(self, steps: int) -> None:
        for _ in range(min(steps, len(self.left))):
            what, index = self.left.popleft()
            if what == "come":
                theta = float(self._theta[index])
                self.projections.append(Record(FrameKind.PROJECTION, index, theta, 0, 0.0))
            elif what == "withdrawn":
                self.projections = [record for record in self.projections if record.index != index]
                self.gaps += 1
            else:
                self.flats += 1

    def tell(self, lead: Lead) -> None:
        for news in self.study.news(self.projections, lambda: self.tag):
            lead.hear(self.rank, unpack(pack(news)))

    def answer(self, lead: Lead) -> None:
        if self.asks:
            answer = self.study.answer(self.asks.popleft(), self.projections)
            if answer is not None:
                lead.hear(self.rank, unpack(pack(answer)))

    def end(self, lead: Lead, ended: bool = True) -> None:
        """Nothing more comes."""
        self.settled = bool(self.projections)
        self.tell(lead)
        have = Ranges.of(record.index for record in self.projections).ranges
        reason = None if ended else f"rank {self.rank} lost its sender"
        lead.hear(self.rank, unpack(pack(Finished(have, ended, reason))))


class Job:
    """Slabs, and who leads them."""

    def __init__(
        self, edges: Sequence[int], story: Sequence[Happening], theta: Sequence[float], center: float,
        given: bool = False, announced: bool = True, wide: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        rows = list(itertools.pairwise([0, *edges, ROWS]))
        self.slabs = [Slab(n, each, story, theta, center, wide, not given) for n, each in enumerate(rows)]
        info = scan_of(theta, center if given else None, announced)
        self.lead = Lead(info, (0, ROWS), range(len(rows)), ReconConfig(**options))
        self.orders: list[Order] = []

    def turn(self) -> None:
        for order in self.lead.turn():
            order = unpack(pack(order))
            self.orders.append(order)
            for slab in self.slabs:
                slab.asks += [order] if isinstance(order, Ask) else []

    def told(self, kind: type[Any]) -> list[Any]:
        return [order for order in self.orders if isinstance(order, kind)]

    def settle(self, shuffled: Sequence[Slab]) -> None:
        """All that is asked is answered."""
        for _ in range(10):
            self.turn()
            for slab in shuffled:
                while slab.asks:
                    slab.answer(self.lead)

    def finish(self) -> Finish:
        self.settle(self.slabs)
        (found,) = self.told(Finish)
        assert isinstance(found, Finish)
        return found


def whole(indices: Sequence[int], theta: Sequence[float], center: float, **options: Any) -> Finish:
    """What one slab is told that has these projections, in this order."""
    each = Job([], [("come", index) for index in indices], theta, center, **options)
    each.slabs[0].go_on(len(indices))
    each.slabs[0].end(each.lead)
    return each.finish()


SCANS: dict[str, dict[str, Any]] = {
    "half turn": {"theta": HALF, "center": 21.0},
    "golden": {"theta": GOLDEN, "center": 26.0},
    "not announced": {"theta": HALF, "center": 25.0, "announced": False},
    "given": {"theta": HALF, "center": 21.0, "given": True},
    "offset axis": {"theta": FULL, "center": 12.0, "wide": True, "given": True},
    "not cut off": {"theta": FULL, "center": 12.0, "given": True},
}


@st.composite
def stories(draw: st.DrawFn) -> list[Happening]:
    """Most projections in some order, of which some are withdrawn and may come again, and flats."""
    story: list[Happening] = [("come", index) for index in draw(st.permutations(range(COUNT)))]
    for _ in range(draw(st.integers(0, 2))):
        story.insert(draw(st.integers(0, len(story))), ("flats", 0))
    for index in draw(st.lists(st.integers(0, COUNT - 1), max_size=3, unique=True)):
        place = draw(st.integers(story.index(("come", index)) + 1, len(story)))
        story.insert(place, ("withdrawn", index))
        if draw(st.booleans()):
            story.insert(draw(st.integers(place + 1, len(story))), ("come", index))
    return story


edges_of = st.sets(st.integers(1, ROWS - 1), min_size=1, max_size=3).map(sorted)


@pytest.mark.parametrize("name", list(SCANS))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_happens_on_the_way_the_end_is_that_of_one_slab(name: str, data: st.DataObject) -> None:
    """Slabs are everywhere in the scan; questions are answered late or never; one or another breaks off."""
    scan = SCANS[name]
    job = Job(data.draw(edges_of), data.draw(stories()), **scan)
    broken = data.draw(st.sets(st.sampled_from(job.slabs), max_size=1)) if data.draw(st.booleans()) else set()
    stop = data.draw(st.integers(20, 50))
    for _ in range(data.draw(st.integers(0, 40))):
        slab = data.draw(st.sampled_from(job.slabs))
        what = data.draw(st.sampled_from(["go on", "go on", "tell", "turn", "answer"]))
        if what == "go on":
            steps = data.draw(st.integers(1, 20))
            slab.go_on(min(steps, max(0, len(slab.left) - stop)) if slab in broken else steps)
        elif what == "tell":
            slab.tell(job.lead)
        elif what == "turn":
            job.turn()
        else:
            slab.answer(job.lead)
    for slab in data.draw(st.permutations(job.slabs)):
        if slab not in broken:
            slab.go_on(1000)
        slab.end(job.lead, slab not in broken)
        for other in job.slabs if data.draw(st.booleans()) else []:
            job.turn()
            other.answer(job.lead)
    found = job.finish()
    sets = [{record.index for record in slab.projections} for slab in job.slabs]
    agreed = set.intersection(*sets)
    assert found.end.projections == Ranges.of(agreed).ranges
    assert found.end.ended == (not broken)
    assert bool(job.told(Stop)) == bool(broken)
    if not agreed:
        assert found.align is None
        return
    alone = whole(sorted(agreed), **scan)
    assert alone.align is not None
    if alone.align.estimate.method != "middle":  # else what was found on the way is surer
        assert found.align == alone.align


@pytest.mark.parametrize("name", list(SCANS))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_slabs_that_keep_step_are_told_what_one_slab_is_told(name: str, data: st.DataObject) -> None:
    story = data.draw(stories())
    jobs = [Job(data.draw(edges_of), story, **SCANS[name]), Job([], story, **SCANS[name])]
    steps = data.draw(st.lists(st.integers(1, 20), max_size=8))
    for step in [*steps, len(story)]:
        for job in jobs:
            for slab in data.draw(st.permutations(job.slabs)):
                slab.go_on(step)
                slab.tell(job.lead)
            job.settle(data.draw(st.permutations(job.slabs)))
        assert jobs[0].told(Align) == jobs[1].told(Align)
        assert jobs[0].lead.received == jobs[1].lead.received == len(jobs[1].slabs[0].projections)
    for job in jobs:
        for slab in job.slabs:
            slab.end(job.lead)
        job.finish()
    assert jobs[0].orders == jobs[1].orders


def test_the_scans_of_these_tests_tell_something() -> None:
    found = {name: whole(range(COUNT), **scan).align for name, scan in SCANS.items()}
    assert all(align is not None for align in found.values())
    assert {name for name, align in found.items() if align and align.offset_axis} == {"offset axis"}
    for name, align in found.items():
        assert align is not None
        assert align.estimate.center == pytest.approx(SCANS[name]["center"], abs=0.2), name
        assert align.estimate.method != "middle"


# One step at a time.


def started(**options: Any) -> Job:
    """Two slabs with all of a half turn."""
    job = Job([70], [("come", index) for index in range(COUNT)], HALF, 21.0, **options)
    for slab in job.slabs:
        slab.go_on(COUNT)
    return job


def test_only_what_every_slab_has_told_counts() -> None:
    job = started()
    job.slabs[0].tell(job.lead)
    job.turn()
    assert (job.lead.received, job.orders) == (0, [])
    job.slabs[1].tell(job.lead)
    assert job.lead.received == COUNT
    job.turn()
    assert [type(order) for order in job.orders] == [Ask]


def test_a_pair_is_asked_for_once_and_used_when_both_slabs_have_answered() -> None:
    job = started()
    for slab in job.slabs:
        slab.tell(job.lead)
    job.turn()
    job.slabs[1].answer(job.lead)
    job.turn()
    job.turn()
    assert [type(order) for order in job.orders] == [Ask]
    job.slabs[0].answer(job.lead)
    job.turn()
    (align,) = job.told(Align)
    assert align.estimate.method == "opposed-pair"
    assert align.estimate.center == pytest.approx(18.0, abs=0.1)


@pytest.mark.parametrize("name", ["better", "offset axis"])
def test_what_comes_before_the_answer_is_no_new_question(name: str) -> None:
    """The pair or the choice would be another one by then; and so on, for each projection."""
    scan = SCANS.get(name, {"theta": BETTER, "center": 21.0, "announced": False})
    job = Job([70], [("come", index) for index in range(COUNT)], **scan)
    for steps in (24, 12, 6, 6):
        for slab in job.slabs:
            slab.go_on(steps)
            slab.tell(job.lead)
        job.turn()
        assert [type(order) for order in job.orders] == [Ask]
    for slab in job.slabs:
        slab.answer(job.lead)
    job.turn()
    assert len(job.told(Align)) == 1


def test_a_better_pair_is_another_question() -> None:
    job = Job([70], [("come", index) for index in range(COUNT)], BETTER, 21.0, announced=False)
    for steps in (24, 24):
        for slab in job.slabs:
            slab.go_on(steps)
            slab.tell(job.lead)
        job.settle(job.slabs)
    first, second = job.told(Ask)
    assert first.indices != second.indices
    pair = job.lead.alignment._finder.opposed_pair()
    assert pair is not None
    assert second.indices == pair[:2]


def test_answers_to_other_questions_do_not_count() -> None:
    job = started()
    for slab in job.slabs:
        slab.tell(job.lead)
    job.turn()
    (ask,) = job.told(Ask)
    assert ask.bands == PAIR_ROWS
    nonsense = np.ones((2, PAIR_ROWS, COLUMNS), np.float32)
    for rank in (0, 1):
        for other in (
            Reduced((0, 1, 0, 9, 0), ask.indices, ask.bands, nonsense),
            Reduced(ask.tag, ask.indices[::-1], ask.bands, nonsense),
            Reduced(ask.tag, ask.indices, 1, nonsense),
        ):
            job.lead.hear(rank, other)
    job.turn()
    assert job.told(Align) == []


def test_what_was_learnt_is_void_when_line_integrals_change_and_old_news_do_not_count() -> None:
    job = started()
    for slab in job.slabs:
        slab.tell(job.lead)
    job.turn()
    for slab in job.slabs:
        slab.flats += 1
    job.slabs[0].tell(job.lead)
    assert job.lead.received == 0
    job.slabs[1].answer(job.lead)
    old = Studied((0, 1, 0, 0, 0), (1,), np.array([0.0]), np.zeros((1, 64, 4), np.float32))
    job.lead.hear(1, old)
    job.turn()
    assert job.lead.received == 0
    job.slabs[1].tell(job.lead)
    job.settle(job.slabs)
    (align,) = job.told(Align)
    assert align.estimate.center == pytest.approx(23.0, abs=0.1)


def test_a_slab_does_not_answer_by_other_line_integrals_or_without_a_projection() -> None:
    job = started()
    slab = job.slabs[0]
    slab.tell(job.lead)
    ask = Ask(slab.tag, (0, COUNT - 1), PAIR_ROWS)
    answer = slab.study.answer(ask, slab.projections)
    assert answer is not None
    assert (answer.tag, answer.indices, answer.bands) == (ask.tag, ask.indices, ask.bands)
    assert slab.study.answer(replace(ask, indices=(0, COUNT)), slab.projections) is None
    assert slab.study.answer(replace(ask, tag=SETTLED), slab.projections) is None


def test_a_slab_answers_in_the_order_of_the_question() -> None:
    job = started()
    slab = job.slabs[0]
    slab.tell(job.lead)
    one, other = (slab.study.answer(Ask(slab.tag, indices, 1), slab.projections) for indices in ((3, 40), (40, 3)))
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.images, other.images[::-1])
    assert not np.array_equal(one.images[0], one.images[1])


def test_reading_that_changes_the_line_integrals_is_done_again() -> None:
    """The first projections that are read may close a group of flats."""
    job = started()
    slab = job.slabs[0]
    read = slab._read

    def changing(records: Sequence[Record]) -> NDArray[np.float32]:
        images = read(records)
        slab.flats = 1
        return images

    slab.study._read = changing
    news = list(slab.study.news(slab.projections, lambda: slab.tag))
    assert {each.tag for each in news} == {slab.tag}
    assert [index for each in news for index in each.indices] == list(range(COUNT))
    sums = np.concatenate([each.sums for each in news if each.sums is not None])
    np.testing.assert_array_equal(sums[0], slab.study._bands.sums(read(slab.projections[:1])[0]))


def test_old_questions_are_forgotten() -> None:
    job = started()
    for number in range(3 * QUESTIONS):
        job.lead._look((number,), 1)
    assert len(job.lead._answers) == QUESTIONS
    assert job.lead._look((3 * QUESTIONS - 1,), 1) is None
    assert len(job.lead.turn()) == 3 * QUESTIONS, "the newest ones are not asked again"


def test_where_the_center_is_given_nothing_is_summed_or_asked() -> None:
    job = started(given=True)
    for slab in job.slabs:
        news = list(slab.study.news(slab.projections, lambda slab=slab: slab.tag))  # type: ignore[misc]
        assert all(each.sums is None for each in news)
        for each in news:
            job.lead.hear(slab.rank, each)
    job.turn()
    (align,) = job.orders
    assert isinstance(align, Align)
    assert align.estimate.method == "user"


@pytest.mark.parametrize(("choice", "offset"), [("yes", True), ("no", False)])
def test_an_offset_axis_that_is_given_is_not_asked_about(choice: str, offset: bool) -> None:
    job = Job([70], [], **SCANS["not cut off"], offset_axis=choice)
    for slab in job.slabs:
        slab.left.append(("come", 0))
        slab.go_on(1)
        slab.tell(job.lead)
    job.turn()
    assert [(type(order), getattr(order, "offset_axis", None)) for order in job.orders] == [(Align, offset)]


@pytest.mark.parametrize("cut_off", [0, 1])
def test_an_object_that_is_cut_off_in_one_slab_only_is_seen_by_all(cut_off: int) -> None:
    """Each slab alone would decide otherwise; the profile of all rows decides."""
    scan = SCANS["not cut off"]
    job = Job([147], [("come", index) for index in range(COUNT)], **scan)
    for slab in job.slabs:
        slab._images = [line_integrals(FULL, 12.0, slab.rank == cut_off)] * 3
    for slab in job.slabs:
        slab.go_on(COUNT)
        slab.tell(job.lead)
    job.settle(job.slabs)
    profile = sum(slab._images[0][:, slice(*slab.rows)].sum(axis=(0, 1)) for slab in job.slabs)
    (align,) = job.told(Align)
    assert align.offset_axis == job.lead.alignment._cut_off(np.asarray(profile), 12.0)
    assert align.offset_axis == (cut_off == 0)


def test_a_scan_that_would_need_a_full_turn_and_is_none_is_refused() -> None:
    theta = tuple(np.arange(COUNT) * 1.8 * math.pi / COUNT)
    job = Job([70], [("come", index) for index in range(COUNT)], theta, 12.0, given=True, wide=True)
    for slab in job.slabs:
        slab.go_on(COUNT)
        slab.tell(job.lead)
    job.turn()
    for slab in job.slabs:
        slab.answer(job.lead)
    with pytest.raises(GeometryError, match="full turn"):
        job.turn()


def test_it_is_refused_at_the_end_where_there_was_no_occasion_before() -> None:
    theta = tuple(np.arange(COUNT) * 1.8 * math.pi / COUNT)
    job = Job([70], [("come", index) for index in range(COUNT)], theta, 12.0, given=True, wide=True)
    for slab in job.slabs:
        slab.go_on(COUNT)
        slab.end(job.lead)
    with pytest.raises(GeometryError, match="full turn"):
        job.settle(job.slabs)


@pytest.mark.parametrize("wide", [False, True])
def test_the_profile_is_that_of_several_views(wide: bool) -> None:
    """In one of them a corner of the object may reach the edge."""
    images = line_integrals(FULL, 12.0, wide)[::3].mean(axis=1, keepdims=True)
    images[0] = line_integrals(FULL, 12.0, not wide)[0].mean(axis=0)
    each = Alignment(ReconConfig(), ROWS, COLUMNS, COUNT, np.array(FULL), 12.0, {0}, lambda indices, bands: images)
    each.take(0, Studied((0,), tuple(range(COUNT)), np.array(FULL), None))
    align = each.better()
    assert align is not None
    assert align.offset_axis == wide


def test_a_question_is_void_where_a_projection_of_it_is_taken_back() -> None:
    """No slab could answer it."""
    job = Job([70], [("come", index) for index in range(COUNT)], BETTER, 21.0, announced=False)
    for slab in job.slabs:
        slab.left.insert(24, ("withdrawn", 23))
        slab.go_on(24)
        slab.tell(job.lead)
    job.turn()
    assert job.told(Ask)[0].indices == (0, 23)
    for slab in job.slabs:
        slab.go_on(COUNT)
        slab.tell(job.lead)
    job.settle(job.slabs)
    assert 23 not in job.told(Ask)[1].indices
    assert len(job.told(Align)) == 1


def test_so_is_one_about_the_views_of_an_offset_axis() -> None:
    job = Job([70], [("come", index) for index in range(COUNT)], **SCANS["offset axis"])
    for slab in job.slabs:
        slab.left.append(("withdrawn", 0))
        slab.go_on(COUNT)
        slab.tell(job.lead)
    job.turn()
    assert 0 in job.told(Ask)[0].indices
    for slab in job.slabs:
        slab.go_on(1)
        slab.tell(job.lead)
    job.settle(job.slabs)
    (align,) = job.told(Align)
    assert align.offset_axis


def test_an_axis_found_by_other_line_integrals_is_void_while_the_views_are_waited_for() -> None:
    job = Job([70], [("come", index) for index in range(COUNT)], FULL, 12.0, wide=True)
    for slab in job.slabs:
        slab.go_on(COUNT)
        slab.tell(job.lead)
    job.turn()
    for slab in job.slabs:
        slab.answer(job.lead)
    job.turn()
    assert [ask.bands for ask in job.told(Ask)] == [PAIR_ROWS, 1]
    for slab in job.slabs:
        slab.flats += 1
        slab.tell(job.lead)
    job.settle(job.slabs)
    (align,) = job.told(Align)
    assert align.estimate.center == pytest.approx(14.0, abs=0.3)


def test_no_better_axis_once_a_slab_has_all_that_comes() -> None:
    """Its line integrals are the last ones; what all say by them decides."""
    job = started()
    job.slabs[0].end(job.lead)
    job.slabs[1].settled = True
    job.slabs[1].tell(job.lead)
    job.turn()
    assert job.orders == []
    job.slabs[1].end(job.lead)
    assert job.finish().align == whole(range(COUNT), HALF, 21.0).align


@pytest.mark.parametrize("first", [0, 1])
def test_a_scan_that_breaks_off_is_stopped_once_with_its_reason(first: int) -> None:
    """Whichever slab says first that nothing more comes."""
    job = started()
    for rank in (first, 1 - first):
        job.slabs[rank].end(job.lead, ended=rank == 0)
        job.turn()
        job.turn()
    found = job.finish()
    assert job.told(Stop) == [Stop("rank 1 lost its sender")]
    assert (found.end.ended, found.end.reason) == (False, "rank 1 lost its sender")
    assert found.end.projections == ((0, COUNT),)


@pytest.mark.parametrize("bands", [1, PAIR_ROWS])
def test_what_is_looked_at_are_the_means_of_bands_of_all_rows(bands: int) -> None:
    job = started()
    for slab in job.slabs:
        slab.tell(job.lead)
    assert job.lead._look((3, 40), bands) is None
    job.turn()
    for slab in job.slabs:
        while slab.asks:
            slab.answer(job.lead)
    found = job.lead._look((3, 40), bands)
    assert found is not None
    images = line_integrals(HALF, 18.0, False)[[3, 40]]
    edges = np.linspace(0, ROWS, bands + 1).astype(int)
    means = [images[:, first:end].mean(axis=1) for first, end in itertools.pairwise(edges)]
    np.testing.assert_allclose(found, np.stack(means, axis=1), rtol=1e-6)


def test_slabs_that_ended_with_different_projections_end_with_those_that_all_have() -> None:
    """Nothing more can come: the others are named as missing."""
    job = started()
    del job.slabs[0].projections[3], job.slabs[1].projections[5]
    for slab in job.slabs:
        slab.end(job.lead)
    found = job.finish()
    assert found.end.projections == ((0, 3), (4, 5), (6, COUNT))
    assert found.end.missing == ((3, 4), (5, 6))
    assert found.end.ended
    assert job.told(Stop) == []


def test_what_each_slab_lacks_is_named_once() -> None:
    job = Job([70], [], HALF, 21.0)
    gaps: list[tuple[tuple[int, str, int], ...]] = [
        ((0, "lost", 2), (1, "lost", 1)),
        ((0, "lost", 2), (2, "dropped", 3)),
        (),
    ]
    for slab, lacks in zip(job.slabs, itertools.cycle(gaps), strict=False):
        job.lead.hear(slab.rank, Studied(SETTLED, (), np.zeros(0), None))
        job.lead.hear(slab.rank, Finished((), True, gaps=lacks))
    (order,) = job.lead.turn()
    assert isinstance(order, Finish)
    wanted = dict.fromkeys(gap for lacks in gaps[: len(job.slabs)] for gap in lacks)
    assert order.end.gaps == tuple(sorted(wanted))


ERROR = "GAP names the frames 3 to 1 of kind 0; expected a range of a known kind"
ABORTED = f"the sender gave up: the engine ended the scan: {ERROR}"


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("words", "given_up", "why"),
    [
        ([(ERROR, False), (ABORTED, True)], False, ERROR),
        ([(ABORTED, True), (ABORTED, True)], True, ABORTED),
        ([("the sender gave up: enough", True), None], True, "the sender gave up: enough"),
        ([(ERROR, False), None], False, ERROR),
    ],
    ids=["one lane had an error", "the sender gave up", "one was told to stop", "one was told of an error"],
)
def test_a_scan_is_given_up_only_if_each_slab_that_broke_says_so(
    words: list[tuple[str, bool] | None], given_up: bool, why: str, first: int
) -> None:
    """Of itself: a slab that was told to stop repeats what it was told."""
    info = replace(scan_of(HALF, 21.0), geometry=Geometry(4, COLUMNS, None, 21.0))
    lead, heard = Lead(info, (0, 4), [0, 1], ReconConfig()), list[Stop]()
    for rank in (first, 1 - first):
        word = words[rank]
        if word is None:
            continue
        lead.hear(rank, Finished((), False, *word))
        heard += [order for order in lead.turn() if isinstance(order, Stop)]
    for rank, word in enumerate(words):
        if word is None:
            lead.hear(rank, Finished((), False, heard[0].reason))
    last = [order for order in lead.turn() if isinstance(order, Finish)]
    assert len(heard) == 1
    assert last == [] or (last[0].end.given_up, last[0].end.reason) == (given_up, why)
    assert last or lead._end is not None
    end = lead._end
    assert end is not None
    assert (end.end.ended, end.end.given_up, end.end.reason) == (False, given_up, why)


def test_a_scan_without_projections_ends_without_an_axis() -> None:
    job = Job([70], [], HALF, 21.0)
    for slab in job.slabs:
        slab.end(job.lead)
    found = job.finish()
    assert (found.end.projections, found.align, found.end.ended) == ((), None, True)


@pytest.mark.parametrize(("kind", "error"), [("GeometryError", GeometryError), ("KeyError", RankError)])
def test_what_a_rank_has_failed_with_is_raised(kind: str, error: type[StreamreconError]) -> None:
    with pytest.raises(error, match="rank 1 failed: no memory"):
        started().lead.hear(1, Failed(kind, "no memory"))


def test_slabs_without_rows_are_not_waited_for() -> None:
    slabs = decompose((0, 2), 3)
    members = [rank for rank, rows in enumerate(slabs) if rows[0] < rows[1]]
    info = replace(scan_of(HALF, 21.0), geometry=Geometry(2, COLUMNS, None, 21.0))
    lead = Lead(info, (0, 2), members, ReconConfig())
    for rank in members:
        lead.hear(rank, Studied(SETTLED, (0,), np.array([0.0]), None))
        lead.hear(rank, Finished(((0, 1),), True))
    assert [type(order) for order in lead.turn()] == [Finish]
