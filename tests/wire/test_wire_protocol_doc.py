"""docs/protocol.md says what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from streamrecon.wire.messages import MESSAGES
from streamrecon.wire.session import table

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def test_the_page_holds_the_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    between = text.partition(BEGIN)[2].partition(END)[0]
    assert between.strip() == table(), "run `python -m streamrecon.wire.session` and paste what it prints"


def test_the_page_names_every_message() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert not [cls.name() for cls in MESSAGES.values() if cls.name() not in text]


def test_the_command_prints_the_table() -> None:
    command = [sys.executable, "-m", "streamrecon.wire.session"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == table()
