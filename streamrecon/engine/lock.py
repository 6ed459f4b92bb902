"""An output folder belongs to one engine at a time."""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path

from streamrecon.errors import OutputError

log = logging.getLogger(__name__)


class FolderLock:
    """Held from the engine's start to its end; it goes with the process, however that ends.

    Parameters
    ----------
    folder
        Made if it is not there.
    rank
        Of this process: each rank of a job has a lock of its own.

    Raises
    ------
    OutputError
        If the folder cannot be made, or another engine holds it.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / (f".lock.{rank}" if rank else ".lock")).open("w")
        except OSError as error:
            raise OutputError(f"cannot use the output folder {folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise OutputError(f"another engine is writing to {folder}: choose another --out") from error
        except OSError as error:
            log.warning(
                "the disk of %s has no locks (%s): make sure that no other engine uses it", folder, error.strerror
            )

    def release(self) -> None:
        """Let another engine have the folder. The file stays: deleting it would let two engines hold a lock each."""
        self._file.close()
