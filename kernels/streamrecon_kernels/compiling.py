"""The kernels that a scan calls, compiled before it comes: compiling takes seconds that it has not, and memory to be planned."""

from __future__ import annotations

from functools import cache

from streamrecon_kernels import (
    backproject_vector,
    folding_vector,
    gridding_numba,
    gridding_vector,
    normalize_numba,
    packing_numba,
    packing_vector,
    shrinking_vector,
    slices_numba,
    slices_vector,
)

KERNELS = (
    backproject_vector.backproject,
    folding_vector.fold_grid,
    gridding_numba.taps,
    gridding_vector.grid_spokes,
    normalize_numba.line_integrals,
    packing_numba.filter_spectra,
    packing_numba.pack_rows,
    packing_vector.pack_rows,
    shrinking_vector.shrink_rows,
    slices_numba.bin_voxels,
    slices_numba.copy_cells,
    slices_numba.lay_columns,
    slices_numba.take_slices,
    slices_vector.lay_columns,
    slices_vector.take_slices,
)
"""On a CPU; not those that take what no accumulator lays out so."""


@cache
def all_compiled() -> bool:
    """Whether all of them were in the cache when this was asked first: if not, this process compiles them."""
    return all(kernel.compiled for kernel in KERNELS)


def complete() -> None:
    """Compile for all cores what was called on one, and the other way round."""
    for kernel in KERNELS:
        kernel.complete()
