"""Cuts: where one comes out on several lanes their receivers have the same frames, and one that is wanted comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from test_wire_machine import ALL, Lanes, P, Receiver
from wire_pair import engine, scan, streaming

from streamrecon.scan import Frame
from streamrecon.wire.credit import CreditWindow
from streamrecon.wire.dispatch import Dispatch
from streamrecon.wire.inventory import Inventory
from streamrecon.wire.messages import Credit, FrameHeader, Gap, Have, Lane, Reset, Status, Welcome
from streamrecon.wire.outbox import Outbox
from streamrecon.wire.outputs import Arrived, Cut, Ended, Opened, Reply, Withdrawn
from streamrecon.wire.ranges import Ranges
from streamrecon.wire.receiving import ReceivingEnd, lanes_of


class Cuts(Lanes):
    """The lanes of `test_wire_machine`, whose first receiver wants cuts, and whose sender withdraws ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = 0
        self.holding = False
        """Whether the source idles at its end, as it may go on."""
        self.cuts: dict[tuple[int, int, int], dict[int, list[tuple[int, Any]]]] = {}
        """By epoch, session and cut: of each lane, the last GAP followed by then, and the frames it had."""
        self.newest: dict[tuple[int, int, int], int] = {}
        """By epoch, session and lane: the last cut that came."""

    def act(self, receiver: Receiver, outputs: list[Any]) -> None:
        for output in outputs:
            if not isinstance(output, Cut):
                super().act(receiver, [output])
                continue
            inventory = receiver.end.inventory
            seen = inventory.followed, frozenset(inventory._hashes.items())
            lanes = self.cuts.setdefault((self.epoch, self.session, output.number), {})
            lanes.setdefault(receiver.number, []).append(seen)
            newest = self.newest.get((self.epoch, self.session, receiver.number), 0)
            assert output.number >= newest, "a cut comes after one that has replaced it"
            self.newest[self.epoch, self.session, receiver.number] = output.number

    @rule()
    def want(self) -> None:
        self.wanted += 1
        self.receivers[0].end.want_cut = self.wanted

    @rule()
    def take(self) -> None:
        if not (self.holding and self.position == ALL and self.passes == self.dispatch.passes):
            super().take()

    @rule()
    def hold(self) -> None:
        """The source has nothing more for the moment."""
        self.holding = True

    @rule(first=st.integers(0, ALL - 1), count=st.integers(1, 3), again=st.booleans())
    @precondition(lambda self: self.dispatch.streaming and not self.dispatch._ended and not self.can_replay)
    def withdraw_some(self, first: int, count: int, again: bool) -> None:
        end = min(first + count, self.position)
        if first >= end:
            return
        self.dispatch.give_up(P, (first, end), "withdrawn")
        for index in range(first, end):
            self.withdrawn.add(index)
            if again:
                self.withdrawn.discard(index)
                self.takes[index] += 1
                self.give(index)

    def teardown(self) -> None:
        if not hasattr(self, "receivers"):
            return
        for (_, _, cut), lanes in self.cuts.items():
            had: dict[int, Any] = {}
            for seen in lanes.values():
                for followed, frames in seen:
                    assert had.setdefault(followed, frames) == frames, (cut, followed, had[followed], frames)
        if not self.dispatch._ended and not any(each.end._end for each in self.receivers):
            self.holding = True
            self.a_wanted_cut_comes()
        self.holding = False
        super().teardown()

    def a_wanted_cut_comes(self) -> None:
        for _ in range(200):
            end = self.receivers[0].end
            if not end.want_cut:  # forgotten with a session: asked for anew, as an engine does
                self.wanted += 1
                end.want_cut = self.wanted
            self.round()
            for receiver in self.receivers:
                self.sync(receiver.number)
            come = self.cuts.get((self.epoch, self.session, end.want_cut), {})
            if len(come) == len(self.receivers):
                return
        raise AssertionError((self.cuts, self.dispatch, [each.end for each in self.receivers]))


TestCuts = Cuts.TestCase
TestCuts.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


# What a sender keeps.


def outbox(*haves: str, frames: int = 0) -> Outbox[int]:
    """Of as many lanes, each of which has the projections that are named by their digits."""
    each: Outbox[int] = Outbox()
    each.join([({P: Ranges.of(map(int, have))}, 0, False) for have in haves])
    for index in range(frames):
        each.put((P, index), index)
    return each


def send(each: Outbox[int], lane: int, count: int = 100) -> list[tuple[int, int]]:
    """Frames that a lane sends now, and the cuts after them."""
    sent = []
    while count and (following := each.next(lane)) is not None:
        sent.append((following[1], each.cut(lane)))
        each.sent(lane)
        count -= 1
    return sent


def test_a_cut_comes_after_the_first_frame_that_no_lane_has_had() -> None:
    each = outbox("", "", frames=6)
    send(each, 0, 3)
    send(each, 1, 1)
    assert not each.place(7)
    assert send(each, 0) == [(3, 7), (4, 0), (5, 0)]
    assert send(each, 1) == [(1, 0), (2, 0), (3, 7), (4, 0), (5, 0)]


def test_a_cut_comes_after_what_only_some_receivers_had_before() -> None:
    each = outbox("", "02", frames=5)
    assert not each.place(1)
    assert send(each, 0) == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 0)]
    assert send(each, 1) == [(1, 0), (3, 1), (4, 0)]


def test_what_some_receivers_had_and_is_put_in_later_holds_the_cut_back() -> None:
    """After a restart of the sender: until the source has given it again, one slab has more than the other."""
    each = outbox("", "2", frames=2)
    assert not each.place(1)
    assert each.cut_wanted == 1
    for index in (3, 2, 4, 5):
        each.put((P, index), index)
    assert send(each, 0) == [(0, 0), (1, 0), (3, 0), (2, 0), (4, 1), (5, 0)]
    assert send(each, 1) == [(0, 0), (1, 0), (3, 0), (4, 1), (5, 0)]


def test_what_some_receivers_had_holds_no_cut_back_once_it_is_withdrawn() -> None:
    each = outbox("", "2", frames=1)
    assert not each.place(1)
    each.withdraw(P, (2, 3))
    assert not each.place(1)
    assert send(each, 0) == send(each, 1) == [(0, 1)]


def test_a_cut_is_at_once_where_every_lane_has_had_everything() -> None:
    each = outbox("", "", frames=3)
    send(each, 0)
    send(each, 1)
    assert each.place(1)
    assert each.cut_wanted == 0
    each.put((P, 3), 3)
    assert send(each, 0) == [(3, 0)]


def test_a_cut_waits_where_a_lane_has_yet_to_send_and_comes_after_the_next_frame() -> None:
    each = outbox("", "", frames=3)
    send(each, 0)
    send(each, 1, 2)
    assert not each.place(1)
    assert each.cut_wanted == 1
    each.put((P, 3), 3)
    assert each.cut_wanted == 0
    assert send(each, 0) == [(3, 1)]
    assert send(each, 1) == [(2, 0), (3, 1)]


def test_there_is_no_cut_where_a_receiver_takes_nothing_more() -> None:
    each: Outbox[int] = Outbox()
    each.join([({P: Ranges.of([0])}, 0, True), ({}, 0, False)])
    assert not each.place(1)
    each.put((P, 0), 0)
    assert send(each, 1) == [(0, 0)]
    assert not each.place(1)


@pytest.mark.parametrize("placed", [False, True])
def test_a_cut_ends_with_its_session(placed: bool) -> None:
    each = outbox("", "", frames=2)
    send(each, 0, 0 if placed else 2)
    assert not each.place(1)
    assert each.cut_wanted == (0 if placed else 1)
    each.join([({}, 0, False), ({}, 0, False)])
    assert each.cut_wanted == 0
    each.put((P, 2), 2)
    assert send(each, 0) == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize(("haves", "after"), [(("", ""), 0), (("0", "0"), 1), (("0", ""), 1), (("02", "1"), 3)])
def test_a_new_session_can_have_a_cut_among_the_frames_that_were_kept(haves: tuple[str, ...], after: int) -> None:
    """They may be many: a detector goes on while there is no engine."""
    each = outbox("", "", frames=6)
    each.join([({P: Ranges.of(map(int, have))}, 0, False) for have in haves])
    assert not each.place(1)
    for lane in (0, 1):
        assert [index for index, cut in send(each, lane) if cut] == [after]


def test_a_cut_that_waited_for_a_frame_and_is_said_without_one_is_not_placed_again() -> None:
    each = outbox("", "", frames=1)
    send(each, 0)
    assert not each.place(1)
    send(each, 1)
    assert each.place(1)
    each.put((P, 1), 1)
    assert send(each, 0) == [(1, 0)]


def test_a_marked_frame_that_is_withdrawn_leaves_its_cut_to_another_one() -> None:
    each = outbox("", "", frames=3)
    assert not each.place(1)
    assert send(each, 0, 2) == [(0, 1), (1, 0)]
    each.withdraw(P, (0, 1))
    assert each.cut_wanted == 1
    assert not each.place(1)
    assert send(each, 0) == [(2, 1)]
    assert send(each, 1) == [(1, 0), (2, 1)]


@pytest.mark.parametrize("idle", [False, True])
def test_a_withdrawn_frame_does_not_bring_back_a_cut_that_another_one_has_replaced(idle: bool) -> None:
    """It would come after the newer one, which ranks take for the older one's replacement."""
    each = outbox("", "", frames=1)
    assert not each.place(1)
    send(each, 0)
    if idle:  # said where all have been sent, though none is acknowledged
        send(each, 1)
        assert each.place(2)
    else:
        each.put((P, 1), 1)
        assert not each.place(2)
    each.withdraw(P, (0, 1))
    each.put((P, 2), 2)
    marks = [(2, 0)] if idle else [(1, 2), (2, 0)]
    assert send(each, 0) == send(each, 1) == marks


# What a sender says.


@dataclass
class Pair:
    """A sender of two lanes and their receivers."""

    dispatch: Dispatch[Frame]
    ends: list[ReceivingEnd]
    connection: int = 0

    def peer(self, lane: int) -> bytes:
        return b"%d-%d" % (self.connection, lane)

    def open(self) -> Pair:
        for _ in range(4):
            for lane in range(len(self.dispatch.lanes)):
                self.dispatch.greet(lane, 0.0)
            assert not any(isinstance(output, Cut) for outputs in self.deliver() for output in outputs)
            for lane, end in enumerate(self.ends):
                self.answer(lane, end.durable(end._arrivals, 0.0))
        assert self.dispatch.streaming
        return self

    def deliver(self) -> list[list[Any]]:
        """All that is to be said, both ways; what it comes to for each receiver but answers."""
        found: list[list[Any]] = [[] for _ in self.ends]
        for lane, message, payload in self.dispatch.messages():
            found[lane] += self.answer(lane, self.ends[lane].hear(self.peer(lane), message, payload, 0.0))
        return found

    def ticked(self) -> list[list[Any]]:
        self.dispatch.tick(0.0)
        return self.deliver()

    def answer(self, lane: int, outputs: list[Any]) -> list[Any]:
        others = []
        for output in outputs:
            if isinstance(output, Opened):
                others += self.answer(lane, self.ends[lane].accept(CreditWindow(1 << 20, 8), 0.0))
            elif isinstance(output, Reply):
                self.dispatch.hear(lane, output.message, output.payload, 0.0)
            else:
                others.append(output)
        return others

    def send(self, lane: int, count: int = 100) -> list[Any]:
        """Frames of one lane; what its receiver makes of them."""
        found = []
        while count and (following := self.dispatch.next(lambda number: number == lane)) is not None:
            kept = following[1]
            part = Frame(kept.kind, kept.index, kept.theta, kept.data[slice(*self.dispatch.lanes[lane].end.rows)])
            header = self.dispatch.send(lane, part, 0.0)
            found += self.deliver()[lane]
            found += self.answer(lane, self.ends[lane].hear(self.peer(lane), header, part.data.tobytes(), 0.0))
            count -= 1
        return found

    def give(self, *indices: int) -> None:
        assert self.dispatch.info.theta is not None
        for index in indices:
            data = np.full(self.dispatch.info.frame_shape, index, np.uint16)
            self.dispatch.put((P, index), Frame(P, index, float(self.dispatch.info.theta[index]), data))

    def want(self, cut: int) -> None:
        self.ends[0].want_cut = cut
        self.answer(0, self.ends[0].tick(0.0))
        assert self.dispatch.main.want_cut == cut


def unopened() -> Pair:
    ends = [
        ReceivingEnd("i", lanes_of((0, 2), (Lane(rows=(2, 4), endpoint="other"),))),
        ReceivingEnd("i", lanes_of((2, 4))),
    ]
    each = Pair(Dispatch(scan(8, flats=0, darks=0, rows=4), "first", 1), ends)
    each.dispatch.begin(0.0)
    return each


@pytest.fixture
def pair() -> Pair:
    """As soon as both lanes may stream."""
    return unopened().open()


def test_a_wanted_cut_comes_out_on_both_lanes_after_the_same_frame(pair: Pair) -> None:
    pair.give(0, 1, 2, 3)
    pair.send(1, 2)
    pair.want(3)
    assert pair.ticked() == [[], []]
    for lane in (0, 1):
        found = pair.send(lane)
        place = found.index(Cut(3))
        assert isinstance(found[place - 1], Arrived)
        assert found[place - 1].header.index == 2
        assert sum(isinstance(each, Cut) for each in found) == 1


def test_where_no_frame_is_to_come_the_cut_is_said_once_on_all_lanes_after_the_gaps(pair: Pair) -> None:
    pair.give(0, 1)
    for lane in (0, 1):
        pair.send(lane)
    pair.dispatch.give_up(P, (1, 2), "no good")
    pair.want(1)
    assert pair.ticked() == [[Withdrawn(1, 1), Cut(1)]] * 2
    assert pair.ticked() == [[], []]
    pair.want(2)
    assert pair.ticked() == [[Cut(2)]] * 2


def test_a_cut_of_one_session_is_not_placed_in_the_next_where_numbers_begin_anew(pair: Pair) -> None:
    pair.want(9)
    assert pair.ticked() == [[Cut(9)]] * 2
    pair.dispatch.hear(0, Reset(session=pair.ends[0]._id, reason="lost"), None, 0.0)
    for end in pair.ends:
        end._leave_session()
    pair.connection += 1
    pair.open()
    assert pair.ticked() == [[], []]
    pair.want(1)
    assert pair.ticked() == [[Cut(1)]] * 2


def test_no_cut_is_placed_before_all_lanes_may_stream() -> None:
    each = unopened()
    for _ in range(3):
        each.dispatch.greet(0, 0.0)
        each.deliver()
    each.want(1)
    assert each.ticked() == [[], []]
    each.open()
    assert each.ticked() == [[Cut(1)]] * 2


def test_no_cut_is_placed_after_the_end(pair: Pair) -> None:
    pair.dispatch.source_ended()
    assert [[type(output) for output in outputs] for outputs in pair.ticked()] == [[Ended]] * 2
    pair.dispatch.main.want_cut = 1  # told before
    assert pair.ticked() == [[], []]


def test_what_was_given_up_is_said_before_the_next_frame(pair: Pair) -> None:
    """Else a slab could come to the cut with what another one has withdrawn."""
    pair.give(0)
    pair.send(0)
    pair.dispatch.give_up(P, (0, 1), "no good")
    pair.give(1)
    for lane in (0, 1):
        assert [type(output) for output in pair.send(lane)] == [Withdrawn, Arrived]


# What a receiver hears, and tells.


def test_a_frame_that_came_before_brings_its_cut_all_the_same() -> None:
    each, script = streaming()
    message, payload = script.frame(0, 0, 0)
    each.hear(message, payload)
    assert each.end.hear(b"\x00peer", *script.frame(1, 0, 0, payload, cut=4), each.now) == [Cut(4)]
    again = each.end.hear(b"\x00peer", *script.frame(1, 0, 0, payload, cut=4), each.now)
    assert again == [], "the same message once more is no second cut"


def test_a_cut_in_status_counts_where_all_has_come_only() -> None:
    each, script = streaming()
    each.hear(*script.frame(0, 0, 0))
    for sent, outputs in ((1, [Cut(2)]), (2, []), (0, [])):
        message = Status(session=script.session, sent=sent, cut=2)
        assert each.end.hear(b"\x00peer", message, None, each.now) == outputs
    assert each.end.hear(b"\x00peer", Status(session=script.session, sent=1), None, each.now) == []


def test_a_cut_comes_after_its_frame() -> None:
    each, script = streaming()
    outputs = each.end.hear(b"\x00peer", *script.frame(0, 0, 0, cut=1), each.now)
    assert [type(output) for output in outputs] == [Arrived, Cut]


def test_a_wanted_cut_is_told_at_once_and_once() -> None:
    each, _ = streaming()
    each.end.want_cut = 5
    told = [message for message in each.tick() if isinstance(message, Credit)]
    assert [message.want_cut for message in told] == [5]
    assert each.tick() == []


def test_a_wanted_cut_is_forgotten_with_the_session_by_both_sides() -> None:
    each, script = streaming(return_timeout=60.0)
    each.end.want_cut = 5
    each.tick()
    each.now += 100.0
    each.tick()
    assert len(each.lost) == 1
    assert each.end.want_cut == 0
    each.tick()
    (welcome,) = each.hear(script.hello(), peer=b"\x00again")
    assert isinstance(welcome, Welcome)
    script.session = welcome.session
    have, credit = each.hear(script.scan_open(), script.theta, peer=b"\x00again")
    assert isinstance(have, Have)
    assert isinstance(credit, Credit)
    assert credit.want_cut == 0
    each.end.want_cut = 5  # as high as before: it has to be told again
    each.sent.clear()
    each.tick()
    assert [message.want_cut for _, message, _ in each.sent if isinstance(message, Credit)] == [5]


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_a_gap_that_a_crash_has_cut_short_is_said_again_and_does_the_rest(written: int) -> None:
    """It names three projections; so many of the journal's entries survive."""
    each, script = streaming(slots=4)
    inventory = Inventory()
    inventory.sender(1)
    for index in range(3):
        message, payload = script.frame(index, 0, index)
        assert isinstance(message, FrameHeader)
        each.hear(message, payload)
        each.free()
        inventory.add(0, index, message.xxh3)
    gap = Gap(session=script.session, number=4, kind=0, indices=((0, 1), (1, 3)), reason="no good")
    entries = each.end.hear(b"\x00peer", gap, None, each.now)
    assert entries == [Withdrawn(0, 0), Withdrawn(1, 0), Withdrawn(2, 4)]
    for entry in entries[:written]:
        assert isinstance(entry, Withdrawn)
        assert entry.index is not None
        inventory.remove(0, entry.index)
        inventory.followed = entry.number

    after = engine(return_timeout=60.0)
    after.end.resume(script.info, (0, 4), inventory, False, CreditWindow(1 << 20, 8), after.now)
    (welcome,) = after.hear(script.hello())
    assert isinstance(welcome, Welcome)
    script.session = welcome.session
    replies = after.hear(script.scan_open(), script.theta)
    (have,) = (reply for reply in replies if isinstance(reply, Have))
    assert (have.gaps >= 4) == (written == 3), "whether the sender need not say it again"
    if have.gaps < 4:
        again = Gap(session=script.session, number=4, kind=0, indices=((0, 1), (1, 3)), reason="no good")
        rest = after.end.hear(b"\x00peer", again, None, after.now)
        assert [each.index for each in rest if isinstance(each, Withdrawn)] == list(range(written, 3))
    assert after.end.inventory.followed == 4
    assert after.end.missing() == ((0, 4),)
