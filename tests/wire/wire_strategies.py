"""Hypothesis strategies for the messages, from their annotations."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, get_args, get_origin

from hypothesis import strategies as st

from streamrecon.wire.messages import MESSAGES, Message

UINTS = st.one_of(st.integers(0, 3), st.integers(0, (1 << 64) - 1))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values that an annotation allows."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values(arguments[0]), max_size=4).map(tuple)
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=4)
    if dataclasses.is_dataclass(hint):
        return built(typing.cast("type[Message]", hint))
    return {int: UINTS, float: FLOATS, str: TEXTS, bool: st.booleans(), type(None): st.none()}[hint]


def built(cls: type[Message], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    """Messages of one type."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: values(hints[field.name]) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return st.builds(cls, **{**fields, **given})


messages = st.sampled_from(sorted(MESSAGES)).flatmap(lambda code: built(MESSAGES[code]))

JUNK: list[Any] = [
    None, True, False, -1, 1 << 63, 1.5, float("nan"), float("inf"), "", "x" * 1025, "é" * 600, [], [1], [1, 2], [1, 2, 3],
    [[1, 2]], [-1, 2], ["1", "2"], {}, {"a": 1}, {"a": [1]}, {"a": None},
]  # fmt: skip
"""msgpack values; for a given field some may be valid."""
