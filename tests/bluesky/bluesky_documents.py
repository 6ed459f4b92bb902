"""Documents for the tests: what may be in one, arbitrary ones, and when two are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ophyd_async.core import StrictEnum

Run = Callable[..., list[tuple[str, dict[str, Any]]]]
"""Makes a run with these callbacks, and gives what they were called with."""


class Mode(StrictEnum):
    """Of a detector."""

    SINGLE = "single"
    FLY = "fly"


ARRAYS: dict[str, Any] = {
    "bool": np.array([True, False]),
    "int8": np.arange(-3, 3, dtype="i1"),
    "uint16": np.arange(6, dtype="u2").reshape(2, 3),
    "int64": np.arange(5),
    "uint64": np.array([2**64 - 1], "u8"),
    "float16": np.array([1.5, -2], "f2"),
    "float32": np.array([1.5, np.nan, np.inf], "f4"),
    "float64": np.linspace(0, 1, 24).reshape(2, 3, 4),
    "complex64": np.array([1 + 2j], "c8"),
    "complex128": np.array([1 + 2j, 3]),
    "text": np.array(["sample", "é", ""]),
    "bytes": np.array([b"ab", b"c"]),
    "big endian": np.arange(4, dtype=">i4"),
    "big endian text": np.array(["ab"], ">U2"),
    "zero dimensions": np.array(5.0),
    "empty": np.empty((0, 3)),
    "Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(10)[::2],
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
}
TIMES: dict[str, Any] = {
    "datetime64": np.array(["2024-05-01T12:00:00.5", "NaT"], "M8[ms]"),
    "datetime64 of 25 s": np.array([1], "M8[25s]"),
    "timedelta64": np.array([1, 2], "m8[D]"),
    "timedelta64 without a unit": np.array([3], "m8"),
    "big endian datetime64": np.array(["2024-05-01"], ">M8[D]"),
}
SCALARS: dict[str, Any] = {
    "np.bool": np.bool_(True),
    "np.int8": np.int8(-1),
    "np.int64": np.int64(7),
    "np.uint16": np.uint16(65535),
    "np.float16": np.float16(1.5),
    "np.float32": np.float32(0.1),
    "np.float64": np.float64(0.1),
    "np.complex64": np.complex64(1j),
}
PICKLED_SCALARS: dict[str, Any] = {
    "np.datetime64": np.datetime64("2024-05-01", "ns"),
    "np.timedelta64": np.timedelta64(5, "s"),
    "np.str": np.str_("text"),
    "empty np.str": np.str_(""),
    "np.bytes": np.bytes_(b"ab"),
}


def same(ours: Any, theirs: Any) -> bool:
    """Whether two values are equal, of one type, and their arrays of one dtype, shape, and pattern of bytes."""
    if isinstance(theirs, np.ndarray | np.generic):
        return (
            type(ours) is type(theirs)
            and ours.dtype == theirs.dtype
            and ours.shape == theirs.shape
            and ours.tobytes() == theirs.tobytes()
        )
    if type(ours) is not type(theirs):
        return False
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs) or (ours != ours and theirs != theirs)


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(), TEXT)
PLAIN_ARRAYS = hnp.arrays(
    st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(endianness="?"),
        hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
        hnp.complex_number_dtypes(endianness="?", sizes=(64, 128)),
    ),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


def documents(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Dicts with text for keys, of lists and dicts, of leaves."""
    items = st.recursive(
        leaves, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4))
    )
    return st.dictionaries(TEXT, items, max_size=5)
