"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Machines are shared: no test is about how long an example takes.
settings.register_profile("streamrecon", deadline=None)
settings.load_profile("streamrecon")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real scans; skips where there is none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STREAMRECON_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder}: set STREAMRECON_DATA to their folder")
    return folder
