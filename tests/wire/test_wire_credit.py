"""Credit: never exceeded, never lost, never a deadlock."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrecon.errors import RemoteProtocolError
from streamrecon.wire.credit import CreditCursor, CreditWindow
from streamrecon.wire.digest import Digest, frame_hash

SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(SIZES, st.integers(2, 6), st.integers(100, 300), st.integers(0, 1 << 32))
def test_whatever_happens_to_credit_messages_the_sender_stays_within(
    sizes: list[int], frames: int, nbytes: int, seed: int
) -> None:
    rng = random.Random(seed)
    window, cursor = CreditWindow(nbytes, frames), CreditCursor()
    told: list[tuple[int, int]] = [window.tell()]
    on_the_way: list[int] = []
    ring: list[int] = []
    todo = list(sizes)
    for _ in range(200):
        action = rng.choice(["credit", "send", "arrive", "free", "tell"])
        if action == "credit":  # any of those ever told, in any order, any number of times, or never
            before = cursor.max_bytes, cursor.max_frames
            cursor.extend(*rng.choice(told))
            assert cursor.max_bytes >= before[0]
            assert cursor.max_frames >= before[1]
        elif action == "send" and todo and cursor.allows(todo[0]):
            cursor.spend(todo[0])
            on_the_way.append(todo.pop(0))
        elif action == "arrive" and on_the_way:
            ring.append(on_the_way.pop(0))
            window.receive(ring[-1])
        elif action == "free" and ring:
            window.free(ring.pop(rng.randrange(len(ring))))
        elif action == "tell":
            told.append(window.tell())
            assert all(new >= old for new, old in zip(told[-1], told[-2], strict=True)), "credit was taken back"
        assert len(ring) + len(on_the_way) <= frames
        assert sum(ring) + sum(on_the_way) <= nbytes
        assert cursor.sent_frames <= window.max_frames
        assert cursor.sent_bytes <= window.max_bytes


@given(SIZES, st.integers(2, 6), st.booleans())
def test_no_deadlock_where_what_arrives_is_freed(sizes: list[int], frames: int, heartbeat: bool) -> None:
    """With the heartbeat's credit, or only with what is worth telling, where the frames are of one size."""
    if not heartbeat:
        sizes = [sizes[0]] * len(sizes)
    window, cursor = CreditWindow(frames * max(sizes), frames), CreditCursor()
    cursor.extend(*window.tell())
    for nbytes in sizes:
        if not cursor.allows(nbytes):
            assert heartbeat or window.worth_telling()
            cursor.extend(*window.tell())
        assert cursor.allows(nbytes)
        cursor.spend(nbytes)
        window.receive(nbytes)
        window.free(nbytes)


@given(st.integers(1, 10), st.integers(1, 100))
def test_beyond_the_credit_is_the_senders_fault(frames: int, nbytes: int) -> None:
    window = CreditWindow(nbytes * frames, frames)
    with pytest.raises(RemoteProtocolError, match="sender"):
        window.receive(nbytes)  # nothing was told yet
    window.tell()
    for _ in range(frames):
        window.receive(nbytes)
    with pytest.raises(RemoteProtocolError, match="credit"):
        window.receive(0)
    assert (window.received_frames, window.received_bytes) == (frames, frames * nbytes)
    window.free(nbytes)
    with pytest.raises(RemoteProtocolError):
        window.receive(1)  # freed, but not told
    window.tell()
    with pytest.raises(RemoteProtocolError):
        window.receive(nbytes + 1)
    window.receive(nbytes)


def test_credit_is_worth_telling_after_half_a_window() -> None:
    window = CreditWindow(80, 8)
    assert window.worth_telling()
    window.tell()
    for freed in range(1, 5):
        assert not window.worth_telling()
        window.free(10)
        assert window.worth_telling() == (freed == 4)
    window.tell()
    assert not window.worth_telling()


ITEMS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1 << 63), st.binary(max_size=8)), max_size=20)


@given(ITEMS, st.randoms(use_true_random=False))
def test_the_digest_knows_no_order(items: list[tuple[int, int, bytes]], rng: random.Random) -> None:
    one, other = Digest(), Digest()
    for kind, index, payload in items:
        one.add(kind, index, frame_hash(payload))
    rng.shuffle(items)
    for kind, index, payload in items:
        other.add(kind, index, frame_hash(memoryview(payload)))
    assert one.value == other.value
    assert 0 <= one.value < 1 << 64


def test_the_digest_knows_kind_index_and_pixels_and_twice() -> None:
    values = set()
    for item in [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2)]:
        digest = Digest()
        digest.add(*item)
        values.add(digest.value)
        digest.add(*item)
        values.add(digest.value)
    assert len(values) == 8
