"""A picture of a volume: its three central slices side by side."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from streamrecon.engine.slab_files import SlabFiles

LARGEST = 900
"""Pixels of the longest side of a slice in the picture."""

SMALLEST = 360
GAP = 12
TEXT = 34

SAMPLED = 1 << 18
"""Most pixels that the grey range of a slice is taken from: with more it is the same, and a large slice needs memory many times
its own."""

ROWS = 64
"""Of a slice that are made grey at once, for the same reason."""


Planes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""The (y, x), (slice, x) and (slice, y) slices through the middle of a volume."""


def central(files: SlabFiles) -> Planes:
    """The slices through the middle of a version.

    Raises
    ------
    OSError
        If the disk fails.
    """
    z, y, x = (size // 2 for size in files.shape)
    return files.slice("z", z), files.slice("y", y), files.slice("x", x)


def draw(slices: Planes, title: str) -> Image.Image:
    """Draw the central slices in one grey scale, 0.5 to 99.5 % of the values within the inscribed circle.

    Parameters
    ----------
    slices
        Of the volume; y runs downwards.
    title
        A line above the slices.
    """
    low, high = contrast(slices[0])
    side = max(slices[0].shape)
    zoom = min(LARGEST / side, max(1.0, SMALLEST / side))
    images = [_grey(each, low, high, zoom) for each in slices]
    width = max(images[0].width + GAP + max(images[1].width, images[2].width), 560)
    height = max(images[0].height, images[1].height + images[2].height + GAP + 2 * TEXT)
    sheet = Image.new("L", (width + 2 * GAP, height + 2 * TEXT + 2 * GAP), 24)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.text((GAP, GAP), f"{title}   grey {low:.4g} to {high:.4g}", 230, font)
    places = [(GAP, GAP + TEXT), (images[0].width + 2 * GAP, GAP + TEXT)]
    places.append((places[1][0], places[1][1] + images[1].height + TEXT + GAP))
    for image, place, name in zip(images, places, ("y, x", "slice, x", "slice, y"), strict=True):
        pen.text(place, name, 160, font)
        sheet.paste(image, (place[0], place[1] + 20))
    return sheet


def contrast(image: NDArray[np.float32]) -> tuple[float, float]:
    """Grey range of a slice: 0.5 to 99.5 % of the finite values within the inscribed circle, of some pixels of a large one."""
    step = math.ceil(math.sqrt(image.size / SAMPLED))
    y, x = (np.linspace(-1, 1, n)[::step] for n in image.shape)
    some = image[::step, ::step]
    values = some[(x**2 + y[:, None] ** 2 <= 1) & np.isfinite(some)]
    low, high = np.percentile(values, [0.5, 99.5]) if values.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1)


def _grey(image: NDArray[np.float32], low: float, high: float, zoom: float) -> Image.Image:
    grey = np.empty(image.shape, np.uint8)
    for first in range(0, len(image), ROWS):
        some = slice(first, first + ROWS)
        grey[some] = np.clip((np.nan_to_num(image[some]) - low) / (high - low) * 255, 0, 255)
    width, height = (max(1, round(n * zoom)) for n in image.shape[::-1])
    resample = Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.BOX
    return Image.fromarray(grey).resize((width, height), resample)


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG so that a reader sees the old or the new one, never a half."""
    temporary = path.with_name(f".{path.name}.tmp")
    # A fifth larger than with the usual level, in a third of the time: there is one of each version.
    picture.save(temporary, format="PNG", compress_level=1)
    temporary.replace(path)
