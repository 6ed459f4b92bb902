"""Every message survives the wire, and nothing else gets through it."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wire_strategies import JUNK, built, messages

from streamrecon.errors import MessageError
from streamrecon.wire.codec import MAGIC, TEXT_LIMIT, decode, encode
from streamrecon.wire.messages import (
    MESSAGES,
    VERSION,
    Abort,
    Control,
    Credit,
    EndOk,
    FrameHeader,
    Hello,
    Lane,
    Look,
    Message,
    Picture,
    Plane,
    Result,
    ScanOpen,
    Update,
    Want,
    Welcome,
)

HEADER_LIMIT = Message.HEADER_LIMIT

SAMPLES: dict[str, Message] = {
    message.name(): message
    for message in (
        Hello(uid="s", epoch=1, rows=4, columns=8),
        Welcome(incarnation="i", session=1, lanes=(Lane(rows=(0, 4)),)),
        ScanOpen(
            session=1, uid="s", rows=4, columns=8, dtype="<u2", projections=3, flats=None, darks=0, pixel_size=1e-6,
            center=None, has_theta=False, metadata={"title": "t", "energy": 20.5},
        ),
        FrameHeader(session=1, lane=0, n=0, kind=0, index=0, theta=0.5, rows=(0, 4), nbytes=64, xxh3=7),
        Credit(session=1, lane=0, max_bytes=9, max_frames=2),
        EndOk(session=1, state="final", missing=((1, 2),), digest=3),
        Abort(session=1, reason="why"),
        Want(after=0, uid="s", planes=(Plane(axis="x", index=3), Plane(axis="z"))),
        Update(
            version=1, uid="s", projections=2, coverage=0.5, final=False, binning=1, shape=(1, 2, 3), full=(1, 2, 3),
            pictures=(Picture(kind="slice", axis="z", shape=(2, 3), full=(2, 3)),),
        ),
        Control(serial=1, token="t", action="centers", numbers=(3.0, 1.5, 2.5, 4.0)),
        Result(serial=1, done=False, text="why"),
        Look(),
    )
}  # fmt: skip


def prefix(code: int, version: int = VERSION) -> bytes:
    return MAGIC + bytes([version, code])


def pack(name: str, **changes: Any) -> list[bytes]:
    """A sample's multipart with some fields changed; `...` leaves a field out."""
    sample = SAMPLES[name]
    header = {k: v for k, v in {**dataclasses.asdict(sample), **changes}.items() if v is not ...}
    return [prefix(sample.TYPE), msgpack.packb(header), *([b""] if sample.PAYLOAD else [])]


def refused(parts: list[Any]) -> str:
    """The sentence with which a multipart is refused."""
    with pytest.raises(MessageError) as caught:
        decode(parts)
    text = str(caught.value)
    assert 20 < len(text) < 2000
    return text


@given(messages, st.binary(max_size=16))
def test_every_message_comes_back_as_it_was(message: Message, payload: bytes) -> None:
    parts = encode(message)
    assert len(parts) == 2
    got, got_payload = decode([*parts, payload] if message.PAYLOAD else parts)
    assert got == message
    assert type(got) is type(message)
    assert got_payload == (payload if message.PAYLOAD else None)
    assert encode(got) == parts, "a value changed its type on the way"


@given(messages)
def test_parts_may_be_any_buffer(message: Message) -> None:
    parts: list[Any] = [*encode(message), *([b"xy"] if message.PAYLOAD else [])]
    for kind in (bytearray, memoryview):
        got, payload = decode([kind(part) for part in parts])
        assert got == message
        assert payload is None or bytes(payload) == b"xy"


def test_every_type_has_its_own_number_and_name() -> None:
    assert all(code == cls.TYPE for code, cls in MESSAGES.items())
    assert len({cls.name() for cls in MESSAGES.values()}) == len(MESSAGES)


def test_metadata_keeps_its_integers() -> None:
    sample = dataclasses.replace(SAMPLES["SCAN_OPEN"], metadata={"n": 3, "big": (1 << 53) + 1, "minus": -5})
    got, _ = decode([*encode(sample), b""])
    assert isinstance(got, ScanOpen)
    assert got.metadata == {"n": 3, "big": (1 << 53) + 1, "minus": -5}
    assert type(got.metadata["n"]) is int


@pytest.mark.parametrize("count", [0, 1, 4, 5, 100])
def test_wrong_number_of_parts(count: int) -> None:
    parts = [*encode(SAMPLES["WANT"]), *[b"x"] * 98][:count]
    assert str(count) in refused(parts)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"S",
        b"SRC",
        b"SRC\x01",
        b"SRC\x01\x12\x00",
        b"src\x01\x12",
        b"XYZ\x01\x12",
        b"\x00" * 5,
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_wrong_magic(first: bytes) -> None:
    refused([first, encode(SAMPLES["WANT"])[1]])


@pytest.mark.parametrize("version", [0, 2, 255])
def test_wrong_version(version: int) -> None:
    text = refused([prefix(Want.TYPE, version), encode(SAMPLES["WANT"])[1]])
    assert str(version) in text
    assert str(VERSION) in text


@pytest.mark.parametrize("code", [code for code in range(256) if code not in MESSAGES])
def test_unknown_type(code: int) -> None:
    assert str(code) in refused([prefix(code), b"\x80"])


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_payload_missing_or_too_much(name: str) -> None:
    parts = encode(SAMPLES[name])
    text = refused(parts if SAMPLES[name].PAYLOAD else [*parts, b""])
    assert name in text


def test_header_too_large() -> None:
    refused([prefix(Want.TYPE), msgpack.packb({"after": 0}) + b"\xc0" * HEADER_LIMIT])
    with pytest.raises(MessageError, match="SCAN_OPEN"):
        encode(dataclasses.replace(SAMPLES["SCAN_OPEN"], metadata={"a": "x" * HEADER_LIMIT}))


def test_text_of_the_limit_passes_and_one_more_does_not() -> None:
    message, _ = decode(encode(Abort(session=1, reason="x" * TEXT_LIMIT)))
    assert message == Abort(session=1, reason="x" * TEXT_LIMIT)
    refused(pack("ABORT", reason="x" * (TEXT_LIMIT + 1)))
    refused(pack("ABORT", reason="é" * (TEXT_LIMIT // 2 + 1)))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x81\xa5after",
        b"\x81\xa5after\x00\x00",  # superfluous bytes
        b"\x81\xa5after\xcf\x00",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\x81\x01\x00",
        b"\x81\xc0\x00",
        b"\x81\x90\x00",
        b"\x81\x80\x00",
        b"\x81\xc4\x05after\x00",
        b"\x81\xc4\x00\x00",
        b"\x81\xa5after\xc4\x00",
        b"\x81\xa5after\xc4\x01x",
        b"\x81\xa5after\xd4\x05x",  # fixext 1
        b"\x81\xa5after\xd6\xff\x00\x00\x00\x00",  # timestamp 32
        b"\x81\xa5after\xd7\xff" + b"\xff" * 8,  # timestamp 64
        b"\x81\xa5after\xc7\x0c\xff" + b"\xff" * 12,  # timestamp 96
        b"\x81\xa5after\xc7\x00\x05",  # ext of 0 bytes
        b"\x81\xa5after\xc7\x00\xff",
        b"\x81\xa5aft\xffr\x00",
        b"\x81\xa5after\xa2\xc3\x28",
        b"\x81\xa5after\xa3\xed\xa0\x80",  # a surrogate
        b"\x82\xa5after\x00\xa5other\x00",
        b"\x90",
        b"\xc0",
        b"\x00",
        b"\xa5after",
    ],
)
def test_header_is_not_a_map_of_the_fields(header: bytes) -> None:
    refused([prefix(Want.TYPE), header])


@pytest.mark.parametrize("depth", [1, 10, 100, 500, 900, 990, 1000, 1010, 1022, 1500, 2000, 4000])
@pytest.mark.parametrize("shell", [b"\x91", b"\x81\xa0"])
def test_deep_nesting(depth: int, shell: bytes) -> None:
    nested = shell * min(depth, (HEADER_LIMIT - 10) // len(shell)) + b"\x00"
    refused([prefix(Want.TYPE), b"\x81\xa5after" + nested])
    refused([prefix(Want.TYPE), nested])


@pytest.mark.parametrize("value", [True, -1, -(1 << 63), 1.0, math.nan, "0", None, [], [0], {}])
def test_integers_are_integers(value: Any) -> None:
    assert "WANT.after" in refused(pack("WANT", after=value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "0.5", None, [0.5]])
def test_numbers_are_finite(value: Any) -> None:
    assert "UPDATE.coverage" in refused(pack("UPDATE", coverage=value))
    if value is not None:
        assert "FRAME.theta" in refused(pack("FRAME", theta=value))
        assert "SCAN_OPEN.pixel_size" in refused(pack("SCAN_OPEN", pixel_size=value))
    if not isinstance(value, str):
        assert "SCAN_OPEN.metadata" in refused(pack("SCAN_OPEN", metadata={"a": value}))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("UPDATE", {"final": 1}),
        ("UPDATE", {"final": None}),
        ("UPDATE", {"shape": [1, 2]}),
        ("UPDATE", {"shape": [1, 2, 3, 4]}),
        ("UPDATE", {"shape": [1, 2, -3]}),
        ("FRAME", {"rows": [0]}),
        ("FRAME", {"rows": 4}),
        ("FRAME", {"rows": [0, 4.0]}),
        ("FRAME", {"rows": {"0": 4}}),
        ("FRAME", {"codec": 1}),
        ("FRAME", {"extra": 1}),
        ("FRAME", {"theta": ...}),
        ("HELLO", {"role": "king"}),
        ("HELLO", {"role": ["producer"]}),
        ("HELLO", {"role": {}}),
        ("HELLO", {"codecs": "raw"}),
        ("HELLO", {"codecs": [1]}),
        ("HELLO", {"uid": None}),
        ("END_OK", {"state": "perhaps"}),
        ("END_OK", {"missing": [1, 2]}),
        ("END_OK", {"missing": [[1, 2, 3]]}),
        ("WELCOME", {"lanes": [{"rows": [0, 4]}]}),
        ("WELCOME", {"lanes": [{"rows": [0, 4], "endpoint": "", "more": 1}]}),
        ("WELCOME", {"lanes": [None]}),
        ("WELCOME", {"lanes": {}}),
        ("SCAN_OPEN", {"metadata": {"a": [1]}}),
        ("SCAN_OPEN", {"metadata": {"a": True}}),
        ("SCAN_OPEN", {"metadata": []}),
        ("SCAN_OPEN", {"projections": -1}),
        ("SCAN_OPEN", {"has_theta": 0}),
    ],
)
def test_fields_of_another_type(name: str, changes: dict[str, Any]) -> None:
    text = refused(pack(name, **changes))
    assert name in text or "LANE" in text


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_fields_missing_and_extra(name: str) -> None:
    for field in dataclasses.fields(SAMPLES[name]):  # type: ignore[arg-type]
        assert field.name in refused(pack(name, **{field.name: ...}))
    assert "surplus" in refused(pack(name, surplus=1))


def survives(parts: list[Any]) -> None:
    """Decoding gives a message that can be told again, or a MessageError, and nothing else."""
    try:
        message, _ = decode(parts)
    except MessageError:
        return
    again, _ = decode([*encode(message), *([b""] if message.PAYLOAD else [])])
    assert again == message


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_random_bytes(parts: list[bytes]) -> None:
    survives(parts)


@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=60))
@example(18, b"\x81\xa5after\xd7\xff" + b"\xff" * 8)
def test_random_headers(code: int, header: bytes) -> None:
    survives([prefix(code), header, b""][: 3 if MESSAGES[code].PAYLOAD else 2])


@given(messages, st.data())
def test_mutated_bytes(message: Message, data: st.DataObject) -> None:
    parts = [bytearray(part) for part in encode(message)]
    for _ in range(data.draw(st.integers(1, 3))):
        part = parts[data.draw(st.integers(0, 1))]
        if not part:
            continue
        where = data.draw(st.integers(0, len(part) - 1))
        what = data.draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
        if what == "flip":
            part[where] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del part[where:]
        elif what == "insert":
            part[where:where] = data.draw(st.binary(min_size=1, max_size=4))
        else:
            del part[where]
    survives([*parts, *([b""] if message.PAYLOAD else [])])


@given(messages, st.data())
def test_mutated_fields(message: Message, data: st.DataObject) -> None:
    header: Any = copy.deepcopy(dataclasses.asdict(message))
    junk = data.draw(st.sampled_from(JUNK))
    name = data.draw(st.sampled_from(sorted(header) or ["what"]))
    if isinstance(header.get(name), tuple) and header[name] and data.draw(st.booleans()):
        header[name] = [junk, *header[name][1:]]
    else:
        header[name] = junk
    survives([prefix(message.TYPE), msgpack.packb(header), *([b""] if message.PAYLOAD else [])])


@given(built(Hello, uid=st.text(st.characters(exclude_categories=["Cs"]), max_size=2000)))
def test_what_encodes_also_decodes(hello: Message) -> None:
    """Whoever sends a text that the peer would refuse is told so, not the peer."""
    try:
        parts = encode(hello)
    except MessageError:
        return
    assert decode(parts)[0] == hello


@pytest.mark.parametrize("reason", ["é" * 900, "漢" * 600, "x" * 1025, "file \udcff.h5"])
def test_a_text_that_cannot_be_sent_is_a_message_error(reason: str) -> None:
    """Or it is cut to fit; but what `encode` gives is never refused by `decode`."""
    try:
        parts = encode(Abort(session=1, reason=reason))
    except MessageError:
        return
    decode(parts)


def test_a_welcome_names_the_lanes_of_a_thousand_ranks() -> None:
    lanes = tuple(Lane(rows=(n, n + 1), endpoint=f"tcp://node-{n}.cluster.example.org:{5600 + n}") for n in range(1024))
    welcome = Welcome(incarnation="i" * 32, session=1, lanes=lanes)
    assert decode(encode(welcome)) == (welcome, None)
    assert len(encode(welcome)[1]) > HEADER_LIMIT
