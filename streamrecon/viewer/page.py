"""One local page: the newest picture and the counters, renewed every second."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from streamrecon.errors import EndpointError

PAGE = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>streamrecon</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="page.css"><script src="page.js" defer></script>
<h1>streamrecon</h1><p id="phase" role="status">connecting</p>
<img id="picture" alt="no version of the volume yet" width="1" height="1"><table id="counters"></table></html>
"""

STYLE = b"""body{font:15px system-ui,sans-serif;margin:1.5rem;background:#181818;color:#ddd}
img{max-width:100%;height:auto;display:block;margin:1rem 0}td{padding:.1rem 1rem .1rem 0}td+td{font-variant-numeric:tabular-nums}
h1{font-size:1.2rem}#phase{font-size:1.1rem;color:#fff}
"""

SCRIPT = b"""let shown = ''
function words(value) {
  if (Array.isArray(value)) return value.map(words).join(' / ')
  return typeof value === 'number' && !Number.isInteger(value) ? value.toPrecision(5) : String(value ?? '-')
}
async function look() {
  try {
    const status = await (await fetch('status.json', {cache: 'no-store'})).json()
    document.getElementById('phase').textContent = status.phase
    const table = document.getElementById('counters')
    table.replaceChildren(...Object.entries(status).map(([name, value]) => {
      const row = document.createElement('tr')
      for (const text of [name.replaceAll('_', ' '), words(value)]) {
        row.appendChild(document.createElement('td')).textContent = text
      }
      return row
    }))
    const newest = status.uid + ' ' + status.version
    if (newest !== shown && status.version > 0) {
      const picture = document.getElementById('picture')
      picture.onload = () => { picture.removeAttribute('width'); picture.removeAttribute('height') }
      picture.src = 'picture.png?' + encodeURIComponent(newest)
      picture.alt = 'central slices of version ' + status.version
      shown = newest
    }
  } catch (error) { document.getElementById('phase').textContent = 'the engine is gone' }
  setTimeout(look, 1000)
}
look()
"""


def serve(
    port: int, status: Callable[[], dict[str, Any]], picture: Callable[[], Path]
) -> tuple[str, Callable[[], None]]:
    """Serve the page on the loopback, in a thread.

    Parameters
    ----------
    port
        0 chooses a free one.
    status
        The counters now.
    picture
        Where the PNG of the newest version is.

    Returns
    -------
    url, stop
        Where to look, and how to end it.

    Raises
    ------
    EndpointError
        If the port is in use.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Host") not in hosts:
                # A page of another origin that has made its name point here must not read the volume.
                self.send_error(403, "this page is served to this machine only")
                return
            path = self.path.split("?")[0]
            if path == "/picture.png" and picture().exists():
                self._answer("image/png", picture().read_bytes())
            elif path == "/status.json":
                self._answer("application/json", json.dumps(status(), default=str).encode())
            elif path in files:
                self._answer(*files[path])
            else:
                self.send_error(404)

        def _answer(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """No access log: it would run through the progress display."""

    files = {
        "/": ("text/html; charset=utf-8", PAGE),
        "/page.css": ("text/css", STYLE),
        "/page.js": ("text/javascript", SCRIPT),
    }
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise EndpointError(f"cannot serve the page on port {port}: {error}") from error
    server.daemon_threads = True
    hosts = {f"127.0.0.1:{server.server_port}", f"localhost:{server.server_port}"}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return f"http://127.0.0.1:{server.server_port}/", stop
