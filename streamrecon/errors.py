"""Every error that streamrecon raises on purpose. Each also inherits the builtin it is, so plain `except ValueError` works."""

from __future__ import annotations


class StreamreconError(Exception):
    """Base of all errors that streamrecon raises on purpose."""


class ConfigError(StreamreconError, ValueError):
    """An option has an unknown name, a wrong type or a value out of range."""


class SourceError(StreamreconError, ValueError):
    """A scan cannot be read: wrong layout, wrong shape, missing or non-finite angles."""


class SourceFileError(StreamreconError, OSError):
    """A scan's file is missing, truncated, or not an HDF5 file."""


class SourceBusyError(SourceFileError):
    """A scan's file cannot be read at this moment, as it is being written; it can when it is looked at again."""


class MessageError(StreamreconError, ValueError):
    """Bytes from a peer are not a valid message of this protocol version."""


class LocalProtocolError(StreamreconError, RuntimeError):
    """Our own side tried to send a message that the session's state does not allow."""


class RemoteProtocolError(StreamreconError, RuntimeError):
    """The peer sent a valid message that the session's state, credit or scan does not allow."""


class EndpointError(StreamreconError, ValueError):
    """An endpoint cannot be used: malformed, in use, or not allowed without an explicit option."""


class PeerLostError(StreamreconError, ConnectionError):
    """The other end fell silent or went away before the scan was complete."""


class ScanAbortedError(StreamreconError, RuntimeError):
    """The scan was ended by one side; what had arrived was kept as a partial volume."""


class SenderLeftError(StreamreconError, RuntimeError):
    """The sending side leaves a scan, which is gone on with later: the other one waits for it."""


class PlanError(StreamreconError, MemoryError):
    """The scan does not fit the memory or the disk; the message names the option to change."""


class GeometryError(StreamreconError, ValueError):
    """Rows, columns, angles or center do not fit together."""


class OutputError(StreamreconError, OSError):
    """The output folder or a file in it cannot be written."""


class DiskFullError(OutputError):
    """There is no space for a frame; it is kept, and written when there is."""


class JournalError(OutputError):
    """A disk failed while a scan ran; what is in the journal can be gone on with."""


class RankError(StreamreconError, RuntimeError):
    """A rank of the job has died, hangs, or could not do its part; the scan can be gone on with."""
