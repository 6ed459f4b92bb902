"""Pixels: out of events, and in the type of a scan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import MessageError


def images_in(value: Any, key: Mapping[str, Any] | None, where: str) -> tuple[NDArray[Any], ...]:
    """The frames within an event, each (row, column)."""
    dtype = (key or {}).get("dtype_numpy")
    plain = isinstance(dtype, str) and re.fullmatch(r"[<>|=]?[biuf][1248]", dtype) is not None
    try:
        images = np.asarray(value, dtype if plain and not isinstance(value, np.ndarray) else None)
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"{where} holds no image: {error}") from error
    if images.ndim < 2 or images.dtype.kind not in "biuf" or not images.size:
        raise MessageError(f"{where} holds {images.dtype} {images.shape}; expected an image")
    return tuple(images.reshape(-1, *images.shape[-2:]))


def plain(image: NDArray[Any]) -> NDArray[Any]:
    """In native byte order, and in a type that frames may have: integers of 8 bytes become floats, which hold them up to 2^53."""
    kind = {"b": np.uint8, "i": np.float64, "u": np.float64}.get(image.dtype.kind)
    if kind is not None and (image.dtype.kind == "b" or image.dtype.itemsize == 8):
        return image.astype(kind)
    if image.dtype.kind == "f" and image.dtype.itemsize not in (4, 8):
        return image.astype(np.float32)
    return np.ascontiguousarray(image, image.dtype.newbyteorder("="))


def fitting(image: NDArray[Any], shape: tuple[int, int], dtype: np.dtype[Any], exact: bool) -> NDArray[Any] | None:
    """An image in the type of others; None if it does not fit them.

    Parameters
    ----------
    image
        (row, column).
    shape, dtype
        Of the others.
    exact
        Whether a type that holds more will do, too, if all of its values can be had.
    """
    if image.shape != shape:
        return None
    if np.can_cast(image.dtype, dtype, "safe"):
        return image.astype(dtype, copy=False)
    if not exact:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        converted = image.astype(dtype)
        return converted if np.array_equal(converted.astype(image.dtype), image) else None
