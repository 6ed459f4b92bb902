"""The kernels: the inner loops that streamrecon exists for. They know arrays and nothing of scans."""

from streamrecon_kernels.backproject import backproject
from streamrecon_kernels.gridding import KaiserBessel, grid_spokes
from streamrecon_kernels.parallel import threads
from streamrecon_kernels.slices import take_slices

__all__ = ["KaiserBessel", "backproject", "grid_spokes", "take_slices", "threads"]
