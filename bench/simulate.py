"""Senders, ranks, networks and disks that fail, on a clock of their own: `python -m bench.simulate --seeds 2000`.

What runs is the real protocol (`streamrecon.wire`); sockets, threads and files are played. A seed decides everything that
happens, so a schedule that loses a frame can be played again: `python -m bench.simulate --seed 1234 --trace`.

A frame is counted into an integer for each of its rows, as an accumulator would add it, so "lost" and "twice" are exact.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

import numpy as np

from bench.simulation.job import Job
from bench.simulation.scenario import COLUMNS, ROWS, Identity, Scenario, draw
from bench.simulation.sender import Sender
from bench.simulation.world import LIMIT, LostFramesError, World
from streamrecon.scan import FrameKind, Gap
from streamrecon.wire.codec import encode
from streamrecon.wire.messages import Hello


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
