"""The screenshots of docs/viewing.md: a stone grows, in a page of the live viewer.

python tests/system/browser_screenshots.py             # into docs/images
python tests/system/browser_screenshots.py URL FOLDER  # of a page that is there already, such as of `streamrecon run --view`

Look at them before they are committed.
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests/viewer")]

from browser_page import WEBGL, Visit, browsing, playing  # noqa: E402
from viewer_live import TOKEN, FakeEngine  # noqa: E402

from streamrecon.viewer import LiveSource, ViewServer  # noqa: E402
from streamrecon.wire.messages import Picture, Progress, Update  # noqa: E402

SHAPE = 200, 320, 320
VERSIONS = 24
CENTER = 159.5
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


class Stone(FakeEngine):
    """Angles come one after the other; noise shrinks with their number; a wrong center doubles everything."""

    def __init__(self) -> None:
        super().__init__(shape=SHAPE, versions=VERSIONS)
        self.center = CENTER - 3
        self.every = 50
        rng = np.random.default_rng(4)
        noise = rng.standard_normal(SHAPE, dtype=np.float32)
        ky, kx = self._frequencies()
        self._spectrum = scipy.fft.fft2(stone(SHAPE), axes=(1, 2))
        # Backprojected noise has more of the high frequencies.
        self._noise = scipy.fft.fft2(noise, axes=(1, 2)) * np.sqrt(np.hypot(ky, kx)) * 2

    def _frequencies(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        ky, kx = np.meshgrid(*(np.fft.fftfreq(side).astype(np.float32) for side in SHAPE[1:]), indexing="ij")
        return ky, kx

    def _seen(self, spectrum: Any, noise: Any) -> NDArray[np.float32]:
        ky, kx = self._frequencies()
        covered = (np.arctan2(ky, kx) % math.pi) <= math.pi * self.version / self.versions
        shift = np.cos(2 * math.pi * np.hypot(kx, ky) * (self.center - CENTER))
        both = (spectrum * shift + noise * (60 / math.sqrt(max(1, self.version)))) * covered
        return np.asarray(scipy.fft.ifft2(both, axes=(-2, -1)).real, np.float32)

    def _make(self) -> None:
        self._before = self._volume
        self._volume = self._seen(self._spectrum, self._noise)

    def _projections(self) -> int:
        return 50 * self.version

    def _angles(self) -> tuple[int, ...]:
        theta = np.arange(self._projections()) * math.pi / (50 * self.versions)
        return tuple(int(count) for count in np.histogram(theta, 72, (0, 2 * math.pi))[0])

    def _update(self, pictures: tuple[Picture, ...]) -> Update:
        return replace(super()._update(pictures), title="sandstone plug 7, wet", pixel_size=1.62e-6)

    def _progress(self) -> Progress:
        got = min(50 * self.versions, self._projections() + 12)
        return replace(
            super()._progress(), title="sandstone plug 7, wet", projections=got, in_volume=got - 2, expected=50 * self.versions,
            phase="accumulating", rate=41.7, nbytes=got * 320 * 200 * 2, latency=0.42, credit_frames=214, ring_frames=256,
            ranks=4, viewers=3,
        )  # fmt: skip

    def _control(self, control: Any) -> tuple[bool, str, list[tuple[Picture, NDArray[np.float32]]]]:
        if control.action != "centers":
            return super()._control(control)
        index, first, last, count = control.numbers
        before, strip = self.center, []
        for self.center in np.linspace(first, last, int(count)):
            strip.append(self._seen(self._spectrum[int(index)], self._noise[int(index)]))
        self.center = before
        stack = np.stack(strip)
        picture = Picture(kind="centers", index=int(index), shape=stack.shape, full=stack.shape)
        return True, f"{int(count)} centers from {first:.2f} to {last:.2f}", [(picture, stack)]


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
def page(arguments: list[str]) -> Iterator[tuple[Stone | None, str, str, Path]]:
    """The engine, the addresses for looking and for changing, and where the pictures go."""
    if arguments:
        yield None, arguments[0], arguments[0], Path(arguments[1])
        return
    engine = Stone()
    with engine, ViewServer(LiveSource(engine.endpoint, TOKEN), control_token="c", view_token="v") as server:
        assert server.control_url is not None
        yield engine, server.view_url, server.control_url, ROOT / "docs/images"


def main() -> None:
    """Take them."""
    with (
        page(sys.argv[1:]) as (engine, look, change, folder),
        playing() as playwright,
        browsing(playwright, *WEBGL) as browser,
    ):
        folder.mkdir(parents=True, exist_ok=True)

        def grow(visit: Visit, until: int) -> None:
            while engine is not None and engine.version < until:
                after = engine.version + 1
                engine.step()
                visit.until_shown("z", version=after, kind="slice")
                time.sleep(0.5)

        with Visit(browser, change, color_scheme="dark") as visit:
            grow(visit, 20)
            visit.page.click("#center-compare")
            visit.page.wait_for_timeout(5000)
            save(visit, folder / "viewing-dark.png")
            visit.page.click("#candidates-close")
            if engine is not None:
                engine.center = CENTER
            grow(visit, VERSIONS - 2)
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
            grow(visit, VERSIONS)
            visit.page.evaluate("document.getElementById('section-volume').open = true")
            visit.until("document.getElementById('volume-text').textContent.startsWith('preview')", seconds=60)
            visit.page.wait_for_timeout(8000)
            save(visit, folder / "viewing-wall.png", width=1280)


if __name__ == "__main__":
    main()
