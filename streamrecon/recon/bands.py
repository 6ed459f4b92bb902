"""The frequencies at which the spectra of rows are taken: high ones coarsely, low ones finely.

A row that is as long as the image would be filtered together with its own repetition: the ramp has long tails. To keep them
apart rows are padded to more than twice their length, and every spectrum has as many more samples. But the tails are smooth:
they are in the lowest frequencies alone. So the response is cut in two, smoothly. What is left of it at high frequencies has
no tails, and needs a period little longer than the image. The low part needs the long period and few samples: it is taken from
rows that were shrunk to `LOW` samples. Both parts are spokes on the same grid.
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

LOW = 96
"""Samples of a shrunk row."""

CUT = 36
"""Frequency of a shrunk row from which on the low band has none; those beyond are needed to shrink well."""

SHRINKING = KaiserBessel(5, LOW / (2 * CUT))
"""The kernel that rows are shrunk with."""

GUARD = 0.19
"""Of the high band's period: what lies between a row and its repetition."""

CORNERS = (math.sqrt(2) - 1) / 2
"""Columns beyond the detector, a column, that the corners of a square image need. Rows are never taken to be shorter, even where
only the circle is wanted: the shorter their period, the less their interpolation is a sinc's."""

SHORTEST = 1280
"""Least length of a high band: with shorter ones that error is felt, and there is little to gain."""

UNIT = 32
"""The high band's length is a multiple of it: FFTs of lengths with many factors of 2 are faster."""


@dataclass(frozen=True, slots=True)
class Band:
    """Frequencies of a spoke: multiples of `spacing`, from `-length / 2` to `length / 2` times."""

    length: int
    """Samples of the rows that are transformed, even."""
    period: int
    """Columns after which what is transformed repeats."""
    first: int
    """Columns from the first sample of what is transformed to column 0."""
    response: NDArray[np.float32]
    """(length / 2 + 1,), what makes a sample of a transform one of the filtered row's Fourier sum."""

    @property
    def spacing(self) -> float:
        """Of the frequencies, cycles per column."""
        return 1 / self.period


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
    padded, columns = shape.padded, shape.columns
    length, *low_length = band_lengths(shape, period)
    if not low_length:
        return (_band(padded, columns, padded, _response(padded, options) / padded),)
    high = _response(2 * length, options)[::2] / length * (1 - _low(np.arange(length // 2 + 1.0) * (padded / length)))
    k = np.arange(LOW // 2 + 1.0)
    low = _response(padded, options)[: len(k)] / padded * _low(k) / SHRINKING.transform(k / LOW)
    return _band(length, columns, length, high), _band(LOW, columns, padded, low)


def band_lengths(shape: Shape, period: int) -> tuple[int, ...]:
    """Samples of the rows that each band transforms; see `bands`."""
    beyond = max(shape.beyond, CORNERS * shape.columns)
    needed = (shape.columns + 2 * beyond) / (1 - GUARD)
    length = UNIT * int(fft.next_fast_len(math.ceil(max(period, needed) / UNIT)))
    return (length, LOW) if length >= SHORTEST and length + LOW < 0.9 * shape.padded else (shape.padded,)


def _low(k: NDArray[np.floating]) -> NDArray[np.float64]:
    """The low band's part of the response, at multiples of its spacing: from 1 to 0, smoothly."""
    return np.asarray(np.where(k < CUT, 0.5 * special.erfc(5 * (k / CUT - 0.5)), 0))


def _response(length: int, options: ReconConfig) -> NDArray[np.float64]:
    return response(options.filter, length, options.cutoff, options.filter_order)


def _band(length: int, columns: int, period: int, values: NDArray[np.float64]) -> Band:
    values[-1] /= 2  # the Nyquist sample goes half to the positive and half to the negative end of the spoke
    return Band(length, period, (period - columns) // 2, np.asarray(values, np.float32))


def shrinking(shape: Shape, band: Band) -> NDArray[np.float32]:
    """The matrix that shrinks a row, extended on both sides by its edge pixels: (sample, column)."""
    period = band.period
    distance = np.arange(period) - np.arange(LOW)[:, None] * (period / LOW)
    distance = (distance + period / 2) % period - period / 2
    weights = SHRINKING.value(distance * (LOW / period))
    matrix = weights[:, band.first : band.first + shape.columns].copy()
    matrix[:, 0] += weights[:, : band.first].sum(axis=1)
    matrix[:, -1] += weights[:, band.first + shape.columns :].sum(axis=1)
    return np.asarray(matrix, np.float32)
