"""Where flats and darks lie among the projections: their source tells, whatever order they are sent in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_pair import scan, streaming

from streamrecon.errors import SourceError
from streamrecon.scan import Frame, FrameKind
from streamrecon.transport.reading import _check_frame
from streamrecon.wire.messages import FrameHeader
from streamrecon.wire.positions import Positions
from streamrecon.wire.session import State

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK
PIXELS = np.zeros((1, 2), np.uint16)


def frame(kind: FrameKind, index: int, position: int | None = None) -> Frame:
    return Frame(kind, index, 0.1 * index if kind is P else None, PIXELS, position)


def placed(names: str, earlier: tuple[int, ...] = ()) -> list[int | None]:
    """Positions of the flats and darks of a source, written as `P3 F0 ...`."""
    order, kinds = Positions(earlier), {"P": P, "F": F, "D": D}
    frames = [order.place(frame(kinds[name[0]], int(name[1:]))) for name in names.split()]
    assert all(each.position is None for each in frames if each.kind is P)
    return [each.position for each in frames if each.kind is not P]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("D0 F0 F1 P0 P1 F2 P2 F3", [0, 0, 0, 2, 3]),
        ("P0 P3 F0 P7 F1", [4, 8]),  # where some were lost the index tells more
        ("P3 P0 F0 P7 P1 F1", [2, 4]),  # in another order it tells nothing
        ("P0 P1 P0 F0 P2 F1", [2, 3]),  # another one under a name
    ],
)
def test_as_many_as_the_source_gave_before(names: str, expected: list[int]) -> None:
    assert placed(names) == expected


def test_what_the_source_says_stands() -> None:
    order = Positions()
    order.place(frame(P, 0))
    assert order.place(frame(F, 0, 7)).position == 7


@pytest.mark.parametrize(
    ("names", "expected"), [("F3 P6 F4", [6, 7]), ("P7 F3", [8]), ("D0 F0 P0 F1", [0, 0, 1]), ("F0 P6 F1", [0, 7])]
)
def test_a_detectors_sender_goes_on_where_another_one_was(names: str, expected: list[int]) -> None:
    """It knows what has come before; but a source that gives the first frame begins anew."""
    assert placed(names, earlier=(0, 1, 2, 5)) == expected


@given(st.lists(st.tuples(st.sampled_from([P, F]), st.integers(0, 9)), max_size=20), st.data())
def test_a_frame_that_is_taken_twice_changes_nothing(items: list[tuple[FrameKind, int]], data: st.DataObject) -> None:
    """As one is for which there was no room at first."""
    once, twice = Positions(), Positions()
    for kind, index in items:
        one, other = once.place(frame(kind, index)), twice.place(frame(kind, index))
        if data.draw(st.booleans()):
            other = twice.place(other)
        assert one.position == other.position


@pytest.mark.parametrize(("kind", "position"), [(0, 0), (0, 7), (1, None), (2, None), (1, 1 << 40)])
def test_a_position_that_makes_no_sense_ends_the_session(kind: int, position: int | None) -> None:
    each, script = streaming()
    each.hear(*script.frame(0, kind, 0, position=position))
    assert each.end.session.state is State.ABORTED
    assert "position" in each.broken[0].reason


def test_the_position_goes_over_the_wire() -> None:
    each, script = streaming(scan(9))
    each.hear(*script.frame(0, 1, 0, position=5))
    header = each.arrived[0][0]
    assert isinstance(header, FrameHeader)
    assert header.position == 5


@pytest.mark.parametrize(("kind", "position"), [(P, 0), (F, -1)])
def test_a_source_whose_position_makes_no_sense(kind: FrameKind, position: int) -> None:
    with pytest.raises(SourceError, match="position"):
        _check_frame(frame(kind, 0, position), (1, 2), np.dtype(np.uint16))
