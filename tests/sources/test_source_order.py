"""Orders of projections are permutations, and the even ones are even."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrecon.errors import ConfigError
from streamrecon.sources.order import projection_order


@settings(deadline=None)
@given(st.data(), st.integers(0, 300))
def test_every_order_is_a_permutation(data: st.DataObject, count: int) -> None:
    passes = data.draw(st.integers(1, max(count, 1)))
    seed = data.draw(st.integers(0, 2**40))
    for order in ("recorded", "sequential", "reversed", "golden", f"interlaced:{passes}", f"random:{seed}"):
        assert sorted(projection_order(order, count)) == list(range(count))


def test_simple_orders() -> None:
    assert projection_order("recorded", 4).tolist() == [0, 1, 2, 3]
    assert projection_order("reversed", 4).tolist() == [3, 2, 1, 0]
    assert projection_order("interlaced:1", 4).tolist() == [0, 1, 2, 3]
    assert projection_order("interlaced:4", 8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    assert (projection_order("random:3", 50) == projection_order("random:3", 50)).all()
    assert (projection_order("random:3", 50) != projection_order("random:4", 50)).any()


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(1, 8))
def test_interlaced_is_even_after_each_pass(passes: int, each: int) -> None:
    count = passes * each
    order = projection_order(f"interlaced:{passes}", count)
    for done in range(1, passes + 1):
        visited = np.sort(order[: done * each])
        gaps = np.diff(visited, append=visited[0] + count)
        assert gaps.max() <= 2 * -(-passes // done)


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500))
def test_golden_is_even_after_each_projection(count: int, done: int) -> None:
    done = min(done, count)
    visited = np.sort(projection_order("golden", count)[:done])
    gaps = np.diff(visited, append=visited[0] + count)
    assert gaps.max() <= 2.7 * count / done + 2


@pytest.mark.parametrize(
    "order",
    [
        *("", "Golden", "golden:3", "recorded:1", "random", "random:-1", "random:x"),
        *("interlaced", "interlaced:", "interlaced:0", "interlaced:11", "interlaced:2.5", "interlaced:²"),
    ],
)
def test_malformed_orders_are_refused(order: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        projection_order(order, 10)
