"""The session's states: a table, followed by both ends, and the class that holds an end to it.

docs/protocol.md's table is generated from `TRANSITIONS` (`python -m streamrecon.wire.session`).
"""

from __future__ import annotations

import enum

from streamrecon.errors import LocalProtocolError, RemoteProtocolError
from streamrecon.wire.messages import EndOk, Message


class Role(enum.Enum):
    """An end of a session."""

    SENDER = "sender"
    RECEIVER = "receiver"

    @property
    def peer(self) -> Role:
        """The other end."""
        return Role.RECEIVER if self is Role.SENDER else Role.SENDER


class State(enum.Enum):
    """Where a session stands."""

    NEW = "the sender looks for a receiver"
    GREETING = "the sender waits to be let in"
    WELCOMED = "the scan may be announced"
    OPENING = "the receiver plans for the scan"
    STREAMING = "frames flow as far as credit goes"
    ENDING = "all frames were sent; the receiver finishes the volume"
    CLOSED = "the volume is final"
    ABORTED = "one side gave up"
    LOST = "the receiver does not know the session"


LIVE = (State.NEW, State.GREETING, State.WELCOMED, State.OPENING, State.STREAMING, State.ENDING)
OVER = (State.CLOSED, State.ABORTED, State.LOST)

TRANSITIONS: dict[tuple[State, Role, str], State] = {
    (State.NEW, Role.SENDER, "HELLO"): State.GREETING,
    (State.GREETING, Role.SENDER, "HELLO"): State.GREETING,
    (State.GREETING, Role.RECEIVER, "BUSY"): State.GREETING,
    (State.GREETING, Role.RECEIVER, "WELCOME"): State.WELCOMED,
    (State.WELCOMED, Role.SENDER, "HELLO"): State.WELCOMED,
    (State.WELCOMED, Role.SENDER, "SCAN_OPEN"): State.OPENING,
    (State.OPENING, Role.SENDER, "STATUS"): State.OPENING,
    (State.OPENING, Role.RECEIVER, "CREDIT"): State.OPENING,
    (State.OPENING, Role.RECEIVER, "HAVE"): State.STREAMING,
    (State.STREAMING, Role.SENDER, "FRAME"): State.STREAMING,
    (State.STREAMING, Role.SENDER, "GAP"): State.STREAMING,
    (State.STREAMING, Role.SENDER, "STATUS"): State.STREAMING,
    (State.STREAMING, Role.RECEIVER, "CREDIT"): State.STREAMING,
    (State.STREAMING, Role.RECEIVER, "ACK"): State.STREAMING,
    (State.STREAMING, Role.RECEIVER, "NACK"): State.STREAMING,
    (State.STREAMING, Role.SENDER, "END"): State.ENDING,
    (State.ENDING, Role.SENDER, "END"): State.ENDING,
    (State.ENDING, Role.SENDER, "STATUS"): State.ENDING,
    (State.ENDING, Role.RECEIVER, "CREDIT"): State.ENDING,
    (State.ENDING, Role.RECEIVER, "ACK"): State.ENDING,
    (State.ENDING, Role.RECEIVER, "NACK"): State.ENDING,
    (State.ENDING, Role.RECEIVER, "END_OK received"): State.ENDING,
    (State.ENDING, Role.RECEIVER, "END_OK final"): State.CLOSED,
    **{(state, role, "ABORT"): State.ABORTED for state in LIVE[1:] for role in Role},
    **{(state, Role.RECEIVER, "RESET"): State.LOST for state in LIVE[1:]},
}
"""(state, who sends, message) -> next state. What is not here is not allowed; in `OVER` all is ignored."""


def event(message: Message) -> str:
    """Name of a message in the table."""
    return f"{message.name()} {message.state}" if isinstance(message, EndOk) else message.name()


class Session:
    """One end of a session: follows the table and says whose fault it is when a message does not fit.

    Parameters
    ----------
    role
        Which end this is.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = State.NEW

    @property
    def over(self) -> bool:
        """Whether nothing more can happen."""
        return self.state in OVER

    def send(self, message: Message) -> None:
        """Take note of a message that this end is about to send.

        Raises
        ------
        LocalProtocolError
            If the state does not allow it.
        """
        following = TRANSITIONS.get((self.state, self.role, event(message)))
        if following is None:
            raise LocalProtocolError(f"the {self.role.value} cannot send {event(message)}: {self._expected(self.role)}")
        self.state = following

    def receive(self, message: Message) -> bool:
        """Take note of a message from the peer.

        Returns
        -------
        meant
            False for a stray message after the session's end, which is to be ignored.

        Raises
        ------
        RemoteProtocolError
            If the state does not allow it.
        """
        if self.over:
            return False
        peer = self.role.peer
        following = TRANSITIONS.get((self.state, peer, event(message)))
        if following is None:
            raise RemoteProtocolError(f"the {peer.value} sent {event(message)}: {self._expected(peer)}")
        self.state = following
        return True

    def _expected(self, role: Role) -> str:
        allowed = sorted(name for state, sender, name in TRANSITIONS if (state, sender) == (self.state, role))
        return (
            f"the session is in {self.state.name} ({self.state.value}), where the {role.value} may send "
            f"{', '.join(allowed) or 'nothing'}"
        )


def table() -> str:
    """The transitions as a Markdown table."""
    lines = ["| state | who sends | message | next state |", "|---|---|---|---|"]
    lines += [
        f"| {state.name} | {role.value} | {name} | {following.name} |"
        for (state, role, name), following in TRANSITIONS.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
