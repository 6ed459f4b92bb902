"""Messages to multiparts and back: `magic | version | type`, a msgpack header, and for some a raw payload.

Everything a peer sent is checked here before it is used: number and size of parts, magic, version, type, the header's
fields, their types, their ranges.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin

import msgpack

from streamrecon.errors import MessageError
from streamrecon.wire.messages import MESSAGES, VERSION, Message

MAGIC = b"SRC"
TEXT_LIMIT = 1024
"""Bytes of any text in a header."""
PARTS_LIMIT = 3

Buffer = bytes | bytearray | memoryview


def encode(message: Message) -> list[bytes]:
    """The first two parts of a message; a payload is the caller's third.

    Raises
    ------
    MessageError
        If a field cannot be written, or the header would be larger than the message allows.
    """
    fields = dataclasses.asdict(message)
    for name, value in fields.items():
        if isinstance(value, str) and len(value.encode("utf-8", "replace")) > TEXT_LIMIT:
            raise MessageError(f"{message.name()}.{name} has more than {TEXT_LIMIT} bytes: {value[:80]!r}...")
    try:
        header = msgpack.packb(fields)
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


@cache
def _fields(cls: typing.Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _build(cls: type[Message], header: Any) -> Message:
    fields = _fields(typing.cast("Any", cls))
    if not isinstance(header, dict) or set(header) != set(fields):
        got = ", ".join(map(str, header)) if isinstance(header, dict) else type(header).__name__
        raise MessageError(f"the header of {cls.name()} has {got[:200]}; expected the fields {', '.join(fields)}")
    return cls(**{name: _value(f"{cls.name()}.{name}", header[name], hint) for name, hint in fields.items()})


def _value(where: str, value: Any, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(value) is int and {int, str} <= set(arguments):
            return value  # metadata, where a number may be negative
        if type(value) in arguments:
            return _value(where, value, type(value))
        if float in arguments and type(value) is int:
            return _value(where, value, float)
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, tuple):
        if arguments[-1] is Ellipsis:
            return tuple(_value(where, item, arguments[0]) for item in value)
        if len(value) == len(arguments):
            return tuple(_value(where, item, kind) for item, kind in zip(value, arguments, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {_value(where, k, arguments[0]): _value(where, v, arguments[1]) for k, v in value.items()}
    elif dataclasses.is_dataclass(hint):
        return _build(typing.cast("type[Message]", hint), value)
    elif hint is float and type(value) in (int, float):
        if math.isfinite(value):
            return float(value)
    elif hint is int and type(value) is int:
        if 0 <= value < 1 << 64:
            return value
    elif hint in (str, bool, type(None)) and type(value) is hint:
        return value
    plain = isinstance(value, str | int | float) or value is None
    # Containers are not printed: a peer may have nested them deeper than Python recurses.
    shown = repr(value)[:80] if plain else f"a {type(value).__name__}"
    raise MessageError(f"{where} is {shown}; expected {_describe(hint)}")


def _describe(hint: Any) -> str:
    plain = {float: "a finite number", int: "an integer from 0 to 2^64 - 1", str: "text", bool: "true or false"}
    return plain.get(hint) or str(hint).replace("streamrecon.wire.messages.", "")
