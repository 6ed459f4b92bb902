"""What viewers that have the control token ask for; at rank 0, by the compute thread, so that all ranks do it alike."""

from __future__ import annotations

import math
import queue
import typing
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from streamrecon.config import FilterName, ReconConfig
from streamrecon.engine.emit import EmitPolicy
from streamrecon.engine.gallery import Answer
from streamrecon.engine.kept_requests import KeptRequests
from streamrecon.engine.lead import Lead
from streamrecon.engine.orders import Attend, Change, Order, Sweep, Swept
from streamrecon.engine.status import Counters
from streamrecon.engine.story import Story
from streamrecon.errors import StreamreconError
from streamrecon.wire.messages import Action, Control, Picture, Range, Result

CANDIDATES = 32
"""Centers that can be shown side by side."""

SMALLEST = 16
"""Side of a slice, pixels."""

SWEEPS = 2
"""That are made at the same time; who asks for more has to wait."""

WAITING = 32
"""Requests that may wait to be carried out."""


class _RefusedError(Exception):
    """Why a request is not carried out."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A sweep that a rank is at."""

    control: Control
    answer: Answer


class Hands:
    """The requests of one scan.

    Parameters
    ----------
    lead
        Decides on the axis.
    policy
        When versions are due.
    options
        Of the reconstruction, as it begins.
    fits
        Raises a `StreamreconError` where a reconstruction with other options does not fit the machine.
    whole_fits
        Whether partial versions without binning fit.
    whole, columns
        Detector rows of all slabs, and its columns.
    advise
        Tells the sender to stop, and why.
    kept
        Where changes are kept for an engine that goes on with the scan.
    counters, story
        What people see.
    """

    def __init__(
        self,
        lead: Lead,
        policy: EmitPolicy,
        options: ReconConfig,
        fits: Callable[[ReconConfig], None],
        whole_fits: bool,
        whole: Range,
        columns: int,
        advise: Callable[[str], None],
        kept: KeptRequests,
        counters: Counters,
        story: Story,
    ) -> None:
        self._lead, self._policy, self._options, self._fits = lead, policy, options, fits
        self._whole_fits, self._whole, self._columns = whole_fits, whole, columns
        self._advise, self._kept, self._counters, self._story = advise, kept, counters, story
        self._requests: queue.SimpleQueue[tuple[Control, Answer]] = queue.SimpleQueue()
        self._attended: deque[Attend] = deque(maxlen=1)
        """What viewers look at, until the ranks were told."""
        self._sweeps: dict[int, _Asked] = {}
        self._number = 0
        counters.filter, counters.every, counters.interval = options.filter, policy.every, policy.interval
        counters.rows, counters.columns, counters.side = whole[1] - whole[0], columns, options.side

    # Any thread.

    def ask(self, control: Control, answer: Answer) -> None:
        """A viewer asks for something."""
        if self._requests.qsize() >= WAITING:
            self._say(control, answer, False, f"{WAITING} requests wait already: ask again in a moment")
        else:
            self._requests.put((control, answer))

    def attend(self, attended: Attend) -> None:
        """Viewers look at this."""
        self._attended.append(attended)

    # The compute thread.

    def turn(self) -> list[Order]:
        """Orders to all ranks that follow from what was asked."""
        orders: list[Order] = []
        while self._attended:
            orders.append(self._attended.popleft())
        while not self._requests.empty():
            orders += self._obey(*self._requests.get())
        return orders

    def hear(self, swept: Swept) -> None:
        """A rank has shown candidates."""
        asked = self._sweeps.pop(swept.number, None)
        if asked is None:
            return
        row, first, last, _ = asked.control.numbers
        shape = tuple(int(size) for size in swept.slices.shape)
        picture = Picture(kind="centers", index=int(row), shape=shape, full=shape)
        text = f"slice {row:.0f} with centers {first:g} to {last:g}"
        asked.answer(Result(serial=asked.control.serial, done=True, text=text, pictures=(picture,)), [swept.slices])

    def close(self) -> None:
        """The scan is over: nobody is left without an answer."""
        while not self._requests.empty():
            self._say(*self._requests.get(), False, "the scan is over: nothing was changed")
        for asked in self._sweeps.values():
            self._say(asked.control, asked.answer, False, "the scan is over")
        self._sweeps = {}

    @staticmethod
    def _say(control: Control, answer: Answer, done: bool, text: str) -> None:
        answer(Result(serial=control.serial, done=done, text=text[:500]), [])

    def _obey(self, control: Control, answer: Answer) -> Sequence[Order]:
        try:
            if self._lead.ended and control.action not in ("centers", "advise_stop"):
                raise _RefusedError("the scan has ended, and its last version is being made: nothing was changed")
            text, orders = _ACTIONS[control.action](self, control)
        except (_RefusedError, StreamreconError) as error:
            self._say(control, answer, False, str(error))
            return ()
        if control.action == "centers":
            self._sweeps[self._number] = _Asked(control, answer)
            return orders
        self._story.tell("control", f"a viewer has asked: {text}", action=control.action)
        self._kept.add(control)
        self._say(control, answer, True, text)
        return orders

    def _center(self, control: Control) -> tuple[str, Sequence[Order]]:
        if not control.numbers:
            if not self._lead.alignment.find():
                raise _RefusedError(
                    "the center was given when the engine was started: it is not looked for in this scan"
                )
            return "the center is looked for again", ()
        (center,) = self._numbers(control, 1)
        if not -0.5 <= center <= self._columns - 0.5:
            raise _RefusedError(f"the center {center:g} is beside the detector's columns 0 to {self._columns - 1}")
        self._lead.alignment.give(center)
        return f"the center is column {center:.2f}", ()

    def _filter(self, control: Control) -> tuple[str, Sequence[Order]]:
        names = typing.get_args(FilterName)
        if control.text not in names:
            raise _RefusedError(f"there is no filter {control.text[:40]!r}; expected one of {', '.join(names)}")
        return f"the filter is {control.text}", self._change(replace(self._options, filter=control.text))  # type: ignore[arg-type]

    def _side(self, control: Control) -> tuple[str, Sequence[Order]]:
        if not control.numbers:
            return "slices are as wide as the detector", self._change(replace(self._options, side=None))
        (side,) = self._numbers(control, 1)
        if side != int(side) or not SMALLEST <= side <= 2 * self._columns:
            raise _RefusedError(f"a side of {side:g} pixels was asked for; expected {SMALLEST} to {2 * self._columns}")
        return f"slices have a side of {side:.0f} pixels", self._change(replace(self._options, side=int(side)))

    def _change(self, options: ReconConfig) -> Sequence[Order]:
        self._fits(options)
        self._options = options
        self._counters.filter, self._counters.side = options.filter, options.side
        return [Change(options.filter, options.side)]

    def _every(self, control: Control) -> tuple[str, Sequence[Order]]:
        (every,) = self._numbers(control, 1)
        if every != int(every) or not 1 <= every <= 1 << 32:
            raise _RefusedError(f"a version every {every:g} projections was asked for; expected a whole number from 1")
        self._counters.every = self._policy.every = int(every)
        return f"a version every {every:.0f} projections", ()

    def _interval(self, control: Control) -> tuple[str, Sequence[Order]]:
        if not control.numbers:
            self._counters.interval = self._policy.interval = None
            return "versions come by the number of projections only", ()
        (interval,) = self._numbers(control, 1)
        if not 0.01 <= interval <= 86400:
            raise _RefusedError(f"a version every {interval:g} s was asked for; expected 0.01 to 86400")
        self._counters.interval = self._policy.interval = interval
        return f"a version every {interval:g} s", ()

    def _snapshot(self, control: Control) -> tuple[str, Sequence[Order]]:
        if not self._whole_fits:
            raise _RefusedError("a full version does not fit before the end: memory or disk are too small for it")
        self._policy.request(whole=True)
        return "a full version comes as soon as there is something new", ()

    def _pause(self, control: Control) -> tuple[str, Sequence[Order]]:
        self._counters.paused = self._policy.paused = True
        return "no versions until publishing is resumed, or the scan has ended", ()

    def _resume(self, control: Control) -> tuple[str, Sequence[Order]]:
        self._counters.paused = self._policy.paused = False
        return "versions are made again", ()

    def _advise_stop(self, control: Control) -> tuple[str, Sequence[Order]]:
        # It is shown on terminals, too.
        why = "".join(each if each.isprintable() else " " for each in control.text).strip()[:200]
        if not why and self._counters.advice is None:
            raise _RefusedError("say why the scan may be stopped")
        self._counters.advice = why or None
        self._advise(why)
        return f"the sender is told that the scan may be stopped: {why}" if why else "the advice is withdrawn", ()

    def _centers(self, control: Control) -> tuple[str, Sequence[Order]]:
        row, first, last, count = self._numbers(control, 4)
        rows = self._whole[1] - self._whole[0]
        if row != int(row) or not 0 <= row < rows:
            raise _RefusedError(f"slice {row:g} was asked for; expected 0 to {rows - 1}")
        if count != int(count) or not 1 <= count <= CANDIDATES:
            raise _RefusedError(f"{count:g} centers were asked for; expected 1 to {CANDIDATES}")
        if not -0.5 <= first <= last <= self._columns - 0.5:
            raise _RefusedError(
                f"centers {first:g} to {last:g} were asked for; expected within the columns 0 to {self._columns - 1}"
            )
        if len(self._sweeps) >= SWEEPS:
            raise _RefusedError("candidates that were asked for before are still being made")
        if self._lead.alignment.used is None:
            raise _RefusedError("nothing is reconstructed yet: ask again when the first projections are")
        self._number += 1
        step = (last - first) / max(1, count - 1)
        centers = tuple(first + step * i for i in range(int(count)))
        return "", [Sweep(self._number, self._whole[0] + int(row), centers)]

    @staticmethod
    def _numbers(control: Control, count: int) -> tuple[float, ...]:
        if len(control.numbers) != count or not all(map(math.isfinite, control.numbers)):
            raise _RefusedError(f"{control.action} takes {count} numbers; got {len(control.numbers)}")
        return control.numbers


_ACTIONS: dict[Action, Callable[[Hands, Control], tuple[str, Sequence[Order]]]] = {
    "center": Hands._center,
    "filter": Hands._filter,
    "side": Hands._side,
    "every": Hands._every,
    "interval": Hands._interval,
    "snapshot": Hands._snapshot,
    "pause": Hands._pause,
    "resume": Hands._resume,
    "advise_stop": Hands._advise_stop,
    "centers": Hands._centers,
}
