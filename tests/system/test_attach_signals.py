"""A signal ends an attachment in the middle of a run, and the engine ends the scan with what it has."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from system_processes import Processes, free_endpoint, processes, told, until

pytestmark = pytest.mark.slow

UID = "in-the-middle"
KEYS = {"cam": {"shape": [4, 16], "dtype": "array", "source": "x"}, "rotation": {"shape": [], "dtype": "number"}}


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Processes]:
    yield from processes(tmp_path)


def documents(count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "start", {"uid": UID, "time": 1.0, "plan_name": "scan"}
    yield "descriptor", {"uid": "d", "run_start": UID, "name": "primary", "time": 1.0, "data_keys": KEYS}
    for i in range(count):
        data = {"cam": [[1 + i] * 16] * 4, "rotation": 6.0 * i}
        yield (
            "event",
            {"uid": f"e{i}", "descriptor": "d", "seq_num": i + 1, "time": 1.0, "data": data, "timestamps": {}},
        )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: str(each.name))
def test_a_signal_in_the_middle_of_a_run(tmp_path: Path, started: Processes, number: signal.Signals) -> None:
    pipe, out, endpoint = tmp_path / "documents", tmp_path / "out", free_endpoint()
    os.mkfifo(pipe)
    recon = started.streamrecon("recon", "--listen", endpoint, "--out", out, "--quiet")
    until(lambda: told(out, "listen"), what="an engine")
    attach = started.streamrecon(
        "attach", f"documents+jsonl://{pipe}", "--to", endpoint, "--mapping", "step-scan", "--keep", tmp_path / "keep"
    )
    with pipe.open("w") as end:
        for each in documents(30):
            end.write(json.dumps(each) + "\n")
        end.flush()
        until(lambda: "images of 4 x 16" in attach.err, what=f"the scan: {attach.err}")
        until(lambda: told(out / UID, "scan") or told(out, "scan"), what=f"the scan in the engine: {recon.err}")
        attach.signal(number)
        assert attach.wait(150) == 130, attach.err
    until(lambda: "partial" in (out / UID / "scan.log.jsonl").read_text(), what="a partial volume")
    assert "interrupted" in attach.err
    assert recon.popen.poll() is None
