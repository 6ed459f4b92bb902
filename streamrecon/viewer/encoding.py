"""Pictures as bytes for the page: binned to what it can show, 16 bits a pixel; docs/page-protocol.md says how."""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamrecon.recon.means import bin_means
from streamrecon.viewer.source import Shown

Kind: TypeAlias = Literal["slice", "preview", "projection", "sinogram", "centers"]

NOTHING = 65535
"""Pixel without a value."""
LEVELS = 65534
"""Steps from `lo` to `hi`."""
LOOKED_AT = 1 << 12
"""Pixels, about, by which it is told what most values are."""
PIECE = 1 << 16
"""Pixels that are turned into steps together, so that they stay in a core's cache."""
MARGIN = 16
"""How many times the range of all but a thousandth of the values at each end is shown beyond it, where a few are far away."""
FAR = 1000
"""How many times that range all values must have: else it has steps enough."""
FEW = 1e-4
"""Share of the pixels that may be so far away; more of them are something to be seen."""
MOST_BYTES = 128 << 20
"""Kept for other sessions, in all."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the values that 16 bits are for."""

    lo: float
    hi: float
    """Both 0 where there are no values."""
    below: bool
    above: bool
    """Whether there are values beyond."""
    whole: bool
    """Whether all are numbers."""


class Encodings:
    """One encoding of each picture, version and binning for all sessions; any thread, none of which waits for another's.

    Parameters
    ----------
    most_bytes
        Beyond these, what was not asked for longest is forgotten.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._lock = most_bytes, threading.Lock()
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._bytes = 0
        self.made = 0
        """Encodings that had to be made."""

    def get(self, shown: Shown, size: int) -> bytes:
        """The message of a picture, at most `size` pixels along its longest side."""
        picture = shown.picture
        key = shown.key, picture, _factors(picture.shape, size, picture.kind)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = encode(shown, size)
        with self._lock:
            self.made += 1
            self._bytes += len(made) - len(self._kept.get(key, b""))
            self._kept[key] = made
            while self._bytes > self._most and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return made

    def clear(self) -> None:
        """Forget all: another source may have other pictures under the same names."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0


def encode(shown: Shown, size: int = 0, floats: bool = False, serial: int | None = None) -> bytes:
    """The binary message of a picture.

    Parameters
    ----------
    shown
        The picture.
    size
        Pixels of its longest side, at most; 0 for any.
    floats
        Float32, as it is, instead of 16 bits.
    serial
        Of the request that it answers.
    """
    picture, (uid, reconstruction, version) = shown.picture, shown.key
    with np.errstate(invalid="ignore", over="ignore"):  # what is no number stays none
        pixels = binned(shown.pixels, size, picture.kind)
        limits = limits_of(pixels)
        body = np.ascontiguousarray(pixels, "<f4") if floats else quantized(pixels, limits)
    header: dict[str, Any] = {
        "kind": picture.kind, "axis": picture.axis, "index": picture.index, "uid": uid,
        "reconstruction": reconstruction, "version": version,
        "shape": pixels.shape, "full": picture.full, "dtype": "<f4" if floats else "<u2", "lo": limits.lo,
        "hi": limits.hi, "below": limits.below, "above": limits.above,
    }  # fmt: skip
    if serial is not None:
        header["serial"] = serial
    text = json.dumps(header, allow_nan=False).encode()
    text += b" " * (-(len(text) + 4) % 8)
    return len(text).to_bytes(4, "little") + text + body.tobytes()


def binned(pixels: NDArray[np.float32], size: int, kind: Kind = "slice") -> NDArray[np.float32]:
    """Means over whole numbers of pixels.

    They are the same number along each side, so that pixels stay square, but of a sinogram, whose sides have nothing in
    common. What is left over at the far end of a side, less than a pixel of the result, is left out, as it is in a binned
    volume. A mean with something in it that is no number is none.

    Parameters
    ----------
    pixels
        As a picture of this kind has them.
    size
        Of the longest side, at most; 0 leaves them as they are.
    kind
        Of `Picture`.

    Returns
    -------
    pixels
        With the same axes.
    """
    return bin_means(pixels, _factors(pixels.shape, size, kind))


def _factors(shape: tuple[int, ...], size: int, kind: Kind) -> tuple[int, ...]:
    """Pixels along each axis for one of the result."""
    first = int(kind == "centers")  # that axis counts pictures
    sides = shape[first:]
    if not size or 0 in sides:
        return (1,) * len(shape)
    factors = [-(-side // size) for side in sides]
    if kind != "sinogram":
        factors = [min(max(factors), side) for side in sides]
    return (1,) * first + tuple(factors)


def limits_of(pixels: NDArray[np.float32]) -> Limits:
    """Range of the values that 16 bits are for.

    A few hot voxels would leave a few steps to all others: what is so far from most is shown as the end of the range.
    """
    whole = bool(pixels.size) and math.isfinite(pixels.min()) and math.isfinite(pixels.max())
    values = pixels if whole else pixels[np.isfinite(pixels)]
    if not values.size:
        return Limits(0.0, 0.0, False, False, whole)
    lo, hi = float(values.min()), float(values.max())
    some = values.reshape(-1)[:: max(1, values.size // LOOKED_AT) | 1]
    least, most = len(some) // 1000, len(some) - 1 - len(some) // 1000
    ordered = np.partition(some, (least, most))
    low, high = float(ordered[least]), float(ordered[most])
    if not 0 < FAR * (high - low) < hi - lo:
        return Limits(lo, hi, False, False, whole)
    first, last = max(lo, low - MARGIN * (high - low)), min(hi, high + MARGIN * (high - low))
    far = np.count_nonzero(values < first) + np.count_nonzero(values > last)
    if far > max(1.0, FEW * values.size):
        return Limits(lo, hi, False, False, whole)
    return Limits(first, last, lo < first, hi > last, whole)


def quantized(pixels: NDArray[np.float32], limits: Limits) -> NDArray[np.uint16]:
    """Values as whole numbers: 0 is `lo` or less, 65534 is `hi` or more, 65535 is none."""
    flat, found = pixels.reshape(-1), np.empty(pixels.size, "<u2")
    scale = LEVELS / (limits.hi - limits.lo) if limits.hi > limits.lo else 0.0
    for first in range(0, flat.size, PIECE):
        some = flat[first : first + PIECE]
        steps = np.subtract(some, limits.lo, dtype=np.float64)
        steps *= scale
        if limits.below or limits.above:
            np.clip(steps, 0, LEVELS, out=steps)
        if not limits.whole:
            steps[~np.isfinite(some)] = NOTHING
        found[first : first + PIECE] = np.rint(steps, out=steps)
    return found.reshape(pixels.shape)
