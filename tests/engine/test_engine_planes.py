"""Single slices in full resolution: the values of the whole volume, from slabs of any size."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrecon.config import ReconConfig
from streamrecon.engine import planes
from streamrecon.engine.orders import Attend
from streamrecon.engine.planes import Place, chosen, cut, joined
from streamrecon.engine.rank import Rank
from streamrecon.recon.accumulate import Accumulator, Shape, snapshot
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.scan import Geometry

SLABS = (0, 5), (5, 75), (75, 80)
ROWS, COLUMNS = SLABS[-1][1], 24


def accumulators(method: type[Accumulator], options: ReconConfig) -> list[Accumulator]:
    random = np.random.default_rng(3)
    scan = random.standard_normal((7, ROWS, COLUMNS)).astype(np.float32)
    made = []
    for first, end in SLABS:
        shape = Shape.of(Geometry(end - first, COLUMNS, 2e-6), options, 11.2)
        made.append(method(shape, options))  # type: ignore[call-arg]
        made[-1].add(np.ascontiguousarray(scan[:, first:end]), np.linspace(0, 3, 7), np.full(7, 0.4))
    return made


@pytest.mark.parametrize("method", [DirectAccumulator, FourierAccumulator])
@pytest.mark.parametrize("circle", [True, False])
def test_they_are_those_of_the_volume(method: type[Accumulator], circle: bool) -> None:
    slabs = accumulators(method, ReconConfig(circle=circle))
    volume = np.concatenate([snapshot(each, 1.7) for each in slabs])
    places: list[Place] = [
        *(("z", z) for z in (0, 4, 5, 6, 60, 79)),
        *(("y", y) for y in (0, 11, 23)),
        *(("x", x) for x in (0, 7, 23)),
    ]
    found = joined([cut(each, places, 1.7, first) for each, (first, _) in zip(slabs, SLABS, strict=True)])
    assert set(found) == set(places)
    for (axis, index), pixels in found.items():
        expected = volume.take(index, "zyx".index(axis))
        np.testing.assert_array_equal(pixels == 0, expected == 0, err_msg=f"{axis} = {index}")
        # Sums of the same numbers in another order.
        atol = 0 if method is DirectAccumulator else 5e-6 * np.abs(volume).max()
        np.testing.assert_allclose(pixels, expected, rtol=0, atol=atol, err_msg=f"{axis} = {index}")


def test_what_one_slab_does_not_know_is_left_out() -> None:
    part = np.zeros((2, 3), np.float32)
    found = joined([[("z", 0, part), ("x", 1, part), ("y", 2, part)], [("x", 1, part), ("x", 5, part)]])
    assert {place: pixels.shape for place, pixels in found.items()} == {("z", 0): (2, 3), ("x", 1): (4, 3)}


@given(st.lists(st.tuples(st.sampled_from(("z", "y", "x")), st.integers(0, 30)), max_size=40), st.integers(0, 1 << 15))
def test_those_that_were_asked_for_last_have_room(places: list[Place], room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "BYTES", room)
        found = chosen(places, (10, 20, 20))
    most = min(9, max(3, room // 1600))
    assert all(index < (10, 20, 20)["zyx".index(axis)] for axis, index in found)
    inside = [("zyx"[n], min(i, (10, 20, 20)[n] - 1)) for n, i in (("zyx".index(axis), i) for axis, i in places)]
    assert found == list(dict.fromkeys(inside))[:most]


def test_the_writer_asks_nothing_of_a_slab_that_may_be_another_one_by_then() -> None:
    """A change of the center begins a new accumulator while a version is being written."""
    for viewers in (True, False):
        rank = SimpleNamespace(_viewers=viewers, _attended=Attend((), (("x", 40), ("z", 3))), _whole=(0, 640))
        bands = Rank._sagittal(rank, 16, 64, 4)  # type: ignore[arg-type]
        assert any(first <= 8 < end for first, end in bands)
        assert any(first <= 10 < end for first, end in bands) is viewers


def test_of_a_small_version_viewers_need_but_the_preview() -> None:
    for height, there in ((512, False), (516, True)):
        rank = SimpleNamespace(_viewers=True, _attended=Attend((), (("x", 40), ("z", 3))), _whole=(0, height))
        assert (Rank._sagittal(rank, 16, 64, 4) != ((8, 9),)) is there  # type: ignore[arg-type]
