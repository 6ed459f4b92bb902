"""The files that are served: the page's own, and the libraries that it uses, from the packages that ship them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
"""Kinds of files, by suffix; others are not served."""
PAGE = Path(__file__).with_name("page")
BOKEH = ("bokeh.min.js", "bokeh-api.min.js", "bokeh-gl.min.js", "bokeh-widgets.min.js")
K3D = ("standalone.js", "require.js")


def served() -> dict[str, Path]:
    """Paths of URLs, and the file of each. It is fixed from then on: whatever else is asked for is not there."""
    files = {f"/{path.name}": path for path in sorted(PAGE.glob("*")) if path.suffix in MEDIA}
    if "/index.html" in files:
        files["/"] = files["/index.html"]
    files |= _of("bokeh", "server/static/js", BOKEH)
    files |= _of("k3d", "static", K3D)
    return files


def _of(package: str, folder: str, names: tuple[str, ...]) -> dict[str, Path]:
    """Files of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return {}
    place = Path(found.submodule_search_locations[0]) / folder
    return {f"/{package}/{name}": place / name for name in names if (place / name).is_file()}
