"""A simulated detector: an analytic phantom behind a flat field, dark current, noise, and columns that make rings."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import SimulatedConfig
from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo
from streamrecon.sources.order import golden_fractions, projection_order
from streamrecon.sources.phantom import phantom, project

PEAK = 1.5
"""Largest line integral, about."""
READ_NOISE = 2.0
"""Standard deviation, counts."""
_DTYPE = np.dtype(np.uint16)
_PATTERN = len(FrameKind)  # in the place of a frame's kind in the seed, for what all frames share


@dataclass(frozen=True, slots=True)
class SimulatedSource:
    """Frames of an analytic phantom; the same seed gives the same frames, in any order and any range of rows."""

    config: SimulatedConfig
    order: str = "recorded"
    """Order in which the measured projections are replayed."""

    def info(self) -> ScanInfo:
        """The scan. Its geometry leaves the center to be found; the metadata has it as `true_center`.

        Raises
        ------
        ConfigError
            If there is no phantom or order of that name.
        """
        config = self.config
        projection_order(self.order, config.projections)  # a wrong one is refused at once
        digest = hashlib.blake2b(json.dumps(asdict(config), sort_keys=True).encode(), digest_size=4).hexdigest()
        return ScanInfo(
            uid=f"simulated-{config.phantom}-{digest}",
            geometry=Geometry(config.rows, config.columns, config.pixel_size),
            dtype=_DTYPE,
            counts={
                FrameKind.PROJECTION: config.projections,
                FrameKind.FLAT: config.flats + config.flats_after,
                FrameKind.DARK: config.darks,
            },
            theta=angles(config),
            metadata={
                "title": f"simulated {config.phantom}",
                "sample": config.phantom,
                "layout": "simulated",
                "true_center": true_center(config),
                "mu_scale": mu_scale(config),
            },
        )

    def frames(self, rows: slice = slice(None)) -> Iterator[Frame]:
        """Darks, flats, projections, and the flats after them.

        Parameters
        ----------
        rows
            Detector rows wanted: a contiguous range.

        Yields
        ------
        Frames of uint16 counts, (row, column), C-contiguous.

        Raises
        ------
        ConfigError
            If there is no phantom or order of that name.
        """
        config = self.config
        theta = angles(config)
        order = projection_order(self.order, config.projections)
        detector = _Detector(config)
        for index in range(config.darks):
            yield Frame(FrameKind.DARK, index, None, detector.image(FrameKind.DARK, index, None, rows))
        for index in range(config.flats):
            yield Frame(FrameKind.FLAT, index, None, detector.image(FrameKind.FLAT, index, None, rows))
        for index in map(int, order):
            angle = float(theta[index])
            yield Frame(FrameKind.PROJECTION, index, angle, detector.image(FrameKind.PROJECTION, index, angle, rows))
        for index in range(config.flats, config.flats + config.flats_after):
            yield Frame(FrameKind.FLAT, index, None, detector.image(FrameKind.FLAT, index, None, rows))

    def notes(self) -> list[str]:
        """That the frames are simulated."""
        return [f"frames are simulated: phantom {self.config.phantom}, seed {self.config.seed}"]


def angles(config: SimulatedConfig) -> NDArray[np.float64]:
    """(projection,) radians, in the order of measurement.

    Raises
    ------
    ConfigError
        If there is no order of that name.
    """
    arc = math.radians(config.arc)
    if config.order == "golden":
        return golden_fractions(config.projections) * arc
    grid = np.linspace(0.0, arc, config.projections, endpoint=config.include_end)
    return grid[projection_order(config.order, config.projections)]


def true_center(config: SimulatedConfig) -> float:
    """Column of the rotation axis, pixels."""
    return (config.columns - 1) / 2 if config.center is None else config.center


def mu_scale(config: SimulatedConfig) -> float:
    """What a reconstruction should give, in 1/m, where the phantom's density is 1.

    Raises
    ------
    ConfigError
        If there is no phantom of that name.
    """
    return PEAK / (_peak(config.phantom) * _half_width(config))


def line_integrals(config: SimulatedConfig, theta: float, rows: slice = slice(None)) -> NDArray[np.float64]:
    """What an ideal detector would measure, as -log of the transmission along rays through the pixels' centers.

    Parameters
    ----------
    config
        The scan.
    theta
        Rotation angle, radians.
    rows
        Detector rows wanted.

    Returns
    -------
    (row, column) dimensionless.

    Raises
    ------
    ConfigError
        If there is no phantom of that name.
    """
    half = config.columns / 2
    u = (np.arange(config.columns, dtype=np.float64) - true_center(config)) / half
    z = (np.arange(config.rows, dtype=np.float64)[rows] - (config.rows - 1) / 2) / half
    return project(phantom(config.phantom), theta, u, z) * (mu_scale(config) * _half_width(config))


def _half_width(config: SimulatedConfig) -> float:
    return config.columns / 2 * config.pixel_size


@lru_cache
def _peak(name: str) -> float:
    """Largest line integral of a phantom, in value times half widths, on a grid that no option changes."""
    u, z = np.linspace(-1.0, 1.0, 257), np.linspace(-0.5, 0.5, 9)
    return max(float(project(phantom(name), theta, u, z).max()) for theta in np.linspace(0.0, math.pi, 32))


class _Detector:
    """What all frames share: the patterns, and how line integrals become counts."""

    def __init__(self, config: SimulatedConfig) -> None:
        self.config = config
        # The brightest pixel of an open beam must fit into 16 bits; beyond that a count stands for several photons.
        self.full = min(config.photons or 20_000.0, (np.iinfo(_DTYPE).max - 1.05 * config.dark_level) / 1.3)
        rng = np.random.default_rng([config.seed, _PATTERN])
        shape = config.rows, config.columns
        x, y = np.linspace(-1.0, 1.0, config.columns), np.linspace(-1.0, 1.0, config.rows)
        illumination = 1.05 - 0.12 * np.add.outer(0.5 * np.square(y - 0.1), np.square(x + 0.15))
        stripes = 1.0 + rng.normal(0.0, 0.03, config.columns)
        self.gain = np.clip(illumination * stripes * rng.normal(1.0, 0.02, shape), 0.8, 1.2)
        self.dark = config.dark_level * np.clip(rng.normal(1.0, 0.02, shape), 0.95, 1.05)
        bad = rng.choice(config.columns, min(config.bad_columns, config.columns), replace=False)
        self.response = np.ones(config.columns)
        self.response[bad] += rng.uniform(0.01, 0.05, len(bad)) * rng.choice((-1.0, 1.0), len(bad))

    def image(self, kind: FrameKind, index: int, theta: float | None, rows: slice) -> NDArray[np.uint16]:
        noisy = self.config.photons > 0
        # Noise is drawn for the whole frame, so that a row's does not depend on which rows are asked for.
        drawn = slice(None) if noisy else rows
        counts = self.dark[drawn]
        rng = np.random.default_rng([self.config.seed, int(kind), index])
        if kind is not FrameKind.DARK:
            beam = self.gain[drawn]
            if theta is not None:
                beam = beam * self.response * np.exp(-line_integrals(self.config, theta, drawn))
            if noisy:
                beam = rng.poisson(self.config.photons * beam) / self.config.photons
            counts = counts + self.full * beam
        if noisy:
            counts = (counts + rng.normal(0.0, READ_NOISE, counts.shape))[rows]
        return np.rint(np.clip(counts, 0, np.iinfo(_DTYPE).max)).astype(_DTYPE, order="C")
