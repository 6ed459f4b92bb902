"""What ranks say comes out as it went in; rows are shared so that each has one owner."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, get_args, get_origin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from streamrecon.engine.decompose import decompose, lanes
from streamrecon.engine.orders import Align, NotWritten, Order, Reduced, Report, Studied, pack, unpack
from streamrecon.recon.center import CenterEstimate
from streamrecon.wire.messages import Lane

ARRAYS = npst.arrays(
    st.sampled_from(["<f4", "<f8", ">f4", "<i8", "<u2", "|u1"]),
    npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values that an annotation allows."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is np.ndarray:
        return ARRAYS
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values(arguments[0]), max_size=4).map(tuple)
        return st.tuples(*map(values, arguments))
    if dataclasses.is_dataclass(hint):
        return built(hint)
    simple = {
        int: st.integers(-(1 << 63), (1 << 64) - 1),
        float: st.floats(),
        str: st.text(st.characters(), max_size=20),
        bool: st.booleans(),
        type(None): st.none(),
    }
    return simple[hint]


def built(cls: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: values(hints[field.name]) for field in dataclasses.fields(cls)})


def same(one: Any, other: Any) -> bool:
    """Alike in every field, arrays bit by bit with their types; NaN is NaN."""
    if type(one) is not type(other):
        return False
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, each.name), getattr(other, each.name)) for each in dataclasses.fields(one))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))


@pytest.mark.parametrize("cls", [*get_args(Report), *get_args(Order)], ids=lambda cls: cls.__name__)
@settings(deadline=None)
@given(data=st.data())
def test_what_a_rank_says_comes_out_as_it_went_in(cls: Any, data: st.DataObject) -> None:
    message = data.draw(built(cls))
    assert same(unpack(pack(message)), message)


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.T,
        lambda array: array[::2],
        lambda array: array[::-1],
        lambda array: array[:, 1:3],
        lambda array: np.asfortranarray(array),
        lambda array: np.broadcast_to(array[0], (5, 4)),
    ],
)
def test_arrays_need_not_lie_in_one_piece(change: Any) -> None:
    array: NDArray[np.float32] = change(np.arange(24, dtype=np.float32).reshape(6, 4))
    found = unpack(pack(Reduced((), (1,), 1, array)))
    np.testing.assert_array_equal(found.images, array)
    assert found.images.dtype == np.float32


def test_numbers_of_numpy_are_numbers() -> None:
    estimate = CenterEstimate(np.float64(3.5), np.float32(0.25), "user", np.int64(3), "")  # type: ignore[arg-type]
    found = unpack(pack(Align(estimate, np.bool_(True))))  # type: ignore[arg-type]
    assert found == Align(CenterEstimate(3.5, 0.25, "user", 3, ""), True)
    assert type(found.offset_axis) is bool


def test_a_path_that_is_no_text_can_be_named() -> None:
    """Names of files are bytes; Python reads those that are no UTF-8 as surrogates."""
    message = NotWritten(1, "cannot write to /data/sc\udce4n")
    assert unpack(pack(message)) == message


def test_what_ranks_do_not_say_is_an_error() -> None:
    with pytest.raises(TypeError, match="ranks do not say object"):
        pack(Studied((), (), object(), None))  # type: ignore[arg-type]


# Rows to ranks.


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 300), st.integers(1, 40), st.integers(1, 9))
def test_every_row_has_one_owner_and_slabs_are_even(first: int, count: int, ranks: int, unit: int) -> None:
    slabs = decompose((first, first + count), ranks, unit)
    assert len(slabs) == ranks
    assert [row for slab in slabs for row in range(*slab)] == list(range(first, first + count))
    filled = [slab for slab in slabs if slab[0] < slab[1]]
    assert list(slabs[: len(filled)]) == filled, "the empty ones are last"
    whole = -(-count // unit) >= ranks
    step = unit if whole else 1
    assert all((slab[0] - first) % step == 0 for slab in filled), "what stays together lies in one slab"
    sizes = [-(-(end - begin) // step) for begin, end in slabs]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    assert whole or len(filled) == min(ranks, count)


def test_a_sender_hears_of_the_lanes_that_have_rows_from_rank_0_only() -> None:
    slabs = decompose((4, 6), 3)
    endpoints = ["a", "b", "c"]
    assert lanes(slabs, endpoints, 0) == (Lane(rows=(4, 5)), Lane(rows=(5, 6), endpoint="b"))
    assert lanes(slabs, endpoints, 1) == (Lane(rows=(5, 6)),)
