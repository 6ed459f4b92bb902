"""HTTP connections of the page's server: who does not end a request is not waited for. Needs the extra `view`."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

WITHIN = 10.0
"""Seconds; without a limit, halves of requests would take the places of pages."""


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Closed where it is neither answered nor a page's socket after `WITHIN`."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look_later(transport)

    def _look_later(self, transport: Any) -> None:
        asyncio.get_running_loop().call_later(WITHIN, self._look, transport)

    def _look(self, transport: Any) -> None:
        if transport.is_closing() or transport.get_protocol() is not self:
            return
        if self.cycle is None or self.cycle.response_complete:
            transport.abort()
        else:
            self._look_later(transport)
