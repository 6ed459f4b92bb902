"""What a page may say: JSON texts, checked before anything is done with them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, get_args

from streamrecon.errors import MessageError
from streamrecon.scan import Axis
from streamrecon.viewer.source import Place
from streamrecon.wire.codec import TEXT_LIMIT
from streamrecon.wire.messages import PREVIEW, Action

LIMIT = 4096
"""Bytes of a text."""
MOST_PLACES = 6
SIZES = 32, 4096
"""Pixels of the longest side of a slice, least and most."""
MOST_NUMBERS = 8
MOST_INDEX = 1 << 24
MOST_SERIAL = 1 << 53
"""Beyond it, JavaScript's numbers are not whole."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First message."""

    token: str


@dataclass(frozen=True, slots=True)
class Want:
    """Send me what I do not have of this."""

    serial: int
    places: tuple[Place, ...]
    size: int
    """Pixels of the longest side of a slice, at most."""
    preview: int = 0
    """Voxels of its longest side; 0 for none."""
    beside: bool = False
    """Projection and sinogram."""


@dataclass(frozen=True, slots=True)
class Values:
    """Send me a slice as it is."""

    serial: int
    place: Place


@dataclass(frozen=True, slots=True)
class Control:
    """Change the reconstruction."""

    serial: int
    action: Action
    numbers: tuple[float, ...] = ()
    text: str = ""


Request: TypeAlias = Hello | Want | Values | Control


def read(text: str) -> Request:
    """Check and read a text of a page.

    Raises
    ------
    MessageError
        Saying what was got and expected.
    """
    if len(text.encode("utf-8", "replace")) > LIMIT:
        _refuse(f"a text of more than {LIMIT} bytes")
    try:
        fields = json.loads(text, parse_constant=lambda name: _refuse(f"{name}, which is no JSON"))
    except (ValueError, RecursionError) as error:
        raise MessageError(f"got a text that is not JSON: {error}") from None
    if not isinstance(fields, dict):
        _refuse(f"{type(fields).__name__}; expected an object")
    kind = fields.pop("type", None)
    reader = READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        _refuse(f"the type {str(kind)[:40]!r}; expected one of {', '.join(READERS)}")
    needed, optional, make = reader
    if not needed <= set(fields) <= needed | optional:
        _refuse(f"{kind} with {', '.join(sorted(fields))[:200] or 'nothing'}; expected {', '.join(needed | optional)}")
    return make(fields)  # type: ignore[no-any-return]


def _hello(fields: dict[str, Any]) -> Hello:
    return Hello(_text("token", fields["token"], 256))


def _want(fields: dict[str, Any]) -> Want:
    places = fields["places"]
    if not isinstance(places, list) or len(places) > MOST_PLACES:
        _refuse(f"places that are no list of at most {MOST_PLACES}")
    beside = fields.get("beside", False)
    if not isinstance(beside, bool):
        _refuse(f"beside as {beside!r}; expected true or false"[:200])
    return Want(
        _serial(fields),
        tuple(dict.fromkeys(_place(place) for place in places)),
        _whole("size", fields["size"], *SIZES),
        _whole("preview", fields.get("preview", 0), 0, PREVIEW),
        beside,
    )


def _values(fields: dict[str, Any]) -> Values:
    return Values(_serial(fields), _place([fields["axis"], fields["index"]]))


def _control(fields: dict[str, Any]) -> Control:
    action, numbers = fields["action"], fields.get("numbers", [])
    if action not in get_args(Action):
        _refuse(f"the action {str(action)[:40]!r}; expected one of {', '.join(get_args(Action))}")
    if not isinstance(numbers, list) or len(numbers) > MOST_NUMBERS:
        _refuse(f"numbers that are no list of at most {MOST_NUMBERS}")
    text = _text("text", fields.get("text", ""), TEXT_LIMIT)
    return Control(_serial(fields), action, tuple(_number(each) for each in numbers), text)


READERS: dict[str, tuple[set[str], set[str], Any]] = {
    "hello": ({"token"}, set(), _hello),
    "want": ({"serial", "places", "size"}, {"preview", "beside"}, _want),
    "values": ({"serial", "axis", "index"}, set(), _values),
    "control": ({"serial", "action"}, {"numbers", "text"}, _control),
}
"""Fields needed, fields that may be left out, and how they are read, by type."""


def _place(value: Any) -> Place:
    if not isinstance(value, list) or len(value) != 2 or value[0] not in get_args(Axis):
        _refuse(f"the place {str(value)[:80]}; expected an axis z, y or x and an index")
    return value[0], _whole("index", value[1], 0, MOST_INDEX)


def _serial(fields: dict[str, Any]) -> int:
    return _whole("serial", fields["serial"], 0, MOST_SERIAL)


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        _refuse(f"{name} as {str(value)[:40]!r}; expected a whole number from {least} to {most}")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or abs(value) > 1e300 or not math.isfinite(value):
        _refuse(f"the number {str(value)[:40]!r}; expected a finite one")
    return float(value)


def _text(name: str, value: Any, limit: int) -> str:
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) > limit:
        _refuse(f"{name} that is no text of at most {limit} bytes")
    return value


def _refuse(what: str) -> NoReturn:
    raise MessageError(f"got {what}")
