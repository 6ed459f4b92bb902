"""What a page may say, and nothing else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrecon.errors import MessageError
from streamrecon.viewer.requests import Control, Hello, Values, Want, read


def want(**changes: Any) -> str:
    return json.dumps({"type": "want", "serial": 1, "places": [["z", 3]], "size": 512} | changes)


def control(**changes: Any) -> str:
    return json.dumps({"type": "control", "serial": 1, "action": "center", "numbers": [3.5]} | changes)


def test_what_is_read() -> None:
    assert read('{"type": "hello", "token": "x"}') == Hello("x")
    assert read(want(preview=64, beside=True)) == Want(1, (("z", 3),), 512, 64, True)
    assert read(want(places=[["z", 3], ["x", 0], ["z", 3]])) == Want(1, (("z", 3), ("x", 0)), 512)
    assert read('{"type": "values", "serial": 2, "axis": "y", "index": 7}') == Values(2, ("y", 7))
    assert read(control()) == Control(1, "center", (3.5,))
    assert read(control(action="advise_stop", numbers=[], text="it moved")) == Control(1, "advise_stop", (), "it moved")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[" * 4000, "not JSON"),
        ("x" * 5000, "4096 bytes"),
        ("é" * 2050, "4096 bytes"),
        ("3", "an object"),
        ("{}", "hello, want"),
        ('{"type": ["want"]}', "hello, want"),
        ('{"type": "hello"}', "token"),
        ('{"type": "hello", "token": 3}', "token"),
        ('{"type": "hello", "token": "x", "more": 1}', "more"),
        ('{"type": "want", "serial": 1, "size": 100}', "places"),
        (want(more=1), "more"),
        (want(serial="1"), "serial"),
        (want(serial=-1), "serial"),
        (want(serial=True), "serial"),
        (want(serial=1 << 60), "serial"),
        (want(size=31), "32 to 4096"),
        (want(size=4097), "32 to 4096"),
        (want(size=100.0), "size"),
        (want(preview=129), "0 to 128"),
        (want(beside=1), "beside"),
        (want(places={"z": 1}), "places"),
        (want(places=[["z", n] for n in range(7)]), "at most 6"),
        (want(places=[["w", 1]]), "z, y or x"),
        (want(places=[["z", -1]]), "index"),
        (want(places=[["z", 1.5]]), "index"),
        (want(places=[["z"]]), "place"),
        (want(places=["z1"]), "place"),
        ('{"type": "values", "serial": 1, "axis": "q", "index": 1}', "place"),
        (control(action="format the disk"), "center, filter"),
        (control(action=["center"]), "center, filter"),
        (control(numbers=[float("nan")]), "NaN"),
        (control(numbers=[float("inf")]), "Infinity"),
        (control(numbers=["3"]), "number"),
        (control(numbers=[10**400]), "finite"),
        (control(numbers=3), "numbers"),
        (control(numbers=[1.0] * 9), "at most 8"),
        (control(text="x" * 1025), "1024"),
        (control(text=None), "text"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        read(text)


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5), st.data()
)
def test_no_text_does_anything_else(value: Any, data: st.DataObject) -> None:
    """A message with anything in place of a field: it is read, or refused."""
    message = json.loads(data.draw(st.sampled_from([want(), control(), '{"type": "hello", "token": ""}'])))
    message[data.draw(st.sampled_from(sorted(message)))] = value
    with contextlib.suppress(MessageError):
        read(json.dumps(message))
