"""docs/protocol.md says what the code does."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from streamrecon.wire import messages, session
from streamrecon.wire.messages import MESSAGES

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
TABLES = {"table": session, "messages": messages}
"""What is between its marks on the page, and the module that prints it."""


@pytest.mark.parametrize("name", list(TABLES))
def test_the_page_holds_the_tables(name: str) -> None:
    text, module = PAGE.read_text(encoding="utf-8"), TABLES[name]
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    assert text.count(begin) == text.count(end) == 1
    between = text.partition(begin)[2].partition(end)[0]
    assert between.strip() == module.table(), f"run `python -m {module.__name__}` and paste what it prints"


@pytest.mark.parametrize("name", list(TABLES))
def test_the_command_prints_the_table(name: str) -> None:
    command = [sys.executable, "-m", TABLES[name].__name__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == TABLES[name].table()


def test_every_message_says_who_sends_it_and_what_each_field_is() -> None:
    lines = messages.table().splitlines()[2:]
    assert len(lines) == len(MESSAGES)
    for line, cls in zip(lines, (MESSAGES[number] for number in sorted(MESSAGES)), strict=True):
        sender = line.split(" | ")[2]
        assert sender in ("sender", "receiver", "either", "viewer", "publisher"), line
        assert all(f"`{field.name}`" in line for field in dataclasses.fields(cls)), line
