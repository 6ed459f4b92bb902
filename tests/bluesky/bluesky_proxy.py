"""The real proxy of Bluesky, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running_proxy(*options: str) -> Iterator[tuple[str, str]]:
    """Addresses, on free ports of the loopback, to publish to and to subscribe at."""
    command = [
        str(Path(sys.executable).parent / "bluesky-0MQ-proxy"),
        "--in-address",
        "127.0.0.1",
        "--out-address",
        "127.0.0.1",
    ]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if match := re.search(r"Receiving on address (\S+); publishing to address (\S+)\.$", line):
                    yield match[1], match[2]
                    return
            raise AssertionError("the proxy ended before it ran")
        finally:
            process.kill()
