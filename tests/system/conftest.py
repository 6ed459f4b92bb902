"""What the tests with processes share."""

from __future__ import annotations

import pytest

from streamrecon.engine.warmup import compile_kernels
from streamrecon.recon.device import CPU


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """The kernels are in the cache: processes are waited for as long as they take to start, and not to compile."""
    compile_kernels(CPU)
