"""The table of states: what it allows, what it refuses and in which words, and that the two ends never disagree."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrecon.errors import LocalProtocolError, RemoteProtocolError
from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo
from streamrecon.wire.dispatch import Dispatch
from streamrecon.wire.messages import (
    MESSAGES,
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
    Nack,
    Reset,
    ScanOpen,
    Status,
    Want,
    Welcome,
)
from streamrecon.wire.session import LIVE, OVER, TRANSITIONS, Role, Session, State, event, table

SAMPLES = {
    event(message): message
    for message in (
        Hello(uid="s", epoch=1, rows=1, columns=1),
        Welcome(incarnation="i", session=1, lanes=()),
        Busy(reason="r", retry_after=1.0),
        Reset(session=1, reason="r"),
        ScanOpen(
            session=1, uid="s", rows=1, columns=1, dtype="<u2", projections=None, flats=None, darks=None,
            pixel_size=None, center=None, has_theta=False,
        ),
        Have(session=1),
        FrameHeader(session=1, lane=0, n=0, kind=0, index=0, theta=0.0, rows=(0, 1), nbytes=2, xxh3=0),
        Gap(session=1, number=1, kind=0, indices=(), reason="r"),
        Credit(session=1, lane=0, max_bytes=0, max_frames=0),
        Ack(session=1, lane=0, received=0),
        Nack(session=1, lane=0, n=0, reason="r"),
        Status(session=1, sent=0),
        End(session=1, projections=0, flats=0, darks=0, digest=0),
        EndOk(session=1, state="received", digest=0),
        EndOk(session=1, state="final", digest=0),
        Abort(session=1, reason="r"),
        Want(after=0),
    )
}  # fmt: skip

EVERYTHING = [(state, role, name) for state in State for role in Role for name in SAMPLES]
REFUSED = [each for each in EVERYTHING if each not in TRANSITIONS]


def at(role: Role, state: State) -> Session:
    session = Session(role)
    session.state = state
    return session


def test_the_table_speaks_of_messages_that_exist() -> None:
    assert {name for _, _, name in TRANSITIONS} <= set(SAMPLES)
    named = {name.split()[0] for _, _, name in TRANSITIONS}
    assert {cls.name() for cls in MESSAGES.values()} - named == {
        "WANT",
        "UPDATE",
        "LOOK",
        "PROGRESS",
        "CONTROL",
        "RESULT",
    }
    assert set(LIVE) | set(OVER) == set(State)
    assert not set(LIVE) & set(OVER)
    assert not [state for state, _, _ in TRANSITIONS if state in OVER]


def test_every_state_is_reachable_and_every_live_state_can_be_left() -> None:
    reached, todo = {State.NEW}, deque([State.NEW])
    while todo:
        here = todo.popleft()
        for (state, _, _), following in TRANSITIONS.items():
            if state is here and following not in reached:
                reached.add(following)
                todo.append(following)
    assert reached == set(State)
    for state in LIVE:
        assert any(here is state and following is not state for (here, _, _), following in TRANSITIONS.items())


@pytest.mark.parametrize(("state", "role", "name"), TRANSITIONS, ids=str)
def test_what_is_allowed_moves_both_ends_alike(state: State, role: Role, name: str) -> None:
    here, there = at(role, state), at(role.peer, state)
    here.send(SAMPLES[name])
    assert there.receive(SAMPLES[name])
    assert here.state is there.state is TRANSITIONS[state, role, name]


def allowed_names(state: State, role: Role) -> set[str]:
    return {name for here, sender, name in TRANSITIONS if (here, sender) == (state, role)}


@pytest.mark.parametrize(("state", "role", "name"), REFUSED, ids=str)
def test_what_is_not_in_the_table_is_refused(state: State, role: Role, name: str) -> None:
    here, there = at(role, state), at(role.peer, state)
    with pytest.raises(LocalProtocolError) as local:
        here.send(SAMPLES[name])
    texts = [str(local.value)]
    if state in OVER:
        assert there.receive(SAMPLES[name]) is False
    else:
        with pytest.raises(RemoteProtocolError) as remote:
            there.receive(SAMPLES[name])
        texts.append(str(remote.value))
    assert here.state is there.state is state, "a refused message changed the state"
    for text in texts:
        guilty, _, expected = text.partition(":")
        assert role.value in guilty
        assert name in guilty
        assert state.name in expected
        may = expected.partition("may send ")[2]
        assert set(may.split(", ")) == (allowed_names(state, role) or {"nothing"})


@given(st.data())
def test_two_ends_stay_together(data: st.DataObject) -> None:
    ends = {role: Session(role) for role in Role}
    for _ in range(25):
        state = ends[Role.SENDER].state
        choices = sorted((role.value, name) for here, role, name in TRANSITIONS if here is state)
        if not choices:
            break
        role_name, name = data.draw(st.sampled_from(choices))
        role = Role(role_name)
        ends[role].send(SAMPLES[name])
        assert ends[role.peer].receive(SAMPLES[name])
        assert ends[Role.SENDER].state is ends[Role.RECEIVER].state
    assert ends[Role.SENDER].over == (ends[Role.SENDER].state in OVER)


def test_crossing_messages_are_never_an_error() -> None:
    """All interleavings of two ends with up to two messages on their way each, by exhaustion.

    A sender says HELLO again only after BUSY; a receiver answers each HELLO once, and nothing before it.
    """
    start = (State.NEW, State.NEW, (), (), 0, False)
    todo, known = deque([start]), {start}

    def go(item: tuple[object, ...]) -> None:
        if item not in known:
            known.add(item)
            todo.append(item)  # type: ignore[arg-type]

    while todo:
        sender, receiver, there, back, owed, may_hello = todo.popleft()
        if len(there) < 2:
            for name in allowed_names(sender, Role.SENDER):
                if name == "HELLO" and not (sender is State.NEW or may_hello):
                    continue
                following = TRANSITIONS[sender, Role.SENDER, name]
                go((following, receiver, (*there, name), back, owed, False))
        if len(back) < 2:
            for name in allowed_names(receiver, Role.RECEIVER):
                answer = name in ("BUSY", "WELCOME")
                if answer and not owed:
                    continue
                following = TRANSITIONS[receiver, Role.RECEIVER, name]
                go((sender, following, there, (*back, name), owed - answer, may_hello))
        if there:
            end = at(Role.RECEIVER, receiver)
            end.receive(SAMPLES[there[0]])
            go((sender, end.state, there[1:], back, owed + (there[0] == "HELLO"), may_hello))
        if back:
            end = at(Role.SENDER, sender)
            end.receive(SAMPLES[back[0]])
            go((end.state, receiver, there, back[1:], owed, may_hello or back[0] == "BUSY"))
    assert len(known) > 200


def test_the_table_has_a_line_for_each_transition() -> None:
    lines = table().splitlines()
    assert len(lines) == 2 + len(TRANSITIONS)
    for (state, role, name), following in TRANSITIONS.items():
        assert f"| {state.name} | {role.value} | {name} | {following.name} |" in lines


@pytest.mark.parametrize(("retry_after", "wait"), [(0.0, 1.0), (5.0, 5.0), (1e9, 30.0)])
def test_a_busy_engine_is_asked_again_when_it_says(retry_after: float, wait: float) -> None:
    """Within reason; and until it answers again, it counts as busy."""
    scan = ScanInfo("scan", Geometry(2, 4), np.dtype("u2"), {FrameKind.PROJECTION: 3})
    dispatch: Dispatch[Frame] = Dispatch(scan, "here", 1)
    dispatch.begin(0.0)

    def said(now: float) -> list[str]:
        dispatch.greet(0, now)
        return [message.name() for _, message, _ in dispatch.messages()]

    assert said(0.0) == ["HELLO"]
    dispatch.hear(0, Busy(reason="scan other is in work", retry_after=retry_after), None, 0.5)
    assert said(0.5 + wait - 0.01) == []
    assert said(0.5 + wait) == ["HELLO"]
    assert dispatch.main.busy is not None
    dispatch.hear(0, Welcome(incarnation="i", session=1, lanes=(Lane(rows=(0, 2)),)), None, wait + 1)
    assert dispatch.main.busy is None
