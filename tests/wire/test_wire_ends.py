"""A sender and a receiver without sockets: every frame arrives once and whole, whatever the interleaving."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_pair import PEER, Engine, Script, aborted, engine, frames_of, run, scan, streaming, through

from streamrecon.errors import LocalProtocolError, PeerLostError, RemoteProtocolError, ScanAbortedError
from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo
from streamrecon.wire.digest import Digest, frame_hash
from streamrecon.wire.dispatch import Dispatch
from streamrecon.wire.messages import (
    Abort,
    Ack,
    Busy,
    Credit,
    End,
    EndOk,
    FrameHeader,
    Gap,
    Have,
    Hello,
    Lane,
    Message,
    Nack,
    Reset,
    ScanOpen,
    Status,
    Welcome,
)
from streamrecon.wire.sending import SendingEnd
from streamrecon.wire.session import State


@settings(max_examples=60)
@given(
    numbers=st.tuples(st.integers(0, 12), st.integers(0, 3), st.integers(0, 3)),
    counts=st.booleans(),
    angles=st.booleans(),
    rows=st.sampled_from([None, (0, 4), (1, 3), (3, 4)]),
    dtype=st.sampled_from(["<u1", "<u2", "<i4", "<f4", "<f8"]),
    slots=st.integers(2, 5),
    lost=st.integers(0, 3),
    seed=st.integers(0, 1 << 32),
)
def test_everything_arrives_once_in_order(
    numbers: tuple[int, int, int],
    counts: bool,
    angles: bool,
    rows: tuple[int, int] | None,
    dtype: str,
    slots: int,
    lost: int,
    seed: int,
) -> None:
    rng = random.Random(seed)
    info = scan(*numbers, dtype=dtype, counts=counts, angles=angles)
    each = engine(rows=rows, slots=slots)
    sent = frames_of(info, rows or (0, 4), numbers, rng)[lost:]
    if info.theta is not None:
        sent = [replace(f, theta=None if f.theta is None else float(info.theta[f.index])) for f in sent]
    end = run(info, sent, each, rng, numbers)
    assert end.session.state is each.end.session.state is State.CLOSED
    assert not each.broken
    assert [(h.n, h.kind, h.index, h.theta) for h, _ in each.arrived] == [
        (n, f.kind, f.index, f.theta) for n, f in enumerate(sent)
    ]
    assert [payload for _, payload in each.arrived] == [f.data.tobytes() for f in sent]
    assert end.digest.value == each.end.inventory.digest.value
    (opened,) = each.opened
    assert opened.rows == (rows or (0, 4))
    assert (opened.info.uid, opened.info.frame_shape, opened.info.dtype) == (info.uid, info.frame_shape, info.dtype)
    assert dict(opened.info.counts) == dict(info.counts)
    assert (opened.info.theta is None) == (info.theta is None)
    if info.theta is not None:
        np.testing.assert_array_equal(opened.info.theta, info.theta)
    have = {f.index for f in sent if f.kind is FrameKind.PROJECTION}
    last = numbers[0] if counts else max(have, default=-1) + 1
    missing = {i for first, stop in each.ended[0].missing for i in range(first, stop)}
    assert missing == set(range(last)) - have
    assert len(each.ended) == 1


def test_numbers_and_facts_pass_unchanged() -> None:
    info = ScanInfo(
        "a-b_c",
        Geometry(5, 6, 1.5e-6, 2.25),
        np.dtype("<i2"),
        {FrameKind.PROJECTION: 3, FrameKind.FLAT: None, FrameKind.DARK: 0},
        np.array([0.0, -7.5, 1e9]),
        {"title": "Größe", "energy": 20.5, "count": 7},
    )
    each = engine()
    end = SendingEnd(info, 1)
    (welcome,) = each.hear(end.hello(0.0))
    ((message, payload),) = end.hear(through(welcome)[0], None, 0.0)
    each.hear(message, payload)
    got = each.opened[0].info
    assert got.geometry == info.geometry
    assert got.counts == info.counts
    assert got.theta is not None
    np.testing.assert_array_equal(got.theta, info.theta)
    assert dict(got.metadata) == dict(info.metadata)


@pytest.mark.parametrize(
    "metadata",
    [
        {f"key{i}": "x" * 300 for i in range(40)},
        {f"key{i}": "漢" * 300 for i in range(12)},
        {"漢" * 64 + str(i): "漢" * 300 for i in range(12)},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"file": "a\udcffb"},
        {"big": 1 << 70, "minus": -3},
    ],
    ids=["many", "wide", "wide keys", "nan", "inf", "surrogate", "big"],
)
def test_no_metadata_keeps_a_scan_from_being_sent(metadata: dict[str, str | float | int]) -> None:
    """It is for the record only: what does not fit is cut or left out."""
    end = SendingEnd(replace(scan(), metadata=metadata), 1)
    each = engine()
    (welcome,) = each.hear(end.hello(0.0))
    ((message, payload),) = end.hear(through(welcome)[0], None, 0.0)
    have, *_ = each.hear(message, payload)
    assert isinstance(have, Have)


@pytest.mark.parametrize("reason", ["é" * 2000, "漢" * 2000, "x" * 5000, "no such file 'a\udcffb.h5'", "\0" * 900])
def test_any_reason_to_give_up_reaches_the_other_side(reason: str) -> None:
    each, script = streaming()
    (message,) = each.take(each.end.refuse(reason))
    assert isinstance(message, Abort)
    end = SendingEnd(script.info, 1)
    end.hello(0.0)
    end.hear(Welcome(incarnation="i", session=1, lanes=(Lane(rows=(0, 4)),)), None, 0.0)
    given_up = end.abort(reason)
    assert given_up is not None
    each, _ = streaming()
    each.hear(given_up)
    assert len(each.broken) == 1
    assert reason[:5] in each.broken[0].reason


def test_the_same_frame_again_is_dropped_and_its_credit_comes_back() -> None:
    each, script = streaming(slots=2)
    assert each.hear(*script.frame(0, 0, 0)) == []
    for again in range(20):
        assert each.hear(*script.frame(0, 0, 0)) == []
        assert each.end.duplicates == again + 1
        each.now += 2.0
        assert each.tick()[0].name() == "CREDIT"
    assert len(each.arrived) == 1
    assert each.end.received == 1
    assert each.hear(*script.frame(1, 0, 1)) == []
    assert [h.n for h, _ in each.arrived] == [0, 1]


def test_a_source_that_gives_a_frame_twice_still_ends_well() -> None:
    """The protocol drops a frame that comes twice; so the two ends must also count it alike."""
    info = scan(3, 0, 0)
    frames = frames_of(info, (0, 4), (3, 0, 0))
    each = engine()
    rng = random.Random(1)
    end = run(info, [frames[0], frames[1], frames[1], frames[2]], each, rng, (3, 0, 0))
    assert end.session.state is State.CLOSED
    assert [h.index for h, _ in each.arrived] == [0, 1, 2]


def test_a_duplicate_does_not_hide_lost_frames() -> None:
    each, script = streaming(slots=8)
    each.hear(*script.frame(0, 0, 0))
    replies = each.hear(*script.frame(1 << 40, 0, 0))  # frame 0 again, under a number far ahead
    assert each.end.received <= 2
    if not each.end.session.over:
        each.now += 2.0
        replies = each.tick()
        assert not [r for r in replies if isinstance(r, Ack) and r.received > 2], "frames acknowledged that never came"


def test_other_pixels_under_the_same_name() -> None:
    each, script = streaming(slots=4)
    each.hear(*script.frame(0, 1, 0))
    assert "again" in aborted(each, each.hear(*script.frame(1, 1, 0, b"\xff" * 24)))
    assert len(each.arrived) == 1


@pytest.mark.parametrize(
    ("n", "kind", "index", "changes"),
    [
        (0, 7, 0, {}),
        (0, 3, 0, {"theta": 0.5}),
        (0, (1 << 64) - 1, 0, {}),
        (0, 0, 4, {}),
        (0, 0, (1 << 64) - 1, {}),
        (0, 1, 2, {}),
        (0, 2, 1, {}),
        (0, 0, 0, {"theta": None}),
        (0, 1, 0, {"theta": 0.5}),
        (0, 0, 0, {"theta": 1e-6}),
        (0, 0, 1, {"theta": 0.0}),
        (0, 0, 0, {"theta": 1e300}),
        (0, 0, 0, {"rows": (0, 3)}),
        (0, 0, 0, {"rows": (1, 5)}),
        (0, 0, 0, {"rows": (0, 1 << 60)}),
        (0, 0, 0, {"nbytes": 23}),
        (0, 0, 0, {"nbytes": 0}),
        (0, 0, 0, {"payload": b""}),
        (0, 0, 0, {"payload": b"x" * 25}),
        (0, 0, 0, {"payload": b"x" * 24, "nbytes": 1 << 60}),
        (0, 0, 0, {"codec": "gzip"}),
        (0, 0, 0, {"codec": "\0" * 1000}),
        (0, 0, 0, {"codec": "漢" * 300}),
        (0, 0, 0, {"lane": 1}),
        (0, 0, 0, {"xxh3": 0}),
    ],
)
def test_a_frame_that_does_not_fit_ends_the_scan(n: int, kind: int, index: int, changes: dict[str, object]) -> None:
    each, script = streaming()
    header, payload = script.frame(n, kind, index, **changes)
    replies = each.hear(header, payload)
    reason = aborted(each, replies)
    assert str(n) in reason or str(index) in reason
    if "xxh3" in changes:
        assert isinstance(replies[0], Nack)
        assert (replies[0].n, replies[0].session) == (n, 1)
    assert each.arrived == []
    # What is still on its way is ignored.
    assert each.hear(*script.frame(0, 0, 0)) == []
    assert each.hear(script.end()) == []


@pytest.mark.parametrize("n", [1, 1 << 63])
def test_a_frame_out_of_its_turn_begins_a_new_session(n: int) -> None:
    """What was lost on the way comes again; what had come stays."""
    each, script = streaming()
    (reset,) = each.hear(*script.frame(n, 0, 0))
    assert isinstance(reset, Reset)
    assert not each.broken
    assert "due" in each.lost[0].reason
    assert [type(m) for m in each.hear(*script.frame(0, 0, 0))] == [Reset]
    welcome, *_ = each.hear(script.hello())
    script.session = welcome.session
    each.hear(script.scan_open(), script.theta)
    each.hear(*script.frame(0, 0, 0))
    assert len(each.arrived) == 1


def test_damage_is_refused() -> None:
    each, script = streaming()
    header, payload = script.frame(0, 0, 0)
    damaged = bytearray(payload)
    damaged[5] ^= 1
    nack, abort = each.hear(header, bytes(damaged))
    assert isinstance(nack, Nack)
    assert isinstance(abort, Abort)
    assert "checksum" in nack.reason


def test_beyond_the_credit() -> None:
    each, script = streaming(slots=2)
    each.hear(*script.frame(0, 0, 0))
    each.hear(*script.frame(1, 0, 1))
    assert "credit" in aborted(each, each.hear(*script.frame(2, 0, 2)))
    assert len(each.arrived) == 2


def whole(each: Engine, script: Script, count: int = 4) -> End:
    """Send some projections by hand; the END that fits."""
    digest = Digest()
    for n in range(count):
        header, payload = script.frame(n, 0, n)
        assert each.hear(header, payload) == []
        digest.add(0, n, frame_hash(payload))
        each.free()
        each.tick()
    each.sent.clear()
    return script.end(projections=count, digest=digest.value)


@pytest.mark.parametrize("changes", [{"projections": 3}, {"projections": 5}, {"flats": 1}, {"darks": 9}, {"digest": 1}])
def test_an_end_that_does_not_fit(changes: dict[str, int]) -> None:
    each, script = streaming(slots=4)
    end = whole(each, script)
    reason = aborted(each, each.hear(replace(end, **changes)))
    assert "ends after" in reason
    assert each.ended == []


def test_end_is_answered_again_and_then_final() -> None:
    each, script = streaming(slots=4)
    end = whole(each, script, 3)
    first = each.hear(end)
    assert [type(r) for r in first] == [EndOk]
    assert each.hear(end) == first
    assert len(each.ended) == 1
    assert each.ended[0].missing == ((3, 4),)
    final = each.take(each.end.finish())
    assert final == [replace(first[0], state="final")]
    assert each.end.session.state is State.CLOSED
    assert each.end.finish() == []
    assert each.hear(*script.frame(4, 0, 3)) == []


def test_end_is_still_answered_when_the_volume_is_final() -> None:
    """A sender that did not hear the last END_OK asks again; silence would make a failure of a scan that is done."""
    each, script = streaming(slots=4)
    end = whole(each, script)
    each.hear(end)
    each.take(each.end.finish())
    assert [type(r) for r in each.hear(end)] == [EndOk]


def test_a_second_end_that_says_something_else() -> None:
    each, script = streaming(slots=4)
    end = whole(each, script)
    each.hear(end)
    aborted(each, each.hear(replace(end, projections=3)))


def test_gaps_are_missing() -> None:
    each, script = streaming(scan(10, counts=False), slots=4)
    end = whole(each, script)
    assert each.hear(Gap(session=1, number=1, kind=0, indices=((4, 6), (8, 9)), reason="dropped")) == []
    each.hear(end)
    assert each.ended[0].missing == ((4, 9),)


@pytest.mark.parametrize("indices", [((5, 3),), ((0, 1 << 40),), ((1 << 63, 1 << 63),)])
def test_gaps_that_are_no_ranges(indices: tuple[tuple[int, int], ...]) -> None:
    each, _ = streaming()
    aborted(each, each.hear(Gap(session=1, number=1, kind=0, indices=indices, reason="r")))


def test_a_gap_of_an_unknown_kind() -> None:
    each, _ = streaming()
    aborted(each, each.hear(Gap(session=1, number=1, kind=7, indices=((0, 1),), reason="r")))


def test_sender_and_receiver_say_their_heartbeats() -> None:
    each, script = streaming(heartbeat=1.0)
    assert each.tick() == []
    each.now += 1.0
    (credit,) = each.tick()
    assert credit == Credit(session=1, lane=0, max_bytes=48, max_frames=2)
    each.hear(*script.frame(0, 0, 0))
    each.end.in_volume = 5
    each.now += 1.0
    credit, ack = each.tick()
    assert isinstance(credit, Credit)
    assert credit.in_volume == 5
    assert ack == Ack(session=1, lane=0, received=1)
    end = opening(script.info)
    end.hear(Have(session=1), b"", 0.0)
    assert end.tick(0.5) is None
    assert end.tick(1.0) == Status(session=1, sent=0)
    assert end.tick(1.5) is None


def opening(info: ScanInfo) -> SendingEnd:
    """A sender that has announced its scan at the time 0."""
    end = SendingEnd(info, 1, heartbeat=1.0, peer_timeout=10.0)
    end.hello(0.0)
    ((message, _),) = end.hear(Welcome(incarnation="i", session=1, lanes=(Lane(rows=(0, 4)),)), None, 0.0)
    assert isinstance(message, ScanOpen)
    return end


def test_a_sender_that_is_silent_after_its_end_is_not_missed() -> None:
    each, script = streaming(peer_timeout=10.0, slots=4)
    end = whole(each, script)
    each.hear(end)
    each.now += 100.0
    assert each.tick() == []
    assert "silent" in each.lost[0].reason
    each.take(each.end.finish())
    assert not each.broken
    # It comes back and hears that all is well.
    welcome, *_ = each.hear(script.hello())
    script.session = welcome.session
    have, *_ = each.hear(script.scan_open(), script.theta)
    assert isinstance(have, Have)
    (answer,) = each.hear(replace(end, session=script.session, digest=0))
    assert isinstance(answer, EndOk)
    assert answer.state == "final"
    assert len(each.ended) == 1


def test_a_sender_that_is_silent_before_it_announced_a_scan_may_start_over() -> None:
    each = engine(peer_timeout=10.0)
    script = Script(scan())
    each.hear(script.hello())
    each.now += 10.1
    (message,) = each.tick()
    assert isinstance(message, Reset)
    (away,) = each.turned_away
    assert "silent" in away.reason
    assert [type(m) for m in each.hear(script.hello())] == [Welcome]


def test_a_silent_sender_is_given_up() -> None:
    each, _ = streaming(peer_timeout=10.0, slots=4)
    each.now += 10.0
    assert not [m for m in each.tick() if isinstance(m, Abort)]
    each.now += 0.1
    (message,) = each.tick()
    assert isinstance(message, Abort)
    (ended,) = each.broken
    assert "silent" in ended.reason
    each.now += 100.0
    assert each.tick() == []
    assert len(each.broken) == 1


def test_a_silent_sender_is_waited_for() -> None:
    each, script = streaming(peer_timeout=10.0, return_timeout=50.0, slots=4)
    each.hear(*script.frame(0, 0, 0))
    each.free()
    each.now += 10.1
    assert each.tick() == []
    assert "silent" in each.lost[0].reason
    each.now += 40.0
    assert each.tick() == []
    assert [type(m) for m in each.hear(*script.frame(1, 0, 1))] == [Reset], "it has to ask what is here"
    (welcome,) = each.hear(script.hello())
    script.session = welcome.session
    have, *_ = each.hear(script.scan_open(), script.theta)
    assert isinstance(have, Have)
    assert have.projections == 1
    each.now += 10.1
    each.tick()
    each.now += 50.1
    assert each.tick() == []
    (ended,) = each.broken
    assert "silent" in ended.reason
    assert "50 s" in ended.reason


def test_a_silent_receiver_is_given_up() -> None:
    for steps in (1, 2, 3):
        end = opening(scan())
        if steps > 1:
            end.hear(Have(session=1), b"", 0.0)
        if steps > 2:
            end.end(dict.fromkeys(FrameKind, 0), 0.0)
        for now in range(11):
            end.tick(float(now))
        with pytest.raises(PeerLostError, match="silent"):
            end.tick(10.1)


def test_a_sender_that_waits_to_be_let_in_has_patience() -> None:
    end = SendingEnd(scan(), 1, peer_timeout=10.0)
    end.hello(0.0)
    assert end.tick(1e6) is None


def test_versions_that_do_not_meet() -> None:
    each = engine()
    (answer,) = each.hear(replace(Script(scan()).hello(), version_min=2, version_max=3))
    assert isinstance(answer, Abort)
    assert "version" in answer.reason
    assert each.end.peer is None
    assert [type(m) for m in each.hear(Script(scan()).hello())] == [Welcome], "the engine is free for the next"


@pytest.mark.parametrize(
    "codecs", [(), ("gzip",), ("\0" * 1000,) * 3, ("漢" * 330,) * 3], ids=["none", "gzip", "nul", "wide"]
)
def test_no_common_codec(codecs: tuple[str, ...]) -> None:
    each = engine()
    (answer,) = each.hear(replace(Script(scan()).hello(), codecs=codecs))
    assert isinstance(answer, Abort)
    assert "codec" in answer.reason
    assert [type(m) for m in each.hear(Script(scan()).hello())] == [Welcome]


def test_rows_beyond_the_detector() -> None:
    each = engine(rows=(2, 6))
    (answer,) = each.hear(Script(scan(rows=4)).hello())
    assert isinstance(answer, Abort)
    assert "--rows" in answer.reason
    assert not each.broken
    assert [type(m) for m in each.hear(Script(scan(rows=8)).hello())] == [Welcome]


@pytest.mark.parametrize("rows", [0, 3, 5, 1 << 40])
def test_hello_and_scan_open_must_agree_on_the_rows(rows: int) -> None:
    """The rows that WELCOME asks for come from HELLO, the geometry from SCAN_OPEN."""
    script = Script(scan(rows=4))
    each = engine()
    replies = each.hear(replace(script.hello(), rows=rows))
    if isinstance(replies[-1], Welcome):
        replies = each.hear(script.scan_open(), script.theta)
    assert isinstance(replies[-1], Abort)
    assert each.opened == []


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({"rows": 1 << 40}, None),
        ({"columns": 1 << 40}, None),
        ({"rows": 0}, None),
        ({"columns": 0}, None),
        ({"rows": (1 << 64) - 1, "columns": (1 << 64) - 1}, None),
        ({"projections": 5}, None),
        ({"projections": None}, None),
        ({"projections": (1 << 64) - 1}, None),
        ({}, b""),
        ({}, b"x" * 31),
        ({}, b"x" * 33),
        ({}, np.array([0.0, 1.0, np.nan, 2.0]).tobytes()),
        ({}, np.array([0.0, 1.0, np.inf, 2.0]).tobytes()),
        ({"has_theta": False}, b"surplus"),
        ({"uid": "other"}, None),
        ({"uid": "x" * 1000}, None),
        ({"uid": "漢" * 300}, None),
        ({"pixel_size": 0.0}, None),
        ({"pixel_size": -1e-6}, None),
        ({"center": 1e9}, None),
        ({"center": -1e300}, None),
        *[
            ({"dtype": text}, None)
            for text in (
                "O", "U10", "V8", "<f2", "datetime64", "garbage", "", "(", "(1,", ",", "a4", "S4", "c8", "<M8[s]", "<i8",
                "<u8", "?", "<f16", "(2,3)i4", "9" * 30 + "i4", "(a)i4,i4", "(999999999999,)i4", "\0", "é", "i4\0",
                "<u2,<u2", "f4,", "u2" * 400, "{", "m8[0s]", "(1.5,)i4", "漢" * 300, "T", "l", "g", "longdouble",
            )
        ],
    ],
)  # fmt: skip
def test_an_announcement_that_makes_no_sense(changes: dict[str, object], theta: bytes | None) -> None:
    script = Script(scan())
    each = engine()
    each.hear(script.hello())
    reason = aborted(each, each.hear(script.scan_open(**changes), script.theta if theta is None else theta))
    assert len(reason) > 20
    assert each.opened == []


def test_a_uid_that_is_no_uid_is_refused() -> None:
    """It becomes part of a path."""
    for uid in ("../etc", "", "a b", "x" * 65, "a/b", "a\n", "漢" * 300, "\0" * 1000):
        script = Script(scan())
        each = engine()
        replies = each.hear(replace(script.hello(), uid=uid))
        if isinstance(replies[-1], Welcome):
            busy = each.hear(script.hello(), peer=b"second")  # and what the next in line is told fits on the wire
            assert [m.name() for m in busy] == ["BUSY"]
            replies = each.hear(script.scan_open(uid=uid), script.theta)
        assert isinstance(replies[-1], Abort)
        assert each.opened == []


def test_numpy_numbers_in_a_frame() -> None:
    """A source that takes index and angle from arrays gives NumPy's numbers."""
    info = scan(counts=False)
    each = engine()
    end = SendingEnd(info, 1)
    (welcome,) = each.hear(end.hello(0.0))
    ((message, payload),) = end.hear(welcome, None, 0.0)
    for reply in each.hear(message, payload):
        end.hear(reply, b"", 0.0)
    data = np.ones((4, 3), "<u2")
    for n, theta in enumerate([np.float64(0.5), np.float32(0.5)]):
        frame = Frame(FrameKind.PROJECTION, np.int64(n), theta, data)  # type: ignore[arg-type]
        header = end.frame(frame, 0.0)
        each.hear(header, data.tobytes())
    assert [h.index for h, _ in each.arrived] == [0, 1]


@pytest.mark.parametrize(
    "lanes",
    [
        (),
        (Lane(rows=(0, 2)), Lane(rows=(2, 5), endpoint="tcp://127.0.0.1:1")),
        (Lane(rows=(0, 4), endpoint="tcp://elsewhere:1"),),
        (Lane(rows=(0, 0)),),
        (Lane(rows=(3, 2)),),
        (Lane(rows=(0, 5)),),
        (Lane(rows=(0, 1 << 63)),),
    ],
)
def test_a_welcome_that_cannot_be_followed(lanes: tuple[Lane, ...]) -> None:
    end = SendingEnd(scan(), 1)
    end.hello(0.0)
    with pytest.raises(RemoteProtocolError):
        end.hear(Welcome(incarnation="i", session=1, lanes=lanes), None, 0.0)
    assert isinstance(end.abort("no"), Abort)


def test_the_senders_ear() -> None:
    end = opening(scan())
    assert end.hear(Abort(session=9, reason="of an earlier session"), None, 0.0) == []
    end.hear(Have(session=1), b"", 0.0)
    end.hear(Credit(session=1, lane=0, max_bytes=24, max_frames=9), None, 0.0)
    end.hear(Credit(session=1, lane=0, max_bytes=12, max_frames=3), None, 0.0)
    assert end.credit.allows(24)
    assert not end.credit.allows(25)
    frame = frames_of(scan(), (0, 4), (1, 0, 0))[0]
    for _ in range(3):
        end.frame(frame, 0.0)
    end.hear(Ack(session=1, lane=0, received=3, durable=2), None, 0.0)
    end.hear(Ack(session=1, lane=0, received=1), None, 0.0)
    assert (end.received, end.durable) == (3, 2)
    for more in (Ack(session=1, lane=0, received=4), Ack(session=1, lane=0, received=3, durable=4)):
        with pytest.raises(RemoteProtocolError, match="acknowledges"):
            end.hear(more, None, 0.0)
    with pytest.raises(RemoteProtocolError):
        end.hear(EndOk(session=1, state="received", digest=0), None, 0.0)
    end.end(dict.fromkeys(FrameKind, 0), 0.0)
    with pytest.raises(RemoteProtocolError, match="digest"):
        end.hear(EndOk(session=1, state="received", digest=12345), None, 0.0)
    with pytest.raises(ScanAbortedError, match="disk"):
        end.hear(Abort(session=1, reason="the disk is full"), None, 0.0)


def test_a_session_that_is_unknown_is_lost() -> None:
    end = opening(scan())
    stranger = engine()
    (reset,) = stranger.hear(end.abort("x") or Status(session=1, sent=0))
    end = opening(scan())
    assert end.hear(reset, None, 0.0) == []
    assert end.session.state is State.LOST
    assert end.tick(1e9) is None


def test_hello_twice_before_the_answer_is_read() -> None:
    """The table lets a sender say HELLO again while it waits; the answers must not contradict each other."""
    end, each = SendingEnd(scan(), 1), engine()
    hellos: list[Hello] = [end.hello(0.0), end.hello(1.0)]
    back: list[Message] = [reply for hello in hellos for reply in each.hear(hello)]
    there: list[tuple[Message, bytes | None]] = []
    for reply in back:
        there += end.hear(reply, None, 1.0)
    for message, payload in there:
        for reply in each.hear(message, payload):
            end.hear(reply, b"", 1.0)
    assert end.session.state is each.end.session.state is State.STREAMING
    assert not each.broken
    assert each.end.peer == PEER


def test_frames_are_numbered_only_while_streaming() -> None:
    end = opening(scan())
    frame = frames_of(scan(), (0, 4), (1, 0, 0))[0]
    with pytest.raises(LocalProtocolError):
        end.frame(frame, 0.0)
    assert end.credit.sent_frames == 0
    assert isinstance(end.abort("r"), Abort)
    assert end.abort("again") is None
    assert FrameHeader.name() == "FRAME"


def test_an_engine_that_was_stopped_does_not_wait_for_its_sender() -> None:
    """Stopped while the final volume was being written: the sender has heard ABORT, and nothing more will be said."""
    each, script = streaming(slots=4, return_timeout=60.0)
    each.hear(whole(each, script))
    each.take(each.end.refuse("the engine was stopped"))
    each.take(each.end.finish())
    each.now += 2.1
    assert not each.end.parting(each.now)


def test_a_sender_that_comes_back_after_its_end_is_let_in_at_once() -> None:
    """Nothing is written to the journal any more that it could wait for."""
    each, script = streaming(slots=4, return_timeout=60.0, peer_timeout=10.0)
    end = whole(each, script)
    each.hear(end)
    (welcome,) = each.hear(script.hello(), peer=b"again")
    script.session = welcome.session
    have, *_ = each.hear(script.scan_open(), script.theta, peer=b"again")
    assert isinstance(have, Have)
    assert have.ended
    (answer,) = each.hear(replace(end, session=script.session, digest=0), peer=b"again")
    assert isinstance(answer, EndOk)
    final = each.take(each.end.finish(), peer=b"again")
    assert [m.state for m in final if isinstance(m, EndOk)] == ["final"]


def test_an_engine_that_has_something_to_do_first_is_not_silent() -> None:
    """HAVE waits for the journal, whose disk may be full."""
    each, script = streaming(slots=4, heartbeat=1.0, return_timeout=60.0)
    each.hear(*script.frame(0, 0, 0))
    (welcome,) = each.hear(script.hello(), peer=b"again")
    script.session = welcome.session
    assert each.hear(script.scan_open(), script.theta, peer=b"again") == []
    each.now += 1.1
    (credit,) = each.take(each.end.tick(each.now), peer=b"again")
    assert isinstance(credit, Credit)
    assert credit.max_frames == 0


def test_two_that_take_over_at_once_do_not_call_themselves_the_same() -> None:
    """Else the GAPs of one would be taken for those of the other."""
    epochs = set()
    for epoch in (5, 7):
        sender: Dispatch[Frame] = Dispatch(scan(), "lane:0", epoch)
        sender.begin(0.0)
        sender.greet(0, 0.0)
        sender.hear(0, Busy(reason="r", retry_after=1.0, epoch=100), None, 0.0)
        epochs.add(sender.epoch)
    assert len(epochs) == 2
    assert min(epochs) > 100
