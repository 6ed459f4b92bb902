"""Events that a tiled server keeps, as Bluesky's TiledWriter writes them; read over its HTTP interface."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

import numpy as np

from streamrecon.bluesky.missed import Kept, Reading
from streamrecon.bluesky.stream import MOST_EVENTS
from streamrecon.config import AttachConfig
from streamrecon.errors import ConfigError, SourceBusyError, SourceError

API = "/api/v1"
KEY_VARIABLE = "TILED_API_KEY"
"""Of the environment; tiled's own name."""
TIMEOUT = 10.0
"""Seconds of silence after which the server counts as away."""
MOST_SECONDS = 30.0
"""For one answer."""
MOST_BYTES = 1 << 28
"""Of one answer."""
PAGE = 300
"""Entries of a listing; the server allows no more."""
MOST_PAGES = 10
AGAIN = frozenset({408, 425, 429})
"""Statuses below 500 that may be others later."""


class _AbsentError(SourceBusyError):
    """Something is not there: it may not have been written yet."""


class Tiled:
    """A catalog of runs on a tiled server.

    One question is three small requests, without tiled's client: that would ask for a password at the terminal where it has no
    key, repeats for 45 s what fails, and brings several hundred megabytes.

    Parameters
    ----------
    url
        Of the server, `http://HOST:PORT`, or of a catalog on it, as tiled writes it: `http://HOST:PORT/api/v1/metadata/PATH`.
    key
        API key; None where the server lets everyone read.

    Raises
    ------
    ConfigError
        If that is no URL or no key.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        try:
            parts = urlsplit(url)
            named = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            named = False
        if "@" in url or "?" in url:
            raise ConfigError(
                "attach.tiled is more than the place of a server; expected no key or password in it: put the API key into the "
                f"environment variable {KEY_VARIABLE} or a file (attach.tiled_key_file)"
            )
        if not named:
            raise ConfigError(f"attach.tiled is {url!r}; expected http://HOST:PORT or https://HOST:PORT")
        if key is not None and not re.fullmatch(r"[!-~]{1,1000}", key):
            raise ConfigError("the API key for tiled is not 1 to 1000 letters, digits and signs")
        server, _, catalog = parts.path.rstrip("/").partition(API)
        self._name = f"{parts.scheme}://{parts.netloc}"
        self._api = f"{self._name}{quote(unquote(server))}{API}"
        self._catalog = [unquote(part) for part in catalog.removeprefix("/metadata").split("/") if part]
        self._headers = {"Accept": "application/json"} | ({} if key is None else {"Authorization": f"Apikey {key}"})
        self._opener = urllib.request.build_opener(_NoRedirects)

    def kept(self, run: str, stream: str, key: str) -> Kept:
        """See `Elsewhere`."""
        metadata = _at(self._get("metadata", (run,)), "data", "attributes", "metadata")
        # The writer tells of the stop after it has written all events; asked for before them, it holds for them.
        complete = bool(_at(metadata, "stop"))
        try:
            return Kept(self._readings(run, stream, key), complete)
        except _AbsentError as error:
            if complete:
                raise SourceError(str(error)) from error
            raise

    def _readings(self, run: str, stream: str, key: str) -> list[Reading]:
        try:
            nodes = dict(self._nodes((run, stream)))
        except _AbsentError:
            nodes = dict(self._nodes((run, "streams", stream)))  # as there was for a time
        columns = {
            str(name): path for path, node in nodes.items() for name in _at(node, "structure", "columns", default=[])
        }
        array = next((path for path in nodes if path[-1] == key), None)
        if "seq_num" not in columns:
            names = ", ".join(path[-1] for path in nodes)
            raise _AbsentError(
                f"{self._name} has no table of the events of the stream {stream}, as TiledWriter of bluesky-tiled-plugins writes "
                f"it, but {names[:200] or 'nothing'}"
            )
        if key not in columns and array is None:
            raise _AbsentError(f"{self._name} has no {key} in the stream {stream}, but {', '.join(columns)[:200]}")
        wanted = [name for name in ("seq_num", "time", key, f"ts_{key}") if name in columns]
        found: dict[str, Any] = {}
        for path in {columns[name]: None for name in wanted}:
            answer = self._get("table/full", path, column=[name for name in wanted if columns[name] == path])
            found |= answer if isinstance(answer, dict) else {}
        if key not in columns and array is not None:  # of many numbers an event: a row for each
            found[key] = self._get("array/full", array)
        return _readings(found, key)

    def _nodes(self, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        """What a stream consists of; earlier writers had its tables in a container of their own."""
        for page in range(MOST_PAGES):
            fields = {"fields": ["structure_family", "structure"], "page[offset]": page * PAGE, "page[limit]": PAGE}
            entries = _at(self._get("search", path, **fields), "data", default=[])
            for entry in entries:
                name, node = str(_at(entry, "id")), _at(entry, "attributes")
                yield (*path, name), node
                if name == "internal" != path[-1] and _at(node, "structure_family") == "container":
                    yield from self._nodes((*path, name))
            if len(entries) < PAGE:
                return

    def _get(self, route: str, path: tuple[str, ...], **query: Any) -> Any:
        """The answer to one request."""
        place = "/".join(quote(each, safe="") for each in (*self._catalog, *path))
        request = urllib.request.Request(
            f"{self._api}/{route}/{place}?{urlencode(query, doseq=True)}", headers=self._headers
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT) as reply:
                body = _bounded(reply)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, "/".join(path)[:200]) from error
        except (OSError, http.client.HTTPException) as error:
            raise SourceBusyError(f"{self._name} cannot be reached: {getattr(error, 'reason', error)}") from error
        except ValueError as error:
            raise SourceError(f"{self._name} cannot be asked: {error}") from error
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self._name} does not answer as a tiled server does") from error

    def _refusal(self, error: urllib.error.HTTPError, what: str) -> SourceError | SourceBusyError:
        status = error.code
        if status == 404:
            return _AbsentError(f"{self._name} has no {what}")
        if status in (401, 403):
            had = "refuses the API key" if "Authorization" in self._headers else f"wants an API key ({KEY_VARIABLE})"
            return SourceError(f"{self._name} {had}")
        if 300 <= status < 400:
            return SourceError(f"{self._name} sends elsewhere, to {str(error.headers.get('Location'))[:200]}")
        words = f"{self._name} answers {status} {error.reason} to a question for {what}"
        return SourceBusyError(words) if status in AGAIN or status >= 500 else SourceError(words)


def tiled_of(config: AttachConfig) -> Tiled | None:
    """The server that the options name; None if they name none.

    Raises
    ------
    ConfigError
        If the URL is none, or the file of the key cannot be read.
    """
    if config.tiled is None:
        return None
    key = os.environ.get(KEY_VARIABLE) or None
    if config.tiled_key_file is not None:
        try:
            key = Path(config.tiled_key_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"attach.tiled_key_file {config.tiled_key_file!r} has no API key: {error}") from error
    return Tiled(config.tiled, key)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Another server would get the key, too."""

    def redirect_request(self, *_: Any) -> None:
        """Go nowhere."""
        return


def _bounded(reply: Any) -> bytes:
    """The body of an answer; it may be neither endless nor come without end."""
    parts, size, end = list[bytes](), 0, time.monotonic() + MOST_SECONDS
    while part := reply.read1(1 << 20):
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise OSError(f"an answer of more than {MOST_BYTES} bytes")
        if time.monotonic() > end:
            raise TimeoutError(f"an answer that took more than {MOST_SECONDS:g} s")
    return b"".join(parts)


def _readings(columns: Mapping[str, Any], key: str) -> list[Reading]:
    """Rows of a table, without those that have no value."""
    numbers, values = columns.get("seq_num"), columns.get(key)
    times = columns.get(f"ts_{key}") or columns.get("time")
    if not isinstance(numbers, list) or not isinstance(values, list) or len(values) != len(numbers):
        raise SourceBusyError(f"{key} and its seq_num are not of one length: they are being written")
    found = []
    for row, (number, value) in enumerate(zip(numbers, values, strict=True)):
        if value is None:
            continue
        at = times[row] if isinstance(times, list) and row < len(times) else None
        try:
            each = tuple(np.asarray(value, np.float64).ravel().tolist())
            reading = Reading(int(number), float("nan" if at is None else at), each)
        except (TypeError, ValueError, OverflowError) as error:
            raise SourceError(f"{key} is {str(value)[:60]!r} in event {str(number)[:20]}; expected numbers") from error
        if 1 <= reading.number <= MOST_EVENTS and each and np.isfinite(each).all():
            found.append(reading)
    return found


def _at(answer: Any, *path: str, default: Any = None) -> Any:
    """What is at a place in an answer."""
    for name in path:
        answer = answer.get(name) if isinstance(answer, Mapping) else None
    if answer is None or (default is not None and not isinstance(answer, type(default))):
        return default
    return answer
