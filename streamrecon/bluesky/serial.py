"""Documents from bytes, in whichever way their publisher writes them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from typing import Any

import msgpack

from streamrecon.bluesky import pickles
from streamrecon.bluesky.arrays import array, plain_dtype, scalar
from streamrecon.bluesky.plain import VALUES_LIMIT, plain
from streamrecon.errors import MessageError

PICKLE_PROTOCOLS = range(2, 6)


def decode(payload: bytes, trust_pickle: bool = False) -> Any:
    """Read what a publisher wrote.

    Which way it was written is told from the first bytes: a pickle of protocol 2 to 5, JSON that is an object or an array, or
    else msgpack, also as msgpack-numpy writes it.

    Parameters
    ----------
    payload
        All of it, and nothing else; arrays that come out may share it, and are read-only then.
    trust_pickle
        Read pickles with `pickle.loads`, which *runs whatever the pickle says* and gives whatever it makes: only for publishers
        that are trusted as much as this program itself, and a network on which nobody else can speak.

    Returns
    -------
    Plain Python values, NumPy arrays and NumPy scalars.

    Raises
    ------
    MessageError
        If it is none of these; larger in memory, or deeper, than documents are; or has what documents do not have.
    """
    if payload[:1] == b"\x80" and len(payload) > 1 and payload[1] in PICKLE_PROTOCOLS:
        return _trusted(payload) if trust_pickle else pickles.load(payload)
    if payload[:1] in (b"{", b"["):
        return decode_json(payload)
    return decode_msgpack(payload)


def _trusted(payload: bytes) -> Any:
    try:
        return pickle.loads(payload)
    except Exception as error:
        raise MessageError(f"the pickle cannot be read: {type(error).__name__}: {ascii(str(error))[:200]}") from None


def decode_json(payload: bytes) -> Any:
    """Read JSON in UTF-8; NaN and infinities are numbers.

    Raises
    ------
    MessageError
        If it is not JSON, has a key twice in one object, or is too deep or too large.
    """
    if payload.count(b",") > VALUES_LIMIT:
        raise MessageError(f"{_start(payload)} has more than {VALUES_LIMIT} commas")
    try:
        value = json.loads(payload.decode(), object_pairs_hook=_distinct)
    except MessageError:
        raise
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{_start(payload)} is not JSON: {ascii(str(error))[:200]}") from None
    return plain(value, len(payload))


def _distinct(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    items = dict(pairs)
    if len(items) != len(pairs):
        raise MessageError("a document has a key twice")  # readers differ in which of the two they take
    return items


def decode_msgpack(payload: bytes) -> Any:
    """Read msgpack, with arrays, scalars and complex numbers as msgpack-numpy writes them.

    Raises
    ------
    MessageError
        If it is not msgpack, has arrays of objects or structures (which msgpack-numpy reads with `pickle`), has a key twice in
        one map, or is too deep or too large.
    """
    try:
        _check_complete(payload)
        value = _Msgpack().read(payload)
    except MessageError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        why = f"{type(error).__name__}: {ascii(str(error))[:200]}"
        raise MessageError(f"{_start(payload)} is not msgpack, JSON or a pickle: {why}") from None
    return plain(value, len(payload))


def _check_complete(payload: bytes) -> None:
    """Refuse lengths for which the bytes are not there, before room is made for them."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(payload) or 1)
    unpacker.feed(payload)
    unpacker.skip()
    if unpacker.tell() != len(payload):
        raise MessageError(f"{_start(payload)} goes on after its end")


class _Msgpack:
    """Reads one message, counting what it holds."""

    def __init__(self) -> None:
        self._left = VALUES_LIMIT

    def read(self, payload: bytes) -> Any:
        return msgpack.unpackb(
            payload,
            strict_map_key=False,
            timestamp=3,  # as datetime
            max_array_len=VALUES_LIMIT,
            max_map_len=VALUES_LIMIT,
            list_hook=self._list,
            object_pairs_hook=self._map,
            ext_hook=_extension,
        )

    def _count(self, items: Sequence[Any]) -> None:
        self._left -= 1 + len(items)
        if self._left < 0:
            raise MessageError(f"a document has more than {VALUES_LIMIT} values")

    def _list(self, items: list[Any]) -> list[Any]:
        self._count(items)
        return items

    def _map(self, pairs: list[tuple[Any, Any]]) -> Any:
        self._count(pairs)
        items = _distinct(pairs)
        # msgpack-numpy writes its keys as bytes; a publisher that reads and writes again has made texts of them.
        names = {key.decode(errors="replace") if isinstance(key, bytes) else key: value for key, value in items.items()}
        if names.get("nd") is True and {"type", "shape", "data"} <= set(names):
            return _numpy_array(names)
        if names.get("nd") is False and {"type", "data"} <= set(names):
            return scalar(_raw(names["data"]), plain_dtype(_text(names["type"])))
        if names.get("complex") is True and "data" in names:
            return _complex(_text(names["data"]))
        return items


def _numpy_array(names: dict[Any, Any]) -> Any:
    kind = _text(names.get("kind", ""))
    if kind in ("O", "V"):
        raise MessageError("an array is of Python objects or of a structure; expected one of numbers, texts or times")
    return array(_raw(names["data"]), plain_dtype(_text(names["type"])), names["shape"])


def _raw(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise MessageError(f"an array is of a {type(data).__name__}; expected bytes")
    return data


def _text(data: Any) -> Any:
    return data.decode() if isinstance(data, bytes) else data


def _complex(text: Any) -> complex:
    if not isinstance(text, str) or len(text) > 80:
        raise MessageError("a complex number is not written as one")
    return complex(text)


def _extension(code: int, data: bytes) -> Any:
    raise MessageError(f"a document has a msgpack extension of type {code}, which is not known")


def _start(payload: bytes) -> str:
    return f"a payload of {len(payload)} bytes that starts with {payload[:16]!r}"
