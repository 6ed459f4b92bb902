"""The kernels: the inner loops that streamrecon exists for. They know arrays and nothing of scans."""

from streamrecon_kernels.backproject import backproject
from streamrecon_kernels.gridding import KaiserBessel, grid_spokes

__all__ = ["KaiserBessel", "backproject", "grid_spokes"]
