"""The screenshots of docs/viewing.md: the scan of a simulated stone, reconstructed by `streamrecon run --view`.

python tests/system/browser_screenshots.py             # into docs/images
python tests/system/browser_screenshots.py URL FOLDER  # of a page that is there already

Look at them before they are committed.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests/viewer")]

from browser_page import WEBGL, Visit, browsing, playing  # noqa: E402

SHAPE = 160, 288, 288
PROJECTIONS, PIXEL = 720, 1.62e-6
COUNTS = 40_000
"""Photons in a pixel of a flat."""
FRAMES_PER_SECOND = 16
MOST_BYTES = 300_000


def stone(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Grains, pores and a few heavy minerals in a tube, 1/m."""
    rng = np.random.default_rng(3)
    y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape[1:]), indexing="ij")
    radius = np.hypot(x, y)

    def texture(size: float) -> NDArray[np.float32]:
        field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), size)
        return np.asarray(field / field.std(), np.float32)

    volume = 330 + 22 * texture(2.2)
    volume[texture(5.0) > 0.45] = 25.0
    volume[texture(7.0) > 1.55] = 560.0
    volume[texture(2.6) > 2.9] = 980.0
    volume[:, radius > 0.8] = 0.0
    volume[:, (radius > 0.84) & (radius < 0.9)] = 130.0
    return volume.astype(np.float32)


def scan(path: Path) -> None:
    """The stone in parallel light, with the noise of photons."""
    rng = np.random.default_rng(4)
    rows, side, _ = SHAPE
    volume = stone(SHAPE).reshape(rows, -1).T * np.float32(PIXEL)
    y, x = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for _ in range(2)), indexing="ij")
    inside = np.flatnonzero(volume.any(axis=1))
    theta = np.linspace(0, np.pi, PROJECTIONS, endpoint=False)
    data = np.empty((PROJECTIONS, rows, side), np.uint16)
    for number, angle in enumerate(theta):
        place = (x * np.cos(angle) + y * np.sin(angle) + (side - 1) / 2).reshape(-1)[inside]
        left = np.floor(place).astype(int)
        share = (place - left).astype(np.float32)
        columns, pixels = np.concatenate([left, left + 1]), np.tile(inside, 2)
        kept = (columns >= 0) & (columns < side)
        weights = np.concatenate([1 - share, share])[kept]
        project = csr_array((weights, (columns[kept], pixels[kept])), shape=(side, side * side))
        data[number] = rng.poisson(COUNTS * np.exp(-(project @ volume).T))
    with h5py.File(path, "w") as file:
        file["exchange/data"], file["exchange/theta"] = data, np.degrees(theta)
        file["exchange/data_white"] = rng.poisson(COUNTS, (100, rows, side)).astype(np.uint16)
        file["exchange/data_dark"] = np.zeros((5, rows, side), np.uint16)
        file["measurement/sample/name"] = "sandstone plug 7, wet"


def save(visit: Visit, path: Path, width: int | None = None) -> None:
    """A screenshot in at most 300 kB: of fewer colors, where it must."""
    image = Image.open(io.BytesIO(visit.page.screenshot())).convert("RGB")
    if width is not None:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    for colors in (256, 192, 128, 96, 72, 56, 48, 40, 32, 24):
        small = io.BytesIO()
        image.quantize(palette=_palette(image, colors), dither=Image.Dither.NONE).save(small, "png", optimize=True)
        if small.tell() <= MOST_BYTES:
            break
    path.write_bytes(small.getvalue())
    print(f"{path}: {image.width} x {image.height}, {colors} colors, {small.tell() / 1000:.0f} kB")


def _palette(image: Image.Image, colors: int) -> Image.Image:
    """Few colors in which the rare ones, of letters and lines, have their share beside the grays of the slices."""
    found, counts = np.unique(np.asarray(image).reshape(-1, 3), axis=0, return_counts=True)
    vivid = np.ptp(found.astype(int), axis=1)
    weights = np.ceil(counts**0.3 * (1 + vivid / 12)).astype(int)
    return Image.fromarray(np.repeat(found, weights, axis=0)[None]).quantize(colors)


@contextmanager
def page(arguments: list[str]) -> Iterator[tuple[str, str, Path]]:
    """The addresses for looking and for changing, and where the pictures go."""
    if arguments:
        yield arguments[0], arguments[0], Path(arguments[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plug7.h5"
        scan(path)
        command = [sys.executable, "-u", "-m", "streamrecon", "run", path.name, "--view", "--out", "out"]
        command += ["--fps", str(FRAMES_PER_SECOND), "--interval", "1", "--pixel-size", str(PIXEL), "--quiet"]
        where = {"cwd": folder, "env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path[:2])}}
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **where,  # type: ignore[call-overload]
        ) as run:
            assert run.stdout is not None
            try:
                change, look = (re.search(r"http\S+", run.stdout.readline()) for _ in range(2))
                assert change is not None
                assert look is not None
                yield look[0], change[0], ROOT / "docs/images"
            finally:
                run.send_signal(signal.SIGINT)
                run.communicate()


def main() -> None:
    """Take them."""
    with page(sys.argv[1:]) as (look, change, folder), playing() as playwright, browsing(playwright, *WEBGL) as browser:
        folder.mkdir(parents=True, exist_ok=True)

        def received(visit: Visit, share: float) -> None:
            visit.until("Number(document.getElementById('bar').ariaValueNow) >= it", 100 * share, seconds=120)

        with Visit(browser, change, color_scheme="dark") as visit:
            received(visit, 0.5)
            visit.page.click("#center-compare")
            visit.page.wait_for_timeout(6000)
            save(visit, folder / "viewing-dark.png")
            visit.page.click("#candidates-close")
            received(visit, 0.8)
            visit.page.emulate_media(color_scheme="light")
            visit.page.evaluate("document.getElementById('section-hands').open = false")
            visit.page.wait_for_timeout(1500)
            save(visit, folder / "viewing-light.png")
        phone = {"width": 400, "height": 800}
        with Visit(browser, look, color_scheme="light", viewport=phone, device_scale_factor=1.25) as visit:
            visit.until(
                "it.every(axis => document.querySelector(`[data-axis=${axis}] .stage`).dataset.kind === 'slice')",
                list("zyx"),
            )
            visit.page.wait_for_timeout(1000)
            save(visit, folder / "viewing-small.png")
        with Visit(browser, look, color_scheme="dark", viewport={"width": 3840, "height": 2160}) as visit:
            visit.page.evaluate("document.getElementById('section-volume').open = true")
            visit.until("document.getElementById('line').textContent.startsWith('Finished')", seconds=120)
            visit.until("document.getElementById('volume-text').textContent.startsWith('preview')", seconds=60)
            visit.page.wait_for_timeout(8000)
            save(visit, folder / "viewing-wall.png", width=1280)


if __name__ == "__main__":
    main()
