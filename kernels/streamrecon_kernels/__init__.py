"""The kernels: the inner loops that streamrecon exists for. They know arrays and nothing of scans."""

from streamrecon_kernels.parallel import Gate, each, limit_threads, threads  # isort: skip - before numba loads libgomp
from streamrecon_kernels.backproject import backproject
from streamrecon_kernels.compiling import all_compiled, complete
from streamrecon_kernels.gridding import grid_spokes
from streamrecon_kernels.gridding_numba import LANES
from streamrecon_kernels.kaiser_bessel import KaiserBessel
from streamrecon_kernels.memory import aligned_empty, aligned_zeros
from streamrecon_kernels.normalize import line_integrals
from streamrecon_kernels.packing import filter_spectra, pack_rows
from streamrecon_kernels.shrinking import Shrinking, shrink_rows
from streamrecon_kernels.slices import bin_voxels, fold_grid, lay_columns, take_slices
from streamrecon_kernels.spoke_cells import Share, Spokes, spoke_factors, spokes

__all__ = [
    "LANES",
    "Gate",
    "KaiserBessel",
    "Share",
    "Shrinking",
    "Spokes",
    "aligned_empty",
    "aligned_zeros",
    "all_compiled",
    "backproject",
    "bin_voxels",
    "complete",
    "each",
    "filter_spectra",
    "fold_grid",
    "grid_spokes",
    "lay_columns",
    "limit_threads",
    "line_integrals",
    "pack_rows",
    "shrink_rows",
    "spoke_factors",
    "spokes",
    "take_slices",
    "threads",
]
