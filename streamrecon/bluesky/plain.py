"""What somebody sent, copied into plain values: bounded in depth and size, nothing shared, nothing that could surprise.

A few bytes of a message can name one list a million times, or nest a list deeper than Python recurses. Whoever prints,
hashes or writes such a value pays for it, so it is walked once here, with a budget.
"""

from __future__ import annotations

import datetime
import enum
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from streamrecon.errors import MessageError

log = logging.getLogger(__name__)

DEPTH_LIMIT = 64
"""Of containers in containers."""
INTEGER_LIMIT = 2048
"""Bits of a number; longer ones cannot be written as digits."""
VALUE_COST = 8
"""Bytes that a value costs besides its contents: a reference to it."""
VALUES_LIMIT = 2_000_000
"""Of values in a document: the numbers of an array count as one, those of a list each."""
BUDGET = 1 << 22
BUDGET_PER_BYTE = 16
"""A value may be that much larger than its message: texts and dicts that it holds more than once are legitimate."""
NAMES_LIMIT = 100
"""How many names of unknown types are remembered, so that each is told once."""

_TEMPORAL = (datetime.datetime, datetime.date, datetime.timedelta, datetime.timezone)
_told: set[str] = set()


class StandIn:
    """Something that stands for a value while a message is read."""

    __slots__ = ()

    def stand_in(self) -> Any:
        """What a document has in its place.

        Raises
        ------
        MessageError
            If it must not be in a document.
        """
        raise NotImplementedError


class Inert(StandIn):
    """What stands for a thing of an unknown type: its name, and the items that it holds if it is a container of its own.

    Parameters
    ----------
    name
        Of the type, or of what makes such things.
    """

    __slots__ = ("items", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: dict[Any, Any] | list[Any] | None = None

    def stand_in(self) -> Any:
        """The items, or the name."""
        return self.name if self.items is None else self.items


def tell_unknown(name: str) -> None:
    """Log the name of a type that is not understood, once."""
    if name not in _told and len(_told) < NAMES_LIMIT:
        _told.add(name)
        log.warning(
            "documents have values of the type %r, which is not understood; a text or a number stands for it",
            name[:200],
        )


def check_key(key: object) -> None:
    """Refuse a key of a dict, or an item of a set, that is not a text, bytes, or a number of 64 bits.

    Hashing tuples recurses as deep as they are nested, at no limit, and keys with equal hashes can be made of large numbers, of
    tuples and of complex numbers.

    Raises
    ------
    MessageError
        If it is another thing.
    """
    kind = type(key)
    if not (kind is str or kind is bytes or key is None or kind is bool or kind is float):
        if kind is int and -(1 << 63) <= key < 1 << 64:  # type: ignore[operator]
            return
        raise MessageError(f"a key is a {kind.__name__}; expected a text, bytes, or a number of at most 64 bits")


def plain(value: Any, nbytes: int, own_arrays: bool = False) -> Any:
    """A copy in which nothing is shared but arrays and what never changes.

    Parameters
    ----------
    value
        Of plain types, arrays, and `StandIn`. Of an enumeration the value is taken; for things of other types stands the name of
        their type.
    nbytes
        Length of the message that it came in, by which its size is bounded.
    own_arrays
        Copy the arrays as well.

    Raises
    ------
    MessageError
        If it is nested too deep (or holds itself), is too large, or has a text that cannot be written.
    """
    return _Copier(BUDGET + BUDGET_PER_BYTE * nbytes, own_arrays).copy(value, 0)


class _Copier:
    def __init__(self, budget: int, own_arrays: bool) -> None:
        self._left, self._values, self._own_arrays = budget, VALUES_LIMIT, own_arrays

    def _pay(self, cost: int) -> None:
        self._left -= VALUE_COST + cost
        self._values -= 1
        if self._values < 0:
            raise MessageError(f"a document has more than {VALUES_LIMIT} values")
        if self._left < 0:
            raise MessageError("a document is much larger than its message, as it holds the same things over and over")

    def copy(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is float or value is None or kind is bool:
            self._pay(0)
            return value
        if kind is str:
            self._pay(len(value))
            if not value.isascii():
                check_text(value)
            return value
        if kind is int:
            self._pay(0)
            if value.bit_length() > INTEGER_LIMIT:
                raise MessageError(f"a number has {value.bit_length()} bits; at most {INTEGER_LIMIT} are allowed")
            return value
        if depth >= DEPTH_LIMIT:
            raise MessageError(f"a document is nested deeper than {DEPTH_LIMIT} levels")
        if kind is dict:
            self._pay(0)
            return {self._key(key): self.copy(item, depth + 1) for key, item in value.items()}
        if kind is list:
            self._pay(0)
            return [self.copy(item, depth + 1) for item in value]
        if kind is tuple:
            self._pay(0)
            return tuple([self.copy(item, depth + 1) for item in value])
        return self._rare(value, depth)

    def _key(self, key: Any) -> Any:
        if isinstance(key, str):
            key = str.__str__(key)  # an enumeration of texts is one
        check_key(key)
        return self.copy(key, 0)

    def _rare(self, value: Any, depth: int) -> Any:
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, np.generic) and value.dtype.kind in "biufcSUmM":
            self._pay(value.nbytes)
            return value
        if isinstance(value, bytes | bytearray):
            self._pay(len(value))
            return bytes(value)
        if isinstance(value, set | frozenset):
            self._pay(0)
            return type(value)([self._key(item) for item in value])
        if isinstance(value, complex) or type(value) in _TEMPORAL:
            self._pay(0)
            return value
        if isinstance(value, StandIn):
            self._pay(0)
            return self.copy(value.stand_in(), depth + 1)
        return self._foreign(value, depth)

    def _array(self, value: Any) -> Any:
        self._pay(value.nbytes)
        if value.dtype.kind not in "biufcSUmM":
            tell_unknown(f"numpy.ndarray of {value.dtype}")
            return f"numpy.ndarray of {value.dtype}"
        return np.array(value, subok=False) if self._own_arrays else value

    def _foreign(self, value: Any, depth: int) -> Any:
        """Of types that only a process of our own can hand over."""
        if isinstance(value, enum.Enum):
            return self.copy(value.value, depth + 1)
        for plain_type, make in ((str, str.__str__), (int, int), (float, float)):
            if isinstance(value, plain_type):
                return self.copy(make(value), depth + 1)
        if isinstance(value, Mapping):
            return self.copy(dict(value), depth + 1)
        if isinstance(value, list | tuple):
            return self.copy(list(value), depth + 1)
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        tell_unknown(name)
        return name


def check_text(text: str) -> None:
    """Refuse a text that no file, terminal or message takes.

    Raises
    ------
    MessageError
        If it has surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MessageError("a text has halves of characters (surrogates), which cannot be written") from None
