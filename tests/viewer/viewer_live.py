"""An engine that only publishes: a phantom that grows, for tests and for looking at the page.

python tests/viewer/viewer_live.py --port 8800
"""

from __future__ import annotations

import argparse
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.transport import Poller, Publisher, Wakeup, private_ipc
from streamrecon.viewer.encoding import binned
from streamrecon.wire.messages import Control, Look, Picture, Progress, Result, Update, Want

TOKEN = "the-engines-control-token"
PARTS = 72
CENTER = 47.3


class FakeEngine(threading.Thread):
    """Answers viewers as an engine does, in a thread of its own.

    Parameters
    ----------
    endpoint
        Where viewers come in.
    rate
        Versions a second; 0: one with each `step`.
    shape
        (slice, y, x) of the volume.
    versions
        Of a scan; the last is final. After it, with a rate, the next scan begins.
    pause
        Seconds between two scans.
    """

    def __init__(
        self, endpoint: str | None = None, rate: float = 0.0, shape: tuple[int, int, int] = (64, 96, 96),
        versions: int = 40, pause: float = 5.0,
    ) -> None:  # fmt: skip
        super().__init__(name="fake-engine", daemon=True)
        self.publisher = Publisher(endpoint or private_ipc())
        self.endpoint = self.publisher.endpoint
        self.shape, self.rate, self.versions, self.pause = shape, rate, versions, pause
        self.asked: list[Want] = []
        """All that viewers have asked for."""
        self.controls: list[Control] = []
        self.deaf = threading.Event()
        """While it is set, nothing is answered."""
        self.withheld: set[str] = set()
        """Kinds of pictures that are not sent."""
        self.mangle: Callable[[bytes], bytes] = lambda payload: payload
        """What is done with each payload that is sent."""
        self.center, self.filter, self.paused, self.advice = CENTER + 3.0, "ramp", False, None
        self.every, self.interval = 20, None
        self.scan, self.version, self.reconstruction = 1, 0, 1
        self.columns = shape[2]
        self.idle = False
        """Whether the scan is over, and it is known of no other one."""
        self.begins = False
        """Whether the next scan has begun, of which there is no version yet."""
        self._spectrum = np.fft.fft2(phantom(shape), axes=(1, 2))
        self._volume = np.zeros(shape, np.float32)
        self._waiting: dict[bytes, Want] = {}
        self._results: list[tuple[bytes, Result, bytes]] = []
        self._wakeup, self._done = Wakeup(), threading.Event()
        self._steps: deque[int] = deque()
        self._next, self._before = time.monotonic(), self._volume
        self.error: BaseException | None = None

    @property
    def uid(self) -> str:
        return f"fake-{self.scan}"

    @property
    def _key(self) -> tuple[int, str, int]:
        return self.version, self.uid, self.reconstruction

    def again(self) -> None:
        """The scan is reconstructed again, and has no version yet; of a test's thread, so let nothing be in work."""
        self.reconstruction += 1
        self.version = 0

    @property
    def final(self) -> bool:
        return self.version >= self.versions

    def step(self, count: int = 1) -> None:
        """Make so many versions; any thread."""
        self._steps.append(count)
        self._wakeup.set()

    def run(self) -> None:
        poller = Poller(self._wakeup, self.publisher)
        try:
            while not self._done.is_set():
                poller.wait(0.02)
                while self._steps:
                    for _ in range(self._steps.popleft()):
                        self._grow()
                if self.rate and not self.paused and time.monotonic() >= self._next:
                    self._grow()
                    self._next = time.monotonic() + (self.pause if self.final else 1 / self.rate)
                for viewer, request in self.publisher.requests(64):
                    if not self.deaf.is_set():
                        self._hear(viewer, request)
                self._serve()
        except BaseException as error:
            self.error = error
        finally:
            self.publisher.close()
            self._wakeup.close()

    def stop(self) -> None:
        self._done.set()
        self._wakeup.set()
        self.join(10)
        assert self.error is None, repr(self.error)

    def __enter__(self) -> FakeEngine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def plane(self, axis: str, index: int) -> NDArray[np.float32]:
        """What a slice of the newest version is."""
        return np.ascontiguousarray(np.take(self._volume, index, "zyx".index(axis)), np.float32)

    def _grow(self) -> None:
        if self.final:
            self.scan, self.version = self.scan + 1, 0
        self.version += 1
        self._make()

    def _make(self, center: float | None = None) -> None:
        """Only the angles covered so far, and two images of a wrong center."""
        center, self._before = self.center if center is None else center, self._volume
        ky, kx = np.meshgrid(*(np.fft.fftfreq(side) for side in self.shape[1:]), indexing="ij")
        covered = (np.arctan2(ky, kx) % math.pi) <= math.pi * self.version / self.versions
        shift = np.cos(2 * math.pi * kx * (center - CENTER))
        self._volume = np.fft.ifft2(self._spectrum * (covered * shift), axes=(1, 2)).real.astype(np.float32)

    def _hear(self, viewer: bytes, request: Any) -> None:
        if isinstance(request, Want):
            self.asked.append(request)
            self._waiting[viewer] = request
        elif isinstance(request, Look):
            self.publisher.send(viewer, self._begun() if self.begins else self._progress())
        elif isinstance(request, Control):
            self.controls.append(request)
            done, text, pictures = self._control(request)
            payload = b"".join(pixels.astype("<f4").tobytes() for _, pixels in pictures)
            result = Result(serial=request.serial, done=done, text=text, pictures=tuple(p for p, _ in pictures))
            self._results.append((viewer, result, self.mangle(payload)))

    def _control(self, control: Control) -> tuple[bool, str, list[tuple[Picture, NDArray[np.float32]]]]:
        if control.token != TOKEN:
            return False, "the control token is wrong", []
        numbers = control.numbers
        if control.action == "center":
            self.center = numbers[0] if numbers else CENTER
            if self.version:
                self.version += not self.final
                self._make()
            return True, f"the center is {self.center:g}", []
        if control.action == "filter":
            self.filter = control.text
        elif control.action in ("pause", "resume"):
            self.paused = control.action == "pause"
        elif control.action == "advise_stop":
            self.advice = control.text or None
        elif control.action == "every":
            self.every = int(numbers[0])
        elif control.action == "interval":
            self.interval = numbers[0] if numbers else None
        elif control.action == "snapshot":
            self._grow()
        elif control.action == "centers":
            index, first, last, count = numbers
            strip = []
            for center in np.linspace(first, last, int(count)):
                self._make(center)
                strip.append(self.plane("z", int(index))[self.shape[1] // 2 - 8 : self.shape[1] // 2 + 8])
            self._make()
            stack = np.stack(strip)
            return True, "", [(Picture(kind="centers", index=int(index), shape=stack.shape, full=stack.shape), stack)]
        else:
            return False, f"{control.action} is not possible here", []
        return True, f"{control.action} is done", []

    def _serve(self) -> None:
        self._results = [each for each in self._results if not self.publisher.send(*each)]
        for viewer, want in list(self._waiting.items()):
            if self.version and (want.after, want.uid, want.reconstruction) != self._key:
                del self._waiting[viewer]
                pictures = self._pictures(want)
                payload = b"".join(np.ascontiguousarray(pixels, "<f4").tobytes() for _, pixels in pictures)
                self.publisher.send(viewer, self._update(tuple(p for p, _ in pictures)), self.mangle(payload))

    def _pictures(self, want: Want) -> list[tuple[Picture, NDArray[np.float32]]]:
        found: list[tuple[Picture, NDArray[np.float32]]] = []
        for plane in want.planes:
            side = self.shape["zyx".index(plane.axis)]
            index = side // 2 if plane.index is None else min(plane.index, side - 1)
            pixels = self.plane(plane.axis, index)
            found.append(_picture("slice", pixels, want.most, axis=plane.axis, index=index))
        if want.preview:
            found.append(_picture("preview", self._volume, want.preview))
        projections = self._projections()
        width = self.shape[2]
        if want.projection:
            pixels = np.roll(self._volume.sum(1), 3 * self.version % width, 1)
            found.append(_picture("projection", pixels, want.most, index=projections - 1))
        for row in want.sinograms:
            sums = self.plane("z", min(row, self.shape[0] - 1)).sum(0)
            angles = np.arange(projections) * math.pi / (20 * self.versions)
            shifts = np.rint(width / 8 * np.cos(angles)).astype(int)
            pixels = np.stack([np.roll(sums, shift) for shift in shifts])
            found.append(_picture("sinogram", pixels, 0, index=row))
        return [each for each in found if each[0].kind not in self.withheld]

    def _projections(self) -> int:
        return 20 * self.version

    def _angles(self) -> tuple[int, ...]:
        theta = np.arange(self._projections()) * math.pi / (20 * self.versions)
        return tuple(int(count) for count in np.histogram(theta, PARTS, (0, 2 * math.pi))[0])

    def _update(self, pictures: tuple[Picture, ...]) -> Update:
        volume = self._volume
        deviation = float(volume.std())
        change = float(np.sqrt(np.mean((volume - self._before) ** 2))) / max(deviation, 1e-9)
        return Update(
            version=self.version, uid=self.uid, title=f"phantom, scan {self.scan}", projections=self._projections(),
            reconstruction=self.reconstruction,
            coverage=self.version / self.versions, final=self.final, binning=1, shape=self.shape, full=self.shape,
            pixel_size=6.5e-6, center=self.center, filter=self.filter, angles=self._angles(), minimum=float(volume.min()),
            maximum=float(volume.max()), mean=float(volume.mean()), deviation=deviation, change=change, pictures=pictures,
        )  # fmt: skip

    def _begun(self) -> Progress:
        return replace(
            self._progress(), uid=f"fake-{self.scan + 1}", title=f"phantom, scan {self.scan + 1}", phase="waiting for flats",
            reconstruction=self.reconstruction + 1,
            frames=0, projections=0, in_volume=0, coverage=0.0, version=0, center=None, columns=0, angles=(),
        )  # fmt: skip

    def _progress(self) -> Progress:
        got = self._projections()
        if self.idle:
            got = 0
        known = (self.version or self.reconstruction > 1) and not self.idle
        return Progress(
            uid=self.uid if known else "", title=f"phantom, scan {self.scan}", reconstruction=self.reconstruction,
            phase="waiting for a sender" if not known else "ended" if self.final else "accumulating",
            frames=got + 10, projections=got, expected=20 * self.versions, in_volume=got,
            coverage=self.version / self.versions if known else 0.0, version=self.version if known else 0,
            center=self.center, filter=self.filter,
            rows=self.shape[0], columns=self.columns, side=None,
            credit_frames=60, ring_frames=64, rate=0.0 if self.paused else 20 * self.rate, quiet=None, nbytes=got * 96 * 64 * 2,
            latency=0.3 if self.version else None, dropped=0, alarm=None, ranks=1, angles=self._angles() if known else (),
            paused=self.paused, advice=self.advice, every=self.every, interval=self.interval, viewers=1,
        )  # fmt: skip


def _picture(
    kind: Any, pixels: NDArray[np.float32], most: int, axis: Any = "", index: int = 0
) -> tuple[Picture, NDArray[np.float32]]:
    small = binned(pixels, most)
    return Picture(kind=kind, axis=axis, index=index, shape=small.shape, full=pixels.shape), small


def phantom(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """A cylinder with bubbles, 1/m."""
    rng = np.random.default_rng(1)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape), indexing="ij")
    volume = np.where(x**2 + y**2 < 0.8, np.float32(200.0), np.float32(0.0))
    for _ in range(40):
        cz, cy, cx = rng.uniform(-0.65, 0.65, 3)
        radius = rng.uniform(0.05, 0.2)
        inside = (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        volume[inside] = rng.choice([40.0, 120.0, 320.0, 420.0])
    return volume


def main() -> None:
    from streamrecon.viewer import FileSource, LiveSource, ViewServer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8800)
    parser.add_argument("--rate", type=float, default=4.0, help="versions a second")
    parser.add_argument("--size", type=int, default=96, help="of the volume's sides")
    parser.add_argument("--versions", type=int, default=40, help="of a scan")
    parser.add_argument("--tokens", nargs=2, metavar=("VIEW", "CONTROL"), help="fixed ones; default: random")
    parser.add_argument("--file", type=Path, help="show this file, and no engine")
    options = parser.parse_args()
    view, control = options.tokens or (None, "control-" + TOKEN)
    engine = FakeEngine(
        rate=options.rate, shape=(options.size * 2 // 3, options.size, options.size), versions=options.versions
    )
    with engine:
        source = FileSource(options.file) if options.file else LiveSource(engine.endpoint, TOKEN)
        server = ViewServer(source, options.port, control_token=control, view_token=view)
        with server:
            print(f"view only  {server.view_url}\ncontrol    {server.control_url}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()


if __name__ == "__main__":
    main()
