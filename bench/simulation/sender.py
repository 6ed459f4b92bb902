"""A sender: the real dispatch, with a source and sockets that are played."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from bench.simulation.job import Job
from bench.simulation.scenario import Scenario
from bench.simulation.world import LIMIT, Pipe, World
from streamrecon.errors import PeerLostError, RemoteProtocolError, ScanAbortedError
from streamrecon.scan import Frame, Gap
from streamrecon.wire.codec import decode, encode
from streamrecon.wire.dispatch import Dispatch
from streamrecon.wire.messages import End, FrameHeader, Message


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
