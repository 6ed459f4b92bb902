"""What `import streamrecon` offers."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrecon
from streamrecon import Config, StreamreconError
from streamrecon.config import EmitConfig, SimulatedConfig
from streamrecon.errors import ConfigError, SourceFileError

SMALL = Config(
    simulated=SimulatedConfig(rows=3, columns=32, projections=40, flats=3, darks=3, phantom="disc", photons=0.0),
    emit=EmitConfig(every=10),
)


def test_every_name_exists() -> None:
    for name in streamrecon.__all__:
        assert getattr(streamrecon, name) is not None
    with pytest.raises(AttributeError):
        streamrecon.nonsense  # noqa: B018
    assert set(streamrecon.__all__) <= set(dir(streamrecon)) | set(streamrecon._LAZY)


def test_reconstruct_gives_the_volume() -> None:
    volume = streamrecon.reconstruct("simulated", config=SMALL, center=15.5)
    assert volume.shape == (3, 32, 32)
    assert volume.dtype == np.float32
    assert volume.flags.owndata or volume.base is None


def test_reconstruct_into_a_folder(tmp_path: Path) -> None:
    volume = streamrecon.reconstruct("simulated", out=tmp_path / "out", config=SMALL, center=15.5, rows=(1, 3))
    assert volume.shape == (2, 32, 32)
    assert (tmp_path / "out" / "volume.h5").exists()
    assert (tmp_path / "out" / "volume.png").exists()


@pytest.mark.parametrize("rows", [[1, 3], (np.int64(1), np.int64(3))])
def test_rows_as_a_notebook_has_them(rows: Any) -> None:
    assert streamrecon.reconstruct("simulated", config=SMALL, center=15.5, rows=rows).shape == (2, 32, 32)


def test_the_same_options_as_the_config(tmp_path: Path) -> None:
    a = streamrecon.reconstruct("simulated", config=SMALL, center=15.5, filter="hann", method="fourier")
    b = streamrecon.reconstruct("simulated", config=SMALL, center=15.5, filter="ramp", method="fourier")
    assert not np.allclose(a, b, rtol=1e-3)


def test_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="centre"):
        streamrecon.reconstruct("simulated", config=SMALL, centre=15.5)
    with pytest.raises(ValueError, match="filter"):
        streamrecon.reconstruct("simulated", config=SMALL, filter="sharp")
    with pytest.raises(SourceFileError):
        streamrecon.reconstruct("/nowhere/scan.h5")
    with pytest.raises(OSError, match="nowhere"):
        streamrecon.reconstruct(Path("/nowhere/scan.h5"))
    with pytest.raises(StreamreconError, match="--rows"):
        streamrecon.reconstruct("simulated", config=SMALL, center=15.5, rows=(0, 99))


def test_the_pieces(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    config = Config(simulated=SMALL.simulated, emit=EmitConfig(every=10, publish="ipc://" + str(tmp_path / "p" / "v")))
    (tmp_path / "p").mkdir(mode=0o700)
    with streamrecon.Engine(config, tmp_path / "out", seen.append) as engine:
        assert engine.publish_endpoint is not None
        updates: list[Any] = []

        def look() -> None:
            with contextlib.suppress(StreamreconError):
                updates.extend(streamrecon.subscribe(engine.publish_endpoint, timeout=5))

        viewer = threading.Thread(target=look, daemon=True)
        viewer.start()
        report = streamrecon.replay("simulated", engine.endpoint, config)
        result = engine.wait(150)
        viewer.join(10)
        assert not viewer.is_alive(), "the final update did not reach the viewer"
    assert report.frames == 46
    assert result is not None
    assert result.final
    assert updates, "the final update did not reach the viewer"
    assert updates[-1].update.final
    assert updates[-1].axial.shape == (32, 32)
    assert [u.update.version for u in updates] == sorted(u.update.version for u in updates)
    assert [e["event"] for e in seen][-1] == "done"


def test_run_scan(tmp_path: Path) -> None:
    looks: list[int] = []
    result = streamrecon.run_scan(
        "simulated", tmp_path / "out", SMALL, watch=lambda engine: looks.append(engine.status().frames)
    )
    assert result.final
    assert result.volume == tmp_path / "out" / "volume.h5"
    assert result.reason is None
    assert looks
    assert result.seconds > 0
    assert sum(result.stages.values()) > 0


def test_numpy_center() -> None:
    assert streamrecon.reconstruct("simulated", config=SMALL, center=np.float64(15.5)).shape == (3, 32, 32)


def test_in_a_thread() -> None:
    volumes: list[np.ndarray] = []
    thread = threading.Thread(
        target=lambda: volumes.append(streamrecon.reconstruct("simulated", config=SMALL, center=15.5))
    )
    thread.start()
    thread.join(30)
    assert volumes
