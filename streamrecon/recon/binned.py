"""What an image of bins is made of the spectrum with: which frequencies, with which factors, and which pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from streamrecon_kernels import KaiserBessel

from streamrecon.recon.accumulate import Shape

FOLDED = {1: 1.0, 2: 2.0, 4: 1.75, 8: 4.0, 16: 4.0}
"""By binning, times the preview's own frequencies that a preview is made of. What a bin's mean takes from frequencies beyond
those of its pixels comes to be among them; the next ones on either side are most of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Binned:
    """The images of one binning."""

    period: int
    """Of the image's FFT, pixels."""
    rows: int
    """That are binned, too."""
    factor_v: NDArray[np.complex64]
    """(span,), at the frequencies v that are folded into the image's, in the order of an FFT."""
    factor_u: NDArray[np.complex64]
    """(span,), at the frequencies u."""
    pixel: NDArray[np.intp]
    """(side,), of the FFT's output along either axis, from the axis' on and negative before it."""
    correction: NDArray[np.float32]
    """(side,), one over the transform of the gridding kernel at the pixels."""

    @classmethod
    def of(cls, shape: Shape, kernel: KaiserBessel, period: int, binning: int) -> Binned:
        """Of a grid's period and a binning, one of `FOLDED`."""
        own, side = period // binning, max(1, shape.side // binning)
        # Where pixel 0 of the FFT lies: the grid already holds the full volume's, a bin's center may be elsewhere.
        here = 0.0 if shape.side % 2 else 0.5
        shift = (0.0 if side % 2 else 0.5 * binning) - here if binning > 1 else 0.0
        span = own * math.ceil(FOLDED[binning])
        nu = fft.fftfreq(span, period / span)
        mean = np.sinc(nu * binning) / np.sinc(nu) * np.exp(2j * math.pi * nu * shift)
        mean[np.abs(nu) > FOLDED[binning] / binning / 2] = 0
        rows = shape.row_binning(binning)
        # The real part of (1 - i)(a + i b) is a + b: both rows of a pair.
        sums = 1.0 if rows == 1 else (1 - 1j) / rows
        pixel = np.arange(side) - side // 2
        correction = 1 / kernel.transform((pixel * binning + shift) / period)
        factors = (sums * mean).astype(np.complex64), mean.astype(np.complex64)
        return cls(own, rows, *factors, pixel, np.asarray(correction, np.float32))
