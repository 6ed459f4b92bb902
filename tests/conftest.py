"""Fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Machines are shared: no test is about how long an example takes.
settings.register_profile("streamrecon", deadline=None)
settings.load_profile("streamrecon")

# What a shell starts in the background ignores Ctrl-C, and so would all processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real scans; skips where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STREAMRECON_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder}: set STREAMRECON_DATA to their folder")
    return folder
