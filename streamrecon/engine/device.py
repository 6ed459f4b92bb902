"""Which device the accumulators of this process live on: chosen once, from the options and what is there."""

from __future__ import annotations

from functools import cache

from streamrecon.errors import ConfigError
from streamrecon.recon.device import CPU, Device, Gpu


@cache
def _gpu() -> tuple[bool, str]:
    """Whether cupy finds a CUDA device, and else why not."""
    try:
        import cupy
    except ImportError as error:
        return False, f"cupy cannot be imported ({error}): install streamrecon[cuda12] or streamrecon[cuda13]"
    try:
        if cupy.cuda.runtime.getDeviceCount():
            return True, ""
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return False, f"CUDA says: {error}"
    return False, "there is no CUDA device"


def uses_gpu(asked: str) -> bool:
    """Whether the option `engine.device` means a GPU here.

    Raises
    ------
    ConfigError
        If a GPU is asked for and there is none, saying why.
    """
    there, why = _gpu() if asked != "cpu" else (False, "")
    if asked == "gpu" and not there:
        raise ConfigError(f'engine.device is "gpu", but {why}; expected one that can be used, or "cpu"')
    return there


def gpus() -> int:
    """CUDA devices of this machine."""
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


def free_bytes() -> int:
    """Bytes that are free on the GPU."""
    import cupy

    return int(cupy.cuda.runtime.memGetInfo()[0])


def choose(asked: str, largest: int, index: int = 0) -> Device:
    """The device that `engine.device` means.

    Parameters
    ----------
    asked
        auto, cpu or gpu.
    largest
        Bytes of the largest batch of projections that it will be given.
    index
        Of this rank among those on this machine: each takes another GPU as long as there are some.

    Raises
    ------
    ConfigError
        If a GPU is asked for and there is none.
    """
    return Gpu(index % gpus(), largest) if uses_gpu(asked) else CPU
