"""A transform library that the user has set is the one that is used, for all rows."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import fft

from streamrecon.config import ReconConfig
from streamrecon.recon.accumulate import Accumulator, Shape, snapshot
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.scan import Geometry


class Counting:
    """A library that counts its calls and leaves the work to SciPy."""

    __ua_domain__ = "numpy.scipy.fft"
    calls: ClassVar[collections.Counter[str]] = collections.Counter()

    @staticmethod
    def __ua_function__(method: Any, arguments: Any, options: dict[str, Any]) -> Any:
        Counting.calls[method.__name__] += 1
        Counting.calls[f"{method.__name__}, angles"] += len(arguments[0])
        with fft.set_backend("scipy", only=True):
            return method(*arguments, **options)


@pytest.fixture
def counting() -> Iterator[collections.Counter[str]]:
    Counting.calls.clear()
    fft.set_global_backend(Counting)
    try:
        yield Counting.calls
    finally:
        fft.set_global_backend("scipy")


@pytest.mark.parametrize("rows", [4, 70])
@pytest.mark.parametrize("method", [DirectAccumulator, FourierAccumulator])
def test_every_transform_goes_through_it(method: Any, rows: int, counting: collections.Counter[str]) -> None:
    options = ReconConfig()
    shape = Shape.of(Geometry(rows, 16), options, 7.5)
    accumulator: Accumulator = method(shape, options)
    accumulator.add(np.ones((3, rows, 16), np.float32), np.arange(3.0), np.full(3, math.pi / 3))
    assert counting["fft, angles"] == 3 * shape.blocks
    assert counting["ifft"] == (shape.blocks if method is DirectAccumulator else 0)
    snapshot(accumulator)
    if method is FourierAccumulator:
        assert counting["ifft"] >= 2 * shape.blocks


class Elsewhere(Counting):
    """A library that does not write where it is told to."""

    @staticmethod
    def __ua_function__(method: Any, arguments: Any, options: dict[str, Any]) -> Any:
        with fft.set_backend("scipy", only=True):
            return method(np.array(arguments[0]), *arguments[1:], **options)


@pytest.mark.parametrize("columns", [16, 760])
@pytest.mark.parametrize("method", [DirectAccumulator, FourierAccumulator])
def test_it_need_not_transform_in_place(method: Any, columns: int) -> None:
    shape = Shape.of(Geometry(3, columns), ReconConfig(), (columns - 1) / 2)
    projections = np.random.default_rng(0).random((5, 3, columns), np.float32)
    volumes = []
    for backend in ("scipy", Elsewhere):
        fft.set_global_backend(backend)
        try:
            accumulator: Accumulator = method(shape, ReconConfig())
            accumulator.add(projections, np.arange(5.0), np.full(5, math.pi / 5))
            volumes.append(snapshot(accumulator))
        finally:
            fft.set_global_backend("scipy")
    np.testing.assert_array_equal(*volumes)
