"""A simulated tomography detector of ophyd-async: it images a phantom and writes an HDF5 file that others may read meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import h5py
import numpy as np
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    PathProvider,
    StandardDetector,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    TriggerInfo,
    soft_signal_r_and_setter,
)

from streamrecon.config import SimulatedConfig
from streamrecon.scan import FrameKind
from streamrecon.sources import SimulatedSource

IMAGES, ANGLES = "/entry/data/data", "/entry/angles"


class Camera:
    """What is in the beam, frame by frame, and the file that it goes to."""

    def __init__(self, config: SimulatedConfig) -> None:
        self.config = config
        self.written, self._set_written = soft_signal_r_and_setter(int)
        self._kind = FrameKind.PROJECTION
        self._frames = {kind: self._of(kind) for kind in FrameKind}
        self._file: h5py.File | None = None
        self.number, self.period, self.exposure = 1, 0.0, 0.05
        """Frames to take, and seconds from one to the next; of a step scan seconds of one."""

    def _of(self, kind: FrameKind):
        return (frame for frame in SimulatedSource(self.config).frames() if frame.kind is kind)

    def shows(self, kind: FrameKind) -> None:
        """From now on: projections, flats or darks, the next of each."""
        self._kind = kind

    def open(self, path: str) -> None:
        """Begin a file, in the mode in which it can be read while it is written."""
        rows, columns = self.config.rows, self.config.columns
        self._file = h5py.File(path, "w", libver="latest")
        self._file.create_dataset(
            IMAGES, (0, rows, columns), np.uint16, maxshape=(None, rows, columns), chunks=(1, rows, columns)
        )
        self._file.create_dataset(ANGLES, (0,), np.float64, maxshape=(None,), chunks=(64,))
        self._file[ANGLES].attrs["units"] = "deg"
        self._file.swmr_mode = True
        self._set_written(0)

    async def take(self) -> None:
        """Take so many frames."""
        for _ in range(self.number):
            await asyncio.sleep(self.period)
            frame = next(self._frames[self._kind])
            assert self._file is not None
            count = len(self._file[IMAGES])
            for name, value in ((IMAGES, frame.data), (ANGLES, np.rad2deg(frame.theta or 0.0))):
                self._file[name].resize(count + 1, 0)
                self._file[name][count] = value
                self._file[name].flush()
            self._set_written(count + 1)

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _Trigger(DetectorTriggerLogic):
    def __init__(self, camera: Camera) -> None:
        self.camera = camera

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        self.camera.number, self.camera.period = num, livetime + deadtime

    async def default_trigger_info(self) -> TriggerInfo:
        return TriggerInfo(livetime=self.camera.exposure)


class _Acquire(DetectorAcquireLogic):
    def __init__(self, camera: Camera) -> None:
        self.camera, self.task = camera, None

    async def start_acquiring(self) -> None:
        self.task = asyncio.create_task(self.camera.take())

    async def wait_for_idle(self) -> None:
        if self.task is not None:
            await self.task

    async def ensure_stopped(self) -> None:
        if self.task is not None:
            self.task.cancel()
            self.task = None


class _Data(DetectorDataLogic):
    def __init__(self, camera: Camera, paths: PathProvider) -> None:
        self.camera, self.paths = camera, paths

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        where = self.paths(datakey_name)
        config = self.camera.config
        self.camera.open(f"{where.directory_path / where.filename}.h5")
        shape = config.rows, config.columns
        resources = [
            StreamResourceInfo(
                data_key=datakey_name, shape=shape, chunk_shape=(1, *shape), dtype_numpy="<u2", parameters={"dataset": IMAGES}
            ),
            StreamResourceInfo(
                data_key=f"{datakey_name}-theta", shape=(), chunk_shape=(64,), dtype_numpy="<f8",
                parameters={"dataset": ANGLES},
            ),
        ]  # fmt: skip
        return StreamResourceDataProvider(
            uri=f"{where.directory_uri}{where.filename}.h5",
            resources=resources,
            mimetype="application/x-hdf5",
            collections_written_signal=self.camera.written,
        )

    async def stop(self) -> None:
        self.camera.close()

    def get_hinted_fields(self, datakey_name: str) -> Sequence[str]:
        return [datakey_name]


class TomographyDetector(StandardDetector):
    """Images a phantom; the angle of each frame goes to the file as well, as a PandA would write it.

    Parameters
    ----------
    paths
        Where files go.
    config
        Of the phantom and the scan.
    """

    def __init__(self, paths: PathProvider, config: SimulatedConfig, name: str = "") -> None:
        self.camera = Camera(config)
        self.add_detector_logics(_Trigger(self.camera), _Acquire(self.camera), _Data(self.camera, paths))
        super().__init__(name=name)
