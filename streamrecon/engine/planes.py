"""Single slices of the volume in full resolution, where a version is binned: what viewers look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamrecon.recon.accumulate import Accumulator
from streamrecon.scan import Axis

MOST, BYTES, AT_LEAST = 9, 128 << 20, 3
"""Slices of a version, bytes for which there may be fewer, and how many there may be in any case: of each direction one."""

Place = tuple[Axis, int]
"""The axis at right angles to a slice, and where on it, voxels of the full volume."""

Plane = tuple[Axis, int, NDArray[np.float32]]
"""A slab's part of a slice."""


def chosen(places: Sequence[Place], full: tuple[int, int, int]) -> list[Place]:
    """Those that have room; the first ones, each once.

    Parameters
    ----------
    places
        That are looked at. Those beyond the volume show its last slice.
    full
        (slice, y, x) of the volume without binning.
    """
    inside = [(axis, min(index, full["zyx".index(axis)] - 1)) for axis, index in places]
    return list(dict.fromkeys(inside))[: room(full)]


def room(full: tuple[int, int, int]) -> int:
    """How many slices a version may have in full resolution; of a volume of (slice, y, x)."""
    return min(MOST, max(AT_LEAST, BYTES // max(1, 4 * full[2] * max(full[0], full[1]))))


def cut(accumulator: Accumulator, places: Sequence[Place], gain: float, first: int) -> list[Plane]:
    """A slab's part of slices.

    Parameters
    ----------
    accumulator
        Of the slab.
    places
        Voxels of the full volume.
    gain
        As of the version.
    first
        Slice of the volume that the slab begins with.

    Returns
    -------
    planes
        (y, x) of the slab's slices; (slice, x) and (slice, y), its rows of them.
    """
    shape, planes = accumulator.shape, list[Plane]()
    axes: tuple[Axis, ...] = "z", "y", "x"
    for axis in axes:
        begin, end, height = (first, first + shape.rows, shape.side) if axis == "z" else (0, shape.side, shape.rows)
        here = [index for each, index in places if each == axis and begin <= index < end]
        if here:
            slices = np.empty((len(here), height, shape.side), np.float32)
            accumulator.cut(axis, [index - begin for index in here], slices, gain)
            planes += [(axis, index, pixels) for index, pixels in zip(here, slices, strict=True)]
    return planes


def joined(slabs: Sequence[Sequence[Plane]]) -> dict[Place, NDArray[np.float32]]:
    """Whole slices from the parts of all slabs, in the order of their rows; what a slab did not have is left out."""
    parts: dict[Place, list[NDArray[np.float32]]] = {}
    for planes in slabs:
        for axis, index, pixels in planes:
            parts.setdefault((axis, index), []).append(pixels)
    return {
        place: pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
        for place, pixels in parts.items()
        if place[0] == "z" or len(pixels) == len(slabs)
    }
