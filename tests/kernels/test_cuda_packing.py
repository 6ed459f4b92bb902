"""Line integrals, packing and filtering in CUDA against the reference."""

from __future__ import annotations

from typing import Any

import cuda_problems
import numpy as np
import pytest
from cuda_target import EmulatedTarget, Target
from hypothesis import given, settings
from hypothesis import strategies as st
from streamrecon_kernels.packing_cuda import PACKED, RAW

SETTINGS = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**31).map(np.random.default_rng)
FEW = st.integers(0, 3)


@SETTINGS
@given(
    rng=SEEDS, dtype=st.sampled_from(sorted(RAW)), angles=st.integers(0, 18), rows=st.integers(1, 9),
    columns=st.sampled_from([1, 2, 31, 33, 70]), terms=st.booleans(),
)  # fmt: skip
def test_line_integrals(target: Target, rng: np.random.Generator, **size: Any) -> None:
    cuda_problems.line_integrals(rng, **size).check(target)


@SETTINGS
@given(
    rng=SEEDS, angles=FEW, rows=st.integers(1, 70), columns=st.sampled_from([1, 2, 15, 31, 32, 33, 65]),
    padding=st.integers(0, 70), missing=FEW, gap=FEW, half=st.booleans(),
)  # fmt: skip
def test_pack_rows(target: Target, rng: np.random.Generator, **size: Any) -> None:
    cuda_problems.pack_rows(rng, **size).check(target)


@SETTINGS
@given(
    rng=SEEDS, dtype=st.sampled_from(sorted(PACKED)), angles=FEW, rows=st.integers(1, 70),
    columns=st.sampled_from([1, 2, 31, 33, 65]), padding=st.integers(0, 40), missing=FEW, gap=FEW, terms=st.booleans(),
)  # fmt: skip
def test_integrate_and_pack(target: Target, rng: np.random.Generator, **size: Any) -> None:
    cuda_problems.integrate_and_pack(rng, **size).check(target)


@SETTINGS
@given(
    rng=SEEDS, angles=FEW, n=st.integers(1, 20).map(lambda half: 2 * half), pairs=st.sampled_from([0, 1, 2, 31, 33, 65]),
    times=st.integers(1, 3), in_place=st.booleans(),
)  # fmt: skip
def test_filter_spectra(target: Target, rng: np.random.Generator, **size: Any) -> None:
    cuda_problems.filter_spectra(rng, **size).check(target)


def test_a_grid_of_many_angles_is_walked(emulated: EmulatedTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrecon_kernels.packing_cuda.GRID_LIMIT", 2)
    cuda_problems.pack_rows(np.random.default_rng(0), angles=5).check(emulated)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("line_integrals", {"raw": np.zeros((3, 5, 7), np.int64)}),
        ("line_integrals", {"raw": np.zeros((3, 5, 7), ">u2")}),
        ("line_integrals", {"raw": np.zeros((3, 5, 7), np.float16)}),
        ("line_integrals", {"raw": np.zeros((3, 5, 14), np.uint16)[..., ::2]}),
        ("line_integrals", {"dark": np.zeros((5, 7))}),
        ("line_integrals", {"term": np.zeros((2, 5, 7), np.float32)}),
        ("line_integrals", {"out": np.zeros((3, 7, 5), np.float32)}),
        ("pack_rows", {"rows": np.zeros((3, 5, 7))}),
        ("pack_rows", {"rows": np.zeros((3, 7, 5), np.float32).transpose(0, 2, 1)}),
        ("pack_rows", {"rows": np.zeros((3, 5, 7), np.float32)[:, ::-1]}),
        ("pack_rows", {"weight": np.zeros(6, np.float32)}),
        ("pack_rows", {"out": np.zeros((3, 6, 3), np.complex64)}),
        ("pack_rows", {"out": np.zeros((3, 13, 2), np.complex64)}),
        ("integrate_and_pack", {"dark": np.zeros((7, 5), np.float32)}),
        ("filter_spectra", {"spectra": np.zeros((3, 7, 3), np.complex64)}),
        ("filter_spectra", {"response": np.zeros((3, 8), np.float32)}),
        ("filter_spectra", {"out": np.zeros((3, 12, 3), np.complex64)}),
        ("filter_spectra", {"out": np.zeros((3, 4, 3), np.complex64)}),
    ],
)
def test_what_does_not_fit_is_refused(emulated: EmulatedTarget, name: str, changed: dict[str, Any]) -> None:
    problem = cuda_problems.EXAMPLES[name](np.random.default_rng(0))
    with pytest.raises(ValueError, match="expected"):
        emulated.call(problem.function, problem.arguments | changed)
