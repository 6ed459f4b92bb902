"""Every way in which Bluesky's publishers write documents, told from the first bytes."""

from __future__ import annotations

import datetime
import json
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
import pytest
from bluesky_documents import ARRAYS, LEAVES, PLAIN_ARRAYS, SCALARS, TEXT, documents, same
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamrecon.bluesky.plain import VALUES_LIMIT
from streamrecon.bluesky.serial import decode
from streamrecon.errors import MessageError

SERIALIZERS: dict[str, Callable[[Any], bytes]] = {
    "pickle": pickle.dumps,
    "pickle 2": lambda document: pickle.dumps(document, 2),
    "msgpack": msgpack.packb,
    "msgpack-numpy": msgpack_numpy.packb,
    "json": lambda document: json.dumps(document).encode(),
}


@pytest.mark.parametrize("serializer", SERIALIZERS)
@settings(deadline=None, max_examples=100)
@given(document=documents(LEAVES))
@example(document={})
def test_documents_come_out_as_they_went_in(serializer: str, document: dict[str, Any]) -> None:
    assert same(decode(SERIALIZERS[serializer](document)), document)


def test_documents_in_orjson_come_out_as_they_went_in() -> None:
    orjson = pytest.importorskip("orjson")
    document = {"data": {"x": np.arange(3), "y": 1.5}, "seq_num": 1}
    assert decode(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)) == {
        "data": {"x": [0, 1, 2], "y": 1.5},
        "seq_num": 1,
    }


@pytest.mark.parametrize("name", ARRAYS | SCALARS)
def test_numpy_in_msgpack_comes_out_as_it_went_in(name: str) -> None:
    value = (ARRAYS | SCALARS)[name]
    if isinstance(value, float):
        value = float(value)  # a np.float64 is a float, and is written as one
    assert same(decode(msgpack_numpy.packb({"value": value})), {"value": value})


@settings(deadline=None, max_examples=100)
@given(documents(st.one_of(LEAVES, PLAIN_ARRAYS, st.complex_numbers(), st.binary(max_size=10))))
def test_arbitrary_numpy_in_msgpack(document: dict[str, Any]) -> None:
    assert same(decode(msgpack_numpy.packb(document)), document)


def test_numpy_whose_keys_became_texts() -> None:
    array = {"nd": True, "type": "<u2", "kind": "", "shape": [2], "data": b"\x01\x00\x02\x00"}
    assert same(decode(msgpack.packb({"a": array})), {"a": np.array([1, 2], "u2")})


def test_a_dict_that_looks_like_an_array_is_a_dict() -> None:
    document = {"nd": 1, "type": "detector", "complex": False, "data": {"x": 1}}
    assert decode(msgpack.packb(document)) == document


def test_times_in_msgpack() -> None:
    time = datetime.datetime(2024, 5, 1, 12, 30, tzinfo=datetime.UTC)
    assert decode(msgpack.packb({"time": time}, datetime=True)) == {"time": time}


def test_nan_in_json() -> None:
    assert same(decode(b'{"a": [NaN, Infinity, -Infinity]}'), {"a": [float("nan"), float("inf"), float("-inf")]})


def forged(**changes: Any) -> bytes:
    """An array as msgpack-numpy writes it, with something else in it."""
    fields = {b"nd": True, b"type": "<f8", b"kind": b"", b"shape": [2], b"data": bytes(16)}
    return bytes(msgpack.packb({"a": fields | {key.encode(): value for key, value in changes.items()}}))


class Ran:
    """Runs something if it is unpickled as usual."""

    ran = False

    def __reduce__(self) -> Any:
        return (_run, ("x",))


def _run(argument: str) -> str:
    Ran.ran = True
    return "ran"


N = 1 << 22
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "a byte that starts nothing": b"\xc1",
    "half a map": b"\x82\xa1a\x01",
    "two values": b"\x80\x80",
    "a map and a text": msgpack.packb({}) + b"text",
    "a pickle of protocol 1": pickle.dumps({"a": [1]}, 1),
    "a pickle of protocol 6": b"\x80\x06N.",
    "arrays of 2^31 in each other": b"\xdd\x7f\xff\xff\xff" * 200,
    "maps of 2^31 in each other": b"\xdf\x7f\xff\xff\xff\xa1a" * 200,
    "a text of 4 GB": b"\xdb\xff\xff\xff\xff",
    "bytes of 4 GB": b"\xc6\xff\xff\xff\xff",
    "an extension of 4 GB": b"\xc9\xff\xff\xff\xff\x01",
    "a deep list": b"\x91" * 10_000 + b"\x01",
    "a list of 100 levels": b"\x91" * 100 + b"\x01",
    "a deep map": b"\x81\xa1a" * 10_000 + b"\x01",
    "maps by the million": b"\xdd" + N.to_bytes(4, "big") + b"\x80" * N,
    "lists by the million": b"\x94" + (b"\xdd" + (N // 3).to_bytes(4, "big") + b"\x90" * (N // 3)) * 4,
    "arrays of 2 million in each other": b"\xdd\x00\x1e\x84\x80" * 300,
    "a list for a key": b"\x81\x90\x01",
    "a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "an unknown extension": b"\xd4\x01a",
    "a time beyond all years": b"\xc7\x0c\xff\x00\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff",
    "a text that is not UTF-8": b"\xa1\xff",
    "an array of objects": bytes(msgpack_numpy.packb({"a": np.array([Ran()])})),
    "an array of structures": bytes(msgpack_numpy.packb({"a": np.zeros(2, "i4,f8")})),
    "an array of too few bytes": forged(shape=[3]),
    "an array of a huge shape": forged(shape=[1 << 40, 1 << 40]),
    "an empty array of 2^40 rows": forged(shape=[1 << 40, 0], data=b""),
    "an array of a negative shape": forged(shape=[-2]),
    "an array of no shape": forged(shape=None),
    "an array of a shape of arrays": forged(shape=[[2]]),
    "an array of a text": forged(data="abc"),
    "an array of no data": forged(data=None),
    "an array of a dtype of objects": forged(type="|O"),
    "an array of a dtype by commas": forged(type="f8,O"),
    "an array of a dtype of a list": forged(type=[["a", "O"]]),
    "an array of a dtype that is not UTF-8": forged(type=b"\xff"),
    "an array of a kind that is a list": forged(kind=[], shape=[7]),
    "a scalar of no bytes": forged(nd=False, data=b""),
    "a scalar of an object": forged(nd=False, type="|O"),
    "a complex number that is none": msgpack.packb({b"complex": True, b"data": "__import__"}),
    "a complex number of a list": msgpack.packb({b"complex": True, b"data": []}),
    "a complex number of a million digits": msgpack.packb({b"complex": True, b"data": "1" * 1_000_000}),
    "half an object": b'{"a": ',
    "an object and more": b'{"a": 1} {"b": 2}',
    "a deep array": b"[" * 1_000_000,
    "an array of 100 levels": b"[" * 100 + b"]" * 100,
    "a deep object": b'{"a":' * 100_000,
    "an object with a key twice": b'{"a": 1, "a": 2}',
    "a number of a million digits": b"[" + b"9" * 1_000_000 + b"]",
    "a number of 4000 digits": b"[" + b"9" * 4000 + b"]",
    "half a character": b'{"a": "\\ud800"}',
    "a key of half a character": b'{"\\udfff": 1}',
    "JSON that is not UTF-8": b'{"a": "\xff"}',
    "JSON in UTF-16": '{"a": 1}'.encode("utf-16-le"),
    "arrays by the million": b"[" + b"[]," * (VALUES_LIMIT + 1) + b"[]]",
}  # fmt: skip
REASONS = {
    "lists by the million": "more than 2000000 values",
    "arrays of 2 million in each other": "No more data",
    "arrays by the million": "more than 2000000 commas",
    "a key twice": "a key twice",
    "an object with a key twice": "a key twice",
    "an array of objects": "Python objects",
    "an array of structures": "Python objects or of a structure",
}
"""What some are refused for, where several guards stand one behind the other."""


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_payloads_are_refused_within_bounds(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match=REASONS.get(name)) as raised:
            decode(HOSTILE[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not Ran.ran
    assert len(str(raised.value)) < 1000
    str(raised.value).encode()
    assert peak < 350e6


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.tuples(st.sampled_from([b"{", b"[", b"\x80\x04", b"\x82"]), st.binary(max_size=60)).map(b"".join),
    )
)
def test_whatever_comes_raises_nothing_else(payload: bytes) -> None:
    try:
        repr(decode(payload)).encode()
    except MessageError as error:
        str(error).encode()


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_msgpack_raises_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(msgpack_numpy.packb({"a": ARRAYS | SCALARS, "b": [1, 2.5, "x"]}))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        repr(decode(bytes(damaged))).encode()
    except MessageError as error:
        str(error).encode()


def test_trusted_pickles_are_read_as_python_reads_them() -> None:
    document = {"set": {(1, 2)}, "objects": np.array([None, "a"])}
    read = decode(pickle.dumps(document), trust_pickle=True)
    assert read["set"] == {(1, 2)}
    assert list(read["objects"]) == [None, "a"]
    with pytest.raises(MessageError):
        decode(pickle.dumps(document))
    with pytest.raises(MessageError, match="cannot be read"):
        decode(pickle.dumps(document)[:-5], trust_pickle=True)


@given(TEXT)
def test_texts_of_all_serializers(text: str) -> None:
    for serializer in SERIALIZERS.values():
        assert decode(serializer({"text": text})) == {"text": text}
