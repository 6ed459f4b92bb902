"""The order in which projections are measured or replayed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import ConfigError

GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
"""The golden ratio less one: its multiples, modulo one, fill the unit interval evenly at every length."""

ORDERS = "recorded, sequential, reversed, interlaced:N, golden, random:SEED"


def projection_order(order: str, count: int) -> NDArray[np.intp]:
    """Which projection comes when.

    Parameters
    ----------
    order
        `recorded` or `sequential` (as they are), `reversed`, `interlaced:N` (every N-th projection in N passes, whose
        starts are chosen so that the angles are spread evenly after each), `golden` (spread evenly after each
        projection), or `random:SEED`. The even ones suppose that the projections are recorded by growing angle.
    count
        Projections.

    Returns
    -------
    (count,) a permutation of 0 to count - 1: the k-th to come is projection `result[k]`.

    Raises
    ------
    ConfigError
        If the order is not one of these, or N or SEED is missing or out of range.
    """
    name, colon, text = order.partition(":")
    match name, bool(colon):
        case (("recorded" | "sequential"), False):
            return np.arange(count)
        case "reversed", False:
            return np.arange(count)[::-1].copy()
        case "golden", False:
            return _ranks(golden_fractions(count))
        case "interlaced", True:
            passes = _number(order, text, 1, max(count, 1), f"a number of passes N from 1 to the {count} projections")
            starts = _ranks(_bit_reversed(passes))
            return np.concatenate([np.arange(start, count, passes) for start in starts])
        case "random", True:
            seed = _number(order, text, 0, (1 << 63) - 1, "a SEED, an integer of 0 or more")
            return np.random.default_rng(seed).permutation(count)
    raise ConfigError(f"order of the projections is {order!r}; expected one of: {ORDERS}")


def golden_fractions(count: int) -> NDArray[np.float64]:
    """(count,) the first multiples of the golden ratio, modulo 1."""
    return np.asarray(np.arange(count) * GOLDEN % 1.0, np.float64)


def _bit_reversed(count: int) -> NDArray[np.float64]:
    """(count,) 0, 1/2, 1/4, 3/4, 1/8, ...: the bits of the index mirrored at the binary point."""
    index = np.arange(count)
    result = np.zeros(count)
    for bit in range(count.bit_length()):
        result += (index >> bit & 1) / (2 << bit)
    return result


def _ranks(values: NDArray[np.float64]) -> NDArray[np.intp]:
    ranks = np.empty(len(values), np.intp)
    ranks[np.argsort(values)] = np.arange(len(values))
    return ranks


def _number(order: str, text: str, low: int, high: int, expected: str) -> int:
    if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
        raise ConfigError(f"order of the projections is {order!r}; expected {expected} after the colon")
    return int(text)
