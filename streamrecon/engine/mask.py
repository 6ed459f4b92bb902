"""The mask of bad pixels: read from a file before a scan comes, cut to the scan's rows when it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamrecon.errors import ConfigError
from streamrecon.scan import Geometry

IMAGES = (".tif", ".tiff", ".png")
HDF5 = (".h5", ".hdf5", ".nxs", ".hdf")


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """Bad pixels of a whole detector."""

    path: str
    """Where it was read from, as the option says."""
    bad: NDArray[np.bool_]
    """(row, column), True where a pixel is bad."""

    @classmethod
    def read(cls, path: str) -> Mask:
        """Read a mask, not zero where a pixel is bad.

        Parameters
        ----------
        path
            Of a .npy, .tif or .png file, or FILE.h5:/PATH/OF/DATASET.

        Raises
        ------
        ConfigError
            If the file cannot be read, or does not hold a two-dimensional image of booleans or finite real numbers.
        """
        suffix = Path(path).suffix.lower()
        name, _, dataset = (path, "", "") if suffix in (".npy", *IMAGES) else path.rpartition(":")
        try:
            if suffix == ".npy":
                with Path(path).open("rb") as file:
                    data: Any = np.lib.format.read_array(file, allow_pickle=False)
            elif suffix in IMAGES:
                data = _read_image(path)
            elif Path(name).suffix.lower() in HDF5 and dataset:
                data = _read_hdf5(name, dataset)
            else:
                raise ValueError("expected .npy, .tif, .png, or FILE.h5:/PATH/OF/DATASET")
        except FileNotFoundError:
            raise _refused(path, f"there is no file {name}") from None
        except Exception as error:  # a damaged file makes its reader raise nearly anything
            raise _refused(path, f"it cannot be read: {error}") from error
        if data.ndim != 2:
            raise _refused(path, f"it has the shape {data.shape}; expected (row, column)")
        if data.dtype.kind not in "buif":
            raise _refused(path, f"it holds {data.dtype}; expected booleans or numbers")
        if not np.isfinite(data).all():
            raise _refused(
                path, "it holds values that are not finite; expected 0 for a good pixel, another number for a bad one"
            )
        return cls(path, data != 0)

    def rows(self, geometry: Geometry, rows: tuple[int, int]) -> NDArray[np.bool_]:
        """Of a scan's rows, first and one past the last.

        Raises
        ------
        ConfigError
            If the scan's detector has another shape.
        """
        expected = geometry.rows, geometry.columns
        if self.bad.shape != expected:
            got = f"{self.bad.shape[0]} rows and {self.bad.shape[1]} columns"
            raise _refused(self.path, f"it has {got}, the scan's detector {expected[0]} and {expected[1]}")
        return self.bad[rows[0] : rows[1]]


def _refused(path: str, why: str) -> ConfigError:
    return ConfigError(f"the mask of bad pixels {path!r} (normalize.bad_pixels, --bad-pixels) is refused: {why}")


def _read_image(path: str) -> NDArray[Any]:
    with Image.open(path) as image:
        if image.mode == "P":
            return np.asarray(image.convert("L"))
        return np.asarray(image)


def _read_hdf5(path: str, dataset: str) -> NDArray[Any]:
    if not Path(path).exists():
        raise FileNotFoundError
    with h5py.File(path, "r", locking=False) as file:
        found = file.get(dataset)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"there is no dataset {dataset}")
        if found.ndim != 2:
            return np.empty(found.shape if found.ndim < 2 else (0, *found.shape[1:]))
        return np.asarray(found[()])
