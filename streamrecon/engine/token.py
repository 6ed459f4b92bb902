"""Tokens in an output folder: whoever can read this user's files may change the reconstruction."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from streamrecon.errors import OutputError

NAME = "control.token"


def write_token(folder: Path, token: str, name: str = NAME) -> Path:
    """Write a token where only this user can read it.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = folder / name
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
    except OSError as error:
        raise OutputError(f"cannot write the control token to {path}: {error.strerror}") from error
    return path


def remove_token(folder: Path) -> None:
    """The engine takes no requests any more."""
    with contextlib.suppress(OSError):
        (folder / NAME).unlink(missing_ok=True)
