"""What the ranks of a job say to each other, and how they notice that one says nothing any more; used by the I/O thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamrecon.config import EngineConfig
from streamrecon.engine.orders import Order, Pulse, Report, pack, unpack
from streamrecon.engine.status import Counters
from streamrecon.errors import RankError
from streamrecon.transport import Clock, ControlHub, ControlLink


class Talk:
    """The connection of one rank to the others: of rank 0 to all, of each other to rank 0.

    Parameters
    ----------
    options
        Heartbeat and deadlines.
    counters
        Of this rank, which it tells; at rank 0 those of the others are kept there.
    clock
        By which the others are waited for.
    failed
        Called, once, with why this job cannot go on.
    alarmed
        Called with a rank and what it needs people for, when that begins.
    """

    def __init__(
        self,
        options: EngineConfig,
        counters: Counters,
        clock: Clock,
        failed: Callable[[str], None],
        alarmed: Callable[[int, str], None],
    ) -> None:
        self._options, self._counters, self._clock = options, counters, clock
        self._failed, self._alarmed = failed, alarmed
        self.control: ControlHub | ControlLink | None = None
        """How they are reached; None where there are none."""
        self._rank = 0
        self._word: dict[int, float] = {}
        """When each other rank, or rank 0, was last heard."""
        self._kept: dict[int, list[bytes]] = {}
        """For ranks that were never heard: what is sent to one that has not connected yet is lost."""
        self._pulsed = 0.0
        self._beat: tuple[int | None, float] = 0, 0.0
        """How often the compute thread had come round when it last did, and when that was seen."""
        self._hands: dict[str, tuple[int, float]] = {}
        """The pieces of work that were seen in the hands of other threads, and since when."""
        self._over = False

    def connect(self, rank: int, ranks: int, control: ControlHub | ControlLink | None) -> None:
        """Which rank of how many this is, and how the others are reached."""
        self._rank, self.control = rank, control
        others = [0] if rank else range(1, ranks)
        self._word = dict.fromkeys(others, 0.0)
        self._kept = {} if rank else {other: [] for other in others}

    def begin(self) -> None:
        """From now on the others' silence counts."""
        now = self._clock.now()
        self._word = dict.fromkeys(self._word, now)
        self._beat = self._counters.beats, now

    @property
    def complete(self) -> bool:
        """Whether all others have been heard."""
        return not self._kept

    @property
    def owes(self) -> bool:
        """Whether something is left to be said to a rank that has not been heard yet, and may come."""
        began = min(self._word.values(), default=0.0)
        return any(self._kept.values()) and self._clock.now() - began < self._options.rank_timeout

    def tell(self, message: Order | Report) -> None:
        """Send to all others: an order to all, a report to rank 0."""
        data = pack(message)
        for rank in self._word:
            if rank in self._kept:
                self._kept[rank].append(data)
            elif self.control is not None:
                self.control.send(rank, data)

    def turn(self, hear: Callable[[int, Any], None]) -> None:
        """Hear the others, say that this one is alive, and see who is not; call often."""
        self._hear(hear)
        now, counters = self._clock.now(), self._counters
        if counters.beats != self._beat[0]:
            self._beat = counters.beats, now
        working = 0.0 if counters.beats is None else now - self._beat[1]
        if self._word and now - self._pulsed >= self._options.heartbeat:
            self._pulsed = now
            self.tell(Pulse(counters.frames, counters.in_volume, working, counters.alarm))
        silent = next((r for r, at in self._word.items() if now - at > self._options.rank_timeout), None)
        if silent is not None:
            self._fail(f"rank {silent} has not been heard for {self._options.rank_timeout:g} s")
        elif working > self._options.work_timeout:
            self._fail(f"rank {self._rank} has been at one piece of work for {working:.0f} s (engine.work_timeout)")
        else:
            self._look_at_hands(now)

    def _look_at_hands(self, now: float) -> None:
        """Whether another thread of this rank hangs, such as at a disk that does not answer."""
        hands = dict(self._counters.hands)
        self._hands = {
            name: seen if (seen := self._hands.get(name, (0, now)))[0] == piece else (piece, now)
            for name, piece in hands.items()
        }
        for name, (_, since) in self._hands.items():
            if now - since > self._options.work_timeout:
                self._fail(f"rank {self._rank} has been {name} for {now - since:.0f} s (engine.work_timeout)")

    def _hear(self, hear: Callable[[int, Any], None]) -> None:
        if self.control is None:
            return
        try:
            for rank, data in self.control.messages():
                self._word[rank] = self._clock.now()
                for kept in self._kept.pop(rank, []):
                    self.control.send(rank, kept)
                message = unpack(data)
                if not isinstance(message, Pulse):
                    hear(rank, message)
                elif not self._rank:
                    before = self._counters.others.get(rank)
                    self._counters.others[rank] = message
                    if message.alarm and (before is None or before.alarm != message.alarm):
                        self._alarmed(rank, message.alarm)
        except RankError as error:
            self._fail(str(error))

    def _fail(self, why: str) -> None:
        if not self._over:
            self._over = True
            self._failed(why)

    def let_go(self) -> None:
        """This rank is through: the others may end, too."""
        self._over = True

    def close(self) -> None:
        """Close the connection."""
        self.let_go()
        if self.control is not None:
            self.control.close()
