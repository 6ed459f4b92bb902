"""Pickles: what documents hold comes out as it went in, and nothing else does anything but be refused."""

from __future__ import annotations

import collections
import datetime
import enum
import io
import json
import pickle
import pickletools
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky_documents import ARRAYS, LEAVES, PICKLED_SCALARS, PLAIN_ARRAYS, SCALARS, TIMES, documents, same
from bluesky_hostile import BOMB, END, F8, HOSTILE, REASONS, P, call, glob, number, raw, text
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ophyd_async.core import StrictEnum

from streamrecon.bluesky import pickles, plain
from streamrecon.bluesky.pickles import load
from streamrecon.errors import MessageError

PROTOCOLS = (2, 3, 4, 5)


class Trigger(StrictEnum):
    """As an ophyd-async device has it."""

    INTERNAL = "Internal"


class Number(enum.IntEnum):
    """A member of an enumeration that is a number."""

    TWO = 2


class Surprise:
    """Runs something if it is unpickled as usual."""

    ran = False

    def __reduce__(self) -> Any:
        return (_run, ("x",))


def _run(argument: str) -> None:
    Surprise.ran = True


ZONE = datetime.timezone(datetime.timedelta(hours=-5), "EST")
VALUES: dict[str, Any] = {
    **ARRAYS,
    **TIMES,
    **SCALARS,
    **PICKLED_SCALARS,
    "integers": [0, -1, 255, 65536, -(2**31), 2**63, -(2**100), 2**1000],
    "floats": [0.0, -1.5, float("inf"), 1e-300],
    "texts": ["", "a", "é", "x" * 300, "\U0001f52c"],
    "bytes": [b"", b"a", b"\xff" * 300],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "nested": {"a": {"b": [{"c": ()}]}},
    "sets": [set(), {1, 2}, {"a"}, frozenset(), frozenset((1, "b"))],
    "complex": [1 + 2j],
    "datetime": datetime.datetime(2024, 5, 1, 12, 30, 15, 123456, fold=1),
    "datetime with a zone": datetime.datetime(2024, 5, 1, tzinfo=ZONE),
    "datetime in UTC": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC),
    "date": datetime.date(2024, 5, 1),
    "timedelta": datetime.timedelta(-3, 5, 7),
    "shared": [["x"]] * 3,
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", VALUES)
def test_what_documents_hold_comes_out_as_it_went_in(name: str, protocol: int) -> None:
    value = VALUES[name]
    assert same(load(pickle.dumps({"value": value}, protocol)), {"value": value})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_arbitrary_documents_come_out_as_they_went_in(protocol: int, data: st.DataObject) -> None:
    document = data.draw(documents(st.one_of(LEAVES, PLAIN_ARRAYS, st.binary(max_size=20))))
    assert same(load(pickle.dumps(document, protocol)), document)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unknown_type_is_inert(protocol: int, caplog: pytest.LogCaptureFixture) -> None:
    plain._told.clear()
    document = {
        "trigger": Trigger.INTERNAL,
        "number": Number.TWO,
        "surprise": Surprise(),
        "class": Surprise,
        "path": Path("a/b"),
        "default": collections.defaultdict(list, a=[1]),
        "deque": collections.deque([1, 2]),
        "ordered": collections.OrderedDict(b=1, a=2),
        "masked": np.ma.array([1, 2], mask=[True, False]),
        "dtype": np.dtype("<f8"),
        "type": np.ndarray,
        "bytearray": bytearray(b"ab"),
    }
    read = load(pickle.dumps(document, protocol))
    assert not Surprise.ran
    assert {key: read[key] for key in ("trigger", "number", "surprise", "default", "deque", "ordered", "dtype")} == {
        "trigger": "Internal",
        "number": 2,
        "surprise": "x",
        "default": {"a": [1]},
        "deque": [1, 2],
        "ordered": {"b": 1, "a": 2},
        "dtype": "<f8",
    }
    assert type(read["trigger"]) is str
    assert read["class"].endswith("test_bluesky_pickles.Surprise")
    assert read["type"] == "numpy.ndarray"
    assert read["bytearray"] == b"ab"
    json.dumps({key: item for key, item in read.items() if key != "bytearray"})
    assert "Trigger" in caplog.text
    assert "Surprise" in caplog.text
    before = len(caplog.records)
    load(pickle.dumps(document, protocol))
    assert len(caplog.records) == before, "each name is told once"


def test_numpy_1_is_read_as_well() -> None:
    """As NumPy 1.26 writes an array and a scalar, by hand."""
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    numbers = np.array([1.0, 2.5]).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01K\x02\x85"
        + dtype
        + b"\x89C\x10"
        + numbers
        + b"tb"
    )
    scalar = b"cnumpy.core.multiarray\nscalar\n" + dtype + b"C\x08" + numbers[8:] + b"\x86R"
    buffer = b"cnumpy.core.numeric\n_frombuffer\n(C\x10" + numbers + dtype + b"K\x02\x85X\x01\x00\x00\x00CtR"
    read = load(b"\x80\x03(" + array + scalar + buffer + b"t.")
    assert same(read, (np.array([1.0, 2.5]), np.float64(2.5), np.array([1.0, 2.5])))


def test_what_comes_out_shares_nothing() -> None:
    shared: list[Any] = [1]
    read = load(pickle.dumps({"a": shared, "b": [shared, shared]}))
    read["a"].append(2)
    assert read == {"a": [1, 2], "b": [[1], [1]]}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_within_bounds(name: str) -> None:
    data = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match=REASONS.get(name)) as raised:
            load(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    str(raised.value).encode()
    assert len(str(raised.value)) < 1000
    assert peak < 350e6 + 20 * len(data), "what a step takes is bounded, and so are the steps"


def test_values_are_counted_also_in_a_large_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose length would let it hold many more."""
    monkeypatch.setattr(plain, "VALUES_LIMIT", 10_000)
    with pytest.raises(MessageError, match="more than 10000 values"):
        load(P + raw(bytes(1_000_000)) + b"0" + BOMB + END)


NOT_RUN = [
    "os.system",
    "posix.system",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "subprocess.Popen",
    "builtins.getattr",
]


@pytest.mark.parametrize(
    "name", [*NOT_RUN, "numpy.load", "pickle.loads", "streamrecon.bluesky.pickles.load", "numpy.fromfile"]
)
def test_no_name_becomes_what_it_names(name: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert load(P + call(glob(name), text(f"touch {made}")) + END) == f"touch {made}"
    assert load(P + glob(name) + END) == name
    assert load(P + call(glob(name), text("a"), text("b")) + b"}b.") == name
    assert not made.exists()


def test_no_module_is_imported() -> None:
    assert "this" not in sys.modules
    load(P + glob("this.anything") + END)
    assert "this" not in sys.modules


SEEDS = [pickle.dumps({"data": VALUES}, protocol) for protocol in PROTOCOLS] + [
    pickle.dumps({"value": value}, protocol) for protocol in PROTOCOLS for value in VALUES.values()
]
CODES = [ord(operation.code) for operation in pickletools.opcodes]


def read_or_refuse(data: bytes) -> None:
    """Whatever the bytes: a value that can be used, or a `MessageError`."""
    try:
        value = load(data)
    except MessageError as error:
        str(error).encode()
        return
    repr(value).encode()
    same(value, load(data))


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_damaged_pickle_raises_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged)))
        kind = data.draw(st.sampled_from(["change", "insert", "cut", "remove"]))
        if kind == "cut":
            del damaged[place:]
        elif kind == "remove":
            del damaged[place : place + data.draw(st.integers(1, 8))]
        else:
            new = bytes([data.draw(st.one_of(st.sampled_from(CODES), st.integers(0, 255)))])
            damaged[place : place + (kind == "change")] = new
    read_or_refuse(bytes(damaged))


OPERATIONS = st.one_of(
    st.sampled_from(CODES).map(lambda code: bytes([code])),
    st.sampled_from(
        [
            text("a"),
            raw(b"ab"),
            number(5),
            F8,
            b"h\x00",
            b"q\x00",
            b"h\x01",
            b"q\x01",
            b"\x94",
            b"K\x01",
            b"(",
            b")",
            b"N",
        ]
    ),
    st.sampled_from([glob(f"{module}.{name}") for module, name in pickles.BUILDERS] + [glob("os.system")]),
    st.binary(max_size=3),
)


@settings(deadline=None, max_examples=500)
@given(st.lists(OPERATIONS, max_size=30).map(b"".join))
@example(b"(" * 50)
def test_random_operations_raise_nothing_else(operations: bytes) -> None:
    read_or_refuse(P + operations + END)


@pytest.mark.parametrize("name", ["numbers", "nested", "array"])
def test_every_beginning_of_a_pickle_is_refused(name: str) -> None:
    value = {"numbers": [1, 2.5, 2**80], "nested": VALUES["nested"], "array": ARRAYS["transposed"]}[name]
    whole = pickle.dumps({"value": value})
    for length in range(len(whole)):
        with pytest.raises(MessageError):
            load(whole[:length])


def test_a_large_document_of_numbers_is_read() -> None:
    """As a flyer's page of events has it: what is refused as too much is far from what is real."""
    page = {"data": {f"key{i}": [float(j) for j in range(20_000)] for i in range(10)}, "seq_num": list(range(20_000))}
    assert load(pickle.dumps(page)) == page


def test_an_image_is_not_copied_piecewise() -> None:
    image = np.arange(1 << 22, dtype="u2").reshape(2048, 2048)
    for protocol in PROTOCOLS:
        assert same(load(pickle.dumps(image, protocol)), image)


def test_out_of_band_buffers_are_refused() -> None:
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    pickle.Pickler(file, 5, buffer_callback=buffers.append).dump(ARRAYS["float64"])
    assert buffers
    with pytest.raises(MessageError, match="0x97"):
        load(file.getvalue())
