"""HTTP connections of the page's server: who ends no request, or reads no answer, is not waited for. Needs the extra `view`."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

WITHIN = 10.0
"""Seconds; without a limit, halves of requests would take the places of pages."""


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Closed where nothing of it goes on for `WITHIN`: no request was ended, and nothing was read of an answer."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._lost = False
        self._look_later(transport, (None, 0))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        super().connection_lost(exc)

    def _look_later(self, transport: Any, before: tuple[Any, int]) -> None:
        asyncio.get_running_loop().call_later(WITHIN, self._look, transport, before)

    def _look(self, transport: Any, before: tuple[Any, int]) -> None:
        if self._lost or transport.get_protocol() is not self:  # a page's socket has another one
            return
        # Of the last request, and what is still to be read of its answer.
        now = self.cycle, transport.get_write_buffer_size()
        if now == before:
            transport.abort()
        else:
            self._look_later(transport, now)
