"""Whatever decodable messages come, from whomever and in whatever order: outputs, never an exception."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire_pair import OTHER, PEER, Script, aborted, engine, scan, snapshot, streaming, undisturbed
from wire_strategies import built

from streamrecon.errors import RemoteProtocolError, ScanAbortedError
from streamrecon.wire.digest import frame_hash
from streamrecon.wire.messages import (
    MESSAGES,
    Abort,
    Ack,
    Busy,
    Credit,
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
    Want,
    Welcome,
)
from streamrecon.wire.sending import SendingEnd

SMALL = st.integers(0, 3)
RANGE = st.one_of(st.just((0, 4)), st.tuples(SMALL, st.integers(0, 5)))
NEAR: dict[type[Message], dict[str, Any]] = {
    Hello: {"version_min": st.just(1), "version_max": st.just(1), "codecs": st.just(("raw",)), "uid": st.just("scan"),
            "rows": st.sampled_from([0, 1, 4, 5])},
    ScanOpen: {"uid": st.just("scan"), "rows": st.sampled_from([1, 4]), "columns": st.just(3),
               "dtype": st.sampled_from(["<u2", "<u2", "O", ">u2", "(", "<f2"]), "projections": st.one_of(st.none(), SMALL),
               "flats": st.one_of(st.none(), SMALL), "darks": st.none(), "pixel_size": st.none(), "center": st.none(),
               "has_theta": st.booleans()},
    FrameHeader: {"lane": st.just(0), "n": SMALL, "kind": SMALL, "index": SMALL, "rows": RANGE, "nbytes": st.just(24),
                  "codec": st.just("raw"), "theta": st.one_of(st.none(), st.just(0.0))},
    Gap: {"indices": st.lists(st.tuples(SMALL, SMALL), max_size=2).map(tuple), "kind": SMALL},
}  # fmt: skip
SESSION = st.sampled_from([1, 1, 1, 1, 0, 2])


def near(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Messages that come close to fitting."""
    fields = dict(NEAR.get(cls, {}))
    if "session" in cls.__dataclass_fields__:  # type: ignore[attr-defined]
        fields["session"] = SESSION
    return built(cls, **fields)


ANY = st.sampled_from(sorted(MESSAGES)).flatmap(lambda code: st.one_of(near(MESSAGES[code]), built(MESSAGES[code])))
PAYLOAD = st.sampled_from([b"", b"\0" * 24, b"\1" * 24, b"\0" * 8, b"\0" * 16, b"x"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([PEER, PEER, PEER, OTHER]), ANY, PAYLOAD),
        st.sampled_from(["tick", "late", "free", "finish", "refuse"]),
    ),
    max_size=20,
)


@settings(max_examples=200)
@given(steps=STEPS, begun=st.sampled_from(["", "greeted", "streaming"]), rows=st.sampled_from([None, (0, 4), (1, 2)]))
@example(
    steps=[(PEER, Hello(uid="s", epoch=0, rows=0, columns=0, codecs=("\0" * 1000,) * 3), b"")], begun="", rows=None
)
def test_a_receiver_only_ever_gives_outputs(steps: list[Any], begun: str, rows: tuple[int, int] | None) -> None:
    each = streaming(scan(counts=False), rows=rows)[0] if begun == "streaming" else engine(rows=rows)
    if begun == "greeted":
        each.hear(Script(scan()).hello())
    for step in steps:
        if step == "tick":
            each.now += 0.7
            each.tick()
        elif step == "late":
            each.now += 1000.0
            each.tick()
        elif step == "free":
            each.free()
        elif step == "finish":
            each.take(each.end.finish())
        elif step == "refuse":
            each.take(each.end.refuse("enough"))
        else:
            peer, message, payload = step
            if message.PAYLOAD and isinstance(message, FrameHeader) and len(payload) == 24:
                message = replace(message, xxh3=frame_hash(payload))
            each.hear(message, payload, peer)


@settings(max_examples=100)
@given(st.lists(ANY, max_size=15), st.booleans())
def test_a_sender_raises_only_what_it_documents(messages: list[Message], begun: bool) -> None:
    end = SendingEnd(scan(), 1)
    end.hello(0.0)
    if begun:
        end.hear(Welcome(incarnation="i", session=1, lanes=(Lane(rows=(0, 4)),)), None, 0.0)
        end.hear(Have(session=1), b"", 0.0)
    for message in messages:
        try:
            end.hear(message, b"" if message.PAYLOAD else None, 0.0)
            end.tick(0.5)
        except (RemoteProtocolError, ScanAbortedError) as error:
            end.abort(str(error))
            return


FOREIGN: list[tuple[Message, bytes | None]] = [
    (Status(session=1, sent=9), None),
    (Abort(session=1, reason="r"), None),
    (Gap(session=1, number=1, kind=0, indices=((0, 4),), reason="r"), None),
    (Credit(session=1, lane=0, max_bytes=0, max_frames=0), None),
    (Ack(session=1, lane=0, received=99), None),
    (Nack(session=1, lane=0, n=0, reason="r"), None),
    (Have(session=1), None),
    (Reset(session=1, reason="r"), None),
    (EndOk(session=1, state="final", digest=0), None),
    (Want(after=0), None),
    (Busy(reason="r", retry_after=1.0), None),
    (Welcome(incarnation="i", session=1, lanes=()), None),
]


def strangers(script: Script) -> list[tuple[Message, bytes | None]]:
    return [
        *FOREIGN,
        script.frame(0, 0, 0),
        script.frame(1, 0, 1),
        (script.end(), None),
        (script.scan_open(), script.theta),
        (script.hello(), None),
        (replace(script.hello(), epoch=1 << 60), None),
        (replace(script.hello(), uid="x" * 1000), None),
        (replace(script.hello(), rows=1), None),
        (replace(script.hello(), version_min=7, version_max=9), None),
    ]


def test_a_stranger_cannot_disturb_a_running_session() -> None:
    each, script = streaming(slots=4)
    each.hear(*script.frame(0, 0, 0))
    before = snapshot(each)
    for message, payload in strangers(script):
        replies = each.hear(message, payload, OTHER)
        assert len(replies) <= 1
        assert all(isinstance(r, (Busy, Welcome, Abort) if isinstance(message, Hello) else Reset) for r in replies)
        undisturbed(each, before, replies)
    each.hear(*script.frame(1, 0, 1))
    assert each.end.received == 2


def test_a_stranger_does_not_keep_a_dead_session_alive() -> None:
    each, script = streaming(peer_timeout=10.0)
    for _ in range(12):
        each.now += 1.0
        for message, payload in strangers(script):
            each.hear(message, payload, OTHER)
        each.tick()
    assert len(each.broken) == 1
    assert "silent" in each.broken[0].reason


def test_before_any_hello_everything_is_reset() -> None:
    each = engine()
    script = Script(scan())
    for message, payload in strangers(script):
        if not isinstance(message, Hello):
            (reply,) = each.hear(message, payload)
            assert reply == Reset(session=getattr(message, "session", 0), reason=reply.reason)  # type: ignore[attr-defined]
    assert [type(m) for m in each.hear(script.hello())] == [Welcome]


@pytest.mark.parametrize("session", [0, 2, (1 << 64) - 1])
def test_messages_of_another_session_are_reset(session: int) -> None:
    each, script = streaming()
    before = snapshot(each)
    script.session = session
    for message, payload in [script.frame(0, 0, 0), (script.end(), None), (Abort(session=session, reason="r"), None)]:
        (reply,) = each.hear(message, payload)
        assert isinstance(reply, Reset)
        assert reply.session == session
    assert snapshot(each) == before


@pytest.mark.parametrize(
    "message", [m for m, _ in FOREIGN if m.name() in ("CREDIT", "ACK", "NACK", "HAVE", "RESET", "END_OK", "WELCOME")]
)
def test_a_sender_that_says_the_receivers_words_is_ended(message: Message) -> None:
    each, _ = streaming()
    reason = aborted(each, each.hear(message))
    assert "sender" in reason
    assert message.name() in reason


def test_after_the_end_nothing_moves() -> None:
    each, script = streaming()
    each.hear(Abort(session=1, reason="enough"))
    assert "enough" in each.broken[0].reason
    before = snapshot(each)
    for message, payload in strangers(script):
        for reply in each.hear(message, payload):
            assert isinstance(reply, Busy | Reset)
    assert snapshot(each) == before
    assert len(each.broken) == 1


def test_a_gap_costs_no_memory() -> None:
    """One message of a few bytes names a hundred million frames."""
    each, _ = streaming(scan(counts=False))
    tracemalloc.start()
    began = time.perf_counter()
    try:
        each.hear(Gap(session=1, number=1, kind=0, indices=((0, 300_000),) * 3, reason="r"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000, f"a gap of 300000 frames took {peak / 1e6:.0f} MB"
    assert time.perf_counter() - began < 30


def test_a_scan_announced_as_endless_costs_no_memory() -> None:
    script = Script(scan(counts=False))
    each = engine()
    each.hear(script.hello())
    tracemalloc.start()
    try:
        each.hear(script.scan_open(projections=(1 << 64) - 1))
        each.end.missing()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
