"""Flats and darks as they come: when a group of flats is complete, and what is known of the normalization by then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import NormalizeConfig
from streamrecon.engine.journal import Journal, Record
from streamrecon.engine.previous import Field, Previous, credible_dark, credible_flat
from streamrecon.engine.story import Story
from streamrecon.recon.normalize import FlatGroup, Normalization, Normalizer, brightness, combine
from streamrecon.scan import FrameKind

COMBINED_BYTES = 64 << 20
"""Of frames that are combined at once."""


class Fields:
    """The flats and darks of one scan, read from its journal.

    Parameters
    ----------
    journal
        Where all frames are.
    options
        How they are combined.
    expected
        Flats announced, where known.
    story
        Told of each group.
    bad
        (row, column), True where a pixel is bad; None: the flats tell.
    previous
        Whose flat and dark stand in until this scan's own are known, and where it has none.
    """

    def __init__(
        self,
        journal: Journal,
        options: NormalizeConfig,
        expected: int | None,
        story: Story,
        bad: NDArray[np.bool_] | None = None,
        previous: Previous | None = None,
    ) -> None:
        self._journal, self._options, self._expected, self._story = journal, options, expected, story
        self._bad, self._previous = bad, previous
        self.flats_from: str | None = None
        """The scan whose flat stands in, where one does."""
        self.darks_from: str | None = None
        """The scan whose dark stands in, where one does."""
        self._groups: list[FlatGroup] = []
        """Combined, in the order of their positions."""
        self._flats: dict[int, list[Record]] = {}
        """All that came, by their position."""
        self._sizes: dict[int, int] = {}
        """Flats that each combined group is made of, by its position."""
        self._waiting: dict[int, Record] = {}
        """Of each group that is to be combined, again or for the first time, the newest flat, by its position."""
        self._flats_combined = self._flats_used = self._darks_used = 0
        self._floor = 0.0
        self.normalizer: Normalizer | None = None
        """In use, from the first projection on."""

    @property
    def used(self) -> tuple[int, int]:
        """Flats and darks by which projections are normalized; those that never come count, as another slab may have them."""
        if self.normalizer is None:
            return (0, 0)
        flats, darks = (self._journal.forgone(kind) for kind in (FrameKind.FLAT, FrameKind.DARK))
        return self._flats_used + flats, self._darks_used + darks

    def keep(self, flat: Record) -> None:
        """Take note of a flat. It is combined later: this may be called between the blocks of a snapshot."""
        self._flats.setdefault(flat.position, []).append(flat)
        self._waiting[flat.position] = flat

    def _newest_projection(self) -> int:
        return self._journal.projections[-1].number if self._journal.projections else -1

    def close_group(self, ended: bool) -> bool:
        """Combine a group that a projection followed, that is the last, or that the scan has ended with; whether there was one.

        A flat that arrives later belongs to it nevertheless, and it is combined anew.
        """
        here = ended or len(self._journal.flats) + self._journal.forgone(FrameKind.FLAT) == self._expected
        newest = self._newest_projection()
        position = min((p for p, flat in self._waiting.items() if here or newest > flat.number), default=None)
        if position is None:
            return False
        del self._waiting[position]
        group = self._flats[position]
        combined = FlatGroup(float(position), self._combined(group, self._options.flat))
        others = (each for each in self._groups if each.position != position)
        self._groups = sorted([combined, *others], key=lambda each: each.position)
        self._sizes[position] = len(group)
        self._flats_combined = sum(self._sizes.values())
        self._story.tell(
            "flats", f"{len(group)} flats after {position} projections", flats=len(group), position=position
        )
        return True

    def line_integrals(self, records: Sequence[Record]) -> NDArray[np.float32]:
        """Projections of the journal as line integrals, (angle, row, column)."""
        if self.normalizer is None:
            self._begin(ended=False)
        assert self.normalizer is not None
        already = self.normalizer.repaired
        projections = self.normalizer.line_integrals(self._journal.read(records), positions(records))
        if self.normalizer.repaired and not already:
            text = f"projection {records[0].index} or one soon after it has pixels that are not finite: they are interpolated"
            self._story.tell("bad_pixels", text)
        return projections

    def sinogram(self, records: Sequence[Record], row: int) -> NDArray[np.float32]:
        """A row of the slab in projections of the journal as line integrals, (angle, column)."""
        assert self.normalizer is not None
        rows = slice(row, row + 1)
        known = self.normalizer.normalization
        groups = tuple(FlatGroup(group.position, group.image[rows]) for group in known.flats)
        bad = None if known.bad is None else known.bad[rows]
        normalizer = Normalizer(replace(known, dark=known.dark[rows], flats=groups, bad=bad))
        return normalizer.line_integrals(self._journal.read(records, rows), positions(records))[:, 0]

    def known(self, ended: bool) -> Normalization:
        """The normalization by what has come so far; there is at least one projection."""
        self._flats_used, self._darks_used = self._flats_combined, len(self._journal.darks)
        # At the end the first projection measured stands, so that the order of arrival leaves no trace.
        projections = self._journal.projections
        first = self._journal.read([min(projections, key=lambda r: r.index) if ended else projections[0]])[0]
        self.flats_from = None
        dark, self.darks_from = self._dark(first)
        open_counts = brightness(first - dark)
        if self._options.floor is not None:
            self._floor = self._options.floor
        elif self._journal.dtype.kind in "ui":
            self._floor = 0.5
        elif not self._floor or ended:
            brightest = brightness(self._groups[0].image - dark) if self._groups else open_counts
            self._floor = 10.0 ** (math.floor(math.log10(max(brightest, 1e-24))) - 5)
        return Normalization(
            dark,
            tuple(self._groups) or self._stand_in(dark, open_counts),
            max(open_counts, self._floor),
            self._floor,
            self._options.interpolate_flats,
            self._options.air,
            self._bad,
        )

    def _dark(self, projection: NDArray[Any]) -> tuple[NDArray[np.float32], str | None]:
        """The dark, and the scan it is of, where that is not this one."""
        before = None if self._previous is None else self._previous.dark
        if self._journal.darks:
            return self._combined(self._journal.darks, self._options.dark), None
        if before is not None and credible_dark(before.image, projection):
            return before.image, before.uid
        return np.zeros(self._journal.shape, np.float32), None

    def _stand_in(self, dark: NDArray[np.float32], open_counts: float) -> tuple[FlatGroup, ...]:
        """The flat of the scan before, while this one has none; not one of another beam or exposure."""
        before = None if self._previous is None else self._previous.flat
        if before is None or not credible_flat(before.image, dark, open_counts):
            return ()
        self.flats_from = before.uid
        return (FlatGroup(0.0, before.image),)

    def taught(self) -> tuple[Field | None, Field | None]:
        """The flat that was measured last and the dark, of this scan or of one before it; once the scan has ended."""
        uid, before = self._journal.info.uid, self._previous
        flat, dark = (None, None) if before is None else (before.flat, before.dark)
        if self._groups:
            flat = Field(self._groups[-1].image, uid)
        if self._journal.darks and self.normalizer is not None:
            dark = Field(self.normalizer.normalization.dark, uid)
        return flat, dark

    def _begin(self, ended: bool) -> None:
        self.normalizer = Normalizer(self.known(ended))
        self._tell(self.normalizer)

    def better(self) -> Normalization | None:
        """The normalization by all that the scan had, where it is not the one in use."""
        if self.normalizer is None:
            self._begin(ended=True)
        assert self.normalizer is not None
        used, late_darks = self.normalizer.normalization, len(self._journal.darks) != self._darks_used
        stood_in = self.flats_from, self.darks_from
        known = self.known(ended=True)
        other_guess = not known.flats and known.provisional != used.provisional
        other_guess |= stood_in != (self.flats_from, self.darks_from)
        return known if late_darks or other_guess or known.floor != used.floor else None

    def _combined(self, records: Sequence[Record], how: str) -> NDArray[np.float32]:
        """Mean or median of frames, by bands of rows so that the frames need not fit in memory."""
        records = sorted(records, key=lambda record: record.index)  # sums of floats depend on the order
        image = np.empty(self._journal.shape, np.float32)
        row_bytes = self._journal.shape[1] * self._journal.dtype.itemsize
        band = max(1, COMBINED_BYTES // max(1, len(records) * row_bytes))
        for first in range(0, image.shape[0], band):
            rows = slice(first, first + band)
            image[rows] = combine(self._journal.read(records, rows), how)
        return image

    def _tell(self, normalizer: Normalizer) -> None:
        flats, dead = len(self._groups), int(normalizer.dead.sum())
        groups = "1 group" if flats == 1 else f"{flats} groups"
        text = f"{groups} of flats, {len(self._journal.darks)} darks, {dead} dead pixels interpolated"
        if self.flats_from:
            text += f"; no flat has come yet: that of scan {self.flats_from} stands in"
        elif not flats:
            text += "; no flat has come yet: the first projection's brightest percent stands in"
        if self.darks_from:
            text += f"; no dark has come yet: that of scan {self.darks_from} stands in"
        if self._options.air is not None and not normalizer.air[0].size:
            text += "; all pixels of the border that is to show air are dead: no frame is normalized by them"
        self._story.tell("normalize", text, dead=dead, floor=self._floor)


def positions(records: Sequence[Record]) -> NDArray[np.float64]:
    """(angle,), projections measured before each."""
    return np.array([record.index for record in records], np.float64)
