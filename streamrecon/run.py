"""The main job: replay a scan into an engine on this machine, over the wire."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamrecon.config import Config, ReconConfig
from streamrecon.engine import Engine, Result, make_plan
from streamrecon.engine.story import Listener
from streamrecon.errors import ConfigError, ScanAbortedError
from streamrecon.replayer import ReplayProcess
from streamrecon.sources import open_source


def run_scan(
    spec: str | Path,
    out: str | Path,
    config: Config | None = None,
    *,
    listener: Listener | None = None,
    watch: Callable[[Engine], None] = lambda engine: None,
    overwrite: bool = False,
) -> Result:
    """Stream a scan into an engine and reconstruct it while it arrives.

    The scan is read by a process of its own and travels over ZeroMQ, as it would from a detector.

    Parameters
    ----------
    spec
        `simulated`, or the path of a scan.
    out
        Output folder.
    config
        The options; None is all defaults.
    listener
        Called with each event, from any thread.
    watch
        Called about ten times a second with the engine.
    overwrite
        Replace another scan's volume in the output folder.

    Raises
    ------
    StreamreconError
        If the scan cannot be read, does not fit the machine, or the engine fails. A scan that breaks off, or is interrupted
        once by the user, is no error: its result is not final.
    """
    config = config or Config()
    # What cannot be read or does not fit is refused before anything is started.
    info = open_source(spec, config).info()
    make_plan(info, config.recon.rows or (0, info.geometry.rows), config, Path(out))
    with Engine(config, out, listener, overwrite) as engine:
        sender = ReplayProcess(spec, engine.endpoint, config)
        patience = 5.0
        try:
            result = None
            while result is None:
                try:
                    result = engine.wait(0.1)
                    watch(engine)
                    if result is None and sender.ended and sender.last_words():
                        engine.sender_lost(sender.last_words())
                except KeyboardInterrupt:
                    if engine.stopping:
                        raise
                    engine.stop("it was interrupted")
            return result
        except BaseException:
            patience = 0.0  # it would wait for an engine that is being stopped
            raise
        finally:
            sender.close(patience)


def reconstruct(
    spec: str | Path, *, out: str | Path | None = None, config: Config | None = None, **options: Any
) -> NDArray[np.float32]:
    """Reconstruct a scan and give its volume.

    Parameters
    ----------
    spec
        `simulated`, or the path of a scan.
    out
        Output folder; None uses one that is deleted afterwards.
    config
        All options; None is the defaults.
    options
        Options of the reconstruction by name, such as `center=295.9, filter="hann", method="fourier"`; see `ReconConfig`.

    Returns
    -------
    volume
        (slice, y, x) float32, 1/m where the pixel size is known, else per pixel.

    Raises
    ------
    ConfigError
        If there is no such option.
    ScanAbortedError
        If the scan broke off.
    StreamreconError
        As `run_scan` says.

    Examples
    --------
    >>> volume = reconstruct("scan.h5", center=295.9)  # doctest: +SKIP
    """
    config = config or Config()
    unknown = set(options) - {option.name for option in dataclasses.fields(ReconConfig)}
    if unknown:
        names = ", ".join(option.name for option in dataclasses.fields(ReconConfig))
        raise ConfigError(f"there is no option {sorted(unknown)[0]!r} of the reconstruction; expected one of: {names}")
    config = dataclasses.replace(config, recon=dataclasses.replace(config.recon, **options))
    if out is not None:
        return _volume(run_scan(spec, out, config))
    with tempfile.TemporaryDirectory(prefix="streamrecon-") as folder:
        return _volume(run_scan(spec, folder, config))


def _volume(result: Result) -> NDArray[np.float32]:
    if not result.final or result.volume is None:
        raise ScanAbortedError(f"the scan was not completed: {result.reason}")
    with h5py.File(result.volume, "r", locking=False) as file:
        volume: NDArray[np.float32] = file["entry/data/data"][:]
    return volume
