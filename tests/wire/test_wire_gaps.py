"""What is given up: named once, however often it is said; withdrawn once; flats and darks that came stay."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_pair import Engine, engine, frames_of, scan, streaming, through

from streamrecon.scan import Frame, FrameKind, ScanInfo
from streamrecon.wire.codec import encode
from streamrecon.wire.credit import CreditWindow
from streamrecon.wire.digest import frame_hash
from streamrecon.wire.dispatch import LOST, NO_ROOM, Dispatch
from streamrecon.wire.inventory import Inventory
from streamrecon.wire.messages import Gap, Lane
from streamrecon.wire.outputs import GivenUp
from streamrecon.wire.ranges import Ranges
from streamrecon.wire.reasons import Reasons
from streamrecon.wire.receiving import lanes_of

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK

SAID = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.sampled_from("abc")), max_size=12)


@given(SAID, st.sets(st.integers(0, 18)), st.integers(0, 12))
def test_the_last_reason_counts_once(said: list[tuple[int, int, str]], here: set[int], again: int) -> None:
    reasons, oracle = Reasons(), dict[int, str]()
    for first, count, reason in said:
        reasons.say(first, first + count, reason)
        oracle.update(dict.fromkeys(range(first, first + count), reason))
    counts = reasons.counts(sorted(here))
    left = [reason for index, reason in oracle.items() if index not in here]
    assert counts == {reason: left.count(reason) for reason in left}
    assert reasons.end == max(oracle, default=-1) + 1
    for first, count, reason in said[again:] if not said[:again] else said:
        reasons.say(first, first + count, reason)
    assert reasons.counts(sorted(here)) == counts, "it counts twice what is said twice"


@given(st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), max_size=5), max_size=3), st.integers(0, 30))
def test_sets_of_ranges(sets: list[list[tuple[int, int]]], end: int) -> None:
    ranges = [[(first, first + count) for first, count in each] for each in sets]
    everything = {i for each in ranges for pair in each for i in range(*pair)}
    union = Ranges.union(*ranges)
    assert union == Ranges.of(everything)
    assert {i for pair in union.gaps(end) for i in range(*pair)} == set(range(end)) - everything


# A receiver.


def gap(number: int, kind: int, *indices: tuple[int, int], reason: str = "r") -> Gap:
    return Gap(session=1, number=number, kind=kind, indices=indices, reason=reason)


@pytest.mark.parametrize("kind", [1, 2])
def test_flats_and_darks_that_came_stay(kind: int) -> None:
    each, script = streaming(scan(4, flats=3, darks=3), slots=4)
    each.hear(*script.frame(0, kind, 1))
    each.hear(gap(1, kind, (0, 3), reason="lost"))
    assert not each.broken
    assert each.given_up == [GivenUp(FrameKind(kind), ((0, 3),))]
    counts = {FrameKind(kind): 1}
    each.hear(script.end(projections=0, flats=counts.get(F, 0), darks=counts.get(D, 0), digest=each.end._digest.value))
    assert each.ended[0].gaps == ((FrameKind(kind), "lost", 2),)


def test_what_was_followed_withdraws_nothing_more() -> None:
    """Under the name another one may have come since."""
    each, script = streaming(slots=4)
    each.hear(*script.frame(0, 0, 2))
    each.hear(gap(5, 0, (2, 3), reason="shutter"))
    assert each.withdrawn == [2]
    each.hear(*script.frame(1, 0, 2, b"\x07" * 24))
    taken = each.taken
    each.hear(gap(5, 0, (2, 3), reason="shutter"))
    each.hear(gap(4, 0, (1, 3), reason="beam"))
    assert each.withdrawn == [2]
    assert each.taken == taken, "what is said for its reason is noted in the journal"
    assert each.end.inventory.hash_of(0, 2) is not None
    assert each.end.inventory.given_up() == ((P, "beam", 1),)


def test_ranges_that_overlap_withdraw_once() -> None:
    each, script = streaming(slots=4)
    each.hear(*script.frame(0, 0, 2))
    each.hear(gap(1, 0, (0, 3), (2, 4)))
    assert each.withdrawn == [2]


def test_a_gap_of_thousands_of_ranges_can_be_said() -> None:
    """Where every second frame came again that was given up."""
    ranges = tuple((2 * index, 2 * index + 1) for index in range(10_000))
    through(Gap(session=1, number=1 << 40, kind=0, indices=ranges, reason="r" * 1024))
    assert len(encode(gap(1, 0, *ranges))[1]) > 4096


# A sender of two lanes and their receivers, which are started again with what a journal would have kept.


@dataclass
class Scan:
    """One scan on its way."""

    info: ScanInfo
    dispatch: Dispatch[Frame]
    engines: list[Engine] = field(default_factory=list)
    session: int = 0

    def start(self, *inventories: Inventory, ended: tuple[bool, ...] = (False, False)) -> None:
        """The receivers, at first or again."""
        rows, self.engines = [(0, 2), (2, 4)], []
        for number, inventory in enumerate(inventories or (None, None)):
            others = () if number else (Lane(rows=rows[1], endpoint="lane:1"),)
            each = engine(slots=8, return_timeout=60.0)
            each.end.lanes = lanes_of(rows[number], others)
            if inventory is not None:
                window = CreditWindow(8 * 12, 8)
                each.take(each.end.resume(self.info, rows[number], inventory, ended[number], window, 0.0))
            self.engines.append(each)
        self.dispatch.begin(0.0)
        self.session = self.dispatch.session

    def run(self, rounds: int = 6) -> None:
        """All that can be said is said, and durable."""
        for _ in range(rounds):
            for lane in range(len(self.dispatch.lanes)):
                self.dispatch.greet(lane, 0.0)
            self.dispatch.tick(0.0)
            self.say()
            while self.dispatch.streaming and (following := self.dispatch.next(lambda lane: True)) is not None:
                lane, kept = following
                first, end = self.dispatch.lanes[lane].end.rows
                part = Frame(
                    kept.kind, kept.index, kept.theta, np.ascontiguousarray(kept.data[first:end]), kept.position
                )
                header = self.dispatch.send(lane, part, 0.0)
                self.say()
                self.engines[lane].hear(header, part.data.tobytes(), b"%d" % lane)
                self.flush(lane)
                self.engines[lane].free()
            for lane, each in enumerate(self.engines):
                each.taken = each.end._arrivals
                each.take(each.end.durable(each.taken, 0.0), b"%d" % lane)
                self.flush(lane)

    def say(self) -> None:
        for lane, message, payload in self.dispatch.messages():
            self.engines[lane].hear(message, payload, b"%d" % lane)
            self.flush(lane)

    def flush(self, lane: int) -> None:
        each = self.engines[lane]
        while each.sent:
            _, message, payload = each.sent.popleft()
            if self.dispatch.session == self.session:
                self.dispatch.hear(lane, message, payload, 0.0)

    def give(self, *frames: Frame) -> None:
        for each in frames:
            placed = self.dispatch.place(each)
            self.dispatch.put((placed.kind, placed.index), placed)

    def inventories(self) -> list[Inventory]:
        return [each.end.inventory for each in self.engines]

    def end(self) -> None:
        self.dispatch.source_ended()
        self.run()
        assert [each.broken for each in self.engines] == [[], []]


def begun(live: bool = True, **options: bool) -> tuple[Scan, list[Frame]]:
    """A scan of which everything has come and is durable."""
    info = scan(4, flats=2, darks=1)
    each = Scan(info, Dispatch(info, "lane:0", 1, not live, **options))
    each.start()
    each.run()
    frames = frames_of(info, (0, 4), (4, 2, 1), random.Random(0))
    each.give(*frames)
    each.run()
    assert [len(inventory) for inventory in each.inventories()] == [7, 7]
    return each, frames


@pytest.mark.parametrize("kind", [F, D])
@pytest.mark.parametrize("lane", [0, 1])
def test_a_flat_that_one_journal_has_lost_ends_nothing(kind: FrameKind, lane: int) -> None:
    """The sender does not have it any more; the other slab keeps it."""
    each, _ = begun()
    inventories = each.inventories()
    inventories[lane].remove(kind, 0)
    each.start(*inventories)
    each.run()
    each.end()
    assert [len(each.ended) for each in each.engines] == [1, 1]
    expected: list[tuple[tuple[FrameKind, str, int], ...]] = [(), ()]
    expected[lane] = ((kind, LOST, 1),)
    assert [each.ended[0].gaps for each in each.engines] == expected
    assert not each.dispatch.outbox.uneven, "no place would be a cut"


def test_a_projection_that_one_journal_has_lost_is_given_up_by_all() -> None:
    each, _ = begun()
    inventories = each.inventories()
    inventories[1].remove(P, 2)
    each.start(*inventories)
    each.run()
    each.end()
    assert [each.ended[0].gaps for each in each.engines] == [((P, LOST, 1),)] * 2
    assert [each.ended[0].missing for each in each.engines] == [((2, 3),)] * 2


def test_a_projection_that_one_journal_has_lost_after_the_end_stays_in_the_others() -> None:
    each, _ = begun()
    each.end()
    inventories = each.inventories()
    inventories[0].remove(P, 2)
    each.start(*inventories, ended=(False, True))
    each.run()
    each.end()
    assert [each.ended[0].missing for each in each.engines] == [((2, 3),), ()]
    assert each.engines[0].ended[0].gaps == ((P, LOST, 1),)


@pytest.mark.parametrize("kind", [P, F, D])
def test_reasons_outlive_an_engine(kind: FrameKind) -> None:
    each, _ = begun(drop=True)
    each.dispatch.give_up(P, (2, 3), "shutter")
    each.dispatch.no_room((kind, 9))
    each.dispatch.no_room((kind, 10))
    each.run()
    inventories = each.inventories()
    for number, inventory in enumerate(inventories):  # a journal keeps which GAP was followed, and not why it was said
        fresh = Inventory()
        fresh.sender(inventory.epoch)
        fresh._hashes, fresh.counts, fresh.digest = inventory._hashes, inventory.counts, inventory.digest
        fresh.followed = inventory.followed
        inventories[number] = fresh
    each.start(*inventories)
    each.run()
    each.end()
    told = {(P, "shutter"): 1, (kind, NO_ROOM): 2}
    for engine_ in each.engines:
        assert {(k, reason): count for k, reason, count in engine_.ended[0].gaps} == told
        assert engine_.withdrawn == [], "it was withdrawn before"
    assert each.dispatch.dropped == 2


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("came", ["again", "not again", "withdrawn again"])
def test_a_withdrawal_that_a_journal_does_not_tell_of(came: str, live: bool) -> None:
    """Its GAP is said again, but not for what has come under the name since: a detector cannot give it once more."""
    each, frames = begun(live)
    old = next(frame for frame in frames if (frame.kind, frame.index) == (P, 2))
    new = Frame(P, 2, old.theta, old.data + 1)
    each.dispatch.give_up(P, (1, 3), "shutter")
    if came != "not again":
        each.give(new)
        each.run()
    if came == "withdrawn again":
        each.dispatch.give_up(P, (2, 3), "beam")
    each.run()
    inventories = each.inventories()
    assert [inventory.followed for inventory in inventories] == [2 if came == "withdrawn again" else 1] * 2
    inventories[0].followed = 0
    # Of the one that was withdrawn the entry that says so is lost, so it seems to be there.
    other = next(frame for frame in frames if (frame.kind, frame.index) == (P, 1))
    lost = hash_of_rows(each, other, 0)
    inventories[0].add(P, 1, lost)
    each.start(*inventories)
    each.run()
    if not live and each.dispatch.passes > 1:
        each.dispatch.give_up(P, (1, 2), "shutter")
        each.give(*(frame for frame in frames if (frame.kind, frame.index) != (P, 2)), new)
        each.dispatch.give_up(P, (1, 2), "shutter")
        each.run()
    each.end()
    for lane, inventory in enumerate(each.inventories()):
        assert inventory.hash_of(P, 1) is None
        expected = hash_of_rows(each, new, lane) if came == "again" else None
        assert inventory.hash_of(P, 2) == expected


def hash_of_rows(each: Scan, frame: Frame, lane: int) -> int:
    first, end = each.dispatch.lanes[lane].end.rows
    return frame_hash(frame.data[first:end].tobytes())
