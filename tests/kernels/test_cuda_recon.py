"""Whole accumulators as on a GPU: the same text, the CUDA sources for kernels, and arrays that NumPy's kernels never see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cuda_target import CupyTarget, EmulatedTarget, Target
from scipy import fft
from streamrecon_kernels import backproject_cuda, gridding_cuda, packing_cuda, slices_cuda

from streamrecon.config import ReconConfig
from streamrecon.recon import bands
from streamrecon.recon.accumulate import Shape, snapshot
from streamrecon.recon.device import Gpu
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.scan import Geometry

METHODS = {"direct": DirectAccumulator, "fourier": FourierAccumulator}


class There(np.ndarray):
    """An array that says it is a GPU's, in host memory."""

    @property
    def __cuda_array_interface__(self) -> dict[str, int]:
        return {"version": 3}


class Transforms:
    """A backend of `scipy.fft` that takes and gives such arrays, and nothing else."""

    __ua_domain__ = "numpy.scipy.fft"

    @staticmethod
    def __ua_function__(method: Any, arguments: Any, options: dict[str, Any]) -> Any:
        assert isinstance(arguments[0], There)
        with fft.skip_backend(Transforms):
            return method(np.asarray(arguments[0]), *arguments[1:], **options).view(There)


class Emulated:
    """A device whose kernels are the CUDA sources, executed on the CPU."""

    name, rows_at_once, angles_at_once = "gpu", None, None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> There:
        array = np.empty(shape, dtype)
        array.view(np.uint8).fill(0xFF)
        return array.view(There)

    def put(self, host: np.ndarray) -> There:
        return np.array(host, order="C").view(There)

    def upload(self, projections: np.ndarray) -> There:
        """Into one of two buffers by turns, as the pinned ones are: what came two before is overwritten."""
        self.count = getattr(self, "count", -1) + 1
        self.buffers = getattr(self, "buffers", {})
        buffer = self.buffers.setdefault((self.count % 2, projections.shape), self.empty(projections.shape, np.float32))
        buffer[...] = projections
        return buffer

    def target(self, host: np.ndarray) -> There:
        return self.empty(host.shape, host.dtype)

    def fetch(self, target: There, host: np.ndarray) -> None:
        host[...] = target

    def transforms(self) -> Any:
        return fft.set_backend(Transforms, only=True)

    def each(self, task: Any, items: Any) -> None:
        with self.transforms():
            for item in items:
                task(item)


@pytest.fixture
def device(target: Target, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The emulation, or a card."""
    if isinstance(target, CupyTarget):
        return Gpu()
    assert isinstance(target, EmulatedTarget)
    for module in (backproject_cuda, gridding_cuda, packing_cuda, slices_cuda):
        monkeypatch.setattr(module, "default_launcher", lambda: target.launcher)
    return Emulated()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("rows", "columns", "center", "options"),
    [
        (2, 16, 7.5, ReconConfig()),
        (5, 17, 7.2, ReconConfig(circle=True, upsampling=1, width=4)),
        (35, 12, 6.0, ReconConfig(side=9, filter="hann", oversampling=1.5)),
        (70, 8, 3.5, ReconConfig()),
    ],
)
def test_the_text_is_the_same(
    method: str, rows: int, columns: int, center: float, options: ReconConfig, device: Any
) -> None:
    shape = Shape.of(Geometry(rows, columns), options, center)
    rng = np.random.default_rng(0)
    projections = rng.random((7, rows, columns), dtype=np.float32)
    theta, weight = np.arange(7) * 0.45, np.full(7, math.pi / 7)
    here, there = METHODS[method](shape, options), METHODS[method](shape, options, device)
    for accumulator in (here, there):
        accumulator.add(projections[:4], theta[:4], weight[:4])
        accumulator.add_constant(projections[5], theta, weight)
        accumulator.add(projections[4:], theta[4:], weight[4:])
        accumulator.add(-projections[:1], theta[:1], weight[:1])
    assert here.nbytes == there.nbytes
    for binning in (1, 2, 4):
        expected, got = snapshot(here, 2.0, binning), snapshot(there, 2.0, binning)
        assert type(got) is np.ndarray
        np.testing.assert_allclose(got, expected, atol=2e-5 * float(np.abs(expected).max()))
    there.reset()
    assert not snapshot(there).any()


def test_the_text_is_the_same_for_two_bands(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Short ones: what is emulated takes its time.
    for name, value in {"LOW": 16, "CUT": 6, "SHORTEST": 0}.items():
        monkeypatch.setattr(bands, name, value)
    shape = Shape.of(Geometry(3, 72), ReconConfig(), 35.5)
    rng = np.random.default_rng(0)
    projections = rng.random((5, 3, 72), dtype=np.float32)
    theta, weight = np.arange(5) * 0.6, np.full(5, math.pi / 5)
    here, there = FourierAccumulator(shape, ReconConfig()), FourierAccumulator(shape, ReconConfig(), device)
    assert len(here._grids) == len(there._grids) == 2
    for accumulator in (here, there):
        accumulator.add(projections, theta, weight)
    expected, got = snapshot(here), snapshot(there)
    np.testing.assert_allclose(got, expected, atol=2e-5 * float(np.abs(expected).max()))
