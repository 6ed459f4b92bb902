"""Timing by turns: machines are shared, so only ratios within one run say something."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each candidate in each round, measured by turns."""

    rounds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Seconds of a usual round."""
        return float(np.median(self.rounds[name]))

    def best(self, name: str) -> float:
        """Seconds of the least disturbed round."""
        return min(self.rounds[name])

    def ratio(self, name: str, *references: str) -> float:
        """Median over the rounds of the seconds of one over the sum of those of the references."""
        sums = np.sum([self.rounds[reference] for reference in references], axis=0)
        return float(np.median(np.array(self.rounds[name]) / sums))


def by_turns(candidates: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Time each candidate once a round, after one round that does not count.

    Parameters
    ----------
    candidates
        What to time, by name.
    rounds
        That count.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(rounds + 1):
        for name, run in candidates.items():
            began = time.perf_counter()
            run()
            if round_:
                times[name].append(time.perf_counter() - began)
    return Times(times)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure against its limit."""

    what: str
    value: float
    limit: float
    at_least: bool
    """Whether the limit is the least or the most that is good."""
    unit: str = "x"

    @property
    def holds(self) -> bool:
        """Whether the figure is good."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def figures(self) -> dict[str, object]:
        """For JSON."""
        return dataclasses.asdict(self) | {"holds": self.holds}

    def line(self) -> str:
        """For people."""
        relation = ">=" if self.at_least else "<="
        number = f"{self.value:.3g} {self.unit}"
        return f"{'pass' if self.holds else 'FALL SHORT':10} {self.what}: {number} ({relation} {self.limit:g})"
