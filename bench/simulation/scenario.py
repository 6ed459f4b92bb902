"""What happens in a schedule, drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from streamrecon.scan import Frame, FrameKind, Gap, Geometry, ScanInfo
from streamrecon.wire.positions import Positions

ROWS, COLUMNS = 6, 2

Identity = tuple[FrameKind, int]


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
