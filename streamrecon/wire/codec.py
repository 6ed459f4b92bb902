"""Messages to multiparts and back: `magic | version | type`, a msgpack header, and for some a raw payload.

Everything a peer sent is checked here before it is used: number and size of parts, magic, version, type, the header's
fields, their types, their ranges.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, get_args, get_origin

import msgpack

from streamrecon.errors import MessageError
from streamrecon.wire.messages import MESSAGES, VERSION, Message

MAGIC = b"SRC"
TEXT_LIMIT = 1024
"""Bytes of any text in a header."""
PARTS_LIMIT = 3

Buffer = bytes | bytearray | memoryview

Read: typing.TypeAlias = Callable[[Any], Any]
"""Checks a value of a header, and gives it as the message has it."""


class _UnfitError(Exception):
    """A value is none of its field."""

    def __init__(self, value: Any, hint: Any) -> None:
        self.value, self.hint = value, hint


def encode(message: Message) -> list[bytes]:
    """The first two parts of a message; a payload is the caller's third.

    Raises
    ------
    MessageError
        If a field cannot be written, or the header would be larger than the message allows.
    """
    fields = _plain(message)
    for name, value in fields.items():
        if isinstance(value, str) and len(value.encode("utf-8", "replace")) > TEXT_LIMIT:
            raise MessageError(f"{message.name()}.{name} has more than {TEXT_LIMIT} bytes: {value[:80]!r}...")
    try:
        header = msgpack.packb(fields, default=_plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"{message.name()} cannot be written as msgpack: {error}") from error
    _check_header(message, len(header))
    return [MAGIC + bytes([VERSION, message.TYPE]), header]


def decode(parts: Sequence[Buffer]) -> tuple[Message, Buffer | None]:
    """Check and read a multipart.

    Parameters
    ----------
    parts
        As received, without the routing id.

    Returns
    -------
    message, payload
        The payload is None for a message that has none; its meaning and size are checked by the session.

    Raises
    ------
    MessageError
        Saying what was got and expected.
    """
    if not 2 <= len(parts) <= PARTS_LIMIT:
        raise MessageError(f"got a message of {len(parts)} parts; expected 2 or 3")
    prefix = bytes(parts[0][:8])
    if len(parts[0]) != len(MAGIC) + 2 or not prefix.startswith(MAGIC):
        raise MessageError(f"got a message that starts with {prefix!r}; expected {MAGIC!r}, a version and a type")
    version, code = prefix[len(MAGIC) :]
    if version != VERSION:
        raise MessageError(f"got a message of protocol version {version}; this side speaks version {VERSION}")
    cls = MESSAGES.get(code)
    if cls is None:
        raise MessageError(f"got a message of unknown type {code}")
    if (len(parts) == 3) != cls.PAYLOAD:
        raise MessageError(f"got {cls.name()} in {len(parts)} parts; expected {3 if cls.PAYLOAD else 2}")
    _check_header(cls, len(parts[1]))
    try:
        header = msgpack.unpackb(
            bytes(parts[1]), use_list=False, strict_map_key=True, max_str_len=TEXT_LIMIT, max_bin_len=0, max_ext_len=0
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise MessageError(f"the header of {cls.name()} is not msgpack within the limits: {error}") from None
    return _build(cls, header), (parts[2] if cls.PAYLOAD else None)


def _check_header(message: Message | type[Message], nbytes: int) -> None:
    if nbytes > message.HEADER_LIMIT:
        limit = message.HEADER_LIMIT
        raise MessageError(f"the header of {message.name()} has {nbytes} bytes; at most {limit} are allowed")


def clip(text: str, limit: int = TEXT_LIMIT) -> str:
    """Text as it may stand in a message: at most `limit` bytes of UTF-8, no lone surrogates."""
    return text.encode("utf-8", "backslashreplace")[:limit].decode("utf-8", "ignore")


def _plain(message: Any) -> dict[str, Any]:
    if not isinstance(message, Message):
        raise TypeError(f"a {type(message).__name__} is no field of a message")
    return {name: getattr(message, name) for name in _readers(typing.cast("Any", type(message)))}


@cache
def _readers(cls: typing.Any) -> dict[str, Read]:
    """Of each field of a message, made once: a header is read for each frame."""
    hints = typing.get_type_hints(cls)
    return {field.name: _reader(hints[field.name]) for field in dataclasses.fields(cls)}


def _build(cls: type[Message], header: Any) -> Message:
    readers = _readers(typing.cast("Any", cls))
    if not isinstance(header, dict) or header.keys() != readers.keys():
        got = ", ".join(map(str, header)) if isinstance(header, dict) else type(header).__name__
        raise MessageError(f"the header of {cls.name()} has {got[:200]}; expected the fields {', '.join(readers)}")
    fields = {}
    for name, read in readers.items():
        try:
            fields[name] = read(header[name])
        except _UnfitError as error:
            value = error.value
            plain = isinstance(value, str | int | float) or value is None
            # Containers are not printed: a peer may have nested them deeper than Python recurses.
            shown = repr(value)[:80] if plain else f"a {type(value).__name__}"
            raise MessageError(f"{cls.name()}.{name} is {shown}; expected {_describe(error.hint)}") from None
    return cls(**fields)


def _reader(hint: Any) -> Read:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(hint, {kind: _reader(kind) for kind in arguments})
    if origin is tuple:
        return _tuple(hint, arguments)
    if origin is dict:
        return _dict(hint, *map(_reader, arguments))
    if dataclasses.is_dataclass(hint):
        return lambda value: _build(typing.cast("type[Message]", hint), value)
    fits: dict[Any, Callable[[Any], bool]] = {
        float: lambda value: type(value) in (int, float) and math.isfinite(value),
        int: lambda value: type(value) is int and 0 <= value < 1 << 64,
    }
    return _simple(hint, fits.get(hint, lambda value: value in arguments if arguments else type(value) is hint))


def _simple(hint: Any, fits: Callable[[Any], bool]) -> Read:
    def read(value: Any) -> Any:
        if not fits(value):
            raise _UnfitError(value, hint)
        return float(value) if hint is float else value

    return read


def _union(hint: Any, readers: dict[Any, Read]) -> Read:
    any_int = {int, str} <= readers.keys()  # metadata, where a number may be negative

    def read(value: Any) -> Any:
        kind = type(value)
        if kind is int and (any_int or int not in readers):
            if any_int:
                return value
            kind = float
        if kind not in readers:
            raise _UnfitError(value, hint)
        return readers[kind](value)

    return read


def _tuple(hint: Any, arguments: tuple[Any, ...]) -> Read:
    readers = [_reader(each) for each in arguments if each is not Ellipsis]
    any_number = arguments[-1] is Ellipsis

    def read(value: Any) -> Any:
        if not isinstance(value, tuple) or not (any_number or len(value) == len(readers)):
            raise _UnfitError(value, hint)
        if any_number:
            return tuple(map(readers[0], value))
        return tuple(read(item) for read, item in zip(readers, value, strict=True))

    return read


def _dict(hint: Any, key: Read, value: Read) -> Read:
    def read(given: Any) -> Any:
        if not isinstance(given, dict):
            raise _UnfitError(given, hint)
        return {key(k): value(v) for k, v in given.items()}

    return read


def _describe(hint: Any) -> str:
    plain = {float: "a finite number", int: "an integer from 0 to 2^64 - 1", str: "text", bool: "true or false"}
    return plain.get(hint) or str(hint).replace("streamrecon.wire.messages.", "")
