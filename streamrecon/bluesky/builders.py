"""Values that a pickle may call for: each name that documents need, and what is made of it here.

NumPy's own constructors are never called with what a pickle says: a forged dtype, shape or state ends in a crash.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamrecon.bluesky.arrays import array, plain_dtype, scalar, shown, timed
from streamrecon.bluesky.plain import StandIn, check_key, check_text
from streamrecon.errors import MessageError

SET_STEPS = 4
"""A set is counted as so many operations, as it takes so much more memory than a list."""
COPIED_PER_STEP = 64
"""Bytes copied that are counted as one operation."""
READ_PER_STEP = 1024
"""Bytes looked at that are counted as one operation."""

T = TypeVar("T")
Count = Callable[[int], None]
"""Accounts for operations; raises if they are too many."""


class Builder(StandIn):
    """Stands for a name that is known; made into a value when the pickle calls it."""

    __slots__ = ("build", "name")

    def __init__(self, name: str, build: Callable[..., Any]) -> None:
        self.name, self.build = name, build

    def stand_in(self) -> str:
        """Its name, where a document names it and does not call it."""
        return self.name


class PendingDtype(StandIn):
    """A dtype whose byte order and unit of time come later."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    def stand_in(self) -> str:
        """Its description."""
        return self.dtype.str


class Blank(StandIn):
    """An array whose contents come later."""

    __slots__ = ("places",)

    def __init__(self) -> None:
        self.places: list[int] = []
        """In the memo, to be replaced by the array."""

    def stand_in(self) -> Any:
        """Refuse it."""
        raise MessageError("an array in the pickle has no contents")


def _make_bytes(count: Count, data: object = b"") -> bytes:
    return _checked(data, bytes)


def _make_bytearray(count: Count, data: object = b"") -> bytearray:
    contents = _checked(data, bytes)
    count(len(contents) // COPIED_PER_STEP)
    return bytearray(contents)


def _make_encoded(count: Count, text: object, encoding: object) -> bytes:
    """Bytes, as protocol 2 writes them."""
    contents = _checked(text, str)
    count(len(contents) // COPIED_PER_STEP)
    if _checked(encoding, str) != "latin1":
        raise MessageError(f"the pickle encodes a text as {shown(encoding)}; expected latin1")
    return contents.encode("latin1")


def make_set(count: Count, items: object = ()) -> set[Any]:
    """A set, of what may be in one."""
    if not isinstance(items, list | tuple):
        raise MessageError(f"the pickle makes a set of a {type(items).__name__}")
    count(SET_STEPS + len(items))
    for item in items:
        check_key(item)
    return set(items)


def make_frozenset(count: Count, items: object = ()) -> frozenset[Any]:
    """A set that does not change."""
    return frozenset(make_set(count, items))


def _make_dict(count: Count) -> dict[Any, Any]:
    return {}


def _make_complex(count: Count, real: object, imaginary: object) -> complex:
    return complex(_checked(real, float), _checked(imaginary, float))


def _make_datetime(count: Count, state: object, zone: object = None) -> datetime.datetime:
    # Python's own unpickling does not check these fields.
    year, month, day, hour, minute, second, high, low = struct.unpack(">HBBBBBBH", _checked(state, bytes))
    zone = None if zone is None else _checked(zone, datetime.timezone)
    microsecond, fold = (high << 16) + low, month >> 7
    return datetime.datetime(year, month & 0x7F, day, hour, minute, second, microsecond, tzinfo=zone, fold=fold)


def _make_date(count: Count, state: object) -> datetime.date:
    return datetime.date(*struct.unpack(">HBB", _checked(state, bytes)))


def _make_timedelta(count: Count, days: object, seconds: object, microseconds: object) -> datetime.timedelta:
    return datetime.timedelta(_checked(days, int), _checked(seconds, int), _checked(microseconds, int))


def _make_timezone(count: Count, offset: object, name: object = None) -> datetime.timezone:
    if name is None:
        return datetime.timezone(_checked(offset, datetime.timedelta))
    text = _checked(name, str)
    check_text(text)
    return datetime.timezone(_checked(offset, datetime.timedelta), text)


def _make_dtype(count: Count, text: object, align: object = False, copy: object = True) -> PendingDtype:
    return PendingDtype(plain_dtype(text))


def with_state(dtype: np.dtype[Any], state: object) -> np.dtype[Any]:
    """The dtype in its byte order and with its unit of time, from what NumPy writes as its state.

    Raises
    ------
    MessageError
        If the state is of a structure, or of another dtype. A malformed one raises what it happens to raise.
    """
    _, order, *structure, itemsize, _, _ = _checked(state, tuple)[:8]
    if _checked(order, str) not in ("<", ">", "|", "=") or len(structure) != 3 or structure != [None] * 3:
        raise MessageError("a dtype in the pickle is of a structure; expected a plain one")
    if _checked(itemsize, int) not in (-1, dtype.itemsize):
        raise MessageError(f"a dtype {dtype} in the pickle has items of {itemsize} bytes")
    dtype = dtype.newbyteorder(order)
    if dtype.kind in "mM":
        unit, steps, divisor, _ = _checked(_checked(state, tuple)[8][1], tuple)
        if _checked(divisor, int) != 1:
            raise MessageError("a dtype in the pickle has a divided unit of time")
        return timed(dtype, _checked(unit, bytes).decode(), steps)
    return dtype


def _make_blank(count: Count, kind: object, shape: object, code: object) -> Blank:
    if kind is not NDARRAY:
        raise MessageError("the pickle makes an array of another type than numpy.ndarray")
    return Blank()


def fill(count: Count, state: object) -> NDArray[Any]:
    """The array of which NumPy writes this state.

    Raises
    ------
    MessageError
        If the state is not of an array of a plain dtype with as many bytes. A malformed one raises what it happens to raise.
    """
    _, shape, dtype, fortran, data = _checked(state, tuple)
    return _array(count, data, dtype, shape, "F" if fortran is True else "C")


def _make_array(
    count: Count, data: object, dtype: object, shape: object, order: object, axes: object = None
) -> NDArray[Any]:
    """An array from its buffer, as protocol 5 writes it."""
    if _checked(order, str) != "K":
        return _array(count, data, dtype, shape, _checked(order, str))
    places = [_checked(axis, int) for axis in _checked(axes, tuple)]
    return _array(count, data, dtype, shape, "C").transpose(places)


def _make_scalar(count: Count, dtype: object, data: object) -> np.generic:
    contents = _buffer(data)
    count(len(contents) // READ_PER_STEP)
    return scalar(contents, _checked(dtype, PendingDtype).dtype)


def _make_nothing(count: Count, *arguments: object) -> NoReturn:
    raise MessageError("the pickle makes an array by its type alone")


def _array(count: Count, data: object, dtype: object, shape: object, order: str) -> NDArray[Any]:
    contents = _buffer(data)
    count(len(contents) // READ_PER_STEP)
    return array(contents, _checked(dtype, PendingDtype).dtype, shape, order)


def _buffer(data: object) -> bytes | bytearray:
    if isinstance(data, bytes | bytearray):
        return data
    raise MessageError(f"an array in the pickle is of a {type(data).__name__}; expected bytes")


def _checked(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise MessageError(f"the pickle has a {type(value).__name__} where a {kind.__name__} is due")
    return value


NDARRAY = Builder("numpy.ndarray", _make_nothing)

_BUILTIN: dict[str, Callable[..., Any]] = {
    "set": make_set,
    "frozenset": make_frozenset,
    "complex": _make_complex,
    "bytes": _make_bytes,
    "bytearray": _make_bytearray,
}
_MULTIARRAY: dict[str, Callable[..., Any]] = {"_reconstruct": _make_blank, "scalar": _make_scalar}
_NUMERIC: dict[str, Callable[..., Any]] = {"_frombuffer": _make_array}
_MODULES: dict[str, dict[str, Callable[..., Any]]] = {
    "numpy": {"dtype": _make_dtype},
    # NumPy 1 and 2 write different names, and read each other's.
    "numpy.core.multiarray": _MULTIARRAY,
    "numpy._core.multiarray": _MULTIARRAY,
    "numpy.core.numeric": _NUMERIC,
    "numpy._core.numeric": _NUMERIC,
    "_codecs": {"encode": _make_encoded},
    "collections": {"OrderedDict": _make_dict},
    "datetime": {
        "datetime": _make_datetime,
        "date": _make_date,
        "timedelta": _make_timedelta,
        "timezone": _make_timezone,
    },
    # Protocol 2 writes Python 2's name of the module, and empty bytes as a call.
    "builtins": _BUILTIN,
    "__builtin__": _BUILTIN,
}

BUILDERS: dict[tuple[str, str], Builder] = {("numpy", "ndarray"): NDARRAY} | {
    (module, name): Builder(f"{module}.{name}", make)
    for module, makers in _MODULES.items()
    for name, make in makers.items()
}
"""Every name that a pickle may call, by module and name."""
