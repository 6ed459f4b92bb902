"""A rank: the real receiver, with a journal and an accumulator that are played."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.simulation.disk import Disk
from bench.simulation.scenario import COLUMNS, Identity
from bench.simulation.world import LIMIT, LostFramesError
from streamrecon.engine.orders import Part
from streamrecon.scan import FrameKind, ScanInfo
from streamrecon.wire.codec import decode
from streamrecon.wire.credit import CreditWindow
from streamrecon.wire.digest import Digest
from streamrecon.wire.messages import Lane
from streamrecon.wire.outputs import Arrived, Broken, Cut, Ended, Opened, Reply, SenderBack, SenderLost, Withdrawn
from streamrecon.wire.receiving import ReceivingEnd, lanes_of

if TYPE_CHECKING:
    from bench.simulation.job import Job


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
