"""Real scans are read with the frames and angles that their beamlines recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamrecon.scan import FrameKind
from streamrecon.sources import Hdf5Source

P, F, D = FrameKind.PROJECTION, FrameKind.FLAT, FrameKind.DARK


def test_tooth(data_folder: Path) -> None:
    source = Hdf5Source(data_folder / "tooth.h5")
    info = source.info()
    assert info.frame_shape == (2, 640)
    assert info.dtype == np.float32
    assert info.counts == {P: 181, F: 10, D: 10}
    assert info.theta is not None
    np.testing.assert_allclose(info.theta, np.deg2rad(np.arange(181) * 180 / 181), atol=1e-6)
    assert sum(frame.data.shape == (1, 640) for frame in source.frames(slice(1, 2))) == 201


def test_i13(data_folder: Path) -> None:
    source = Hdf5Source(data_folder / "i13_24737_nxtomo.nxs")
    info, frames = source.info(), list(source.frames())
    assert info.frame_shape == (135, 160)
    assert [frame.kind for frame in frames] == [D, F] + [P] * 91
    assert info.theta is not None
    np.testing.assert_allclose(np.rad2deg(info.theta[[0, -1]]), [-88.2, 91.8], atol=1e-3)
    assert all(frame.data[0, 0] == 0 for frame in frames)


def test_k11(data_folder: Path) -> None:
    source = Hdf5Source(data_folder / "k11-18014.nxs")
    info = source.info()
    assert info.frame_shape == (22, 26)
    assert info.counts == {P: 3001, F: 100, D: 100}
    kinds = [frame.kind for frame in source.frames()]
    assert kinds == [F] * 50 + [D] * 50 + [P] * 3001 + [F] * 50 + [D] * 50
    assert info.theta is not None
    np.testing.assert_allclose(np.rad2deg(info.theta[[0, -1]]), [89.995, 269.995], atol=1e-2)
