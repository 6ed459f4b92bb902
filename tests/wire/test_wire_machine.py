"""A sender with its lanes and their receivers, driven step by step by Hypothesis: nothing is lost, nothing counts twice."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamrecon.engine.journal_entries import ENDED, NONE, SENDER, WITHDRAWN, Entry, History
from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo
from streamrecon.wire.codec import decode, encode
from streamrecon.wire.credit import CreditWindow
from streamrecon.wire.digest import frame_hash
from streamrecon.wire.dispatch import Dispatch
from streamrecon.wire.messages import Lane, Message
from streamrecon.wire.outputs import Arrived, Broken, Ended, Opened, Reply, SenderBack, Withdrawn
from streamrecon.wire.receiving import ReceivingEnd, lanes_of

P = FrameKind.PROJECTION
COLUMNS, SLOTS, ALL = 2, 2, 6
KINDS = {"frame": P, "withdrawn": WITHDRAWN, "sender": SENDER, "end": ENDED}


class Receiver:
    """One rank: a ring, a journal of which a part is durable, and what is counted."""

    def __init__(self, number: int, count: int) -> None:
        self.number, self.count = number, count
        self.rows = (2 * number, 2 * number + 2)
        self.journal: list[tuple[str, int, int]] = []
        self.synced = 0
        self.start()

    def start(self, info: ScanInfo | None = None) -> None:
        others = tuple(Lane(rows=(2 * n, 2 * n + 2), endpoint=f"lane:{n}") for n in range(1, self.count))
        self.end = ReceivingEnd("i", lanes_of(self.rows, () if self.number else others), 1.0, 5.0, 1e9)
        self.ring: deque[tuple[str, Any]] = deque()
        self.base = len(self.journal)
        self.counted: dict[int, list[int]] = {}
        """Of each projection, the hash of what is in the sum: exactly one, or none."""
        self.ended = False
        if info is not None:
            history = History(0)
            for place, (what, index, number) in enumerate(self.journal):
                if what == "lost":
                    history.lose()
                else:
                    name = NONE if index < 0 else index
                    history.take(Entry(place, KINDS[what], name, 0.0, number))
            for first, *_ in history.frames.values():
                self.count_in("frame", first.index, first.xxh3)
            self.ended = history.ended
            self.end.resume(info, self.rows, history.inventory, self.ended, self.window(), 0.0)

    def window(self) -> CreditWindow:
        nbytes = 2 * COLUMNS * 2
        return CreditWindow(SLOTS * nbytes, SLOTS)

    def count_in(self, what: str, index: int, xxh3: int) -> None:
        if what == "frame":
            self.counted.setdefault(index, []).append(xxh3)
        elif what == "withdrawn" and index >= 0:
            self.counted[index].pop(0)


class Lanes(RuleBasedStateMachine):
    """Rules are what a scheduler, a network or a disk may do next; the invariants hold after each."""

    @initialize(lanes=st.integers(1, 3), can_replay=st.booleans(), known=st.booleans())
    def begin(self, lanes: int, can_replay: bool, known: bool) -> None:
        theta = np.arange(ALL) * 0.1
        counts: dict[FrameKind, int | None] = {P: ALL, FrameKind.FLAT: 0, FrameKind.DARK: 0}
        self.info = ScanInfo(
            "s", Geometry(2 * lanes, COLUMNS), np.dtype("<u2"),
            counts if known else dict.fromkeys(FrameKind), theta if known else None,
        )  # fmt: skip
        self.receivers = [Receiver(n, lanes) for n in range(lanes)]
        self.now = 0.0
        self.epoch = 10
        self.withdrawn: set[int] = set()
        self.takes = [0] * ALL
        """How often the source gave each frame anew."""
        self.can_replay = can_replay
        self.new_sender()

    def new_sender(self) -> None:
        self.dispatch: Dispatch[Frame] = Dispatch(
            self.info, "lane:0", self.epoch, self.can_replay, heartbeat=1.0, peer_timeout=5.0, return_timeout=1e9
        )
        self.dispatch.begin(self.now)
        self.session, self.passes, self.position = 0, 0, 0
        self.connect()

    def connect(self) -> None:
        if self.session != self.dispatch.session:
            self.session = self.dispatch.session
            self.there: list[deque[list[Any]]] = []
            self.back: list[deque[list[Any]]] = []
            self.peers: list[bytes] = []
        while len(self.peers) < len(self.dispatch.lanes):
            self.there.append(deque())
            self.back.append(deque())
            self.peers.append(b"%d-%d-%d" % (self.epoch, self.session, len(self.peers)))

    def say(self) -> None:
        if self.session == self.dispatch.session:
            for lane, message, payload in self.dispatch.messages():
                self.post(lane, message, payload)
        self.connect()

    def post(self, lane: int, message: Message, payload: bytes | None) -> None:
        if lane < len(self.there):
            self.there[lane].append([*encode(message), *([payload] if payload is not None else [])])

    def act(self, receiver: Receiver, outputs: list[Any]) -> None:
        for output in outputs:
            if isinstance(output, Reply):
                if output.peer in self.peers:
                    parts = [*encode(output.message), *([output.payload] if output.payload is not None else [])]
                    self.back[self.peers.index(output.peer)].append(parts)
            elif isinstance(output, Opened):
                receiver.journal.append(("sender", output.epoch, 0))
                receiver.base = receiver.synced = 1
                self.act(receiver, receiver.end.accept(receiver.window(), self.now))
            elif isinstance(output, Arrived):
                receiver.ring.append(("frame", output.header))
            elif isinstance(output, Withdrawn):
                receiver.ring.append(("withdrawn", output))
            elif isinstance(output, SenderBack):
                receiver.ring.append(("sender", output.epoch))
            elif isinstance(output, Ended):
                receiver.ring.append(("end", output))
            assert not isinstance(output, Broken), output.reason

    def lane(self, number: int) -> int:
        return number % len(self.peers)

    @rule(rounds=st.integers(1, 6))
    def go_on(self, rounds: int) -> None:
        """Everything does what it should, for a while: without it few schedules get past the greeting."""
        for _ in range(rounds):
            self.round()

    def round(self) -> None:
        self.time_passes(0.4)
        self.take()
        for lane in range(3):
            self.greet(lane)
            self.send(3)
            self.deliver(lane, 4)
            self.work(lane)
            self.answer(lane, 4)

    # The sender.

    @rule(number=st.integers(0, 2))
    def greet(self, number: int) -> None:
        self.dispatch.greet(self.lane(number), self.now)
        self.say()

    @rule()
    def take(self) -> None:
        if self.passes != self.dispatch.passes:
            self.passes, self.position = self.dispatch.passes, 0
        if not self.dispatch.hungry:
            return
        if self.position == ALL:
            self.dispatch.source_ended()
            return
        index, self.position = self.position, self.position + 1
        self.give(index)

    def give(self, index: int) -> None:
        taken = self.takes[index]
        data = np.full((2 * len(self.receivers), COLUMNS), 100 * taken + index, np.uint16)
        self.dispatch.put((P, index), Frame(P, index, index * 0.1, data))

    @rule(blocked=st.integers(0, 3))
    def send(self, blocked: int) -> None:
        following = self.dispatch.next(lambda lane: lane != blocked and lane < len(self.peers))
        if following is not None:
            lane, kept = following
            first, end = self.dispatch.lanes[lane].end.rows
            part = Frame(kept.kind, kept.index, kept.theta, kept.data[first:end])
            header = self.dispatch.send(lane, part, self.now)
            self.say()
            self.post(lane, header, part.data.tobytes())

    @rule(index=st.integers(0, ALL - 1), again=st.booleans())
    @precondition(lambda self: self.dispatch.streaming and not self.dispatch._ended and not self.can_replay)
    def withdraw(self, index: int, again: bool) -> None:
        """A source takes a frame back, and perhaps gives another one under its name."""
        if index < self.position:
            self.dispatch.give_up(P, (index, index + 1), "withdrawn")
            self.withdrawn.add(index)
            if again:
                self.withdrawn.discard(index)
                self.takes[index] += 1
                self.give(index)

    @rule(seconds=st.sampled_from([0.1, 1.1, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.dispatch._idle = 0  # that it gives up after a while is not at issue here
        self.dispatch.tick(self.now)
        self.say()
        for receiver in self.receivers:
            self.act(receiver, receiver.end.tick(self.now))

    # The network.

    @rule(number=st.integers(0, 2), count=st.integers(1, 4))
    def deliver(self, number: int, count: int) -> None:
        lane = self.lane(number)
        receiver = self.receivers[lane]
        for _ in range(min(count, len(self.there[lane]))):
            message, payload = decode(self.there[lane].popleft())
            self.act(receiver, receiver.end.hear(self.peers[lane], message, payload, self.now))

    @rule(number=st.integers(0, 2), count=st.integers(1, 4))
    def answer(self, number: int, count: int) -> None:
        session, lane = self.session, self.lane(number)
        for _ in range(count):
            if session == self.session and self.back[lane]:
                message, payload = decode(self.back[lane].popleft())
                self.dispatch._idle = 0
                self.dispatch.hear(lane, message, payload, self.now)
                self.say()

    @rule(number=st.integers(0, 2))
    def lose_an_answer(self, number: int) -> None:
        lane = self.lane(number)
        kinds = ("CREDIT", "ACK", "END_OK")
        if self.back[lane] and decode(self.back[lane][0])[0].name() in kinds:
            self.back[lane].popleft()

    @rule(number=st.integers(0, 2))
    def repeat_a_message(self, number: int) -> None:
        lane = self.lane(number)
        if self.there[lane] and decode(self.there[lane][-1])[0].name() in ("FRAME", "END", "STATUS"):
            self.there[lane].append(list(self.there[lane][-1]))

    @rule(number=st.integers(0, 2))
    def cut(self, number: int) -> None:
        """What is on its way is lost, and the receiver sees someone new."""
        lane = self.lane(number)
        self.there[lane].clear()
        self.back[lane].clear()
        self.peers[lane] += b"'"

    # The ranks.

    @rule(number=st.integers(0, 2))
    def work(self, number: int) -> None:
        receiver = self.receivers[number % len(self.receivers)]
        if receiver.ring:
            what, item = receiver.ring.popleft()
            if what == "frame":
                entry = what, item.index, item.xxh3
            elif what == "withdrawn":
                entry = what, -1 if item.index is None else item.index, item.number
            elif what == "end":
                entry = what, item.frames, item.digest
            else:
                entry = what, item or 0, 0
            receiver.journal.append(entry)
            receiver.count_in(*entry)
            receiver.ended |= what == "end"
            if what == "frame":
                receiver.end.free(receiver.end.nbytes)

    @rule(number=st.integers(0, 2))
    def sync(self, number: int) -> None:
        receiver = self.receivers[number % len(self.receivers)]
        receiver.synced = len(receiver.journal)
        self.act(receiver, receiver.end.durable(receiver.synced - receiver.base, self.now))

    @rule(kept=st.floats(0, 1), damaged=st.sets(st.integers(0, 2)))
    def crash(self, kept: float, damaged: set[int]) -> None:
        """All ranks die; of what was not synced a part is on the disk, and of some one withdrawal cannot be read any more."""
        for receiver in self.receivers:
            entries = receiver.journal
            places = [place for place, entry in enumerate(entries) if entry[0] == "withdrawn" and entry[1] >= 0]
            if places and receiver.number in damaged:
                entries[places[0]] = "lost", 0, 0
            unsynced = len(receiver.journal) - receiver.synced
            del receiver.journal[receiver.synced + round(kept * unsynced) :]
            receiver.synced = len(receiver.journal)
        known = any(receiver.journal for receiver in self.receivers)
        for receiver in self.receivers:
            receiver.start(self.info if known else None)
        for lane in range(len(self.peers)):
            self.cut(lane)

    @precondition(lambda self: self.can_replay)
    @rule()
    def succeed(self) -> None:
        """Another process sends the same file."""
        if not self.dispatch.done:
            self.epoch += 1
            self.new_sender()

    # What holds.

    @invariant()
    def rings_do_not_overflow(self) -> None:
        for receiver in getattr(self, "receivers", []):
            assert sum(what == "frame" for what, _ in receiver.ring) <= SLOTS

    @invariant()
    def nothing_counts_twice(self) -> None:
        for receiver in getattr(self, "receivers", []):
            assert all(len(hashes) <= 1 for hashes in receiver.counted.values()), receiver.counted

    @invariant()
    def what_is_forgotten_is_durable(self) -> None:
        """What a sender that cannot replay does not keep any more, each rank has on its disk."""
        if hasattr(self, "dispatch") and not self.can_replay:
            for _, index in self.dispatch.outbox._done:
                for receiver in self.receivers:
                    assert ("frame", index) in [entry[:2] for entry in receiver.journal[: receiver.synced]]

    def teardown(self) -> None:
        """From wherever it was left, a scan comes to its end when nothing more goes wrong; and then it is whole."""
        if not hasattr(self, "receivers"):
            return
        for _ in range(600):
            if self.dispatch.done:
                break
            self.round()
            for receiver in self.receivers:
                self.sync(receiver.number)
                if all(each.ended and not each.ring for each in self.receivers):
                    self.act(receiver, receiver.end.finish())
        assert self.dispatch.done, (self.dispatch, [r.end for r in self.receivers])
        for receiver in self.receivers:
            have = {index: hashes[0] for index, hashes in receiver.counted.items() if hashes}
            rows = np.zeros((2, COLUMNS), np.uint16)
            expected = {
                index: frame_hash((rows + 100 * self.takes[index] + index).astype(np.uint16).tobytes())
                for index in range(ALL)
                if index not in self.withdrawn
            }
            assert have == expected, (receiver.number, have, expected)


TestLanes = Lanes.TestCase
TestLanes.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
