"""The kernels: the inner loops that streamrecon exists for. They know arrays and nothing of scans."""

from streamrecon_kernels.parallel import each, threads  # isort: skip - before numba loads libgomp
from streamrecon_kernels.backproject import backproject
from streamrecon_kernels.gridding import KaiserBessel, Spokes, grid_spokes, spokes
from streamrecon_kernels.memory import aligned_empty, aligned_zeros
from streamrecon_kernels.normalize import line_integrals
from streamrecon_kernels.packing import filter_spectra, pack_rows
from streamrecon_kernels.slices import bin_pixels, fold_grid, lay_columns, take_slices

__all__ = [
    "KaiserBessel",
    "Spokes",
    "aligned_empty",
    "aligned_zeros",
    "backproject",
    "bin_pixels",
    "each",
    "filter_spectra",
    "fold_grid",
    "grid_spokes",
    "lay_columns",
    "line_integrals",
    "pack_rows",
    "spokes",
    "take_slices",
    "threads",
]
