"""When versions are due: by number, by time and on request where one rank decides, at the sender's cuts where several do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrecon.engine.emit import FAR, EmitPolicy, LeadingMarks, Marks


def no_giving_up(cut: int, why: str) -> None:
    raise AssertionError(f"cut {cut} was given up: {why}")


# One rank.


@settings(deadline=None)
@given(st.integers(1, 7), st.lists(st.integers(1, 5), max_size=30))
def test_versions_by_number_come_every_so_many_projections_where_batches_end_there(
    every: int, batches: list[int]
) -> None:
    policy, projections, shown = EmitPolicy(every, None), 0, []
    for wished in batches:
        projections += min(wished, policy.remaining(projections))
        if policy.due(projections, projections, 0.0, idle=False):
            shown.append((policy.number, projections))
            policy.emitted(projections, 0.0)
    assert shown == [(k, k * every) for k in range(1, projections // every + 1)]


@pytest.mark.parametrize("idle", [False, True])
def test_what_is_due_by_time_waits_for_the_writer_and_for_something_new(idle: bool) -> None:
    policy = EmitPolicy(100, 10.0)
    assert not policy.due(1, 1, 50.0, idle), "time counts from the first look"
    assert not policy.due(1, 1, 59.9, idle)
    assert policy.due(1, 1, 60.0, idle) == idle
    policy.emitted(1, 60.0)
    assert not policy.due(1, 1, 75.0, idle), "nothing is new"
    assert not policy.due(2, 2, 69.9, idle)
    assert policy.due(2, 2, 70.0, idle) == idle
    assert policy.due(101, 101, 70.0, idle), "what is due by number does not wait"


def test_without_an_interval_time_makes_no_version() -> None:
    policy = EmitPolicy(100, None)
    assert not policy.due(1, 1, 0.0, idle=True)
    assert not policy.due(1, 1, 1e9, idle=True)


def test_a_request_makes_one_version_as_soon_as_something_is_new() -> None:
    policy = EmitPolicy(100, None)
    policy.request()
    assert not policy.due(0, 0, 0.0, idle=False)
    assert policy.due(1, 1, 0.0, idle=False)
    policy.emitted(1, 0.0)
    assert not policy.due(2, 2, 0.0, idle=False)


@pytest.mark.parametrize("again", [EmitPolicy.started_over, lambda policy: policy.resumed(12)])
def test_an_accumulator_that_begins_anew_shows_again_what_it_had(again: Callable[[EmitPolicy], None]) -> None:
    policy = EmitPolicy(5, None)
    policy.emitted(12, 0.0)
    again(policy)
    assert policy.remaining(0) == 12, "a batch ends where the last version did"
    assert [projections for projections in range(13) if policy.due(projections, 20, 0.0, True)] == [12]
    policy.emitted(12, 0.0)
    assert not policy.due(12, 20, 0.0, True)
    assert policy.remaining(12) == 5


@pytest.mark.parametrize("again", [EmitPolicy.started_over, lambda policy: policy.resumed(0)])
def test_an_accumulator_that_begins_anew_before_any_version_shows_none_at_once(
    again: Callable[[EmitPolicy], None],
) -> None:
    policy = EmitPolicy(5, None)
    again(policy)
    assert not policy.due(0, 0, 0.0, True)
    assert [projections for projections in range(6) if policy.due(projections, 9, 0.0, True)] == [5]


def test_one_rank_needs_no_marks() -> None:
    policy = EmitPolicy(5, None)
    policy.mark(1, 2)
    policy.removed(0)
    policy.session_lost()
    assert policy.remaining(0) == 5
    assert not policy.due(2, 2, 0.0, True)


# Several.


class Accumulator:
    """Of one rank, with projections that come and go; what each version holds."""

    def __init__(self) -> None:
        self.given_up: list[int] = []
        self.marks = Marks(lambda cut, why: self.given_up.append(cut))
        self.journal: list[int] = []
        self.cursor = 0
        self.expected: dict[int, set[int]] = {}
        """Of each cut that has not been made: what had come by then, and was not taken back since."""
        self.made: list[int] = []

    def mark(self, cut: int) -> None:
        self.marks.mark(cut, len(self.journal))
        if cut not in self.made + self.given_up:
            self.expected[cut] = set(self.journal)

    def take_back(self, place: int) -> None:
        index = self.journal.pop(place)
        self.cursor -= place < self.cursor
        self.marks.removed(place)
        for expected in self.expected.values():
            expected.discard(index)

    def work(self, most: int) -> None:
        self.cursor += min(most, self.marks.remaining(self.cursor), len(self.journal) - self.cursor)
        if self.marks.due(self.cursor, len(self.journal), 0.0, True):
            cut = self.marks.number
            self.marks.emitted(self.cursor, 0.0)
            self.made.append(cut)
            assert self.expected.pop(cut) == set(self.journal[: self.cursor])
        for cut in self.given_up:
            assert not self.expected.pop(cut, set())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_version_holds_what_came_before_its_cut_and_was_not_taken_back(data: st.DataObject) -> None:
    each, cuts, count = Accumulator(), 0, 0
    for _ in range(data.draw(st.integers(0, 40))):
        what = data.draw(st.sampled_from(["come", "come", "mark", "work", "work", "take back", "again", "start over"]))
        if what == "come":
            each.journal.append(count)
            count += 1
        elif what == "mark":
            cuts += 1
            each.mark(cuts)
        elif what == "again" and cuts:
            each.mark(cuts)
        elif what == "work":
            each.work(data.draw(st.integers(1, 4)))
        elif what == "take back" and each.journal:
            each.take_back(data.draw(st.integers(0, len(each.journal) - 1)))
        elif what == "start over":
            each.marks.started_over()
            each.cursor = 0
    for _ in range(len(each.journal) + cuts):
        each.work(100)
    assert not each.expected, "a cut was neither made nor given up"
    assert sorted(each.made + each.given_up) == list(range(1, cuts + 1))
    assert each.cursor == len(each.journal), "a batch ends where there is no cut"


def test_without_a_mark_batches_end_anywhere() -> None:
    marks = Marks(no_giving_up)
    assert marks.remaining(7) == FAR
    assert not marks.due(7, 7, 0.0, True)
    marks.resumed(7)
    assert not marks.due(7, 7, 0.0, True)


def test_marks_of_a_lost_session_do_not_count() -> None:
    marks = Marks(no_giving_up)
    marks.mark(1, 3)
    marks.session_lost()
    assert marks.remaining(0) == FAR
    assert not marks.due(3, 3, 0.0, True)


def test_a_cut_of_which_nothing_is_left_is_given_up_wherever_that_is_noticed() -> None:
    """Another rank may have made its slab before; rank 0 has to hear of it, or it would wait for this one."""
    given_up = []
    marks = Marks(lambda cut, why: given_up.append(cut))
    marks.mark(1, 1)
    marks.removed(0)
    assert not marks.due(0, 0, 0.0, True)
    assert not marks.due(0, 0, 0.0, True)
    assert given_up == [1]


def test_a_slab_that_was_made_is_not_made_again_for_the_same_cut() -> None:
    """The others may have it, too: then it is about to be shown, and must not change."""
    marks = Marks(no_giving_up)
    marks.mark(1, 2)
    assert marks.due(2, 2, 0.0, True)
    marks.emitted(2, 0.0)
    marks.mark(1, 3)
    assert not marks.due(3, 3, 0.0, True)


class Leader:
    """Rank 0, and what it asks for."""

    def __init__(self, every: int) -> None:
        self.policy = EmitPolicy(every, None)
        self.wanted: list[int] = []
        self.given_up: list[int] = []
        self.over = 0
        self.marks = LeadingMarks(self.policy, self._want, lambda cut: cut <= self.over, self.give_up)
        self.whole: list[int] = []
        """Of those, the ones without binning."""

    def _want(self, cut: int, whole: bool) -> None:
        self.wanted.append(cut)
        if whole:
            self.whole.append(cut)

    def give_up(self, cut: int, why: str) -> None:
        assert why
        self.given_up.append(cut)
        self.over = max(self.over, cut)

    def due(self, projections: int, received: int) -> bool:
        return self.marks.due(projections, received, 0.0, True)


def test_rank_0_asks_for_a_cut_by_what_has_come_and_for_the_next_when_it_is_over() -> None:
    each = Leader(4)
    assert not each.due(0, 3)
    assert each.wanted == []
    assert not each.due(0, 4)
    assert each.wanted == [1]
    each.due(0, 12)
    assert each.wanted == [1], "one at a time"
    each.marks.mark(1, 5)
    assert each.due(5, 12)
    assert each.marks.number == 1
    each.marks.emitted(5, 0.0)
    assert each.wanted == [1], "the other slabs are not there yet"
    each.over = 1
    each.due(5, 12)
    assert each.wanted == [1, 2]


def test_a_lost_session_gives_up_the_cut_that_is_waited_for_and_another_is_asked_for_soon() -> None:
    each = Leader(4)
    each.due(0, 4)
    each.marks.mark(1, 4)
    each.marks.session_lost()
    assert each.given_up == [1]
    assert not each.due(4, 4), "its mark does not count any more"
    assert each.wanted == [1]
    each.due(4, 5)
    assert each.wanted == [1, 2], "as soon as something is new"


def test_a_lost_session_does_not_matter_where_no_cut_is_waited_for() -> None:
    each = Leader(4)
    each.marks.session_lost()
    each.due(0, 4)
    each.over = 1
    each.marks.session_lost()
    assert each.given_up == []
    each.due(4, 5)
    assert each.wanted == [1]


def test_rank_0_gives_up_the_cut_of_which_nothing_is_left() -> None:
    each = Leader(1)
    each.due(0, 1)
    each.marks.mark(1, 1)
    each.marks.removed(0)
    assert not each.due(0, 0)
    assert each.given_up == [1]
    each.due(0, 2)
    assert each.wanted == [1, 2]


@pytest.mark.parametrize("again", [LeadingMarks.started_over, lambda marks: marks.resumed(6)])
def test_after_a_start_anew_a_cut_is_asked_for_at_once(again: Callable[[LeadingMarks], None]) -> None:
    each = Leader(4)
    each.due(0, 6)
    each.over = 1
    each.due(6, 6)
    assert each.wanted == [1]
    again(each.marks)
    each.due(0, 6)
    assert each.wanted == [1, 2]
