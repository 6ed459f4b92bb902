"""Senders, ranks, networks and disks that fail, on a clock of their own: `python -m bench.simulate --seeds 2000`.

What runs is the real protocol (`streamrecon.wire`); sockets, threads and files are played. A seed decides everything that
happens, so a schedule that loses a frame can be played again: `python -m bench.simulate --seed 1234 --trace`.

A frame is counted into an integer for each of its rows, as an accumulator would add it, so "lost" and "twice" are exact.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import logging
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from streamrecon.engine.assembly import Assembly
from streamrecon.engine.emit import EmitPolicy, LeadingMarks, Marks
from streamrecon.engine.journal_entries import ENDED, NONE, SENDER, WITHDRAWN, Entry, History
from streamrecon.engine.orders import Part
from streamrecon.errors import PeerLostError, RemoteProtocolError, ScanAbortedError
from streamrecon.scan import Frame, FrameKind, Gap, Geometry, ScanInfo
from streamrecon.wire.codec import decode, encode
from streamrecon.wire.credit import CreditWindow
from streamrecon.wire.digest import Digest
from streamrecon.wire.dispatch import Dispatch
from streamrecon.wire.messages import Ack, Credit, End, EndOk, FrameHeader, Hello, Lane, Message, Range
from streamrecon.wire.outputs import Arrived, Broken, Cut, Ended, Opened, Reply, SenderBack, SenderLost, Withdrawn
from streamrecon.wire.positions import Positions
from streamrecon.wire.receiving import ReceivingEnd, lanes_of

ROWS, COLUMNS = 6, 2
LIMIT = 3000.0
"""Seconds of a schedule's own clock after which it counts as stuck."""

Identity = tuple[FrameKind, int]


class LostFramesError(AssertionError):
    """A schedule ended otherwise than it must."""


@dataclass
class Scenario:
    """What may happen in one schedule, drawn from its seed."""

    ranks: int
    items: list[Frame | Gap]
    """What the source gives, in its order: it may take projections back, and give others under their names."""
    info: ScanInfo
    live: bool
    """The source cannot give a frame again."""
    drop: bool
    ahead: bool
    """The source does not wait, as far as there is room."""
    retain: int
    """Frames that a sender can keep."""
    slots: int
    faults: list[tuple[float, str]]
    latency: float
    shuffled: bool
    """The source gives its frames in no order, so that a sender that goes on with it does not know where it is."""

    def left(self) -> dict[Identity, Frame]:
        """What the source has given in the end."""
        frames: dict[Identity, Frame] = {}
        for item in self.items:
            if isinstance(item, Frame):
                frames[item.kind, item.index] = item
            else:
                for index in range(item.first, item.end):
                    frames.pop((item.kind, index), None)
        return frames

    def positions(self) -> dict[Identity, int | None]:
        """Where the flats and darks lie among the projections."""
        order = Positions()
        frames = (order.place(item) for item in self.items if isinstance(item, Frame))
        return {(frame.kind, frame.index): frame.position for frame in frames}


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(seed)
    counts = {
        FrameKind.PROJECTION: rng.randint(0, 40),
        FrameKind.FLAT: rng.randint(0, 3),
        FrameKind.DARK: rng.randint(0, 2),
    }
    known = rng.random() < 0.7
    theta = np.linspace(0, np.pi, counts[FrameKind.PROJECTION], endpoint=False)
    info = ScanInfo(
        "scan",
        Geometry(ROWS, COLUMNS),
        np.dtype("<u4"),
        counts if known else dict.fromkeys(FrameKind),
        theta if known else None,
    )
    values = np.random.default_rng(seed)
    frames = [
        Frame(
            kind,
            index,
            float(theta[index]) if kind is FrameKind.PROJECTION else None,
            values.integers(0, 1 << 20, (ROWS, COLUMNS), np.uint32),
        )
        for kind in (FrameKind.DARK, FrameKind.FLAT, FrameKind.PROJECTION)
        for index in range(counts[kind])
    ]
    shuffled = rng.random() < 0.3
    if shuffled:
        rng.shuffle(frames)
    elif counts[FrameKind.FLAT] and rng.random() < 0.5:
        last = next(
            place
            for place, frame in enumerate(frames)
            if frame.kind is FrameKind.PROJECTION or place + 1 == len(frames)
        )
        flat = frames.pop(last - 1)
        frames.insert(rng.randint(last - 1, len(frames)), flat)
    live = rng.random() < 0.5
    faults = [
        (
            rng.uniform(0.0, 15.0),
            rng.choice(
                ["kill engine", "kill engine", "kill sender", "cut", "cut", "freeze engine", "disk full", "lose", "lose",
                 "repeat", "stranger"]
            ),
        )
        for _ in range(rng.choice([0, 1, 1, 2, 3, 5]))
    ]  # fmt: skip
    items: list[Frame | Gap] = list(frames)
    if counts[FrameKind.PROJECTION] and rng.random() < 0.3:
        at = rng.randrange(len(frames))
        taken = frames[at]
        if taken.kind is FrameKind.PROJECTION:
            back = rng.randint(at + 1, len(items))
            given = {item.index for item in items[:back] if isinstance(item, Frame) and item.kind is taken.kind}
            last = taken.index
            while rng.random() < 0.5 and last + 1 in given:
                last += 1
            items.insert(back, Gap(taken.kind, taken.index, last + 1, "withdrawn by the source"))
            by_index = {frame.index: frame for frame in frames if frame.kind is taken.kind}
            for index in range(taken.index, last + 1):
                if rng.random() < 0.5:
                    again = replace(by_index[index], data=by_index[index].data + 1)
                    items.insert(rng.randint(back + 1, len(items)), again)
            if rng.random() < 0.5:  # what a journal says of it is read only after a crash
                faults += [(rng.uniform(2.0, 15.0), "kill engine") for _ in range(2)]
    return Scenario(
        ranks=rng.choice([1, 1, 2, 3]),
        items=items,
        info=info,
        live=live,
        drop=(drop := live and rng.random() < 0.15),
        ahead=drop or rng.random() < 0.3,
        retain=rng.randint(1, 12),
        slots=rng.randint(2, 6),
        faults=sorted(faults),
        latency=rng.choice([0.001, 0.01, 0.1]),
        shuffled=shuffled,
    )


class World:
    """The clock, and what is to happen when."""

    def __init__(self, seed: int, trace: bool) -> None:
        self.now, self.rng, self._trace = 0.0, random.Random(seed + 1), trace
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Do something so many seconds from now."""
        self.at(self.now + seconds, call)

    def step(self) -> None:
        """Do what comes next."""
        self.now, _, call = heapq.heappop(self._queue)
        call()

    def tell(self, text: str) -> None:
        """For `--trace`."""
        if self._trace:
            print(f"{self.now:10.4f}  {text}")


@dataclass
class Pipe:
    """One connection of a sender's lane to a rank: what is put in comes out in order, or not at all."""

    world: World
    lane: int
    peer: bytes
    latency: float
    open: bool = True
    _last: dict[str, float] = field(default_factory=dict)

    def carry(self, way: str, parts: list[Any], deliver: Callable[[list[Any]], None]) -> None:
        """Deliver later, and after what went the same way before."""
        when = max(self._last.get(way, 0.0), self.world.now + self.world.rng.uniform(0.0, self.latency))
        self._last[way] = when
        self.world.at(when, lambda: deliver(parts) if self.open else None)


class Disk:
    """One rank's journal: entries, of which a crash keeps at least those that were synced."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Identity, int, Any]] = []
        """Of a frame its hash, and its bytes and position; of what takes it back the GAP; of a sender its epoch."""
        self.bad: dict[int, str] = {}
        """By place: of a frame the head or the pixels cannot be read, of what is none the head."""
        self.synced = 0
        self.full_until = 0.0

    def crash(self, rng: random.Random) -> None:
        """What was not synced is kept in part."""
        del self.entries[rng.randint(self.synced, len(self.entries)) :]
        self.synced = len(self.entries)

    def damage(self, rng: random.Random, live: bool) -> Identity | None:
        """An entry cannot be read any more; the frame that is lost with it, if it is one that nobody can send again."""
        places = [place for place in range(1, len(self.entries)) if place not in self.bad]
        withdrawals = [
            place for place in places if self.entries[place][0] == "withdrawn" and self.entries[place][1][1] >= 0
        ]
        if withdrawals and rng.random() < 0.7:
            places = withdrawals
        elif live and rng.random() < 0.7:
            places = [place for place in places if self.entries[place][0] != "frame"]
        if not places:
            return None
        place = rng.choice(places)
        what, identity, _, _ = self.entries[place]
        self.bad[place] = rng.choice(["head", "pixels"]) if what == "frame" else "head"
        return identity if what == "frame" else None

    def history(self) -> History:
        """What `engine.journal` finds; what it cannot read at the end it cuts off."""
        first = self.entries[:1]
        found, sound = History(first[0][2] if first else 0), len(first)  # the first sender is in the file's beginning
        for place, (what, (kind, index), number, frame) in list(enumerate(self.entries))[sound:]:
            if self.bad.get(place) == "head":
                found.lose()
                continue
            if what == "frame":
                entry = Entry(place, kind, index, float(frame[1] or 0), number)
            elif what == "withdrawn":
                entry = Entry(place, WITHDRAWN, NONE if index < 0 else index, 0.0, number)
            elif what == "sender":
                entry = Entry(place, SENDER, number, 0.0, 0)
            else:
                entry = Entry(place, ENDED, index, 0.0, number)
            if place in self.bad:
                found.damaged(entry)
            else:
                found.take(entry)
                sound = place + 1
        del self.entries[sound:]
        self.bad = {place: how for place, how in self.bad.items() if place < sound}
        self.synced = len(self.entries)
        return found


class Rank:
    """One receiver, its ring, and an accumulator of integers."""

    def __init__(self, job: Job, number: int, disk: Disk, info: ScanInfo | None) -> None:
        self.job, self.number, self.disk, self.world = job, number, disk, job.world
        rows = job.rows(number)
        others = tuple(Lane(rows=job.rows(r), endpoint=f"lane:{r}") for r in range(1, job.ranks)) if not number else ()
        self.end = ReceivingEnd(
            f"i{job.incarnation}", lanes_of(rows, others), heartbeat=1.0, peer_timeout=8.0, return_timeout=LIMIT
        )
        self.inbox: deque[tuple[bytes, list[Any]]] = deque()
        self.ring: deque[tuple[str, Any]] = deque()
        history = disk.history()
        self.base = len(disk.entries)
        self.sums: dict[Identity, Any] = {}
        self.positions: dict[Identity, int | None] = {}
        self.gaps: Counter[FrameKind] | None = None
        """Frames that were given up and never came, once the sender has ended."""
        self.order: list[int] = []
        """Projections in the accumulator, as they came."""
        self.followed = 0, 0
        self.marks = job.marks(number)
        self.ended = False
        self.broken: str | None = None
        self.working = False
        if info is not None:
            inventory, self.ended = history.inventory, history.ended
            window = CreditWindow(job.scenario.slots * self.nbytes, job.scenario.slots)
            self.end.resume(info, rows, inventory, self.ended, window, self.world.now)
            self.followed = inventory.epoch, inventory.followed
            for first, *_ in history.frames.values():
                self.accumulate(disk.entries[first.place])
        self.world.after(0.1, self.tick)
        self.world.after(self.world.rng.uniform(0.1, 1.0), self.sync)

    @property
    def nbytes(self) -> int:
        first, end = self.job.rows(self.number)
        return (end - first) * COLUMNS * 4

    @property
    def alive(self) -> bool:
        return self.job.ranks_alive and self in self.job.members

    def hear(self, peer: bytes, parts: list[Any]) -> None:
        self.inbox.append((peer, parts))
        self.read()

    def read(self) -> None:
        """What has arrived, in its order, unless the process is frozen."""
        while self.alive and self.inbox and not self.job.frozen(self):
            peer, parts = self.inbox.popleft()
            message, payload = decode(parts)
            self.act(self.end.hear(peer, message, payload, self.world.now))

    def act(self, outputs: list[Any]) -> None:
        for output in outputs:
            if isinstance(output, Reply):
                self.job.reply(self, output)
            elif isinstance(output, Opened):
                self.job.info, self.followed = output.info, (output.epoch, 0)
                self.disk.entries.append(("sender", (FrameKind.PROJECTION, -1), output.epoch, None))
                self.base, self.disk.synced = 1, 1  # is in the file's beginning, which is synced when it is made
                window = CreditWindow(self.job.scenario.slots * self.nbytes, self.job.scenario.slots)
                self.act(self.end.accept(window, self.world.now))
            elif isinstance(output, Arrived):
                self.ring.append(("frame", (output.header, bytes(output.payload))))
                frames = sum(what == "frame" for what, _ in self.ring)
                if frames > self.job.scenario.slots:
                    raise LostFramesError(f"rank {self.number} has {frames} frames in {self.job.scenario.slots} slots")
            elif isinstance(output, Withdrawn):
                self.ring.append(("withdrawn", output))
            elif isinstance(output, SenderBack):
                self.ring.append(("sender", output.epoch))
            elif isinstance(output, Cut):
                self.ring.append(("cut", output.number))
            elif isinstance(output, SenderLost):
                self.ring.append(("lost", None))
            elif isinstance(output, Ended):
                self.job.ended_by[self.number] = self.end.inventory.epoch
                self.ring.append(("end", output))
            elif isinstance(output, Broken):
                self.broken = output.reason
        if self.ring and not self.working:
            self.working = True
            self.world.after(self.world.rng.uniform(0.0, 0.3), self.work)

    def work(self) -> None:
        """Take one thing out of the ring, into the journal and the accumulator."""
        self.working = False
        if not self.alive or not self.ring:
            return
        if self.job.frozen(self) or self.disk.full_until > self.world.now:
            self.working = True
            self.world.after(0.5, self.work)
            return
        what, item = self.ring.popleft()
        if self.ended:
            return  # as the engine, which takes nothing more after the end
        if what in ("cut", "lost"):
            if what == "cut":
                self.marks.mark(item, len(self.order))
            else:
                self.marks.session_lost()
            self.emit()
            self.act([])
            return
        entry: tuple[str, Identity, int, Any]
        if what == "frame":
            header, payload = item
            entry = (what, (FrameKind(header.kind), header.index), header.xxh3, (payload, header.position))
            self.end.free(self.nbytes)
        elif what == "withdrawn":
            entry = (what, (FrameKind.PROJECTION, -1 if item.index is None else item.index), item.number, None)
        elif what == "sender":
            entry = (what, (FrameKind.PROJECTION, -1), item, None)
            self.marks.session_lost()
        else:
            entry = (what, (FrameKind.PROJECTION, item.frames), item.digest, None)
            self.ended, self.gaps = True, Counter()
            for kind, _, count in item.gaps:
                self.gaps[kind] += count
        self.disk.entries.append(entry)
        self.accumulate(entry)
        self.emit()
        self.act([])

    def emit(self) -> None:
        """Tell rank 0 what a slab holds where a cut is due."""
        count = len(self.order)
        if not self.marks.due(count, count, self.world.now, idle=True):
            return
        digest = Digest()
        for index in self.order:
            digest.add(FrameKind.PROJECTION, index, 0)
        shown = {index: self.sums[FrameKind.PROJECTION, index][1] for index in self.order}
        content = digest.value, count, *self.followed
        part = Part(self.marks.number, self.number, self.job.rows(self.number), content, (1, 1, 1), 0, shown)  # type: ignore[arg-type]
        self.marks.emitted(count, self.world.now)
        job = self.job
        self.world.after(self.world.rng.uniform(0.0, 1.0), lambda: job.assembly.hear(part) if self.alive else None)

    def accumulate(self, entry: tuple[str, Identity, int, Any]) -> None:
        what, identity, number, payload = entry
        if what == "sender" and number != self.followed[0]:
            self.followed = number, 0
        elif what == "withdrawn":
            self.followed = self.followed[0], number
        if what == "frame":
            before = self.sums.get(identity)
            if before is not None and before[0] > 0:
                raise LostFramesError(f"rank {self.number} counts {identity} twice")
            pixels, self.positions[identity] = payload
            self.sums[identity] = (1, np.frombuffer(pixels, "<u4").astype(np.int64).sum())
            if identity[0] is FrameKind.PROJECTION:
                self.order.append(identity[1])
        elif what == "withdrawn" and identity[1] >= 0:
            if identity not in self.sums:
                raise LostFramesError(f"rank {self.number} takes back {identity}, which it does not have")
            del self.sums[identity]
            place = self.order.index(identity[1])
            del self.order[place]
            self.marks.removed(place)

    def sync(self) -> None:
        if not self.alive:
            return
        if not self.job.frozen(self):
            self.disk.synced = len(self.disk.entries)
            self.act(self.end.durable(self.disk.synced - self.base, self.world.now))
        self.world.after(self.world.rng.uniform(0.2, 1.5), self.sync)

    def tick(self) -> None:
        if not self.alive:
            return
        self.read()
        if not self.job.frozen(self):
            self.act(self.end.tick(self.world.now))
            if all(member.ended and not member.ring for member in self.job.members):
                self.act(self.end.finish())
        self.world.after(0.3, self.tick)


class Job:
    """The ranks; they die together and are started again together."""

    def __init__(self, world: World, scenario: Scenario) -> None:
        self.world, self.scenario, self.ranks = world, scenario, scenario.ranks
        self.disks = [Disk() for _ in range(self.ranks)]
        self.versions = 0
        self.ended_in_part = False
        """Whether a sender died when it had ended on some lanes: what it had not sent on others is in some slabs only."""
        self.ended_by: dict[int, int] = {}
        """Epoch of the sender with which each rank ended."""
        self.unsure: set[int] = set()
        """Projections that one sender took back: until its successor does so again, slabs may have either of those of a name."""
        self.damaged: set[Identity] = set()
        """Frames that a journal lost, and that perhaps nobody can send again."""
        self.info: ScanInfo | None = None
        self.incarnation = 0
        self.members: list[Rank] = []
        self.ranks_alive = False
        self._frozen: dict[int, float] = {}
        self.pipes: dict[bytes, tuple[Pipe, Sender]] = {}
        self.start()

    def rows(self, rank: int) -> Range:
        edges = [round(ROWS * r / self.ranks) for r in range(self.ranks + 1)]
        return edges[rank], edges[rank + 1]

    def start(self) -> None:
        self.incarnation += 1
        self.ranks_alive, self._frozen = True, {}
        self.requests = EmitPolicy(5, None)
        self.assembly = Assembly(range(self.ranks), self.complete, self.spoilt)
        self.members = []
        for number, disk in enumerate(self.disks):
            known = any(each.entries for each in self.disks)
            self.members.append(Rank(self, number, disk, self.info if known else None))
        self.world.tell(f"engine {self.incarnation} starts")

    def marks(self, rank: int) -> Marks:
        """When a rank's slab of a version is due."""
        if rank:
            return Marks(self.give_up)
        return LeadingMarks(self.requests, self.want, lambda cut: self.assembly.over(cut), self.give_up)

    def want(self, cut: int, whole: bool) -> None:
        self.world.tell(f"cut {cut} is wanted")
        self.members[0].end.want_cut = cut

    def give_up(self, cut: int, why: str) -> None:
        self.assembly.give_up(cut, why)

    def spoilt(self, cut: int, why: str, again: bool) -> None:
        self.world.tell(f"cut {cut} is spoilt: {why}")
        if again:
            self.requests.request()
            if not self.scenario.drop and all(isinstance(item, Frame) for item in self.scenario.items):
                raise LostFramesError(f"cut {cut} was misplaced: {why}")

    def complete(self, cut: int, parts: list[Part]) -> None:
        """A version is shown: it must hold the same frames in every slab, and of those that came twice the same ones."""
        self.versions += 1
        shown = [dict(part.aside) for part in parts]  # type: ignore[call-overload]
        self.world.tell(f"cut {cut} is a version of {len(shown[0])} projections")
        for part, each in zip(parts, shown, strict=True):
            if set(each) != set(shown[0]):
                raise LostFramesError(f"version of cut {cut}: slabs hold {[sorted(s) for s in shown]}")
            for index, value in each.items():
                if index not in self.unsure and self.variant(index, part.rows, value) != self.variant(
                    index, parts[0].rows, shown[0][index]
                ):
                    raise LostFramesError(f"version of cut {cut}: slabs hold different frames as projection {index}")

    def variant(self, index: int, rows: Range, value: int) -> int:
        """Which of the frames of this name it is."""
        frames = [
            item
            for item in self.scenario.items
            if isinstance(item, Frame) and (item.kind, item.index) == (FrameKind.PROJECTION, index)
        ]
        return next(n for n, f in enumerate(frames) if f.data[rows[0] : rows[1]].astype(np.int64).sum() == value)

    def kill(self) -> None:
        if not self.ranks_alive:
            return
        self.world.tell("the engine dies")
        self.ranks_alive = False
        for pipe, _ in self.pipes.values():
            pipe.open = False
        for disk in self.disks:
            disk.crash(self.world.rng)
        if self.world.rng.random() < 0.5:
            lost = self.world.rng.choice(self.disks).damage(self.world.rng, self.scenario.live)
            self.world.tell(f"a journal is damaged: {lost or 'no frame'}")
            if lost is not None and self.scenario.live:
                self.damaged.add(lost)
        self.world.after(self.world.rng.uniform(0.5, 20.0), self.start)

    def freeze(self) -> None:
        rank = self.world.rng.randrange(self.ranks)
        self._frozen[rank] = self.world.now + self.world.rng.uniform(1.0, 20.0)
        self.world.tell(f"rank {rank} is frozen until {self._frozen[rank]:.1f}")

    def frozen(self, rank: Rank) -> bool:
        return self._frozen.get(rank.number, 0.0) > self.world.now

    def reply(self, rank: Rank, output: Reply) -> None:
        pipe, sender = self.pipes.get(output.peer, (None, None))
        if pipe is None or sender is None or not pipe.open:
            return  # ROUTER drops what it cannot deliver
        if isinstance(output.message, Credit | Ack | EndOk) and sender.job_loses("lose"):
            self.world.tell(f"{output.message.name()} is lost")
            return
        parts = [*encode(output.message), *([output.payload] if output.payload is not None else [])]
        pipe.carry("back", parts, lambda got: sender.hear(pipe, got))


class Sender:
    """A process that sends the scan."""

    def __init__(self, world: World, job: Job, scenario: Scenario, epoch: int, given: int) -> None:
        self.world, self.job, self.scenario = world, job, scenario
        self.alive, self.error = True, None
        self.error: Exception | None = None
        self.dispatch: Dispatch[Frame] = Dispatch(
            scenario.info, "lane:0", epoch, not scenario.live, drop=scenario.drop, ahead=scenario.ahead,
            heartbeat=1.0, peer_timeout=8.0, return_timeout=LIMIT,
        )  # fmt: skip
        self.given = given
        """Frames that the source had given before this process, which a live source does not give again."""
        self.position, self.passes, self.session = given if scenario.live else 0, 0, 0
        self.kept = 0
        self.pipes: list[Pipe] = []
        self.faults: Counter[str] = Counter()
        self.dispatch.begin(world.now)
        world.after(0.0, self.loop)

    @property
    def first_of_kind(self) -> bool:
        """Whether it goes on with the first frame of a kind."""
        left = (item for item in self.scenario.items[self.given :] if isinstance(item, Frame))
        return next((frame.index == 0 for frame in left), False)

    def job_loses(self, fault: str) -> bool:
        if self.faults[fault]:
            self.faults[fault] -= 1
            return True
        return False

    def kill(self) -> None:
        self.alive = False
        for pipe in self.pipes:
            pipe.open = False

    def cut(self) -> None:
        """A connection breaks; libzmq makes another one, and the other side sees someone new."""
        if self.pipes:
            number = self.world.rng.randrange(len(self.pipes))
            self.pipes[number].open = False
            self.pipes[number] = self.pipe(number)
            self.world.tell(f"lane {number} is cut")

    def pipe(self, lane: int) -> Pipe:
        peer = b"%d" % self.world.rng.getrandbits(60)
        pipe = Pipe(self.world, lane, peer, self.scenario.latency)
        self.job.pipes[peer] = pipe, self
        return pipe

    def loop(self) -> None:
        if not self.alive or self.dispatch.done:
            return
        try:
            self.run_once()
        except (PeerLostError, RemoteProtocolError, ScanAbortedError) as error:
            self.error, self.alive = error, False
            return
        self.world.after(self.world.rng.uniform(0.01, 0.2), self.loop)

    def run_once(self) -> None:
        dispatch, now = self.dispatch, self.world.now
        self.connect()
        for number, pipe in enumerate(self.pipes):
            if not pipe.open and self.job.ranks_alive:  # connected again to an engine that is back
                self.pipes[number] = self.pipe(number)
            if self.pipes[number].open and self.job.ranks_alive:
                dispatch.greet(number, now)
        dispatch.tick(now)
        self.say()
        if dispatch.session != self.session:
            return
        if self.passes != dispatch.passes:
            self.position = 0 if self.passes else self.position
            self.passes = dispatch.passes
        moved = True
        while moved:
            moved = self.take() | self.send()
            for _ in dispatch.forgotten():
                self.kept -= 1

    def connect(self) -> None:
        if self.session != self.dispatch.session:
            for pipe in self.pipes:
                pipe.open = False
            self.pipes, self.session = [], self.dispatch.session
        self.pipes += [self.pipe(lane) for lane in range(len(self.pipes), len(self.dispatch.lanes))]

    def take(self) -> bool:
        dispatch = self.dispatch
        if not dispatch.hungry or self.world.rng.random() < 0.3:
            return False
        if self.position >= len(self.scenario.items):
            dispatch.source_ended()
            return False
        item = self.scenario.items[self.position]
        if isinstance(item, Gap):
            dispatch.give_up(item.kind, (item.first, item.end), item.reason)
            self.position += 1
            return True
        frame = dispatch.place(item)
        identity = frame.kind, frame.index
        if self.kept >= self.scenario.retain:
            if not dispatch.no_room(identity):
                return False
        elif dispatch.put(identity, frame):
            self.kept += 1
        self.position += 1
        return True

    def send(self) -> bool:
        following = self.dispatch.next(
            lambda lane: lane < len(self.pipes) and self.pipes[lane].open and self.job.ranks_alive
        )
        if following is None:
            return False
        lane, kept = following
        first, end = self.dispatch.lanes[lane].end.rows
        part = replace(kept, data=np.ascontiguousarray(kept.data[first:end]))
        header = self.dispatch.send(lane, part, self.world.now)
        self.say()
        self.post(lane, header, part.data.tobytes())
        return True

    def say(self) -> None:
        if self.session == self.dispatch.session:
            for lane, message, payload in self.dispatch.messages():
                if lane < len(self.pipes):
                    self.post(lane, message, payload)

    def post(self, lane: int, message: Message, payload: bytes | None) -> None:
        pipe = self.pipes[lane]
        if not pipe.open or not self.job.ranks_alive:
            return
        if isinstance(message, End) and self.job_loses("lose"):
            self.world.tell("END is lost")
            return
        members = self.job.members
        parts = [*encode(message), *([payload] if payload is not None else [])]
        again = isinstance(message, FrameHeader) and self.job_loses("repeat")
        for _ in range(2 if again else 1):
            pipe.carry("there", parts, lambda got: members[lane].hear(pipe.peer, got))

    def hear(self, pipe: Pipe, parts: list[Any]) -> None:
        if not self.alive or pipe not in self.pipes or self.session != self.dispatch.session:
            return
        message, payload = decode(parts)
        try:
            self.dispatch.hear(self.pipes.index(pipe), message, payload, self.world.now)
            self.say()
        except (PeerLostError, RemoteProtocolError, ScanAbortedError) as error:
            self.error, self.alive = error, False


def play(seed: int, trace: bool = False) -> dict[str, int]:
    """Play a schedule to its end, and check it.

    Raises
    ------
    LostFramesError
        If frames were lost or counted twice, or it does not end.
    """
    scenario, world = draw(seed), World(seed, trace)
    job = Job(world, scenario)
    senders = [Sender(world, job, scenario, 1000, 0)]
    lost: set[Identity] = set()
    happened: Counter[str] = Counter()

    def succeed() -> None:
        """Another process goes on with the scan; the clock of its machine may be behind."""
        old = senders[-1]
        old.kill() if world.rng.random() < 0.7 else world.tell("the old sender lives on")
        given = old.position
        if scenario.live:
            lost.update(old.dispatch.outbox.kept())  # is gone with the process; what is durable is not
            touched = (item for item in scenario.items[:given] if isinstance(item, Gap))
            lost.update((item.kind, index) for item in touched for index in range(item.first, item.end))
        touched = (item for item in scenario.items[:given] if isinstance(item, Gap))
        job.ended_in_part |= any(member.ended for member in job.members)
        job.unsure.update(index for item in touched for index in range(item.first, item.end))
        epoch = senders[-1].dispatch.epoch + world.rng.choice([-500, 1, 500])
        world.tell(f"another sender, epoch {epoch}, from frame {given} on")
        senders.append(Sender(world, job, scenario, epoch, given))

    def strike(fault: str) -> None:
        happened[fault] += 1
        world.tell(f"fault: {fault}")
        if fault == "kill engine":
            job.kill()
        elif fault == "kill sender":
            succeed()
        elif fault == "cut":
            senders[-1].cut()
        elif fault == "freeze engine":
            job.freeze()
        elif fault == "disk full":
            job.disks[world.rng.randrange(job.ranks)].full_until = world.now + world.rng.uniform(1.0, 30.0)
        elif fault == "stranger":
            uid = world.rng.choice([scenario.info.uid, "other"])
            hello = Hello(uid=uid, epoch=world.rng.choice([1, 1 << 60]), rows=ROWS, columns=COLUMNS)
            if job.ranks_alive:
                job.members[0].hear(b"stranger", encode(hello))
        else:
            senders[-1].faults[fault] += 1

    for when, fault in scenario.faults:
        world.at(when, lambda fault=fault: strike(fault))  # type: ignore[misc]
    while not any(sender.dispatch.done for sender in senders):
        world.step()
        if world.now > LIMIT:
            raise LostFramesError(f"stuck: {[str(m.end.session.state) for m in job.members]}, {senders[-1].dispatch}")
        if not any(sender.alive for sender in senders):
            raise LostFramesError(f"the senders gave up: {[sender.error for sender in senders]}")
        broken = [member.broken for member in job.members if member.broken]
        if broken:
            raise LostFramesError(f"the engine gave up: {broken[0]}")
    check(scenario, job, senders, lost)
    if job.ranks > 1:
        happened["version of several slabs"] = job.versions
    return dict(happened)


def check(scenario: Scenario, job: Job, senders: list[Sender], excused: set[Identity]) -> None:
    """Every rank has every frame once, with its own bytes."""
    expected, positions = scenario.left(), scenario.positions()
    names = Counter(kind for kind, _ in positions)
    job.ended_in_part |= len(set(job.ended_by.values())) > 1
    excused = excused | job.damaged
    if scenario.drop and (senders[-1].dispatch.dropped or len(senders) > 1):
        excused = excused | set(expected)
    for member in job.members:
        first, end = job.rows(member.number)
        got = {identity: value for identity, (count, value) in member.sums.items() if count == 1}
        missing = set(expected) - set(got) - excused
        if missing:
            raise LostFramesError(f"rank {member.number} lost {sorted(missing)[:5]} ({len(missing)})")
        surplus = set(got) - set(expected)
        if surplus - excused:
            raise LostFramesError(f"rank {member.number} has {sorted(surplus)[:5]}, which were withdrawn")
        for identity, value in got.items():
            right = identity in expected and value == expected[identity].data[first:end].astype(np.int64).sum()
            if not right and identity not in excused:
                raise LostFramesError(f"rank {member.number} has other pixels of {identity}")
        # Flats of a detector's sender that died may be in some slabs only: they cannot be taken back. Nor can what came to a slab
        # that has ended.
        kinds = set(FrameKind) if len(senders) == 1 else {FrameKind.PROJECTION} if not job.ended_in_part else set()
        theirs = {i for i, (count, _) in job.members[0].sums.items() if count == 1}
        if {i for i in {*got} ^ theirs if i[0] in kinds} - job.damaged:
            raise LostFramesError(f"rank {member.number} and rank 0 hold different frames")
        if len(senders) == 1 and member.gaps is not None:
            lacking = names - Counter(kind for kind, _ in got)
            if lacking != member.gaps:
                raise LostFramesError(
                    f"rank {member.number} lacks {dict(lacking)}, and was told why of {dict(member.gaps)}"
                )
        for identity in got:
            # A detector's sender that goes on where another one was does not know what only that one had; nor where it is, if it
            # goes on with the first frame of a kind.
            known = len(senders) == 1 or not scenario.live
            lost_way = scenario.shuffled or any(sender.given and sender.first_of_kind for sender in senders)
            slack = 0 if known else len(positions) if lost_way else len(excused)
            right, told = positions[identity], member.positions[identity]
            if (right is None) != (told is None) or not (right or 0) - slack <= (told or 0) <= (right or 0) + slack:
                raise LostFramesError(f"rank {member.number} has {identity} at {told}, not at {right}")


def main() -> int:
    """Play many schedules."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=2000, metavar="N", help="schedules to play; default: 2000")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first one")
    parser.add_argument("--seed", type=int, metavar="SEED", help="play this one only")
    parser.add_argument("--trace", action="store_true", help="say what happens")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    began, happened, failed = time.perf_counter(), Counter[str](), []
    for seed in seeds:
        try:
            happened.update(play(seed, options.trace))
        except Exception as error:
            failed.append(seed)
            print(f"seed {seed}: {type(error).__name__}: {error}"[:400])
            if options.seed is not None:
                raise
    seconds = time.perf_counter() - began
    print(f"{len(seeds)} schedules in {seconds:.1f} s, {60 * len(seeds) / seconds:.0f} a minute")
    print("faults: " + ", ".join(f"{count} x {name}" for name, count in sorted(happened.items())))
    print(f"{len(failed)} failed" + (f": {failed[:20]}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
