"""Where the CUDA kernels run: on the emulation everywhere, and on a card where there is one."""

from __future__ import annotations

import pytest
from cuda_emulator import EmulatingLauncher, kernels
from cuda_target import CupyTarget, EmulatedTarget, Target


@pytest.fixture(scope="session", params=["emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def target(request: pytest.FixtureRequest) -> Target:
    """What runs the kernels."""
    if request.param == "emulated":
        return EmulatedTarget(EmulatingLauncher(request.config.cache.mkdir("emulated-kernels")))
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"there is no CUDA device: {error}")
    return CupyTarget(cupy)


@pytest.fixture(scope="session")
def emulated(request: pytest.FixtureRequest) -> EmulatedTarget:
    """The emulation alone, with its own record of what was launched."""
    assert kernels(), "no kernel was found in any .cu file"
    return EmulatedTarget(EmulatingLauncher(request.config.cache.mkdir("emulated-kernels")))
