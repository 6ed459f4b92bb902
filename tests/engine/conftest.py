"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from streamrecon_kernels import limit_threads


@pytest.fixture(autouse=True)
def _all_cores() -> Iterator[None]:
    """Ranks on one machine share its cores, and here they share the process with the tests that follow."""
    yield
    limit_threads(None)
