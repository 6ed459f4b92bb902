"""What documents take in memory, about: whoever lets them wait bounds that."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

NUMBER = 32
"""Bytes of a number in a list: such an image takes much more than an array."""
_NUMBERS = frozenset((int, float, bool, type(None)))


def size_of(value: Any) -> int:
    """Bytes of a document, or of a value in one, with all that it holds."""
    total, left = 0, [value]
    while left:
        item = left.pop()
        if isinstance(item, np.ndarray):
            total += 128 + item.nbytes
        elif isinstance(item, dict):
            total += sys.getsizeof(item)
            left.extend(item)
            left.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            total += sys.getsizeof(item)
            if set(map(type, item)) <= _NUMBERS:  # many times faster for an image in lists
                total += NUMBER * len(item)
            else:
                left.extend(item)
        else:
            total += sys.getsizeof(item, NUMBER)
    return total
