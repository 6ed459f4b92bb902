"""Some schedules of `python -m bench.simulate`: senders, ranks, networks and disks that fail, on a clock of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_schedule_loses_a_frame_or_counts_it_twice() -> None:
    command = [sys.executable, "-m", "bench.simulate", "--seeds", "120"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("0 failed\n")


def test_a_schedule_can_be_played_again() -> None:
    command = [sys.executable, "-m", "bench.simulate", "--seed", "62", "--trace"]
    first, again = (subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT) for _ in range(2))
    assert first.returncode == 0, first.stdout
    told = [line for line in first.stdout.splitlines() if "schedules in" not in line]
    assert any("engine 1 starts" in line for line in told)
    assert told == [line for line in again.stdout.splitlines() if "schedules in" not in line]
