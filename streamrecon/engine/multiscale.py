"""A version as a multi-scale image in OME-Zarr 0.5: its levels, where they lie, and their pixels, a piece at a time.

OME-Zarr 0.5: https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.engine.bins import halved
from streamrecon.engine.nxtomoproc import Provenance, places
from streamrecon.engine.orders import Part
from streamrecon.engine.slab_files import AXES, SlabFiles
from streamrecon.errors import ConfigError
from streamrecon.scan import VolumeUpdate
from streamrecon.version import __version__

if TYPE_CHECKING:
    import zarr

Triple = tuple[int, int, int]
"""Of something along z, y and x."""

SMALLEST = 128
"""Voxels of the longest side of the smallest level, at most."""

CHUNK = 64
"""Voxels of a chunk along each axis, at most."""

WINDOW = 0.5, 99.5
"""Percentiles between which viewers show grey values at first."""


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of an image."""

    shape: Triple
    """(slice, y, x)."""
    factors: Triple
    """Voxels of the version in one of the level's, along each axis."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """What is written."""

    files: SlabFiles
    """The version on the disk."""
    origin: tuple[float, ...]
    """Middle of the first voxel, (z, y, x): z by detector rows, y and x from the middle of the slice; pixels."""
    steps: tuple[float, ...]
    """From a voxel to the next, (z, y, x), pixels."""
    pixel_size: float | None
    """m; None where it is not known."""
    title: str
    facts: dict[str, Any]
    """What else is told of the version, by name."""


def need_zarr() -> None:
    """Refuse what could not be written later.

    Raises
    ------
    ConfigError
        If zarr is not installed, or is older than its format 3.
    """
    what = "emit.zarr (--zarr) needs zarr 3"
    try:
        import zarr
    except ImportError as error:
        raise ConfigError(f"{what}, which is not installed: pip install 'streamrecon[zarr]'") from error
    if int(zarr.__version__.split(".")[0]) < 3:
        raise ConfigError(f"{what}, and {zarr.__version__} is installed: pip install 'streamrecon[zarr]'")


def levels(shape: Triple) -> list[Level]:
    """The levels of an image, each half as large as the one before.

    Parameters
    ----------
    shape
        (slice, y, x) of the version.

    Returns
    -------
    levels
        The first is the version itself. A last voxel that has no other to be halved with is left out of the next level; one
        that is alone along its axis stays.
    """
    found = [Level(shape, (1, 1, 1))]
    while max(found[-1].shape) > SMALLEST:
        last = found[-1]
        (z, y, x), (of_z, of_y, of_x) = last.shape, last.factors
        halves = max(1, z // 2), max(1, y // 2), max(1, x // 2)
        found.append(Level(halves, (of_z * min(2, z), of_y * min(2, y), of_x * min(2, x))))
    return found


def image_bytes(shape: Triple) -> int:
    """Bytes that the image of a version takes on the disk."""
    return sum(
        4 * math.prod(-(-size // chunk) * chunk for size, chunk in zip(level.shape, _chunk(level.shape), strict=True))
        for level in levels(shape)
    )


def _chunk(shape: Triple) -> Triple:
    """Chunks that fill an array as evenly as they can: those at its end are stored whole."""
    z, y, x = (-(-size // -(-size // CHUNK)) for size in shape)
    return z, y, x


def image_of(update: VolumeUpdate, provenance: Provenance, parts: Sequence[Part], files: SlabFiles) -> Image:
    """What is to be written of a version.

    Parameters
    ----------
    update, provenance
        Of rank 0's slab, with the version's number.
    parts
        All slabs, in the order of their rows.
    files
        Where they are.
    """
    info, binning = provenance.info, update.binning
    slabs = [part.rows for part in parts]
    where = places(slabs, binning, files.shape).values()
    # Slices have one distance here, though those of a few ranks' last rows may be of fewer rows than the others.
    alone = min(binning, slabs[0][1] - slabs[0][0]), binning, binning
    facts = {
        "program": f"streamrecon {__version__}",
        "scan": info.uid,
        "version": update.version,
        "final": update.final,
        "projections": len(update.theta),
        "coverage": update.coverage,
        "binning": binning,
        "units": "1/m" if info.geometry.pixel_size else "1/pixel",
    }
    return Image(
        files,
        tuple(float(values[0]) for values in where),
        tuple(float(v[1] - v[0]) if len(v) > 1 else float(one) for v, one in zip(where, alone, strict=True)),
        info.geometry.pixel_size,
        str(info.metadata.get("title") or info.uid),
        facts,
    )


def write_image(place: Path, image: Image, go_on: Callable[[], None] = lambda: None) -> None:
    """Write an image; in memory are no more than `CHUNK` rows of `CHUNK` slices of it.

    Pixels are not compressed: noise hardly can be, and cores are the reconstruction's. All chunks along x are in one file.

    Parameters
    ----------
    place
        Folder that is made for it.
    image
        What to write.
    go_on
        Called between two pieces; what it raises ends it.

    Raises
    ------
    OSError
        If the disk is full or fails, or the version is gone.
    """
    import zarr

    group = zarr.create_group(place, zarr_format=3)
    found = levels(image.files.shape)
    array: zarr.Array[Any] | None = None
    for number, level in enumerate(found):
        lower, array = array, _array(group, str(number), level.shape)
        factors = (1, 1, 1) if lower is None else _ratio(found[number - 1], level)
        for slices, rows in _strips(level.shape):
            if lower is None:
                strip = image.files.rows((slices.start, slices.stop), (rows.start, rows.stop))
            else:
                strip = _strip_of(lower, level.shape, factors, slices, rows)
            array[slices, rows] = strip
            go_on()
    assert array is not None
    smallest = np.asarray(array[:], np.float32)
    group.attrs.update({"ome": metadata(image, found, smallest), "streamrecon": image.facts})


def metadata(image: Image, found: Sequence[Level], smallest: NDArray[np.float32]) -> dict[str, Any]:
    """The metadata of an image: where its levels lie and, where there is anything to see, which grey values to show.

    Parameters
    ----------
    image
        What was written.
    found
        Its levels.
    smallest
        (slice, y, x) voxels of the smallest one.
    """
    scale = 1.0 if image.pixel_size is None else 1e6 * image.pixel_size
    unit = {} if image.pixel_size is None else {"unit": "micrometer"}
    datasets = []
    for number, level in enumerate(found):
        along = list(zip(image.origin, image.steps, level.factors, strict=True))
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [scale * step * factor for _, step, factor in along]},
                    # The middle of the first voxel, which lies between those that it is the mean of.
                    {
                        "type": "translation",
                        "translation": [scale * (first + step * (factor - 1) / 2) for first, step, factor in along],
                    },
                ],
            }
        )
    axes = [{"name": axis, "type": "space", **unit} for axis in AXES]
    multiscale = {"name": image.title, "type": "mean", "axes": axes, "datasets": datasets}
    found_window = _window(smallest)
    omero = {} if found_window is None else {"omero": {"channels": [_channel(found_window)]}}
    return {"version": "0.5", "multiscales": [multiscale], **omero}


def _channel(window: dict[str, float]) -> dict[str, Any]:
    return {"label": "linear attenuation", "color": "FFFFFF", "active": True, "window": window}


def _window(voxels: NDArray[np.float32]) -> dict[str, float] | None:
    """Grey values to show at first; None where there is nothing to be told apart."""
    values = voxels[np.isfinite(voxels)]
    if not values.size or values.min() == values.max():
        return None
    start, end = (float(value) for value in np.percentile(values, WINDOW))
    return {"min": float(values.min()), "max": float(values.max()), "start": start, "end": end}


def _array(group: zarr.Group, name: str, shape: Triple) -> zarr.Array[Any]:
    chunk = _chunk(shape)
    return group.create_array(
        name,
        shape=shape,
        dtype="float32",
        chunks=chunk,
        shards=(chunk[0], chunk[1], -(-shape[2] // chunk[2]) * chunk[2]),
        compressors=None,
        dimension_names=list(AXES),
    )


def _strips(shape: Triple) -> Iterator[tuple[slice, slice]]:
    """Slices and rows of each file of an array, one after the other."""
    (depth, height, _), (of_z, of_y, _) = shape, _chunk(shape)
    for z, y in itertools.product(range(0, depth, of_z), range(0, height, of_y)):
        yield slice(z, min(z + of_z, depth)), slice(y, min(y + of_y, height))


def _ratio(lower: Level, upper: Level) -> Triple:
    """Voxels of a level in one of the next, along each axis."""
    z, y, x = (b // a for a, b in zip(lower.factors, upper.factors, strict=True))
    return z, y, x


def _strip_of(
    lower: zarr.Array[Any], shape: Triple, factors: Triple, slices: slice, rows: slice
) -> NDArray[np.float32]:
    """A strip of a level from the level below it; (slice, y, x)."""
    strip = np.empty((slices.stop - slices.start, rows.stop - rows.start, shape[2]), np.float32)
    for x in range(0, shape[2], CHUNK):
        wanted = slices, rows, slice(x, min(x + CHUNK, shape[2]))
        box = tuple(slice(each.start * f, each.stop * f) for each, f in zip(wanted, factors, strict=True))
        strip[:, :, wanted[2]] = halved(np.asarray(lower[box], np.float32))
    return strip
