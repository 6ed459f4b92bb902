"""Slabs become versions only where all are there and hold the same, in order, whatever the order they come in."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streamrecon.engine.assembly import Assembly
from streamrecon.engine.orders import LAST, Aside, NotWritten, Part


def part(cut: int, rank: int, content: int = 0) -> Part:
    return Part(cut, rank, (rank, rank + 1), (content,), (1, 1, 1), 0, Aside())


class Heard:
    """An assembly, and what came of it."""

    def __init__(self, slabs: set[int]) -> None:
        self.complete: list[tuple[int, list[Part]]] = []
        self.spoilt: list[tuple[int, str, bool]] = []
        self.assembly = Assembly(
            slabs, lambda cut, parts: self.complete.append((cut, parts)), lambda *what: self.spoilt.append(what)
        )

    @property
    def cuts(self) -> list[int]:
        return [cut for cut, _ in self.complete]


ranks = st.sets(st.integers(0, 4), min_size=1, max_size=3)
reports = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 5), st.integers(0, 1)), max_size=60)


@settings(deadline=None)
@given(ranks, reports)
def test_a_version_has_one_part_of_each_slab_in_order_with_one_content(
    slabs: set[int], told: list[tuple[int, int, int, int]]
) -> None:
    each = Heard(slabs)
    newest: dict[tuple[int, int], Part] = {}
    over = 0
    for cut, rank, bad, content in told:
        if rank not in slabs:
            continue
        ends_before = len(each.complete), len(each.spoilt)
        if bad == 0:
            each.assembly.hear(NotWritten(cut, "the disk is full"))
            expected = (0, 1) if cut > over else (0, 0)
            over = max(over, cut)
        else:
            told_part = part(cut, rank, content)
            each.assembly.hear(told_part)
            expected = 0, 0
            if cut == LAST or cut > over:
                newest[cut, rank] = told_part
                found = [newest[cut, other] for other in sorted(slabs) if (cut, other) in newest]
                if len(found) == len(slabs):
                    same = len({other.content for other in found}) == 1
                    expected = (1, 0) if same else (0, 1)
                    over = max(over, cut)
                    if same:
                        assert each.complete[-1] == (cut, found)
                    else:
                        assert each.spoilt[-1][::2] == (cut, True)
                    # The last version leaves nothing to come.
                    newest = {key: value for key, value in newest.items() if key[0] != cut and cut != LAST}
        newest = {key: value for key, value in newest.items() if key[0] == LAST or key[0] > over}
        ends = len(each.complete), len(each.spoilt)
        assert (ends[0] - ends_before[0], ends[1] - ends_before[1]) == expected
        assert all(each.assembly.over(number) == (number <= over) for number in range(6))
    shown = [cut for cut in each.cuts if cut != LAST]
    assert shown == sorted(set(shown)), "an older version is never shown after a newer one"


def test_slabs_that_differ_are_no_version_and_why_is_said() -> None:
    each = Heard({0, 1})
    each.assembly.hear(part(1, 1, content=7))
    each.assembly.hear(part(1, 0, content=8))
    ((cut, why, again),) = each.spoilt
    assert (cut, again, each.complete) == (1, True, [])
    assert why == "the slabs of ranks 1 differ from that of rank 0"


def test_what_was_given_up_is_said_once_and_takes_the_older_ones_along() -> None:
    each = Heard({0, 1})
    each.assembly.hear(part(1, 0))
    each.assembly.give_up(2, "no good")
    each.assembly.give_up(1, "no good")
    each.assembly.give_up(2, "no good")
    assert each.spoilt == [(2, "no good", False)]
    each.assembly.hear(part(1, 1))
    each.assembly.hear(part(2, 1))
    assert each.complete == []


def test_the_last_version_is_whole_even_where_an_earlier_cut_is_not_over() -> None:
    each = Heard({0, 1})
    each.assembly.hear(part(3, 0))
    each.assembly.hear(part(LAST, 1))
    each.assembly.hear(NotWritten(LAST, "its rank raises, too"))
    assert each.spoilt == []
    each.assembly.hear(part(LAST, 0))
    assert each.cuts == [LAST]


def test_a_cut_that_is_complete_late_leaves_what_there_is_of_the_last_version() -> None:
    each = Heard({0, 1})
    for what in (part(LAST, 1), part(3, 0), part(3, 1), part(LAST, 0)):
        each.assembly.hear(what)
    assert each.cuts == [3, LAST]


def test_nothing_is_over_before_the_first_cut_but_none() -> None:
    each = Heard({0})
    assert each.assembly.over(0)
    assert not each.assembly.over(1)


def test_it_may_be_asked_and_told_from_what_it_calls() -> None:
    """The writer asks for the next version when one has come to nothing."""
    found: list[bool] = []
    each = Assembly({0}, lambda cut, parts: each.hear(part(cut + 1, 1)), lambda *what: each.give_up(9, "all"))
    each.hear(part(1, 0))
    each.give_up(2, "no good")
    found.append(each.over(9))
    assert found == [True]
