"""A page of the live viewer in a real browser, for the tests and the screenshots."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

QUIET = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
"""No network of its own; no sandbox as the tests may run as root."""
NO_WEBGL = ("--disable-software-rasterizer", "--disable-3d-apis")
WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
"""Drawn by the CPU."""


def chromium() -> str | None:
    """Where the browser is."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path), None)


@contextmanager
def playing() -> Iterator[Playwright]:
    """What starts browsers; there can be one in a process."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright


@contextmanager
def browsing(playwright: Playwright, *arguments: str) -> Iterator[Browser]:
    """A headless browser."""
    browser = playwright.chromium.launch(executable_path=chromium(), args=[*QUIET, *arguments])
    yield browser
    browser.close()


class Visit:
    """One page, and what it did that it should not.

    Parameters
    ----------
    browser
        Which the page is opened in.
    url
        With the token.
    options
        Of the browser's context: viewport, color_scheme, ...
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.errors: list[str] = []
        """Of the console, of scripts, and of the content security policy."""
        self.requests: list[str] = []
        self._context = browser.new_context(**{"viewport": {"width": 1366, "height": 768}, **options})
        self.page: Page = self._context.new_page()
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.goto(url)

    def close(self) -> None:
        """Leave the page."""
        self._context.close()

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def until(self, condition: str, argument: object = None, seconds: float = 30.0) -> None:
        """Wait until a JavaScript expression, of `it`, is true."""
        self.page.wait_for_function(f"it => {condition}", arg=argument, timeout=seconds * 1000)

    def text(self, selector: str) -> str:
        """What stands there."""
        return self.page.inner_text(selector).strip()

    def picture(self, axis: str) -> bytes:
        """What a slice looks like, as PNG."""
        # BokehJS paints in the frame after the one in which it was told to.
        self.page.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))"
        )
        return self.page.locator(f"[data-axis={axis}] .stage").screenshot()

    def shown(self, axis: str) -> dict[str, str]:
        """Index, version and kind of what a panel has drawn."""
        shown: dict[str, str] = self.page.evaluate(
            "axis => ({...document.querySelector(`[data-axis=${axis}] .stage`).dataset})", axis
        )
        return shown

    def until_shown(self, axis: str, **what: object) -> None:
        """Wait until a panel has drawn this."""
        wanted = {name: str(value) for name, value in what.items()}
        self.until(
            "Object.entries(it[1]).every(([name, value]) => "
            "document.querySelector(`[data-axis=${it[0]}] .stage`).dataset[name] === value)",
            [axis, wanted],
        )

    def heap(self) -> float:
        """Bytes that are still held after a collection: objects and the arrays of pixels."""
        session = self._context.new_cdp_session(self.page)
        for _ in range(3):
            session.send("HeapProfiler.collectGarbage")
        usage = session.send("Runtime.getHeapUsage")
        session.detach()
        return float(sum(usage.get(name, 0) for name in ("usedSize", "embedderHeapUsedSize", "backingStorageSize")))

    def save(self, path: Path) -> None:
        """A screenshot."""
        self.page.screenshot(path=path)
