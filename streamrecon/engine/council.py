"""A rank's connection to whoever decides for all: rank 0 decides itself and tells the others, they report and are told."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable
from typing import Protocol

from streamrecon.engine.hands import Hands
from streamrecon.engine.lead import Lead
from streamrecon.engine.orders import Order, Report, Swept


class Council(Protocol):
    """Used by the compute thread."""

    def report(self, report: Report) -> None:
        """Tell who decides."""

    def orders(self, patience: float = 0.0) -> list[Order]:
        """What is to be done now; waits so long where there is nothing."""


class Leading:
    """Rank 0.

    Parameters
    ----------
    lead
        Decides.
    reports
        Of the other ranks, as they come.
    tell
        Sends an order to all of them.
    hands
        What viewers ask for.
    """

    def __init__(
        self,
        lead: Lead,
        reports: queue.SimpleQueue[tuple[int, Report]],
        tell: Callable[[Order], None],
        hands: Hands,
    ) -> None:
        self._lead, self._reports, self._tell, self._hands = lead, reports, tell, hands

    def report(self, report: Report) -> None:
        """See `Council.report`."""
        self._hear(0, report)

    def _hear(self, rank: int, report: Report) -> None:
        if isinstance(report, Swept):
            self._hands.hear(report)
        else:
            self._lead.hear(rank, report)

    def orders(self, patience: float = 0.0) -> list[Order]:
        """See `Council.orders`."""
        orders = self._turn()
        if not orders and patience:
            with contextlib.suppress(queue.Empty):
                self._hear(*self._reports.get(timeout=patience))
                orders = self._turn()
        return orders

    def _turn(self) -> list[Order]:
        with contextlib.suppress(queue.Empty):
            while True:
                self._hear(*self._reports.get_nowait())
        orders = [*self._hands.turn(), *self._lead.turn()]
        for order in orders:
            self._tell(order)
        return orders


class Following:
    """Any other rank.

    Parameters
    ----------
    report
        Sends a report to rank 0.
    orders
        Of rank 0, as they come.
    """

    def __init__(self, report: Callable[[Report], None], orders: queue.SimpleQueue[Order]) -> None:
        self.report = report
        self._orders = orders

    def orders(self, patience: float = 0.0) -> list[Order]:
        """See `Council.orders`."""
        found: list[Order] = []
        with contextlib.suppress(queue.Empty):
            if patience:
                found.append(self._orders.get(timeout=patience))
            while True:
                found.append(self._orders.get_nowait())
        return found
