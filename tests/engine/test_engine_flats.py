"""Flats count where they were measured: neither the order of arrival nor frames that come again leave a trace."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_scans import D, F, P, Scan, batch, config, difference, simulated, stream
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrecon.config import NormalizeConfig
from streamrecon.engine.fields import Fields
from streamrecon.engine.journal import Journal
from streamrecon.recon.normalize import FlatGroup, combine
from streamrecon.scan import Frame, FrameKind
from streamrecon.wire.digest import frame_hash
from streamrecon.wire.positions import Positions


def measured(**options: Any) -> Scan:
    """Flats before, within and after, while the beam loses a third."""
    scan = simulated(**({"flats": 4, "flats_after": 6, "center": 24.3} | options))
    p, f, d = scan.of(P), scan.of(F), scan.of(D)
    weaker = [replace(each, data=(each.data * 0.85).astype(each.data.dtype)) for each in f[4:7]]
    weakest = [replace(each, data=(each.data * 0.7).astype(each.data.dtype)) for each in f[7:]]
    return scan.arranged(d, f[:4], p[:20], weaker, p[20:], weakest)


def placed(scan: Scan) -> list[Frame]:
    """Its frames, with their positions."""
    order = Positions()
    return [order.place(frame) for frame in scan.items]


CASES: dict[str, dict[str, Any]] = {
    "direct": {},
    "fourier": {"recon": {"method": "fourier", "circle": True}},
    "rings": {"normalize": {"rings": 7}},
    "rings by fourier": {"recon": {"method": "fourier", "circle": True}, "normalize": {"rings": 7}},
    "air": {"normalize": {"air": (3, 3)}},
    "mean of all flats": {"normalize": {"interpolate_flats": False}},
    "means": {"normalize": {"flat": "mean", "dark": "mean"}},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", list(CASES))
def test_any_order_of_arrival_gives_the_volume_of_the_undisturbed_scan(tmp_path: Path, case: str, seed: int) -> None:
    scan, options = measured(seed=seed), config(emit={"every": 17}, **CASES[case])
    frames = placed(scan)
    random.Random(seed).shuffle(frames)
    expected = batch(scan, options, method=options.recon.method)
    streamed = stream(Scan(scan.info, frames), options, tmp_path / "shuffled")
    assert difference(streamed.volume, expected) < 2e-5
    assert streamed.told("flats_corrected") or streamed.told("start_over")


def test_flats_that_come_one_by_one_between_projections(tmp_path: Path) -> None:
    """Each makes its group be combined anew."""
    scan, options = measured(), config(engine={"batch": 1})
    flats = [frame for frame in placed(scan) if frame.kind is F]
    projections, items = scan.of(P), list[Frame]()
    for number, projection in enumerate(projections):
        items += [projection, *(flats[number // 4 : number // 4 + 1] if number % 4 == 0 else [])]
    streamed = stream(Scan(scan.info, [*scan.of(D), *items]), options, tmp_path)
    assert difference(streamed.volume, batch(scan, options)) < 2e-5
    told = [event for event in streamed.told("flats") if event["position"] == 0]
    assert [event["flats"] for event in told] == sorted({event["flats"] for event in told})
    assert told[-1]["flats"] == 4
    assert len(told) > 1


INFO = simulated(rows=2, columns=4, projections=6, flats=7, darks=0).info


class Silent:
    """Who hears nothing."""

    def tell(self, *args: object, **more: object) -> None:
        """Nobody is told."""


def image(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(100, 1 << 16, (2, 4), np.uint16)


def groups(
    path: Path, frames: Sequence[tuple[FrameKind, int]], where: Sequence[int], closings: Sequence[int]
) -> list[FlatGroup]:
    """The groups of flats of frames that come in this order, and are looked at after some of them."""
    journal = Journal(path, INFO, (0, 2), 3600.0)
    fields = Fields(journal, NormalizeConfig(), 7, Silent())  # type: ignore[arg-type]
    for number, (kind, index) in enumerate(frames):
        data = image(index)
        position = where[index] if kind is F else None
        record = journal.append(kind, index, 0.1, data, 0.0, frame_hash(data.data.cast("B")), position)
        if kind is F:
            fields.keep(record)
        while number in closings and fields.close_group(False):
            pass
    while fields.close_group(True):
        pass
    found = list(fields._groups)
    journal.close()
    return found


@given(
    st.lists(st.integers(0, 6), min_size=7, max_size=7),
    st.permutations([*((F, index) for index in range(7)), *((P, index) for index in range(6))]),
    st.sets(st.integers(0, 12)),
)
@settings(max_examples=60, deadline=None)
def test_groups_are_those_of_the_source_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory,
    where: list[int],
    frames: list[tuple[FrameKind, int]],
    closings: set[int],
) -> None:
    found = groups(tmp_path_factory.mktemp("j") / "a.frames", frames, where, sorted(closings))
    assert [group.position for group in found] == sorted(set(where))
    for group in found:
        images = np.stack([image(index) for index in range(7) if where[index] == group.position])
        np.testing.assert_array_equal(group.image, combine(images, "median"))


def test_a_flat_that_never_comes_counts_as_known(tmp_path: Path) -> None:
    """Else a slab that has it and one that has not would never show a version together."""
    journal = Journal(tmp_path / "a.frames", INFO, (0, 2), 3600.0)
    fields = Fields(journal, NormalizeConfig(), 7, Silent())  # type: ignore[arg-type]
    for kind, index in [(P, 0), *((F, index) for index in range(6))]:
        data = image(index)
        record = journal.append(kind, index, 0.1, data, 0.0, frame_hash(data.data.cast("B")), 0 if kind is F else None)
        if kind is F:
            fields.keep(record)
    assert not fields.close_group(False), "another flat may come yet"
    journal.forgo(F, [(2, 4), (6, 7)])
    assert journal.forgone(F) == 1
    assert fields.close_group(False)
    fields.line_integrals(journal.projections)
    assert fields.used == (7, 0)
    journal.close()
