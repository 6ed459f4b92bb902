"""A file that grows is followed from its first frame to its last, whatever its layout, and an end that is none is an error."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from source_writer import Writer, writing

from streamrecon.config import Config, SourceConfig
from streamrecon.errors import ConfigError, GeometryError, SourceError, SourceFileError
from streamrecon.scan import Frame, FrameKind, Gap
from streamrecon.sources import SwmrSource, open_source

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK


@pytest.fixture(scope="module")
def writer() -> Iterator[Writer]:
    with writing() as started:
        yield started


class Time:
    """Whenever the source waits, time passes, and every half second something else happens."""

    def __init__(self, *events: Callable[[], None]) -> None:
        self.now, self._events, self._due = 0.0, list(events), 0.5

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._due and self._events:
            self._due += 0.5
            self._events.pop(0)()


def _source(path: Path, time: Time, **options: Any) -> SwmrSource:
    return SwmrSource(path, SourceConfig(**{"patience": 20.0, **options}), time, time.sleep)


def _tells(writer: Writer, path: Path, *codes: str) -> list[Callable[[], None]]:
    return [lambda code=code: writer.tell(code, path=str(path)) for code in codes]  # type: ignore[misc]


def _said(items: list[Frame | Gap]) -> list[Any]:
    """Kind, index, degrees and the value of every frame; range and reason of every gap."""
    return [
        (item.kind, item.first, item.end, item.reason)
        if isinstance(item, Gap)
        else (
            item.kind,
            item.index,
            None if item.theta is None else round(float(np.rad2deg(item.theta)), 6),
            int(item.data.max()),
        )
        for item in items
    ]


MAKE = (
    "f = h5py.File(path, 'w', libver='latest')\n"
    "def grows(name, *shape, dtype='u2', chunk=1):\n"
    "    return f.create_dataset(name, (0, *shape), maxshape=(None, *shape), chunks=(chunk, *shape), dtype=dtype)\n"
    "def add(d, *values):\n"
    "    d.resize(len(d) + len(values), 0)\n"
    "    for i, v in enumerate(values): d[len(d) - len(values) + i] = v\n"
    "    d.flush()\n"
)
EXCHANGE = MAKE + (
    "data, white, dark = (grows('exchange/' + n, 3, 4) for n in ('data', 'data_white', 'data_dark'))\n"
    "theta = grows('exchange/theta', dtype='f8', chunk=8)\n"
)


def test_a_data_exchange_file_is_followed_to_its_end(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "scan.h5"
    time = Time(
        lambda: None,
        *_tells(
            writer, path, EXCHANGE, "f.swmr_mode = True", "add(dark, 1, 2)", "add(white, 90)", "add(theta, 0, 30)",
            "add(data, 50, 51)", "add(data, 52)", "add(theta, 60)", "add(white, 91)", "f.close()",
        ),
    )  # fmt: skip
    source = _source(path, time)
    info = source.info()
    assert info.counts == {P: None, F: None, D: None}
    assert info.theta is None
    assert (info.frame_shape, info.dtype, info.metadata["layout"]) == ((3, 4), np.dtype("u2"), "data-exchange")
    items = list(source.frames())
    expected = [
        (D, 0, None, 1), (D, 1, None, 2), (F, 0, None, 90),
        (P, 0, 0.0, 50), (P, 1, 30.0, 51), (P, 2, 60.0, 52), (F, 1, None, 91),
    ]  # fmt: skip
    assert sorted(_said(items), key=str) == sorted(expected, key=str)
    assert [entry for entry in _said(items) if entry[0] is P] == expected[3:6]
    # The file stays, so it can be given again, also by another process.
    again = pickle.loads(pickle.dumps(SwmrSource(path, source.config)))
    assert again.path == path
    assert sorted(_said(list(_source(path, Time()).frames())), key=str) == sorted(expected, key=str)
    assert _source(path, Time()).info().uid == info.uid
    rows = [item.data.shape for item in _source(path, Time()).frames(slice(1, 3)) if isinstance(item, Frame)]
    assert rows == [(2, 4)] * 7
    with pytest.raises(GeometryError):
        list(_source(path, Time()).frames(slice(3, 3)))


def test_a_writer_without_swmr_is_read_when_it_has_closed_the_file(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "scan.h5"
    time = Time(*_tells(writer, path, EXCHANGE, "add(theta, 0, 90)", "add(data, 5, 6)", "f.flush()", "f.close()"))
    source = _source(path, time)
    assert _said(list(source.frames())) == [(P, 0, 0.0, 5), (P, 1, 90.0, 6)]
    assert time.now > 2.5


def test_nxtomo_grows_with_its_keys(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "scan.h5"
    make = MAKE + (
        "data = grows('entry/instrument/detector/data', 3, 4)\n"
        "key = grows('entry/instrument/detector/image_key', dtype='u1', chunk=16)\n"
        "angle = grows('entry/sample/rotation_angle', dtype='f8', chunk=16)\nangle.attrs['units'] = 'rad'\n"
        "def row(k, a, v): add(key, k); add(angle, a); add(data, v)"
    )
    rows = [(2, 0, 1), (1, 0, 90), (0, 0, 10), (0, 0.5, 11), (3, 0.6, 99), (0, 1, 12), (1, 1, 91)]
    time = Time(*_tells(writer, path, make, "f.swmr_mode = True", *(f"row{row}" for row in rows), "f.close()"))
    items = list(_source(path, time).frames())
    degrees = [round(float(np.rad2deg(a)), 6) for a in (0, 0.5, 1)]
    assert _said(items) == [
        (D, 0, None, 1), (F, 0, None, 90), (P, 0, degrees[0], 10), (P, 1, degrees[1], 11), (P, 2, degrees[2], 12),
        (F, 1, None, 91),
    ]  # fmt: skip


def test_keys_that_are_all_zero_are_believed_after_a_while(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "scan.h5"
    make = MAKE + (
        "data = grows('entry/data', 3, 4)\nkey = grows('entry/image_key', dtype='u1', chunk=16)\n"
        "f.swmr_mode = True\nadd(key, 0, 0, 0)\nadd(data, 7, 8, 9)"
    )
    time = Time(*_tells(writer, path, make))
    source = _source(path, time, angle_step=10.0, projections=2)
    assert _said(list(source.frames())) == [(P, 0, 0.0, 7), (P, 1, 10.0, 8)]
    writer.tell("f.close()")


def test_named_datasets_with_even_angles_end_when_all_have_come(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "scan.h5"
    make = MAKE + "data = grows('entry/data/data', 3, 4)\nf.swmr_mode = True"
    time = Time(*_tells(writer, path, make, "add(data, 1)", "add(data, 2)", "add(data, 3, 4)"))
    source = _source(path, time, data="entry/data/data", angle_start=10.0, angle_step=5.0, projections=3)
    info = source.info()
    assert info.counts[P] == 3
    assert info.theta is not None
    assert np.rad2deg(info.theta).round(6).tolist() == [10.0, 15.0, 20.0]
    assert _said(list(source.frames())) == [(P, 0, 10.0, 1), (P, 1, 15.0, 2), (P, 2, 20.0, 3)]
    writer.tell("f.close()")


def test_what_has_no_angle_in_time_is_a_gap_with_the_reason(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "scan.h5"
    nothing = [""] * 50
    time = Time(
        *_tells(
            writer, path, EXCHANGE, "f.swmr_mode = True", "add(theta, 5)", "add(data, 1)", "add(data, 2)", *nothing,
            "add(data, 3)", "add(theta, 10, 15, float('nan'))", "add(data, 4)", "add(data, 5)", "f.close()",
        ),
    )  # fmt: skip
    said = _said(list(_source(path, time, patience=30.0).frames()))
    assert [entry[:2] for entry in said] == [(P, 0), (P, 1), (P, 2), (P, 3), (P, 4)]
    assert said[0] == (P, 0, 5.0, 1)
    assert said[2] == (P, 2, 15.0, 3)
    assert "is nan" in said[3][3]
    assert "has 4 angles" in said[4][3]
    early = _said(list(_source(path, Time(), patience=30.0).frames()))
    assert early[1] == (P, 1, 10.0, 2)


def test_angles_that_never_come_do_not_hold_the_scan(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "scan.h5"
    make = MAKE + "data = grows('exchange/data', 3, 4)\nf.swmr_mode = True\nadd(data, 1, 2)"
    time = Time(*_tells(writer, path, make, "f.close()"))
    (gap,) = list(_source(path, time, patience=8.0).frames())
    assert isinstance(gap, Gap)
    assert (gap.kind, gap.first, gap.end) == (P, 0, 2)
    assert "theta" in gap.reason


def test_frames_that_were_never_written_are_gaps(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "scan.h5"
    make = MAKE + "data = grows('exchange/data', 3, 4)\ndata.resize(5, 0)\nf.swmr_mode = True"
    time = Time(*_tells(writer, path, make, "data[0] = 4\ndata.flush()", "data[2] = 6", "f.close()"))
    said = _said(list(_source(path, time, angle_step=1.0).frames()))
    no_data = "the file has no data for it"
    assert said == [(P, 0, 0.0, 4), (P, 1, 2, no_data), (P, 2, 2.0, 6), (P, 3, 5, no_data)]


def test_a_writer_that_falls_silent_is_an_error_that_says_what_came(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "scan.h5"
    time = Time(*_tells(writer, path, EXCHANGE, "f.swmr_mode = True", "add(theta, 0, 1, 2)", "add(data, 1, 2)"))
    came: list[Frame | Gap] = []
    with pytest.raises(SourceFileError, match=r"nothing came for 20 s, after 2 projections.*being written"):
        came.extend(_source(path, time).frames())
    assert len(came) == 2
    writer.tell("f.close()")


@pytest.mark.parametrize("swmr", [False, True])
def test_a_file_that_does_not_appear_or_shows_nothing_is_an_error(swmr: bool, tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "scan.h5"
    for call in (_source(path, Time()).info, lambda: list(_source(path, Time()).frames())):
        with pytest.raises(SourceFileError, match="has not appeared"):
            call()
    writer.tell(EXCHANGE + ("f.swmr_mode = True" if swmr else ""), path=str(path))
    said = "0 frames" if swmr else "not turned SWMR on"
    with pytest.raises(SourceFileError, match=said):
        _source(path, Time()).info()
    writer.tell("f.close()")


def test_a_replaced_file_is_not_mixed_with_the_one_before(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "scan.h5"
    other = (
        "f.close()\nf = h5py.File(path, 'w', libver='latest')\nadd(grows('exchange/data', 3, 4), 8, 9, 10)\nf.close()"
    )
    time = Time(*_tells(writer, path, EXCHANGE, "f.swmr_mode = True", "add(data, 1)", other))
    came: list[Frame | Gap] = []
    with pytest.raises(SourceFileError, match="was replaced after 1 projections"):
        came.extend(_source(path, time, angle_step=1.0).frames())
    assert _said(came) == [(P, 0, 0.0, 1)]


def test_what_is_in_no_known_layout_says_what_to_name(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["entry/data/data"] = np.ones((2, 3, 4), "u2")
    with pytest.raises(SourceFileError, match=r"has in its root: entry; name its frames with source\.data"):
        _source(path, Time()).info()
    with pytest.raises(SourceError, match=r"source\.angles or source\.angle_step"):
        list(_source(path, Time(), data="entry/data/data").frames())


def test_the_roots_are_the_file_s_own_folder_and_those_that_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "master").mkdir()
    with h5py.File(tmp_path / "raw" / "a.h5", "w", libver="latest") as file:
        file["d"] = np.ones((2, 3, 4), "u2")
    path = tmp_path / "master" / "scan.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["exchange/data"] = h5py.ExternalLink("../raw/a.h5", "d")
    options: dict[str, Any] = {"angle_step": 1.0}
    with pytest.raises(SourceError, match=r"source\.roots"):
        list(_source(path, Time(), **options).frames())
    allowed = _source(path, Time(), roots=(str(tmp_path / "raw"),), **options)
    assert len(list(allowed.frames())) == 2


def test_the_scheme_opens_it() -> None:
    config = Config(source=SourceConfig(data="d"))
    source = open_source("file+swmr:///data/scan.h5", config)
    assert source == SwmrSource(Path("/data/scan.h5"), config.source)
    with pytest.raises(SourceError, match="names no file"):
        open_source("file+swmr://", config)
    with pytest.raises(ConfigError, match="FROM=TO"):
        Config(source=SourceConfig(remap=("/data",)))


def test_several_stacks_of_frames_are_not_chosen_between(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        for name, value in (("diode", 1), ("imaging", 2)):
            file[f"entry/instrument/{name}/data"] = np.full((2, 3, 4), value, np.uint16)
            file[f"entry/instrument/{name}/image_key"] = np.zeros(2, np.uint8)
        # Neither spectra nor what stands in the file under another name are others.
        file["entry/instrument/spectra/data"] = np.zeros((2, 7))
        file["entry/instrument/spectra/image_key"] = np.zeros(2, np.uint8)
        file["entry/data/data"] = file["entry/instrument/imaging/data"]
        file["entry/data/image_key"] = file["entry/instrument/imaging/image_key"]
        file["entry/sample/rotation_angle"] = [0.0, 1.0]
    with pytest.raises(SourceError, match=r"several stacks.*source.entry: entry/data, entry/instrument/diode"):
        _source(path, Time()).info()
    source = _source(path, Time(), entry="entry/data")
    assert [item[3] for item in _said(list(source.frames()))] == [2, 2]
    assert list(source.outline().names()) == [
        ("data", "entry/data/data"), ("angles", "entry/sample/rotation_angle"), ("image keys", "entry/data/image_key"),
    ]  # fmt: skip


def test_angles_are_not_looked_for_in_frames_that_are_in_another_file(tmp_path: Path) -> None:
    """A link to a file that is not there yet may lead anywhere."""
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["entry/detector/data"] = h5py.ExternalLink("frames.h5", "/frames")
        file["entry/detector/image_key"] = np.zeros(2, np.uint8)
        file["entry/sample/rotation_angle"] = [0.0, 1.0]
    outline = _source(path, Time()).outline()
    assert outline.angles == "entry/sample/rotation_angle"
