"""Whole accumulators as on a GPU: the same text, the CUDA sources for kernels, and arrays that NumPy's kernels never see."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import fake_cupy
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
from streamrecon.scan import Axis, Geometry

AXES: tuple[Axis, ...] = "z", "y", "x"
METHODS = {"direct": DirectAccumulator, "fourier": FourierAccumulator}


class There(np.ndarray):
    """An array that says it is a GPU's, in host memory."""

    @property
    def __cuda_array_interface__(self) -> dict[str, int]:
        return {"version": 3}

    def get(self, out: np.ndarray) -> None:
        out[...] = self

    def set(self, host: np.ndarray, stream: fake_cupy.Stream) -> None:
        self[...] = host


class Transforms:
    """A backend of `scipy.fft` that takes and gives such arrays, and nothing else."""

    __ua_domain__ = "numpy.scipy.fft"

    @staticmethod
    def __ua_function__(method: Any, arguments: Any, options: dict[str, Any]) -> Any:
        assert isinstance(arguments[0], There)
        with fft.skip_backend(Transforms):
            return method(np.asarray(arguments[0]), *arguments[1:], **options).view(There)


class Card(fake_cupy.Cupy):
    """As much of cupy as a `Gpu` takes, of which all is done as soon as it is called for."""

    def empty(self, shape: Any, dtype: Any) -> There:
        array = np.empty(shape, dtype)
        array.view(np.uint8).fill(0xFF)
        return array.view(There)

    def asarray(self, host: np.ndarray) -> There:
        return np.array(host, order="C").view(There)


@pytest.fixture
def device(target: Target, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Of the emulation, whose kernels are the CUDA sources, executed on the CPU, or of a card."""
    if isinstance(target, CupyTarget):
        return Gpu()
    assert isinstance(target, EmulatedTarget)
    for module in (backproject_cuda, gridding_cuda, packing_cuda, slices_cuda):
        monkeypatch.setattr(module, "default_launcher", lambda: target.launcher)
    card = Card(0)
    scipy = SimpleNamespace(fft=Transforms)
    modules = {"cupy": card, "cupyx": SimpleNamespace(scipy=scipy), "cupyx.scipy": scipy, "cupyx.scipy.fft": Transforms}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    gpu = Gpu(1)
    assert card.cuda.used == [1]
    return gpu


def test_arrays_go_there_and_come_back(device: Gpu) -> None:
    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    there = type(device.empty((1,), np.float32))
    for array, expected in (device.put(host), host), (device.upload(host.T), host.T):
        assert type(array) is there
        back = np.empty(expected.shape, np.float32)
        device.fetch(array, back)
        np.testing.assert_array_equal(back, expected)
    target = device.target(host)
    assert (type(target), target.shape, target.dtype) == (there, host.shape, host.dtype)
    with device.transforms():
        assert type(fft.fft(device.put(host))) is there
    seen: list[Any] = []
    device.each(lambda item: seen.append((item, type(fft.fft(device.put(host))))), range(3))
    assert seen == [(item, there) for item in range(3)]


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
    method: str, rows: int, columns: int, center: float, options: ReconConfig, device: Gpu
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
    for number, places in enumerate([(0, rows - 1), (0, shape.side // 2), (shape.side - 1,)]):
        expected = np.moveaxis(snapshot(here, 2.0).take(places, number), number, 0)
        got = np.full_like(expected, np.nan, order="C")
        there.cut(AXES[number], places, got, 2.0)
        np.testing.assert_allclose(got, expected, atol=2e-5 * float(np.abs(expected).max()))
    there.reset()
    assert not snapshot(there).any()


def test_the_text_is_the_same_for_two_bands(device: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
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
