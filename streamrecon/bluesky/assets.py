"""Where a resource document says that frames are: a file, a dataset in it, and how many frames there are to an event."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from streamrecon.errors import MessageError, SourceError
from streamrecon.sources.roots import Roots

MIMETYPES = ("application/x-hdf5", "application/x-hdf", "application/hdf5")
AREA_DETECTOR = "/entry/data/data"
"""Where the HDF5 plugin of EPICS' area detector writes frames, unless told otherwise."""
SPECS = {
    "AD_HDF5": AREA_DETECTOR,
    "AD_HDF5_SWMR": AREA_DETECTOR,
    "AD_HDF5_SWMR_STREAM": AREA_DETECTOR,
    "HDF5": None,
}
"""Kinds of files that are read, from before there were mimetypes, and the dataset that each has where none is named."""


MOST_PER_EVENT = 1 << 17
"""Frames."""


class Asset(NamedTuple):
    """The dataset of a resource."""

    path: Path
    dataset: str


def asset_of(doc: Mapping[str, Any], roots: Roots) -> Asset:
    """Read a resource or stream resource document.

    Parameters
    ----------
    doc
        The document: with a `uri` and parameters, or a `spec` with `root`, `resource_path` and `resource_kwargs`.
    roots
        Where files may lie.

    Raises
    ------
    SourceError
        If it is a kind of file that is not read, or the file may not be.
    MessageError
        If the document is not as it should be.
    """
    if "uri" in doc:
        mimetype, options = str(doc.get("mimetype")), doc.get("parameters")
        if mimetype not in MIMETYPES:
            raise SourceError(f"a resource is {mimetype[:60]!r}; expected one of: {', '.join(MIMETYPES)}")
        path, default = roots.locate(_text(doc, "uri")), None
    else:
        spec, options = str(doc.get("spec")), doc.get("resource_kwargs")
        if spec not in SPECS:
            raise SourceError(f"a resource is of spec {spec[:60]!r}; expected one of: {', '.join(SPECS)}")
        root, below, default = doc.get("root"), _text(doc, "resource_path"), SPECS[spec]
        root = root if isinstance(root, str) else ""
        if str(doc.get("path_semantics")) == "windows":
            root, below = root.replace("\\", "/"), below.replace("\\", "/")
        path = roots.locate(root, below) if root and not below.startswith("/") else roots.locate(below)
    if not isinstance(options, Mapping):
        raise MessageError(f"a resource has the parameters {str(options)[:60]!r}; expected a table")
    named = (options.get(name) for name in ("dataset", "path", "key"))
    dataset = next((each for each in named if each is not None), default)
    if not isinstance(dataset, str) or not dataset or len(dataset) > 1024:
        raise MessageError(f"a resource names the dataset {str(dataset)[:60]!r}; expected a path")
    return Asset(path, dataset)


def frames_per_event(key: Any, resource: Mapping[str, Any] | None = None) -> int:
    """Frames, or numbers, of an event: as the resource says, else as the shape of the data key does.

    Parameters
    ----------
    key
        What the descriptor says of it: images as (row, column) or (..., row, column), numbers as () or (number,).
    resource
        Its resource or stream resource document: `frame_per_point`, `multiplier`.

    Raises
    ------
    MessageError
        If there is no number that can be.
    """
    options = (resource or {}).get("parameters" if "uri" in (resource or {}) else "resource_kwargs")
    options = options if isinstance(options, Mapping) else {}
    named = (options.get(name) for name in ("frame_per_point", "multiplier"))
    told = next((each for each in named if each is not None), 0)
    if isinstance(told, int) and not told:
        shape = shape_of(key)
        told = math.prod(n for n in (shape if len(shape) == 1 else shape[:-2]) if n)
    if not isinstance(told, int) or isinstance(told, bool) or not 1 <= told <= MOST_PER_EVENT:
        raise MessageError(f"a document has {str(told)[:60]} frames per event; expected 1 to {MOST_PER_EVENT}")
    return told


def shape_of(key: Any) -> tuple[int, ...]:
    """Of a data key, as its descriptor says; () where it says none.

    Raises
    ------
    MessageError
        If it is none.
    """
    shape = key.get("shape") if isinstance(key, Mapping) else None
    try:
        return tuple(int(n or 0) for n in (() if shape is None else shape))
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"a data key has the shape {str(shape)[:60]}; expected numbers") from error


def _text(doc: Mapping[str, Any], key: str) -> str:
    value = doc.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 4096:
        raise MessageError(f"{key} of a resource is {str(value)[:60]!r}; expected a text")
    return value
