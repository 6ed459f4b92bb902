"""What the tests with processes share."""

from __future__ import annotations

import pytest

from streamrecon.engine.engine import _compile
from streamrecon.recon.device import CPU


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """The kernels are in the cache: processes are waited for as long as they take to start, and not to compile."""
    _compile(CPU)
