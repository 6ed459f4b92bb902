"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from streamrecon_kernels import limit_threads

from streamrecon.engine.warmup import compile_kernels
from streamrecon.recon.device import CPU


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """Scans are waited for as long as they take, and not for kernels that compile."""
    compile_kernels(CPU)


@pytest.fixture(autouse=True)
def _all_cores() -> Iterator[None]:
    """Ranks on one machine share its cores, and here they share the process with the tests that follow."""
    yield
    limit_threads(None)
