"""A RunEngine, and the documents of a run with what devices of ophyd and ophyd-async put in them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bluesky.plans
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky_documents import Mode, Run
from ophyd.sim import SynAxis, SynGauss
from ophyd_async.core import (
    Array1D,
    StaticFilenameProvider,
    StaticPathProvider,
    init_devices,
    soft_signal_r_and_setter,
)
from ophyd_async.sim import PatternGenerator, SimBlobDetector


@pytest.fixture(scope="session")
def engine() -> RunEngine:
    """One for all tests: its event loop lives in a thread that stays."""
    return RunEngine({})


@pytest.fixture
def run(engine: RunEngine, tmp_path: Path) -> Iterator[Run]:
    """Make a run with these callbacks; what they were called with."""
    paths = StaticPathProvider(StaticFilenameProvider("frames"), tmp_path)
    tokens: list[int] = []

    def run(*callbacks: Callable[[str, dict[str, Any]], Any]) -> list[tuple[str, dict[str, Any]]]:
        motor = SynAxis(name="rotation")
        counter = SynGauss("counter", motor, "rotation", center=0, Imax=1)
        mode, _ = soft_signal_r_and_setter(Mode, Mode.FLY, name="mode")
        spectrum, _ = soft_signal_r_and_setter(Array1D[np.float64], np.arange(3.0), name="spectrum")
        with_detector = []
        pattern = PatternGenerator()

        async def make() -> None:
            async with init_devices():
                detector = SimBlobDetector(paths, pattern, name="frames")
            with_detector.append(detector)

        asyncio.run_coroutine_threadsafe(make(), engine.loop).result(30)
        documents: list[tuple[str, dict[str, Any]]] = []
        tokens.append(engine.subscribe(lambda name, doc: documents.append((name, copy.deepcopy(doc)))))
        tokens.extend(map(engine.subscribe, callbacks))
        md = {"mode": Mode.SINGLE, "angles": np.linspace(0, 180, 3), "sample": "é", "nested": {"a": (1, [2.5, None])}}
        engine(bluesky.plans.scan([counter, mode, spectrum, *with_detector], motor, 0, 180, 3, md=md))
        return documents

    yield run
    for token in tokens:
        engine.unsubscribe(token)
