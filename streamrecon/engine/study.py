"""What of a slab's projections tells the center: read once as they come, and again where their line integrals have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from streamrecon.engine.journal import Record
from streamrecon.engine.orders import Ask, Reduced, Studied, Tag
from streamrecon.recon.center import Bands
from streamrecon.wire.messages import Range

LineIntegrals = Callable[[Sequence[Record]], NDArray[np.float32]]

BATCH = 16


class Study:
    """Follows one slab.

    Parameters
    ----------
    rows, whole
        Detector rows of the slab, and of all slabs.
    columns
        Of the detector.
    sums
        Whether the center has to be found.
    line_integrals
        Reads projections, (angle, row, column).
    """

    def __init__(self, rows: Range, whole: Range, columns: int, sums: bool, line_integrals: LineIntegrals) -> None:
        self._bands = Bands(whole[1] - whole[0], columns, rows[0] - whole[0])
        self._with_sums, self._read = sums, line_integrals
        self._tag: Tag = ()
        self._studied = 0

    def news(self, projections: Sequence[Record], tag: Callable[[], Tag]) -> Iterator[Studied]:
        """What has come since; all once more where the tag has changed, which reading may do.

        Parameters
        ----------
        projections
            All of the slab.
        tag
            By what their line integrals are made now.
        """
        while True:
            if tag() != self._tag:
                self._tag, self._studied = tag(), 0
            batch = projections[self._studied : self._studied + BATCH]
            if not batch:
                return
            sums = None
            if self._with_sums:
                sums = np.stack([self._bands.sums(projection) for projection in self._read(batch)])
                if tag() != self._tag:
                    continue
            self._studied += len(batch)
            theta = np.array([record.theta for record in batch])
            yield Studied(self._tag, tuple(record.index for record in batch), theta, sums)

    def answer(self, ask: Ask, projections: Sequence[Record]) -> Reduced | None:
        """The answer, if the projections are still what they were."""
        by_index = {record.index: record for record in projections if record.index in set(ask.indices)}
        if ask.tag != self._tag or len(by_index) != len(ask.indices):
            return None
        images = self._read([by_index[index] for index in ask.indices])
        reduced = np.stack([self._bands.reduced(image, ask.bands) for image in images])
        return Reduced(ask.tag, ask.indices, ask.bands, reduced)
