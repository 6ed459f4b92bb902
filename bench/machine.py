"""What the figures were measured on."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
import scipy
from streamrecon_kernels import threads
from streamrecon_kernels.vector import host_lanes


def machine() -> dict[str, Any]:
    """Processor, threads, vector length, versions and date."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "processor": model,
        "threads": threads(),
        "lanes": host_lanes(),
        "versions": {m.__name__: m.__version__ for m in (np, scipy, numba, llvmlite)},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
