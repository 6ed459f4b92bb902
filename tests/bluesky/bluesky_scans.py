"""Runs of the event model, document by document, with images that say where they belong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np

from streamrecon.bluesky.collect import Collector
from streamrecon.bluesky.mapping import Mapping, mapping_from_dict
from streamrecon.bluesky.run import Run
from streamrecon.bluesky.source import RunSource
from streamrecon.scan import Frame, FrameKind, Gap
from streamrecon.sources.roots import Roots

ROWS, COLUMNS = 3, 5
Document = tuple[str, dict[str, Any]]
STEP: dict[str, Any] = {
    "run": {"match": {"plan_name": "scan"}},
    "projection": {"key": "det"},
    "theta": {"from": "event", "key": "rot", "units": "deg"},
}


def image(number: int, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Number 0 is not the fill value."""
    return (1 + number + 1000 * np.arange(rows * columns).reshape(rows, columns)).astype(np.uint16)


def images(numbers: Sequence[int]) -> np.ndarray:
    return np.stack([image(number) for number in numbers])


def number_of(frame: Frame) -> int:
    """Which image it is; it has to be one."""
    number = int(frame.data[0, 0]) - 1
    np.testing.assert_array_equal(frame.data, image(number))
    return number


def write(path: Path, count: int, dataset: str = "entry/data/data", **values: Any) -> Path:
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset(dataset, data=images(range(count)), chunks=(1, ROWS, COLUMNS))
        for name, each in values.items():
            file[name.replace("__", "/")] = each
    return path


class Clock:
    """Goes on only as someone sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Scan:
    """Documents of a run, as event-model composes them."""

    def __init__(self, **start: Any) -> None:
        self.bundle = event_model.compose_run(metadata={"plan_name": "scan", "scan_id": 7, **start})
        self.documents: list[Document] = [("start", dict(self.bundle.start_doc))]
        self.descriptors: dict[str, Any] = {}
        self.resources: dict[str, Any] = {}
        self.indices: dict[str, int] = {}

    @property
    def uid(self) -> str:
        return str(self.bundle.start_doc["uid"])

    def stream(self, name: str = "primary", **keys: dict[str, Any]) -> Any:
        data_keys = {
            key: {"source": "test", "dtype": "number", "shape": [], **options} for key, options in keys.items()
        }
        bundle = self.descriptors[name] = self.bundle.compose_descriptor(name=name, data_keys=data_keys)
        self.documents.append(("descriptor", dict(bundle.descriptor_doc)))
        return bundle

    def resource(self, path: Path, key: str = "det", dataset: str = "/entry/data/data", **options: Any) -> str:
        bundle = self.bundle.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path}",
            data_key=key,
            parameters={"dataset": dataset, "chunk_shape": (1, ROWS, COLUMNS), **options},
        )
        doc = dict(bundle.stream_resource_doc)
        self.resources[doc["uid"]] = bundle
        self.documents.append(("stream_resource", doc))
        return str(doc["uid"])

    def rows(self, resource: str, indices: tuple[int, int], seq_nums: tuple[int, int], stream: str = "primary") -> None:
        number = self.indices[resource] = self.indices.get(resource, -1) + 1
        self.documents.append((
            "stream_datum",
            {
                "stream_resource": resource,
                "uid": f"{resource}/{number}",
                "descriptor": self.descriptors[stream].descriptor_doc["uid"],
                "indices": {"start": indices[0], "stop": indices[1]},
                "seq_nums": {"start": seq_nums[0], "stop": seq_nums[1]},
            },
        ))  # fmt: skip

    def event(self, number: int, stream: str = "primary", times: dict[str, float] | None = None, **data: Any) -> None:
        descriptor = self.descriptors[stream].descriptor_doc["uid"]
        doc = {
            "uid": f"{descriptor}-{len(self.documents)}",
            "time": 1000.0 + number,
            "seq_num": number,
            "data": data,
            "timestamps": dict.fromkeys(data, 1000.0 + number) | (times or {}),
            "filled": {},
            "descriptor": descriptor,
        }
        self.documents.append(("event", doc))

    def stop(self, status: str = "success", reason: str = "", **num_events: int) -> None:
        doc = {
            "uid": f"{self.uid}-stop",
            "time": 2000.0,
            "run_start": self.uid,
            "exit_status": status,
            "reason": reason,
        }
        self.documents.append(("stop", {**doc, "num_events": num_events}))


def step_scan(path: Path, count: int = 4, stop: bool = True, first: int = 0, **start: Any) -> Scan:
    """As ophyd-async has it: where the image is comes before the event with the angle."""
    scan = Scan(**start)
    scan.stream(det={"shape": [1, ROWS, COLUMNS], "dtype": "array", "external": "STREAM:"}, rot={"units": "mm"})
    resource = scan.resource(path)
    for number in range(first, count):
        scan.rows(resource, (number, number + 1), (number + 1, number + 2))
        scan.event(number + 1, rot=10.0 * number)
    if stop:
        scan.stop(primary=count)
    return scan


def collected(documents: Sequence[Document]) -> list[Run]:
    runs: list[Run] = []
    collector = Collector(runs.append)
    for name, doc in documents:
        collector.hear(name, doc)
    return runs


def source_of(run: Run, rules: dict[str, Any] | Mapping, folder: Path, **options: Any) -> RunSource:
    clock = Clock()
    mapping = rules if isinstance(rules, Mapping) else mapping_from_dict({"name": "test", **rules})
    return RunSource(
        run, mapping, Roots([folder]), **{"patience": 20.0, "clock": clock, "sleep": clock.sleep, **options}
    )


def items(run: Run, rules: dict[str, Any] | Mapping, folder: Path, **options: Any) -> list[Frame | Gap]:
    return list(source_of(run, rules, folder, **options).frames())


def shown(found: Sequence[Frame | Gap]) -> list[tuple[Any, ...]]:
    """Kind, index, which image, and degrees; of gaps kind and range."""
    return [
        (item.kind, item.first, item.end)
        if isinstance(item, Gap)
        else (item.kind, item.index, number_of(item), None if item.theta is None else round(np.rad2deg(item.theta), 6))
        for item in found
    ]


def projections(found: Sequence[Frame | Gap]) -> dict[int, tuple[int, float]]:
    """Which image and angle each has in the end."""
    result: dict[int, tuple[int, float]] = {}
    for item in found:
        if isinstance(item, Gap):
            for index in range(item.first, item.end):
                result.pop(index, None)
        elif item.kind is FrameKind.PROJECTION:
            assert item.theta is not None
            assert item.index not in result, "given twice"
            result[item.index] = number_of(item), round(float(np.rad2deg(item.theta)), 6)
    return result


def shuffled(documents: Sequence[Document], seed: int) -> Iterator[Document]:
    """In any order, some of them twice."""
    rng = np.random.default_rng(seed)
    some = [documents[i] for i in rng.choice(len(documents), len(documents) // 3, replace=False)]
    everything = list(itertools.chain(documents, some))
    for i in rng.permutation(len(everything)):
        yield everything[i]
