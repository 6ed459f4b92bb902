"""The ranks of an engine, and the versions that they make together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.simulation.disk import Disk
from bench.simulation.rank import Rank
from bench.simulation.scenario import ROWS, Identity, Scenario
from bench.simulation.world import LostFramesError, Pipe, World
from streamrecon.engine.assembly import Assembly
from streamrecon.engine.emit import EmitPolicy, LeadingMarks, Marks
from streamrecon.engine.orders import Part
from streamrecon.scan import Frame, FrameKind, ScanInfo
from streamrecon.wire.codec import encode
from streamrecon.wire.messages import Ack, Credit, EndOk, Range
from streamrecon.wire.outputs import Reply

if TYPE_CHECKING:
    from bench.simulation.sender import Sender


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
