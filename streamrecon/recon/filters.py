"""Filters of filtered backprojection, and the length that rows are padded to."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Window = Callable[[NDArray[np.float64], float, int], NDArray[np.float64]]

WINDOWS: dict[str, Window] = {
    "ramp": lambda f, cutoff, order: np.ones_like(f),
    "ramlak": lambda f, cutoff, order: np.ones_like(f),
    "shepp": lambda f, cutoff, order: np.sinc(f / 2),
    "cosine": lambda f, cutoff, order: np.cos(math.pi * f / 2),
    "hann": lambda f, cutoff, order: 0.5 + 0.5 * np.cos(math.pi * f),
    "hamming": lambda f, cutoff, order: 0.54 + 0.46 * np.cos(math.pi * f),
    "parzen": lambda f, cutoff, order: np.where(f <= 0.5, 1 - 6 * f**2 * (1 - f), 2 * (1 - f) ** 3),
    "butterworth": lambda f, cutoff, order: 1 / (1 + (f / cutoff) ** (2 * order)),
}
"""Window of each filter by name, over frequency as a fraction of the Nyquist frequency, 0 to 1; "none" has no ramp either."""

FILTERS = (*WINDOWS, "none")


def response(name: str, padded: int, cutoff: float = 0.8, order: int = 8) -> NDArray[np.float64]:
    """Frequency response of a filter, window times ramp.

    The ramp is the transform of the band-limited ramp's spatial kernel, 1/4 at 0, -1 / (pi n)^2 at odd n and 0 at even
    n, cut at the padded length (Kak and Slaney, Principles of Computerized Tomographic Imaging, eq. 3.61): sampling
    |frequency| itself would lose the zero frequency and with it the absolute scale.

    Parameters
    ----------
    name
        One of `FILTERS`.
    padded
        Length that rows are padded to, samples.
    cutoff, order
        Of the butterworth window; cutoff as a fraction of the Nyquist frequency.

    Returns
    -------
    response
        (padded // 2 + 1,), in cycles per pixel, at the frequencies of a real FFT.

    Raises
    ------
    ValueError
        If there is no such filter.
    """
    if name not in FILTERS:
        raise ValueError(f"filter is {name!r}; expected one of: {', '.join(FILTERS)}")
    if name == "none":
        return np.ones(padded // 2 + 1)
    n = (np.arange(padded) + padded // 2) % padded - padded // 2
    odd = n % 2 == 1
    kernel = np.zeros(padded)
    kernel[odd] = -1 / (math.pi * n[odd]) ** 2
    kernel[0] = 0.25
    fraction = np.linspace(0, 1, padded // 2 + 1) if padded % 2 == 0 else 2 * np.arange(padded // 2 + 1) / padded
    return np.asarray(fft.rfft(kernel).real) * WINDOWS[name](fraction, cutoff, order)


def padded_length(columns: int, reach: float) -> int:
    """Even length, fast for FFTs, that keeps a circular convolution apart from its own repetition.

    Parameters
    ----------
    columns
        Of the detector.
    reach
        How far beyond the detector's edges filtered rows are needed, columns.
    """
    half = fft.next_fast_len(columns + max(0, math.ceil(reach)), real=True)
    return 2 * int(half)
