"""Documents of runs, one by one, from wherever they come."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from streamrecon.bluesky.account import Document
from streamrecon.bluesky.lines import JsonlDocuments
from streamrecon.bluesky.published import ZmqDocuments
from streamrecon.bluesky.queue import DocumentQueue
from streamrecon.errors import ConfigError
from streamrecon.transport import CurveKeys

__all__ = ["Document", "DocumentQueue", "Documents", "Flow", "JsonlDocuments", "ZmqDocuments", "open_documents"]

FORMS = "bluesky+zmq://HOST:PORT, bluesky+ipc://PATH, documents+jsonl://- or documents+jsonl://PATH"


class Flow(Protocol):
    """Where documents come from."""

    can_wait: bool
    """Whether nothing is lost if none is taken for a while."""

    @property
    def ended(self) -> bool:
        """Whether no more will come."""
        ...

    def take(self, timeout: float) -> Document | None:
        """The next document, if one comes within the time (seconds)."""
        ...


class Documents(Flow, Protocol):
    """A flow of documents.

    What comes out has a name of the event model's, and a dict of plain values, NumPy arrays (read-only ones, some) and NumPy
    scalars, which is the caller's own. It is not validated: which fields it has, and of which types, is for the caller to check.
    What cannot be read is counted and told, and the flow goes on.
    """

    @property
    def received(self) -> int:
        """Documents that came out."""
        ...

    @property
    def malformed(self) -> int:
        """Messages or lines that could not be read."""
        ...

    @property
    def ignored(self) -> int:
        """Messages or lines of names that are not those of documents."""
        ...

    @property
    def refusal(self) -> str | None:
        """Why nothing can come, where that is known."""
        ...

    @property
    def last_error(self) -> str | None:
        """What was wrong with one of the last of those that could not be read."""
        ...

    def silence(self) -> str | None:
        """Why nothing comes, where that can be found out; it may take some seconds."""
        ...

    def close(self) -> None:
        """Give up the socket or the file."""
        ...


def open_documents(
    url: str,
    *,
    prefix: str = "",
    curve: CurveKeys | None = None,
    trust_pickle: bool = False,
    max_bytes: int | None = None,
) -> Documents:
    """Choose where documents come from.

    Parameters
    ----------
    url
        `bluesky+zmq://HOST:PORT` (or `bluesky+ipc://PATH`): where Bluesky's proxy publishes. `documents+jsonl://-`: lines of
        JSON on the standard input; `documents+jsonl://PATH`: in a file, or from a named pipe.
    prefix
        Of the publisher that is wanted, where several share a proxy; empty: all.
    curve
        Keys, where the proxy asks for them.
    trust_pickle
        Run pickles as Python does, which gives whoever sends one all that this process may do; only over CURVE, or from this
        machine. Documents are understood without.
    max_bytes
        Of one document; None is 16 MiB.

    Raises
    ------
    ConfigError
        If the URL is of none of these forms, an option is not for it, a file cannot be opened, or pickles are to be trusted that
        anybody could have sent.
    EndpointError
        If the address is malformed.
    """
    scheme, _, rest = url.partition("://")
    limit = {} if max_bytes is None else {"max_bytes": max_bytes}
    if scheme in ("bluesky+zmq", "bluesky+ipc") and rest:
        address = f"tcp://{rest.rstrip('/')}" if scheme == "bluesky+zmq" else f"ipc://{rest}"
        return ZmqDocuments(address, prefix=prefix, curve=curve, trust_pickle=trust_pickle, **limit)
    if scheme == "documents+jsonl" and rest:
        if prefix or curve is not None or trust_pickle:
            raise ConfigError(f"a prefix, keys and trusted pickles are for bluesky+zmq; {url} has none of them")
        return JsonlDocuments(None if rest == "-" else Path(rest), **limit)
    raise ConfigError(f"{url!r} is not where documents come from; expected {FORMS}")
