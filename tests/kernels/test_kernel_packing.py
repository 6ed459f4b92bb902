"""The fast steps around the transforms of rows against the slow ones and against NumPy's own padding and transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import ROWS_APART, ROWS_TOGETHER, complexes, floats, hold, read_only, rebuilt
from streamrecon_kernels import (
    filter_spectra,
    pack_rows,
    packing_numba,
    packing_vector,
    reference,
    slices_vector,
)

SETTINGS = settings(max_examples=60, deadline=None)

EDGE = packing_numba.TILE


@st.composite
def packings(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `pack_rows` but for `out`."""
    angles, pairs = draw(st.integers(0, 4)), draw(st.integers(1, 9))
    count = draw(st.integers(0, 2 * pairs))
    columns = draw(st.one_of(st.integers(1, 20), st.sampled_from([EDGE - 1, EDGE, EDGE + 1, 2 * EDGE, 2 * EDGE + 5])))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    padded = columns + draw(st.integers(0, 30))
    return {
        "rows": floats(rng, angles, count, columns),
        "weight": floats(rng, columns),
        "padded": padded,
        "pairs": pairs,
    }


def pack(rows: Any, weight: Any, padded: int, pairs: int, laid: str = "plain") -> Any:
    out = hold(np.full((len(rows), padded, pairs), 7, np.complex64), laid)
    pack_rows(rows, weight, out.array)
    out.check()
    return out.array


@SETTINGS
@given(packings(), st.sampled_from([*ROWS_TOGETHER, *ROWS_APART, "odd_bytes"]), st.sampled_from(["plain", "unaligned"]))
def test_packed_rows_equal_the_reference(problem: dict[str, Any], laid: str, out_laid: str) -> None:
    rows = hold(problem["rows"], laid)
    expected = reference.pack_rows(**problem)
    out = pack(**problem | {"rows": rows.array}, laid=out_laid)
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    rows.check_unchanged()


def test_rows_may_lie_any_number_of_bytes_apart() -> None:
    rng = np.random.default_rng(0)
    rows = hold(floats(rng, 3, 4, 9), "odd_strides")
    out = pack(rows.array, np.ones(9, np.float32), 16, 2)
    np.testing.assert_allclose(out, reference.pack_rows(rows.array, np.ones(9), 16, 2), rtol=1e-6)


def test_rows_and_weights_may_be_read_only_strided_or_repeated() -> None:
    rng = np.random.default_rng(0)
    rows, weight = floats(rng, 3, 4, 9), floats(rng, 9)
    expected = reference.pack_rows(rows, weight, 16, 2)
    np.testing.assert_allclose(pack(read_only(rows), read_only(weight), 16, 2), expected, rtol=1e-6)
    np.testing.assert_allclose(pack(rows, np.repeat(weight, 2)[::2], 16, 2), expected, rtol=1e-6)
    np.testing.assert_allclose(pack(rows, weight[::-1].copy()[::-1], 16, 2), expected, rtol=1e-6)
    for shape in ((1, 4, 9), (3, 1, 9), (3, 4, 1), (1, 1, 1)):
        rows_ = np.broadcast_to(rows[tuple(slice(n) for n in shape)], rows.shape)
        expected = reference.pack_rows(rows_, weight, 16, 2)
        np.testing.assert_allclose(pack(rows_, weight, 16, 2), expected, rtol=1e-6)


@SETTINGS
@given(packings())
def test_transforms_of_packed_rows_are_those_of_padded_rows(problem: dict[str, Any]) -> None:
    rows, padded = problem["rows"], problem["padded"]
    columns = rows.shape[2]
    spectra = np.fft.fft(pack(**problem), axis=1)
    first = (padded - columns) // 2
    ends = ((0, 0), (0, 0), (first, padded - columns - first))
    expected = np.fft.fft(np.pad(rows * problem["weight"], ends, mode="edge"), axis=2)
    back = np.conj(spectra[:, -np.arange(padded) % padded])
    for row in range(rows.shape[1]):
        one, other = spectra[..., row // 2], back[..., row // 2]
        own = (one - other) / 2j if row % 2 else (one + other) / 2
        np.testing.assert_allclose(own, expected[:, row], atol=1e-3)


@pytest.mark.parametrize("shape", [(0, 4, 9), (3, 0, 9), (0, 0, 9)])
def test_no_rows_are_zero(shape: tuple[int, ...]) -> None:
    assert not pack(np.empty(shape, np.float32), np.ones(9, np.float32), 16, 2).any()


def packing(**changed: Any) -> dict[str, Any]:
    good = {
        "rows": np.ones((3, 4, 9), np.float32),
        "weight": np.ones(9, np.float32),
        "out": np.full((3, 16, 2), 7, np.complex64),
    }
    return good | changed


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": np.ones((3, 9), np.float32)},
        {"rows": np.ones((3, 4, 9))},
        {"rows": np.ones((3, 4, 9), ">f4")},
        {"rows": np.ones((3, 4, 9), np.uint16)},
        {"rows": np.ones((3, 5, 9), np.float32)},
        {"rows": np.ones((2, 4, 9), np.float32)},
        {"rows": np.ones((3, 4, 8), np.float32)},
        {"rows": np.ones((3, 4, 0), np.float32), "weight": np.ones(0, np.float32)},
        {"rows": np.ones((3, 4, 17), np.float32), "weight": np.ones(17, np.float32)},
        {"weight": np.ones(8, np.float32)},
        {"weight": np.ones((9, 1), np.float32)},
        {"weight": np.ones((), np.float32)},
        {"weight": np.ones(9)},
        {"out": np.full((3, 16), 7, np.complex64)},
        {"out": np.full((3, 16, 1), 7, np.complex64)},
        {"out": np.full((3, 16, 0), 7, np.complex64)},
        {"out": np.full((3, 8, 2), 7, np.complex64)},
        {"out": np.full((4, 16, 2), 7, np.complex64)},
        {"out": np.full((3, 16, 2), 7, np.complex128)},
        {"out": np.full((3, 16, 4), 7, np.float32)},
        {"out": np.full((3, 16, 4), 7, np.complex64)[..., ::2]},
        {"out": np.full((3, 16, 2), 7, np.complex64)[::-1]},
        {"out": np.full((3, 16, 2), 7, np.complex64, order="F")},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_rows_that_do_not_fit_are_refused(changed: dict[str, Any]) -> None:
    problem = packing(**changed)
    with pytest.raises(ValueError, match="expected"):
        pack_rows(**problem)
    assert (problem["out"] == 7).all()


@st.composite
def filterings(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `filter_spectra` as the reference takes them."""
    angles, n, pairs = draw(st.integers(0, 4)), 2 * draw(st.integers(1, 20)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    length = draw(st.one_of(st.sampled_from([n, 2 * n, 3 * n]), st.integers(n // 2, 50).map(lambda half: 2 * half)))
    return {
        "spectra": complexes(rng, angles, n, pairs),
        "response": floats(rng, angles, n // 2 + 1),
        "length": length,
    }


@SETTINGS
@given(filterings(), st.sampled_from(["plain", "unaligned"]), st.booleans())
def test_filtered_spectra_equal_the_reference(problem: dict[str, Any], laid: str, strided: bool) -> None:
    expected = reference.filter_spectra(**problem)
    spectra = hold(problem["spectra"], laid)
    out = hold(np.full(expected.shape, 7, np.complex64), laid)
    response = hold(problem["response"], "every_second" if strided else "plain")
    filter_spectra(spectra.array, response.array, out.array)
    np.testing.assert_allclose(out.array, expected, rtol=1e-6, atol=1e-6)
    out.check()
    spectra.check_unchanged()
    response.check_unchanged()


@SETTINGS
@given(filterings())
def test_spectra_are_filtered_in_place(problem: dict[str, Any]) -> None:
    problem["length"] = problem["spectra"].shape[1]
    expected = reference.filter_spectra(**problem)
    spectra = hold(problem["spectra"])
    filter_spectra(spectra.array, problem["response"], spectra.array)
    np.testing.assert_allclose(spectra.array, expected, rtol=1e-6, atol=1e-6)
    spectra.check()


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("n", [2, 4, 6, 30, 64])
def test_upsampled_rows_are_those_of_a_real_transform_with_zeros_inserted(n: int, times: int) -> None:
    rng = np.random.default_rng(n)
    rows, response = rng.normal(size=(2, 6, n)), floats(rng, 2, n // 2 + 1)
    spectra = np.fft.fft(rows[:, 0::2] + 1j * rows[:, 1::2], axis=2).transpose(0, 2, 1).astype(np.complex64)
    length = times * n
    out = np.full((2, length, 3), 7, np.complex64)
    filter_spectra(np.ascontiguousarray(spectra), response, out)
    got = np.fft.ifft(out, axis=1).transpose(0, 2, 1)
    half = np.fft.rfft(rows, axis=2) * response[:, None]
    if times > 1:
        half[..., -1] /= 2
    expected = np.fft.irfft(half, length, axis=2)
    np.testing.assert_allclose(got.real, expected[:, 0::2], atol=1e-5)
    np.testing.assert_allclose(got.imag, expected[:, 1::2], atol=1e-5)
    # The samples of the rows themselves are among the upsampled ones.
    plain = np.fft.irfft(np.fft.rfft(rows, axis=2) * response[:, None], n, axis=2)
    np.testing.assert_allclose(times * got.real[..., ::times], plain[:, 0::2], atol=1e-5)


def filtering(**changed: Any) -> dict[str, Any]:
    good = {
        "spectra": np.ones((3, 8, 2), np.complex64),
        "response": np.ones((3, 5), np.float32),
        "out": np.full((3, 16, 2), 7, np.complex64),
    }
    return good | changed


@pytest.mark.parametrize(
    "changed",
    [
        {"spectra": np.ones((3, 8), np.complex64)},
        {"spectra": np.ones((3, 8, 2), np.complex128)},
        {"spectra": np.ones((3, 7, 2), np.complex64)},
        {"spectra": np.ones((3, 18, 2), np.complex64), "response": np.ones((3, 10), np.float32)},
        {"spectra": np.ones((2, 8, 2), np.complex64)},
        {"spectra": np.ones((3, 8, 1), np.complex64)},
        {"spectra": np.ones((3, 8, 4), np.complex64)[..., ::2]},
        {"spectra": np.ones((3, 8, 2), np.complex64)[:, ::-1]},
        {"spectra": np.ones((3, 8, 4), np.float32)},
        {"response": np.ones((3, 4), np.float32)},
        {"response": np.ones((3, 8), np.float32)},
        {"response": np.ones((2, 5), np.float32)},
        {"response": np.ones(5, np.float32)},
        {"response": np.ones((3, 5))},
        {"response": np.ones((3, 5), np.complex64)},
        {"out": np.full((3, 15, 2), 7, np.complex64)},
        {"out": np.full((3, 6, 2), 7, np.complex64)},
        {"out": np.full((3, 16, 3), 7, np.complex64)},
        {"out": np.full((2, 16, 2), 7, np.complex64)},
        {"out": np.full((3, 16, 2), 7, np.complex128)},
        {"out": np.full((3, 16, 4), 7, np.complex64)[..., ::2]},
        {"out": np.full((3, 16, 2), 7, np.complex64, order="F")},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_spectra_that_do_not_fit_are_refused(changed: dict[str, Any]) -> None:
    problem = filtering(**changed)
    with pytest.raises(ValueError, match="expected"):
        filter_spectra(**problem)
    assert (problem["out"] == 7).all()


@pytest.mark.parametrize("shape", [(0, 8, 2), (3, 8, 0), (0, 0, 0)])
def test_nothing_is_filtered_to_nothing(shape: tuple[int, ...]) -> None:
    out = np.empty((shape[0], 16, shape[2]), np.complex64)
    filter_spectra(np.empty(shape, np.complex64), np.ones((shape[0], shape[1] // 2 + 1), np.float32), out)


def test_out_that_is_read_only_is_not_written() -> None:
    for face, problem in ((pack_rows, packing()), (filter_spectra, filtering())):
        problem["out"] = read_only(problem["out"])
        with pytest.raises(Exception, match=r"."):
            face(**problem)
        assert (problem["out"] == 7).all()


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_rows_are_packed_by_vectors_of_every_length(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = rebuilt(packing_vector.pack_rows, turn_square=slices_vector.square_turner(lanes))
    monkeypatch.setattr(packing_vector, "pack_rows", kernel)
    monkeypatch.setattr("streamrecon_kernels.packing.LONGEST", lanes)
    rng = np.random.default_rng(2)
    for count in (4, 8, 16, 24, 32):
        rows, one = floats(rng, 2, count, 37), np.ones(37, np.float32)
        for laid in ("plain", "unaligned"):
            out = pack(rows, one, 50, 17, laid)
            np.testing.assert_allclose(out, reference.pack_rows(rows, one, 50, 17), rtol=1e-6)
    assert kernel.signatures
