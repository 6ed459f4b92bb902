"""Finding the column of the rotation axis while the scan is being measured.

Two estimates, each with its uncertainty. *Opposed pair*: a parallel projection seen from behind is its mirror image,
p(theta, u) = p(theta + pi, 2 center - u), and registering the two gives the center. *Center of mass*: the object's
moves over the detector as center + a cos(theta) + b sin(theta), which a part of a scan determines already (the
first-order Helgason-Ludwig condition; Natterer, The Mathematics of Computerized Tomography, 1986, section II.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.ndimage import gaussian_filter1d, shift, spline_filter1d
from scipy.optimize import minimize_scalar

from streamrecon.errors import GeometryError

Method = Literal["opposed-pair", "center-of-mass", "user", "previous", "middle"]

SMOOTHING = 2.0
"""Standard deviation of the Gaussian whose derivative is registered, columns."""
PAIR_ROWS = 128
"""Rows a registration works on at most; more are averaged to this many."""
BANDS = 64
"""Bands of rows, at most, of which the center of mass is followed."""
CAPACITY = 16384
"""Projections of which the bands' sums are kept, at most."""
FEWEST, NARROWEST = 12, 0.005
"""Projections, and ratio of the fit's singular values (about 20 degrees), below which no center of mass is fitted."""
AIR = 0.25
"""Share of the angles at which an edge is taken to show air."""
INTRUSION = 0.1
"""Share of a band's mean line integral by which one edge must rise above the other to be the object rather than noise."""
STEADY = 0.03
"""Relative scatter of the mass over the angles that doubles sigma; a band of thrice that is left out."""
FLOOR = 0.02
"""No estimate is called surer than this, columns: optics distort, and flat fields leave structure."""


@dataclass(frozen=True, slots=True)
class CenterEstimate:
    """Where the rotation axis is, and how sure that is."""

    center: float
    """Column of the rotation axis, pixels, 0-based and fractional."""
    sigma: float
    """Standard uncertainty of `center`, pixels."""
    method: Method
    """Where it comes from."""
    projections: int
    """Number of projections used."""
    note: str
    """One sentence for people: what was used and how sure it is."""


def register_opposed(first: NDArray[np.float32], second: NDArray[np.float32], mismatch: float = 0.0) -> CenterEstimate:
    """Find the center c for which first(u) = second(2 c - u), over all rows jointly.

    The rows' derivatives along the columns are compared, so a background that is flat or drifts between the two does
    not matter. All centers at which an eighth of the detector overlaps are tried by correlation, the best is refined
    to the least squared difference of cubic splines. Sigma is the cluster-robust (sandwich) standard error of that
    least-squares fit over patches of rows and columns, which sees noise and features that disagree; it grows to the
    distance of the rivals where other centers fit nearly as well, and by the way features move within the mismatch.

    Parameters
    ----------
    first, second
        (row, column) line integrals at theta and at theta + pi + mismatch.
    mismatch
        Radians by which the two angles miss being pi apart.

    Returns
    -------
    CenterEstimate
        Method "opposed-pair"; "middle" where the images show nothing.

    Raises
    ------
    GeometryError
        The two differ in shape or are not (row, column).
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise GeometryError(f"opposed projections have shapes {first.shape}, {second.shape}; expected the same, 2D")
    columns = first.shape[1]
    f, g = _derivative(first), _derivative(second[:, ::-1])
    lag, ambiguity = _best_lag(f, g) if columns >= 8 and np.any(f) and np.any(g) else (None, 0.0)
    if lag is None:
        return _middle(columns, "the opposed projections show nothing to register")

    spline = spline_filter1d(g, 3, axis=1, mode="mirror")
    # One overlap for all trials keeps the squared difference a smooth function of the shift; where either image has its
    # margin, an object that is cut off would be compared with nothing.
    edge = _margin(columns) + 3
    overlap = slice(max(0, lag) + edge, min(columns, columns + lag) - edge)
    if overlap.stop - overlap.start < 8:
        return _middle(columns, "the opposed projections overlap in too few columns")

    def moved(by: float) -> NDArray[np.float64]:
        return np.asarray(shift(spline, (0, by), order=3, prefilter=False, mode="mirror")[:, overlap])

    def misfit(by: float) -> float:
        return float(np.sum((f[:, overlap] - moved(by)) ** 2))

    by = float(minimize_scalar(misfit, bounds=(lag - 1.5, lag + 1.5), method="bounded", options={"xatol": 1e-3}).x)
    center = (columns - 1 + by) / 2
    slope = moved(by - 0.5) - moved(by + 0.5)
    sigma = _sandwich((f[:, overlap] - moved(by)) * slope, slope**2) / 2
    # A feature across the beam moves by radius x mismatch, its mean with its mirror image by half of that.
    radius = math.sqrt(float(np.average((np.arange(columns) - center) ** 2, weights=np.sum(f**2, axis=0))))
    sigma = min(math.hypot(sigma, ambiguity / 2, FLOOR, radius * mismatch / 2), columns / 4)
    note = f"center {center:.2f} +- {sigma:.2f} px from the registration of an opposed pair"
    note += f" {math.degrees(abs(mismatch)):.2f} degrees off pi" if abs(mismatch) > 1e-4 else ""
    note += "; other centers fit nearly as well" if ambiguity else ""
    return CenterEstimate(center, sigma, "opposed-pair", 2, note)


class Bands:
    """What of a projection tells the center, by bands of rows; slabs of rows each have their part of it, and parts add up.

    Parameters
    ----------
    rows, columns
        Shape of a projection.
    first
        Of its rows, that the slab begins with.
    """

    def __init__(self, rows: int, columns: int, first: int = 0) -> None:
        self._rows, self._first = rows, first
        # A row times these: its sum, its moment about the middle, and the air at each side, of the outermost columns.
        u, edge = np.arange(columns), max(4, columns // 24)
        sides = [(u < edge) / edge, (u >= columns - edge) / edge]
        self._weights = np.stack([np.ones(columns), u - (columns - 1) / 2, *sides], axis=1).astype(np.float32)

    def sums(self, slab: NDArray[np.float32]) -> NDArray[np.float32]:
        """(band, 4): mass, moment, and air at both sides, of at most 64 bands; `slab` is (row, column)."""
        with np.errstate(invalid="ignore"):  # A band with pixels that are not finite counts as one without mass.
            sums = self._banded(slab @ self._weights, BANDS)
        return np.nan_to_num(sums, posinf=0, neginf=0)

    def reduced(self, slab: NDArray[np.float32], bands: int = PAIR_ROWS) -> NDArray[np.float32]:
        """(band, column): sums over the rows of at most so many bands; divided by `sizes`, all parts together are their means."""
        return self._banded(slab, bands)

    def sizes(self, bands: int = PAIR_ROWS) -> NDArray[np.int64]:
        """(band,) rows of each."""
        return np.diff(_edges(self._rows, bands))

    def _banded(self, of_rows: NDArray[np.float32], most: int) -> NDArray[np.float32]:
        edges = _edges(self._rows, most)
        first, end = self._first, self._first + len(of_rows)
        low, high = np.searchsorted(edges, first, "right") - 1, np.searchsorted(edges, end, "left")
        out = np.zeros((len(edges) - 1, of_rows.shape[1]), np.float32)
        starts = np.maximum(edges[low:high], first) - first
        out[low:high] = np.add.reduceat(of_rows, starts, axis=0)
        return out


class CenterFinder:
    """Collects what tells the center from projections in any order, at 1 KiB or less a projection.

    Of up to 16384 projections four sums of at most 64 bands of rows are kept. Later ones count for the opposed pair.

    Parameters
    ----------
    rows, columns
        Shape of a projection.
    tolerance
        Radians by which an opposed pair may miss pi; 1.5 degrees if not given.
    """

    def __init__(self, rows: int, columns: int, tolerance: float = math.radians(1.5)) -> None:
        self._shape = (rows, columns)
        self._tolerance = tolerance
        self._bands = Bands(rows, columns)
        self._sums: list[NDArray[np.float32]] = []
        self._index: list[int] = []
        self._theta = np.zeros(0)
        self._pair: tuple[int, int, float] | None = None

    def add(self, index: int, theta: float, projection: NDArray[np.float32]) -> None:
        """Take in one projection.

        Parameters
        ----------
        index, theta
            0-based number, returned by `opposed_pair`, and angle in radians.
        projection
            (row, column) line integrals; not kept.

        Raises
        ------
        GeometryError
            The shape is not (rows, columns), or theta is not finite.
        """
        if projection.shape != self._shape:
            raise GeometryError(f"projection {index} has shape {projection.shape}; expected {self._shape}")
        self.add_sums(index, theta, self._bands.sums(projection))

    def add_sums(self, index: int, theta: float, sums: NDArray[np.float32]) -> None:
        """Take in one projection as its `Bands.sums`, those of all slabs added up.

        Raises
        ------
        GeometryError
            Theta is not finite.
        """
        if not math.isfinite(theta):
            raise GeometryError(f"theta of projection {index} is {theta}; expected a finite angle")
        count = len(self._index)
        if count == self._theta.size:
            self._theta = np.concatenate([self._theta, np.zeros(max(64, count))])
        self._theta[count] = theta
        if count:
            off = np.remainder(theta - self._theta[:count], 2 * math.pi) - math.pi
            nearest = int(np.argmin(np.abs(off)))
            if abs(off[nearest]) < (abs(self._pair[2]) if self._pair else self._tolerance):
                self._pair = (self._index[nearest], index, float(off[nearest]))
        self._index.append(index)
        if len(self._sums) < CAPACITY:
            self._sums.append(sums)

    def opposed_pair(self) -> tuple[int, int, float] | None:
        """Return the two received indices whose angles are closest to pi apart; None while none is within tolerance.

        The third value is theta of the second - theta of the first - pi, wrapped to [-pi, pi), radians.
        """
        return self._pair

    def center_of_mass(self) -> CenterEstimate | None:
        """Fit the motion of the center of mass; None where it says nothing.

        That is with fewer than 12 projections or 20 degrees, or if in no band of rows the mass is the same at all
        angles, as it is where there is air on both sides of the object.
        """
        columns = self._shape[1]
        if len(self._sums) < FEWEST:
            return None
        total, moment, left, right = np.stack(self._sums).astype(np.float64).transpose(2, 0, 1)
        # The background, constant along a row, is taken off the mass; it has no moment about the middle. Where the object
        # comes to an edge at some angles, that side is no air: drift shows on both sides, so the smaller change counts.
        usual = np.quantile(np.stack([left, right]), AIR, axis=1)
        changes = left - usual[0], right - usual[1]
        visible = INTRUSION * np.abs(np.median(total / columns - (left + right) / 2, axis=0))
        intrudes = np.abs(changes[0] - changes[1]) > visible
        background = np.where(intrudes, usual.mean(axis=0) + np.minimum(*changes), (left + right) / 2)
        mass = total - columns * background
        typical = np.median(mass, axis=0)
        shown = typical > 1e-4 * np.median(np.abs(total), axis=0)  # Rounding leaves 1e-6 where there is nothing.
        unsteady = 1.4826 * np.median(np.abs(mass - typical), axis=0) / np.where(shown, typical, 1)
        used = shown & (unsteady < 3 * STEADY)
        mass, moment, typical = mass[:, used], moment[:, used], typical[used]
        # A projection without the mass of the others lost the beam.
        kept = np.abs(mass.sum(axis=1) - typical.sum()) < typical.sum() / 4
        count, theta = int(np.count_nonzero(kept)), np.array(self._theta[: len(kept)])[kept]
        design = np.column_stack([np.ones(count), np.cos(theta), np.sin(theta)])
        if count < FEWEST or np.linalg.cond(design) > 1 / NARROWEST:
            return None

        path = (moment / np.maximum(mass, typical / 4))[kept]
        parameters = np.linalg.lstsq(design, path, rcond=None)[0]
        residual = path - design @ parameters
        growth = np.linalg.inv(design.T @ design)[0, 0] / (count - 3)
        # The bands' median and quartiles, weighted by their certainty.
        weights = 1 / (growth * np.sum(residual**2, axis=0) + FLOOR**2)
        weights /= weights.sum()
        order = np.argsort(parameters[0])
        rank = np.cumsum(weights[order]) - weights[order] / 2
        low, offset, high = np.interp([0.25, 0.5, 0.75], rank, parameters[0][order])
        # The fit's standard error; the bands' scatter, undivided, as beam hardening is wrong alike in all; a quarter of
        # what it does if the background slopes from the air on one side to that on the other.
        error = math.sqrt(growth) * np.linalg.norm(residual @ weights)
        tilt = np.abs(np.mean(right - left, axis=0)[used]) / typical @ weights * columns**2 / 12
        sigma = math.hypot(error, 0.74 * (high - low), tilt / 4, FLOOR)
        sigma *= 1 + float(unsteady[used] @ weights / STEADY) ** 2  # The object may reach out of view.
        center = float((columns - 1) / 2 + offset)
        if not (sigma < columns / 4 and 0 <= center <= columns - 1):
            return None
        note = f"center {center:.2f} +- {sigma:.2f} px from the motion of the center of mass in {count} projections"
        return CenterEstimate(center, sigma, "center-of-mass", count, note)

    def best(self, pair: tuple[NDArray[np.float32], NDArray[np.float32], float] | None = None) -> CenterEstimate:
        """Return the most certain estimate.

        Parameters
        ----------
        pair
            The two projections of `opposed_pair` and its third value, where the caller still has them.

        Returns
        -------
        CenterEstimate
            The one with the smaller sigma, or the detector's middle; the note says if the estimates disagree.
        """
        both = (register_opposed(*pair) if pair else None, self.center_of_mass())
        estimates = [estimate for estimate in both if estimate]
        middle = _middle(self._shape[1], "nothing tells the center yet")
        chosen = min([middle, *estimates], key=lambda estimate: estimate.sigma)
        for other in estimates:
            if abs(other.center - chosen.center) > 4 * math.hypot(other.sigma, chosen.sigma):
                chosen = replace(chosen, note=f"{chosen.note}; but it disagrees: {other.note}")
        return chosen


def _best_lag(f: NDArray[np.float64], g: NDArray[np.float64]) -> tuple[int | None, float]:
    """Return the shift of g (row, column) that fits f best and the rms distance of its rivals, columns.

    The shift is None where nothing correlates; the distance is half the detector where the best does not stand out.
    """
    columns = f.shape[1]
    length = next_fast_len(2 * columns, real=True)
    lags = np.arange(-columns + 1, columns)
    product = irfft(np.sum(rfft(f, length) * np.conj(rfft(g, length)), axis=0), length)[lags]
    lo, hi = np.maximum(0, lags), np.minimum(columns, columns + lags)
    powers = [np.concatenate([[0.0], np.cumsum(np.sum(part**2, axis=0))]) for part in (f, g)]
    energy = powers[0][hi] - powers[0][lo] + powers[1][hi - lags] - powers[1][lo - lags]
    # A tenth of the total keeps slivers of overlap that agree by chance from winning.
    score = 2 * product / (energy + 0.1 * (powers[0][-1] + powers[1][-1]))
    allowed = np.abs(lags) <= columns - max(8, columns // 8)
    score[~allowed] = -1.0
    peak = int(np.argmax(score))
    if score[peak] <= 0:
        return None, 0.0
    below = np.flatnonzero(score < score[peak] / 2)
    start, stop = lags[below[below < peak]].max(initial=-columns), lags[below[below > peak]].min(initial=columns)
    others = allowed & ((lags <= start) | (lags >= stop))
    if not others.any() or (score[peak] < 0.5 and score[peak] < 5 * np.sqrt(np.mean(score[others] ** 2))):
        return int(lags[peak]), columns / 2
    rivals = lags[others & (score > 0.7 * score[peak])]
    return int(lags[peak]), math.sqrt(float(np.mean((rivals - lags[peak]) ** 2))) if rivals.size else 0.0


def _sandwich(score: NDArray[np.float64], information: NDArray[np.float64]) -> float:
    """Standard error of a one-parameter least-squares fit from patches of its (row, column) score and information."""
    rows, columns = _edges(score.shape[0], 8), _edges(score.shape[1], max(1, min(32, score.shape[1] // 8)))
    patches = np.add.reduceat(np.add.reduceat(score, rows[:-1], axis=0), columns[:-1], axis=1)
    return math.sqrt(float(np.sum(patches**2))) / (float(np.sum(information)) + 1e-300)


def _derivative(projection: NDArray[np.float32]) -> NDArray[np.float64]:
    """Gaussian derivative along the columns of row averages, less the margin where the detector's edge would show."""
    edges = _edges(projection.shape[0], PAIR_ROWS)
    image = np.add.reduceat(projection, edges[:-1], axis=0).astype(np.float64) / np.diff(edges)[:, None]
    margin = _margin(image.shape[1])
    result = np.asarray(gaussian_filter1d(image, SMOOTHING, axis=1, order=1, mode="nearest"))
    result[:, :margin] = result[:, image.shape[1] - margin :] = 0
    return result


def _margin(columns: int) -> int:
    """Columns at either side of a derivative that the detector's edge would show in."""
    return min(math.ceil(4 * SMOOTHING), columns // 8)


def _edges(size: int, most: int) -> NDArray[np.int64]:
    """Split `size` pixels into at most `most` nearly equal parts; the parts' edges."""
    return np.linspace(0, size, min(size, most) + 1).astype(np.int64)


def _middle(columns: int, why: str) -> CenterEstimate:
    center, sigma = (columns - 1) / 2, columns / 4
    note = f"center {center:.2f} +- {sigma:.2f} px, the detector's middle: {why}"
    return CenterEstimate(center, sigma, "middle", 0, note)
