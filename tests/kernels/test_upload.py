"""Uploads beside kernels: every kernel sees its own array, on a device that keeps no order but what it is told."""

from __future__ import annotations

from typing import Any

import fake_cupy
import numpy as np
import pytest
from streamrecon_kernels.upload import Uploader


def stream_arrays(cupy: Any, uploads: int, readers: int = 1) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Upload arrays of many shapes, and read each by kernels; return what was sent and what the kernels saw."""
    uploader = Uploader(400, cupy)
    rng = np.random.default_rng(uploads)
    sent, seen = [], [[] for _ in range(uploads)]
    for number in range(uploads):
        dtype = [np.uint16, np.float32, np.uint8][number % 3]
        host = rng.integers(0, 200, (3, 5, int(rng.integers(1, 8)))).astype(dtype)[:, ::2]
        sent.append(host.copy())
        device = uploader.upload(host)
        host[:] = 77  # the caller's ring moves on
        for _ in range(readers):
            cupy.cuda.launch(lambda device=device, number=number: seen[number].append(device.values.copy()))
    cupy.cuda.run()
    return sent, seen


def right(cupy: Any) -> bool:
    """Whether all of the kernels saw what was sent."""
    sent, seen = stream_arrays(cupy, 9, 2)
    return all(
        len(of) == 2 and all(one.dtype == host.dtype and np.array_equal(one, host) for one in of)
        for host, of in zip(sent, seen, strict=True)
    )


@pytest.mark.parametrize("seed", range(40))
def test_every_kernel_sees_its_own_array(seed: int) -> None:
    assert right(fake_cupy.Cupy(seed))


@pytest.mark.parametrize("broken", ["synchronize", "copy waits", "consumer waits"])
def test_a_missing_wait_would_be_noticed(broken: str) -> None:
    assert not all(right(fake_cupy.Cupy(seed, broken)) for seed in range(40))


def test_a_copy_runs_beside_the_kernels_of_the_array_before() -> None:
    cupy = fake_cupy.Cupy(0)
    uploader = Uploader(8, cupy)
    for value in (1, 2):
        uploader.upload(np.full(8, value, np.uint8))
        cupy.cuda.current.queue.append(lambda: False)  # a kernel that goes on and on
    for stream in 5 * cupy.cuda.streams:
        while stream.queue and stream.queue[0]():
            stream.queue.popleft()
    assert not uploader._stream.queue, "the second copy waits for the kernel"


def test_an_array_may_be_empty() -> None:
    cupy = fake_cupy.Cupy(0)
    assert Uploader(8, cupy).upload(np.zeros((0, 3), np.float32)).values.shape == (0, 3)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most the 8"):
        Uploader(8, fake_cupy.Cupy(0)).upload(np.zeros(9, np.uint8))
    with pytest.raises(ValueError, match="nbytes is 0"):
        Uploader(0, fake_cupy.Cupy(0))


@pytest.mark.gpu
def test_on_a_card() -> None:
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    rng = np.random.default_rng(0)
    uploader, sums = Uploader(2**20, cupy), []
    arrays = [rng.integers(0, 1000, 2**17).astype(np.float64) for _ in range(20)]
    for array in arrays:
        sums.append(uploader.upload(array).sum())
    np.testing.assert_array_equal([float(one) for one in sums], [array.sum() for array in arrays])
