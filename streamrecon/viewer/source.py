"""What a page shows: the interface of a live stream and of a finished file."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from streamrecon.scan import Axis
from streamrecon.wire.messages import Action, Picture, Progress, Result, Update

Place = tuple[Axis, int]
"""A slice: the axis at right angles to it, and where on it, voxels of the full volume."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A picture of one version."""

    key: tuple[str, int, int]
    """Of its version; see `Update`."""
    picture: Picture
    pixels: NDArray[np.float32]
    """As `Picture.shape` says."""


@dataclass(frozen=True, slots=True)
class Link:
    """How a source is doing."""

    state: Literal["waiting", "live", "gone", "file", "missing"]
    """`waiting`: nothing was heard yet; `gone`: nothing is heard any more, and it is tried again; `missing`: so of a file."""
    text: str
    """In words, with the endpoint or the path."""


class Source(Protocol):
    """Shared by all sessions of a server; any thread.

    What is known can be looked at any time. `changed`, given to `start`, is called from the source's own thread whenever
    something of it has changed.
    """

    def start(self, changed: Callable[[], None]) -> None:
        """Begin."""

    def close(self) -> None:
        """End, and give everything back."""

    @property
    def link(self) -> Link:
        """How it is doing."""

    @property
    def progress(self) -> Progress | None:
        """Newest word of what is happening; None of a file, or while nothing was heard."""

    @property
    def update(self) -> Update | None:
        """Newest version that anything is known of."""

    def want(self, viewer: object, places: Collection[Place], preview: int = 0, beside: bool = False) -> None:
        """What a viewer looks at from now on; nothing at all where it has left.

        Parameters
        ----------
        viewer
            Any object, the same each time.
        places
            Slices.
        preview
            Voxels of the longest side of the preview; 0 for none.
        beside
            Whether it looks at the newest projection and at the sinogram of its z slice.
        """

    def slice(self, place: Place) -> Shown | None:
        """The newest of a slice that somebody wants; None until it has come."""

    def other(self, kind: Literal["preview", "projection", "sinogram"], index: int = 0) -> Shown | None:
        """The newest of something else; `index` is the slice of a sinogram."""

    def control(
        self, action: Action, numbers: tuple[float, ...] = (), text: str = ""
    ) -> Future[tuple[Result, list[Shown]]]:
        """Ask for a change; the answer, which is a refusal where this source takes no such requests."""
