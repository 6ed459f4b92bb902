"""A folder belongs to one process at a time."""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path

from streamrecon.errors import OutputError

log = logging.getLogger(__name__)


class FolderLock:
    """Held until released; it goes with the process, however that ends.

    Parameters
    ----------
    folder
        Made if it is not there.
    holder
        What uses it, for messages: ``"engine"``.
    option
        That names the folder, for messages: ``"--out"``.
    rank
        Of this process: each rank of a job has a lock of its own.

    Raises
    ------
    OutputError
        If the folder cannot be made, or another process holds it.
    """

    def __init__(self, folder: Path, holder: str, option: str, rank: int = 0) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / (f".lock.{rank}" if rank else ".lock")).open("w")
        except OSError as error:
            raise OutputError(f"cannot use the folder {folder} ({option}): {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise OutputError(f"another {holder} is writing to {folder}: choose another {option}") from error
        except OSError as error:
            log.warning(
                "the disk of %s has no locks (%s): make sure that no other %s uses it", folder, error.strerror, holder
            )

    def release(self) -> None:
        """Let another process have the folder. The file stays: deleting it would let two processes hold a lock each."""
        self._file.close()
