"""The frequencies at which the spectra of rows are taken: high ones coarsely, low ones finely.

A row that is as long as the image would be filtered together with its own repetition: the ramp has long tails. To keep them
apart rows are padded to twice their length, which doubles the samples of every spectrum. But the tails are smooth: they are
in the lowest frequencies alone. So the response is cut in two, smoothly. What is left of it at high frequencies has no tails,
and needs a period little longer than the row. The low part needs the long period and few samples: it is taken from rows that
were shrunk to `LOW` samples. Both parts are spokes on the same grid; their sum differs by 1e-5 from the spokes of padded rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special
from streamrecon_kernels import KaiserBessel

from streamrecon.config import ReconConfig
from streamrecon.recon.accumulate import Shape
from streamrecon.recon.filters import response

LOW = 128
"""Samples of a shrunk row."""

CUT = 48
"""Frequencies of a shrunk row that the low band has, on either side of zero; those beyond are needed to shrink well."""

SHRINKING = KaiserBessel(5, LOW / (2 * CUT))
"""The kernel that rows are shrunk with."""

GUARD = 0.19
"""Of the high band's period: what lies between a row and its repetition."""

CORNERS = (math.sqrt(2) - 1) / 2
"""Columns beyond the detector, a column, that the corners of a square image need. Rows are never taken to be shorter: with 1.25
samples a column the error of a reconstruction is 0.2 %, with these 1.75 it is 0.08 %."""

UNIT = 32
"""The high band's length is a multiple of it: FFTs of lengths with many factors of 2 are faster."""


@dataclass(frozen=True, slots=True)
class Band:
    """Frequencies of a spoke: multiples of `spacing`, from `-length / 2` to `length / 2` times."""

    length: int
    """Samples of the rows that are transformed, even."""
    spacing: float
    """Cycles per column."""
    first: float
    """Columns from the first sample of what is transformed to column 0."""
    response: NDArray[np.float32]
    """(length / 2 + 1,), what makes a sample of a transform one of the filtered row's Fourier sum."""


def bands(shape: Shape, options: ReconConfig, period: int) -> tuple[Band, ...]:
    """The bands of a reconstruction: of rows as they are, and of shrunk ones. Short rows are padded and have one band.

    Parameters
    ----------
    shape
        Of the reconstruction.
    options
        Filter.
    period
        Of the grid, cells: frequencies are not taken more coarsely than it has cells.
    """
    length, *low_length = band_lengths(shape, period)
    if not low_length:
        return (_band(shape.padded, shape.columns, 1 / shape.padded, _response(shape.padded, options) / shape.padded),)
    whole = _response(2 * length, options) / (2 * length)
    low = 0.5 * special.erfc(5 * (np.arange(length + 1) / CUT - 0.5))
    shrunk = whole[: LOW // 2 + 1] * low[: LOW // 2 + 1] / SHRINKING.transform(np.arange(LOW // 2 + 1) / LOW)
    shrunk[CUT:] = 0
    return (
        _band(length, shape.columns, 1 / length, 2 * (whole * (1 - low))[::2]),
        _band(LOW, shape.columns, 1 / (2 * length), shrunk),
    )


def band_lengths(shape: Shape, period: int) -> tuple[int, ...]:
    """Samples of the rows that each band transforms; see `bands`."""
    beyond = max(shape.beyond, CORNERS * shape.columns)
    needed = (shape.columns + 2 * beyond) / (1 - GUARD)
    length = UNIT * int(fft.next_fast_len(math.ceil(max(period, needed) / UNIT)))
    return (length, LOW) if length >= 4 * LOW else (shape.padded,)


def _response(length: int, options: ReconConfig) -> NDArray[np.float64]:
    return response(options.filter, length, options.cutoff, options.filter_order)


def _band(length: int, columns: int, spacing: float, values: NDArray[np.float64]) -> Band:
    values[-1] /= 2  # the Nyquist sample goes half to the positive and half to the negative end of the spoke
    return Band(length, spacing, (round(1 / spacing) - columns) // 2, np.asarray(values, np.float32))


def shrinking(shape: Shape, band: Band) -> NDArray[np.float32]:
    """The matrix that shrinks a row, extended on both sides by its edge pixels: (sample, column)."""
    period = round(1 / band.spacing)
    column = np.arange(period) - band.first
    distance = column + band.first - np.arange(LOW)[:, None] * (period / LOW)
    distance = (distance + period / 2) % period - period / 2
    weights = SHRINKING.value(distance * (LOW / period))
    matrix = weights[:, band.first : band.first + shape.columns].copy()
    matrix[:, 0] += weights[:, : band.first].sum(axis=1)
    matrix[:, -1] += weights[:, band.first + shape.columns :].sum(axis=1)
    return np.asarray(matrix, np.float32)
