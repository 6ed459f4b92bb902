"""NumPy arrays and scalars from bytes that somebody sent: only of plain kinds, and only of as many bytes as are there.

NumPy's own unpickling trusts what it is told; a forged dtype or shape ends in memory that is not the array's.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import MessageError

DIMENSIONS_LIMIT = 32
SPAN_LIMIT = 1 << 24
"""Most elements that the shape of an empty array may span without its zeros: (10^9, 0) is no bytes but 10^9 empty lists."""
ITEMSIZE_LIMIT = 1 << 20
"""Bytes of one text."""
UNITS = frozenset(("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "generic"))

NUMBER = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c(?:8|16))")
"""Long doubles are left out: not every pattern of their bits is a number, and each platform has its own."""
TEXT = re.compile(r"[<>|=]?([SU])(\d{1,7})")
TIME = re.compile(r"[<>|=]?[mM]8(?:\[(\d{0,9})([A-Za-z]{1,7})\])?")


def plain_dtype(text: object) -> np.dtype[Any]:
    """The dtype of a description such as `<f8`, `U12`, `M8[ns]`.

    Parameters
    ----------
    text
        As a message has it; of the kinds bool, integer, float, complex, text and time.

    Raises
    ------
    MessageError
        If it is another kind (an object, a structure), or not a description.
    """
    if isinstance(text, str) and len(text) <= 32:
        if NUMBER.fullmatch(text):
            return np.dtype(text)
        if (match := TEXT.fullmatch(text)) and int(match[2]) * (4 if match[1] == "U" else 1) <= ITEMSIZE_LIMIT:
            return np.dtype(text)
        if match := TIME.fullmatch(text):
            return timed(np.dtype(text[: text.index("8") + 1]), match[2] or "generic", int(match[1] or 1))
    raise MessageError(f"an array is of dtype {shown(text)}; expected bool, integer, float, complex, text or time")


def timed(dtype: np.dtype[Any], unit: object, count: object = 1) -> np.dtype[Any]:
    """A dtype of time with its unit.

    Parameters
    ----------
    dtype
        `m8` or `M8`, in its byte order.
    unit
        Name of the unit, `generic` for none.
    count
        How many of them are one step.

    Raises
    ------
    MessageError
        If there is no such unit, or the dtype is not one of time.
    """
    known = isinstance(unit, str) and unit in UNITS and type(count) is int and 1 <= count < 1 << 31
    if dtype.kind not in "mM" or not known:
        raise MessageError(f"an array of {dtype} has the unit of time {shown(count)} {shown(unit)}")
    return dtype if unit == "generic" else np.dtype(f"{dtype.byteorder}{dtype.kind}8[{count}{unit}]")


def array(data: bytes | bytearray, dtype: np.dtype[Any], shape: object, order: str = "C") -> NDArray[Any]:
    """An array of exactly these bytes, which it shares.

    Parameters
    ----------
    data
        All elements; the array of `bytes` is read-only.
    dtype
        From `plain_dtype`.
    shape
        As a message has it: a sequence of lengths.
    order
        `C` or `F`.

    Raises
    ------
    MessageError
        If the shape is none, or its size is not that of the bytes; or if the bytes are no values of the dtype.
    """
    if not isinstance(shape, list | tuple) or len(shape) > DIMENSIONS_LIMIT or order not in ("C", "F"):
        raise MessageError(f"an array has a {type(shape).__name__} for its shape, or no order")
    if any(type(length) is not int or not 0 <= length < 1 << 62 for length in shape):
        raise MessageError("an array has a shape that is not of lengths")
    span = math.prod(length for length in shape if length)
    size = span if 0 not in shape else 0
    if not size and span > SPAN_LIMIT:
        raise MessageError(f"an empty array spans {span} elements; at most {SPAN_LIMIT} are allowed")
    if size * dtype.itemsize != len(data) or (size and not dtype.itemsize):
        raise MessageError(f"an array of {tuple(shape)} and {dtype} has {len(data)} bytes")
    _check_values(data, dtype)
    flat = np.frombuffer(data, dtype) if len(data) else np.empty(0, dtype)
    return flat.reshape(tuple(shape), order="F" if order == "F" else "C")


def scalar(data: bytes | bytearray, dtype: np.dtype[Any]) -> np.generic:
    """A NumPy scalar of exactly these bytes.

    Raises
    ------
    MessageError
        If they are too few, too many, or no value of the dtype.
    """
    if dtype.itemsize != len(data):
        raise MessageError(f"a scalar of {dtype} has {len(data)} bytes")
    if not data:
        made: np.generic = dtype.type()
        return made
    _check_values(data, dtype)
    first: np.generic = np.frombuffer(data, dtype)[0]
    return first


def _check_values(data: bytes | bytearray, dtype: np.dtype[Any]) -> None:
    """Refuse what no array of the dtype holds, and what reading it later would stumble over."""
    if not len(data):
        return
    if dtype.kind == "b" and np.frombuffer(data, "u1").max() > 1:
        raise MessageError("an array of bool has bytes other than 0 and 1")
    if dtype.kind == "U":
        points = np.frombuffer(data, dtype.byteorder + "u4")
        if points.max() > 0x10FFFF or bool(((points >= 0xD800) & (points < 0xE000)).any()):
            raise MessageError("an array of text has code points that are no characters")


def shown(value: object) -> str:
    """A value for a message of ours: a container only by its type, as it may hold itself, or one thing a million times."""
    return repr(value)[:80] if isinstance(value, str | int | float) else f"a {type(value).__name__}"
