"""Angles of missed events come from a tiled server, or their frames are named as missing."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky_documents import Run as MakeRun
from bluesky_scans import (
    COLUMNS,
    ROWS,
    STEP,
    Clock,
    Document,
    Scan,
    collected,
    projections,
    source_of,
    step_scan,
    write,
)

from streamrecon.bluesky import attach
from streamrecon.bluesky.attach import Attachment
from streamrecon.bluesky.documents import DocumentQueue
from streamrecon.bluesky.mapping import mapping_from_dict
from streamrecon.bluesky.missed import Kept, Reading
from streamrecon.bluesky.tiled import KEY_VARIABLE, Tiled, tiled_of
from streamrecon.cli import main
from streamrecon.config import AttachConfig, from_dict
from streamrecon.errors import ConfigError, ScanAbortedError, SourceBusyError, SourceError
from streamrecon.scan import Frame, Gap
from streamrecon.transport import SendReport

DET = {"shape": [1, ROWS, COLUMNS], "dtype": "array", "external": "STREAM:"}
EVENTS = {i: (i, 10.0 * i) for i in range(6)}
"""What a step scan of six has."""


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def without(documents: Sequence[Document], *numbers: int, stream: str | None = None) -> list[Document]:
    """Documents of a run but for some events."""
    streams = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    return [
        (name, doc)
        for name, doc in documents
        if not (
            name == "event" and doc["seq_num"] in numbers and (stream is None or streams[doc["descriptor"]] == stream)
        )
    ]


def reasons(found: Sequence[Frame | Gap]) -> dict[int, str]:
    """Why projections are missing."""
    return {index: item.reason for item in found if isinstance(item, Gap) for index in range(item.first, item.end)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Asking elsewhere, whoever is asked.


class Memory:
    """Has what it is told, and counts questions."""

    def __init__(self, *answers: Kept | Exception) -> None:
        self.answers, self.asked = list(answers), list[tuple[str, str, str]]()

    def kept(self, run: str, stream: str, key: str) -> Kept:
        self.asked.append((run, stream, key))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def readings(values: dict[int, float]) -> list[Reading]:
    return [Reading(number, 1000.0 + number, (value,)) for number, value in values.items()]


WHOLE = readings({number: 10.0 * (number - 1) for number in range(1, 7)})


def missed_in_a_step_scan(folder: Path, elsewhere: Any, *numbers: int) -> tuple[Any, Clock]:
    """What comes of a step scan without some of its events."""
    (run,) = collected(without(step_scan(write(folder / "a.h5", 6), 6).documents, *numbers))
    source = source_of(run, STEP, folder, elsewhere=elsewhere)
    clock = source.clock
    assert isinstance(clock, Clock)
    return source, clock


def ending_after(source: Any, seconds: float, stop: dict[str, Any]) -> None:
    """The run goes on until then."""
    clock = source.clock
    end = clock.now + seconds

    def sleep(each: float) -> None:
        clock.now += each
        if clock.now > end and not source.run.over:
            source.run.add("stop", {"exit_status": "success", **stop})

    source.sleep = sleep


def test_nobody_is_asked_when_nothing_is_missing(tmp_path: Path) -> None:
    memory = Memory(SourceError("not to be asked"))
    source, _ = missed_in_a_step_scan(tmp_path, memory)
    assert projections(list(source.frames())) == EVENTS
    assert not memory.asked


def test_nobody_is_asked_while_the_run_goes_on(tmp_path: Path) -> None:
    memory = Memory(Kept(WHOLE, False))
    documents = without(step_scan(write(tmp_path / "a.h5", 6), 6).documents, 2)
    (run,) = collected(documents[:-1])
    frames = source_of(run, STEP, tmp_path, elsewhere=memory).frames()
    found = [next(frames) for _ in range(5)]
    assert not memory.asked
    run.add(*documents[-1])
    found += list(frames)
    assert projections(found) == EVENTS
    assert memory.asked == [(run.uid, "primary", "rot")]
    assert projections(list(source_of(run, STEP, tmp_path, elsewhere=memory).frames())) == EVENTS


def test_a_run_that_is_paused_for_long_is_not_given_up(tmp_path: Path) -> None:
    documents = without(step_scan(write(tmp_path / "a.h5", 6), 6, stop=False).documents, 2)
    (run,) = collected(documents)
    memory = Memory(SourceBusyError("away"), Kept(WHOLE, True))
    source = source_of(run, STEP, tmp_path, elsewhere=memory, patience=2.0)
    ending_after(source, 5.0, {})
    assert projections(list(source.frames())) == EVENTS
    assert len(memory.asked) == 2


def test_all_passes_have_the_same_angles(tmp_path: Path) -> None:
    """A frame that an engine has got is not taken back because the server went away meanwhile."""
    source, _ = missed_in_a_step_scan(tmp_path, Memory(Kept(WHOLE, True), SourceError("gone")), 2, 3)
    for _ in range(3):
        assert projections(list(source.frames())) == EVENTS


def test_it_is_asked_again_while_patience_lasts_and_not_often(tmp_path: Path) -> None:
    memory = Memory(SourceBusyError("away"))
    source, clock = missed_in_a_step_scan(tmp_path, memory, 2, 3)
    began = clock.now
    found = list(source.frames())
    assert projections(found) == {i: each for i, each in EVENTS.items() if i not in (1, 2)}
    assert reasons(found) == dict.fromkeys((1, 2), "the run has ended, and its event with the angle has not come: away")
    assert 2 <= len(memory.asked) <= 8
    assert source.patience <= clock.now - began < 2 * source.patience


@pytest.mark.parametrize("late", ["away", "in part"])
def test_what_it_has_later_is_waited_for(tmp_path: Path, late: str) -> None:
    first = SourceBusyError("away") if late == "away" else Kept(WHOLE[:2], False)
    source, _ = missed_in_a_step_scan(tmp_path, Memory(first, first, Kept(WHOLE, False)), 2, 3)
    assert projections(list(source.frames())) == EVENTS


@pytest.mark.parametrize("answer", [SourceError("refused"), Kept(WHOLE[:2], True), Kept([], True)])
def test_what_it_will_never_have_is_not_waited_for(tmp_path: Path, answer: Any) -> None:
    memory = Memory(answer)
    source, clock = missed_in_a_step_scan(tmp_path, memory, 4)
    began = clock.now
    found = list(source.frames())
    assert projections(found) == {i: each for i, each in EVENTS.items() if i != 3}
    assert "refused" in reasons(found)[3] or "events of primary with rot are kept" in reasons(found)[3]
    assert len(memory.asked) == 1
    assert clock.now - began < source.patience


def test_stopped_while_it_is_asked(tmp_path: Path) -> None:
    source, clock = missed_in_a_step_scan(tmp_path, Memory(SourceBusyError("away")), 2)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        source.stopped.set()

    source.sleep = sleep
    with pytest.raises(ScanAbortedError, match="ended"):
        list(source.frames())


def test_of_two_values_that_of_the_document_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = readings({number: 100.0 + number for number in range(1, 7)})
    source, _ = missed_in_a_step_scan(tmp_path, Memory(Kept(kept, True)), 4)
    with caplog.at_level("INFO"):
        assert projections(list(source.frames())) == {**EVENTS, 3: (3, 104.0)}
    assert "event 1 of primary is kept with rot [101.0], and came with [0.0], which counts" in caplog.text


def test_of_an_event_that_is_kept_twice_the_newer_one_counts(tmp_path: Path) -> None:
    source, _ = missed_in_a_step_scan(tmp_path, Memory(Kept([*readings({4: -1.0}), *WHOLE], True)), 4)
    assert projections(list(source.frames())) == EVENTS


@pytest.mark.parametrize("told", [True, False], ids=["the stop tells how many", "the stop was lost"])
@pytest.mark.parametrize("align", ["absolute", "first_motion"])
@pytest.mark.parametrize("missed", [(), (1,), (3,), (2, 3, 4), (6,), (1, 2, 3, 4, 5, 6)])
def test_positions_of_a_motor_that_is_watched(tmp_path: Path, missed: tuple[int, ...], align: str, told: bool) -> None:
    """Between two that came nothing is made up while those between them may still be had."""
    write(tmp_path / "a.h5", 6, sec=1000.0 + np.arange(6))
    scan = Scan()
    scan.stream(det=DET)
    scan.stream("motor_monitor", motor={"units": "deg"})
    scan.rows(scan.resource(tmp_path / "a.h5"), (0, 6), (1, 7))
    positions = {1: 0.0, 2: 1.0, 3: 4.0, 4: 9.0, 5: 16.0, 6: 25.0}
    for number, position in positions.items():
        scan.event(number, "motor_monitor", {"motor": 999.0 + number}, motor=position)
    (run,) = collected(without(scan.documents, *missed))
    kept = [Reading(number, 999.0 + number, (position,)) for number, position in positions.items()]
    memory = Memory(Kept(kept, True))
    theta = {"from": "monitor", "key": "motor", "times": ["/sec"], "align": align}
    source = source_of(run, {"projection": {"key": "det"}, "theta": theta}, tmp_path, elsewhere=memory)
    ending_after(source, 1.0, {"num_events": {"primary": 6, "motor_monitor": 6}} if told else {})
    found = projections(list(source.frames()))
    assert {i: (n, round(t, 3)) for i, (n, t) in found.items()} == {i: (i, float(i * i)) for i in range(6)}
    assert len(memory.asked) == 1 if missed else not memory.asked


# Servers that are not as they should be.


class Server:
    """Answers by HTTP what it is told to."""

    def __init__(self, answer: Callable[[str], tuple[int, bytes, dict[str, str]]]) -> None:
        self.paths, self.headers = list[str](), list[dict[str, str]]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                self.paths.append(handler.path)
                self.headers.append(dict(handler.headers.items()))
                status, body, headers = answer(handler.path)
                handler.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[str], tuple[int, bytes, dict[str, str]]]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def answering(table: Any, search: Any = None, about: Any = None) -> Callable[[str], tuple[int, bytes, dict[str, str]]]:
    node = {"id": "internal", "attributes": {"structure_family": "table", "structure": {"columns": ["seq_num", "rot"]}}}

    def answer(path: str) -> tuple[int, bytes, dict[str, str]]:
        body = {"data": {"attributes": {"metadata": {"stop": {"uid": "s"}}}}} if about is None else about
        if "/search/" in path:
            body = {"data": [node]} if search is None else search
        elif "/table/" in path:
            body = table
        return 200, body if isinstance(body, bytes) else json.dumps(body).encode(), {}

    return answer


def test_what_is_asked_of_a_server(serving: Callable[..., Server]) -> None:
    server = serving(answering({"seq_num": [1, 2, 3], "rot": [0.5, None, 2]}))
    kept = Tiled(f"{server.url}/lab/api/v1/metadata/beam%20line/raw/", "secret").kept("r-1", "primary", "rot")
    assert [(each.number, each.values) for each in kept.readings] == [(1, (0.5,)), (3, (2.0,))]
    assert kept.complete
    assert server.paths[0] == "/lab/api/v1/metadata/beam%20line/raw/r-1?"
    assert server.paths[2] == "/lab/api/v1/table/full/beam%20line/raw/r-1/primary/internal?column=seq_num&column=rot"
    assert all(each["Authorization"] == "Apikey secret" for each in server.headers)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, SourceError, "refuses the API key"),
        (403, SourceError, "refuses the API key"),
        (302, SourceError, "sends elsewhere"),
        (307, SourceError, "sends elsewhere"),
        (400, SourceError, "answers 400"),
        (404, SourceBusyError, "has no r-1"),
        (429, SourceBusyError, "answers 429"),
        (500, SourceBusyError, "answers 500"),
        (503, SourceBusyError, "answers 503"),
    ],
)
def test_statuses(serving: Callable[..., Server], status: int, kind: type[Exception], words: str) -> None:
    other = serving(answering({}))
    server = serving(lambda path: (status, b"{}", {"Location": other.url}))
    with pytest.raises((SourceError, SourceBusyError), match=words) as caught:
        Tiled(server.url, "secret").kept("r-1", "primary", "rot")
    assert isinstance(caught.value, kind)
    assert "secret" not in str(caught.value)
    assert not other.paths, "the key is given to nobody else"


def test_a_server_that_is_away(tmp_path: Path) -> None:
    source, _ = missed_in_a_step_scan(tmp_path, Tiled(f"http://127.0.0.1:{free_port()}"), 2)
    found = list(source.frames())
    assert projections(found) == {i: each for i, each in EVENTS.items() if i != 1}
    assert "cannot be reached" in reasons(found)[1]


DEEP = b"[" * 100_000
ODD: list[Any] = [
    b"<html>", b"\xff\xfe", DEEP, b"", None, 7, "text", [], {}, {"data": None}, {"data": 7}, {"data": [None, 7, [], {}]},
    {"data": [{"id": ["x"], "attributes": 7}]}, {"data": [{"id": "internal", "attributes": {"structure_family": "container"}}]},
    {"data": [{"id": "internal", "attributes": {"structure": {"columns": [["seq_num"], None, "rot"]}}}]},
    {"seq_num": 7, "rot": 8}, {"seq_num": [1], "rot": []}, {"seq_num": ["a"], "rot": [1]}, {"seq_num": [None], "rot": [1]},
    {"seq_num": [1], "rot": ["east"]}, {"seq_num": [1], "rot": [{}]}, {"seq_num": [1], "rot": [[[1], [1, 2]]]},
    {"seq_num": [1e400], "rot": [1]}, {"seq_num": [1], "rot": [10**400]}, {"seq_num": [-5, 0, 1 << 60], "rot": [1, 1, 1]},
    {"seq_num": [1, 2, 3], "rot": [float("nan"), float("inf"), []]}, {"seq_num": [2], "rot": [1.0], "ts_rot": 7},
]  # fmt: skip


@pytest.mark.parametrize("where", ["table", "search", "about"])
@pytest.mark.parametrize("odd", ODD, ids=lambda each: str(each)[:30])
def test_an_odd_answer_costs_itself(serving: Callable[..., Server], where: str, odd: Any) -> None:
    good = {"seq_num": [1], "rot": [0.5]}
    answers = {"table": good, where: b"null" if odd is None else odd}
    kept = Kept([], False)
    with contextlib.suppress(SourceError, SourceBusyError):
        kept = Tiled(serving(answering(**answers)).url).kept("r-1", "primary", "rot")
    assert all(np.isfinite(each.values).all() and each.number > 0 for each in kept.readings)


def test_an_answer_without_end_is_given_up(serving: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrecon.bluesky.tiled.MOST_BYTES", 1000)
    with pytest.raises(SourceBusyError, match="more than 1000 bytes"):
        Tiled(serving(answering(b" " * 2000)).url).kept("r-1", "primary", "rot")
    monkeypatch.setattr("streamrecon.bluesky.tiled.MOST_SECONDS", -1.0)
    with pytest.raises(SourceBusyError, match="took more than"):
        Tiled(serving(answering({})).url).kept("r-1", "primary", "rot")


def test_a_body_that_breaks_off(serving: Callable[..., Server]) -> None:
    server = serving(lambda path: (200, b"{", {"Content-Length": "100", "Connection": "close"}))
    with pytest.raises((SourceError, SourceBusyError)):
        Tiled(server.url).kept("r-1", "primary", "rot")


# Options.


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("127.0.0.1:8000", "expected http"),
        ("file:///etc/passwd", "expected http"),
        ("http://", "expected http"),
        ("http://[::1", "expected http"),
        ("http://127.0.0.1:port", "expected http"),
        ("http://127.0.0.1:8000?api_key=secret", "no key or password in it"),
        ("http://me:secret@127.0.0.1:8000", "no key or password in it"),
    ],
)
def test_urls_that_are_refused(url: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        tiled_of(AttachConfig(tiled=url))
    assert "secret" not in str(caught.value)
    command = ["attach", "documents+jsonl://-", "--mapping", "step-scan", "--to", "ipc:///nowhere", "--tiled", url]
    assert main(command) == 2
    assert words in capsys.readouterr().err


def test_where_the_key_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serving: Callable[..., Server]) -> None:
    server = serving(answering({}))
    (tmp_path / "key").write_text("from-a-file\n")
    (tmp_path / "bad").write_text("two\nlines")

    def key(**options: Any) -> str | None:
        tiled = tiled_of(AttachConfig(tiled=server.url, **options))
        assert tiled is not None
        with pytest.raises((SourceError, SourceBusyError)):
            tiled.kept("r-1", "primary", "rot")
        return server.headers[-1].get("Authorization")

    assert tiled_of(AttachConfig()) is None
    assert key() is None
    monkeypatch.setenv(KEY_VARIABLE, "from-the-environment")
    assert key() == "Apikey from-the-environment"
    assert key(tiled_key_file=str(tmp_path / "key")) == "Apikey from-a-file"
    for name, words in (("none", "has no API key"), ("bad", "signs")):
        with pytest.raises(ConfigError, match=words):
            key(tiled_key_file=str(tmp_path / name))


# A tiled server as it is, and Bluesky's writer.


@dataclass
class Catalog:
    """A server with runs."""

    url: str
    key: str
    client: Any

    def write(self, documents: Sequence[Document], **options: Any) -> None:
        from bluesky_tiled_plugins import TiledWriter

        writer = TiledWriter(self.client, **options)
        for name, doc in documents:
            writer(name, doc)

    @property
    def tiled(self) -> Tiled:
        return Tiled(self.url, self.key)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    for name in ("tiled", "uvicorn", "duckdb", "bluesky_tiled_plugins"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'streamrecon[tiled]' brings a tiled server")
    from tiled.client import from_uri
    from tiled.server import SimpleTiledServer

    with pytest.MonkeyPatch.context() as patch:  # its own limit of 20 s is short for a busy machine
        patch.setattr("tiled.server.simple._STARTUP_TIMEOUT", 100, raising=False)
        server = SimpleTiledServer(readable_storage=tmp_path_factory.getbasetemp())
    try:
        client = from_uri(server.uri)
        url, _, key = server.uri.partition("?api_key=")
        yield Catalog(url, key, client)
        client.context.close()
    finally:
        server.close()


@pytest.mark.parametrize("batch", [1, 10_000])
def test_missed_events_are_filled_in(tmp_path: Path, catalog: Catalog, batch: int) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 6), 6)
    catalog.write(scan.documents, batch_size=batch)
    (run,) = collected(without(scan.documents, 2, 3, 6))
    assert projections(list(source_of(run, STEP, tmp_path, elsewhere=catalog.tiled).frames())) == EVENTS


def test_a_run_of_the_engine(tmp_path: Path, catalog: Catalog, run: MakeRun) -> None:
    """With a detector of ophyd-async, and what else is in its events."""
    from bluesky_tiled_plugins import TiledWriter

    documents = run(TiledWriter(catalog.client))
    (whole,), (some,) = collected(documents), collected(without(documents, 2, 3))
    rules = {"projection": {"key": "frames"}, "theta": {"from": "event", "key": "rotation", "units": "deg"}}
    expected, found = (
        list(source_of(each, rules, tmp_path, elsewhere=catalog.tiled).frames()) for each in (whole, some)
    )
    assert [(each.index, each.theta) for each in found if isinstance(each, Frame)] == [
        (each.index, each.theta) for each in expected if isinstance(each, Frame)
    ]
    assert len(found) == 3


def test_a_motor_that_is_watched_by_the_engine(tmp_path: Path, catalog: Catalog) -> None:
    times = 1000.0 + np.arange(5)
    write(tmp_path / "a.h5", 5, sec=times)
    scan = Scan()
    scan.stream(det=DET)
    scan.stream("motor_monitor", motor={"units": "deg"})
    scan.rows(scan.resource(tmp_path / "a.h5"), (0, 5), (1, 6))
    for number in range(5):
        scan.event(number + 1, "motor_monitor", {"motor": 1000.0 + number}, motor=float(number**2))
    scan.stop(primary=5, motor_monitor=5)
    catalog.write(scan.documents)
    (run,) = collected(without(scan.documents, 2, 4, 5, stream="motor_monitor"))
    theta = {"from": "monitor", "key": "motor", "times": ["/sec"]}
    source = source_of(run, {"projection": {"key": "det"}, "theta": theta}, tmp_path, elsewhere=catalog.tiled)
    assert projections(list(source.frames())) == {i: (i, float(i * i)) for i in range(5)}


def test_angles_of_many_frames_an_event(tmp_path: Path, catalog: Catalog) -> None:
    """The writer makes them an array of their own."""
    scan = Scan()
    scan.stream(det={**DET, "shape": [20, ROWS, COLUMNS]}, rot={"shape": [20], "dtype": "array"})
    scan.rows(scan.resource(write(tmp_path / "a.h5", 60)), (0, 3), (1, 4))
    for number in range(3):
        scan.event(number + 1, rot=[20.0 * number + part for part in range(20)])
    scan.stop(primary=3)
    catalog.write(scan.documents)
    (run,) = collected(without(scan.documents, 2))
    found = projections(list(source_of(run, STEP, tmp_path, elsewhere=catalog.tiled).frames()))
    assert found == {i: (i, float(i)) for i in range(60)}


def test_events_in_several_tables(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer splits those of many columns."""
    monkeypatch.setattr("bluesky_tiled_plugins.writing.tiled_writer.MAX_TABLE_COLUMNS", 2)
    scan = step_scan(write(tmp_path / "a.h5", 6), 6)
    catalog.write(scan.documents)
    assert len(list(catalog.client[scan.uid, "primary"].base)) > 2
    (run,) = collected(without(scan.documents, 5))
    assert projections(list(source_of(run, STEP, tmp_path, elsewhere=catalog.tiled).frames())) == EVENTS


@pytest.mark.parametrize("layout", ["internal/events", "streams", "below a catalog", "documents"])
def test_other_layouts(tmp_path: Path, catalog: Catalog, layout: str) -> None:
    """Those of earlier writers; what is not known is said to be so."""
    scan = step_scan(write(tmp_path / "a.h5", 6), 6)
    client, tiled = catalog.client, catalog.tiled
    if layout == "below a catalog":
        client = client.create_container("raw") if "raw" not in client else client["raw"]
        tiled = Tiled(f"{catalog.url}/metadata/raw", catalog.key)
    node = client.create_container(scan.uid, metadata={"start": {}, "stop": {"uid": "s"}})
    node = node.create_container("streams") if layout == "streams" else node
    node = node.create_container("primary")
    table = {"seq_num": list(range(1, 7)), "rot": [10.0 * i for i in range(6)], "ts_rot": [1000.0] * 6}
    if layout == "internal/events":
        node.create_container("internal").write_table(table, key="events")
    elif layout == "documents":
        node.create_container("data").write_array(np.arange(6.0), key="rot")
    else:
        node.write_table(table, key="internal")
    (run,) = collected(without(scan.documents, 5))
    source = source_of(run, STEP, tmp_path, elsewhere=tiled)
    found = list(source.frames())
    if layout == "documents":
        assert reasons(found)[4].endswith("as TiledWriter of bluesky-tiled-plugins writes it, but data")
    else:
        assert projections(found) == EVENTS


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("run", "has no "),
        ("stream", "/primary"),
        ("key", "has no rot in the stream primary, but seq_num, time, angle, ts_angle"),
        ("event", "5 events of primary with rot are kept, and this is not among them"),
    ],
)
def test_what_is_not_there(tmp_path: Path, catalog: Catalog, what: str, words: str) -> None:
    """A run may still come; what it has not when it is over will not."""
    whole = step_scan(write(tmp_path / "a.h5", 6), 6).documents
    missed = without(whole, 5)
    written = {
        "run": [],
        "stream": [whole[0], whole[-1]],
        "key": json.loads(json.dumps(whole).replace('"rot"', '"angle"')),
        "event": missed,
    }
    catalog.write(written[what])
    (run,) = collected(missed)
    source = source_of(run, STEP, tmp_path, elsewhere=catalog.tiled)
    clock: Any = source.clock
    began = clock.now
    found = list(source.frames())
    assert projections(found) == {i: each for i, each in EVENTS.items() if i != 4}
    assert words in reasons(found)[4]
    assert (clock.now - began >= source.patience) == (what == "run")


@pytest.mark.parametrize(("key", "words"), [("wrong", "refuses the API key"), (None, "wants an API key")])
def test_a_key_that_is_refused(tmp_path: Path, catalog: Catalog, key: str | None, words: str) -> None:
    scan = step_scan(write(tmp_path / "a.h5", 6), 6)
    catalog.write(scan.documents)
    (run,) = collected(without(scan.documents, 5))
    source = source_of(run, STEP, tmp_path, elsewhere=Tiled(catalog.url, key))
    clock: Any = source.clock
    began = clock.now
    assert words in reasons(list(source.frames()))[4]
    assert clock.now - began < source.patience


def test_a_server_that_lags(tmp_path: Path, catalog: Catalog) -> None:
    from bluesky_tiled_plugins import TiledWriter

    scan = step_scan(write(tmp_path / "a.h5", 6), 6)
    writer, rest = TiledWriter(catalog.client, batch_size=1), list(scan.documents)
    (run,) = collected(without(scan.documents, 1, 3, 6))
    source = source_of(run, STEP, tmp_path, elsewhere=catalog.tiled)
    clock: Any = source.clock

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if rest and clock.now > 1000.5 + 0.5 * (len(scan.documents) - len(rest)):
            writer(*rest.pop(0))

    source.sleep = sleep
    assert projections(list(source.frames())) == EVENTS


def test_what_came_by_document_counts(tmp_path: Path, catalog: Catalog) -> None:
    scan, other = step_scan(write(tmp_path / "a.h5", 6), 6), step_scan(tmp_path / "a.h5", 6, scan_id=8)
    for name, doc in other.documents:
        if name == "event":
            doc["data"]["rot"] += 0.25
    catalog.write(json.loads(json.dumps(other.documents).replace(other.uid, scan.uid)))
    (run,) = collected(without(scan.documents, 2))
    source = source_of(run, STEP, tmp_path, elsewhere=catalog.tiled)
    assert projections(list(source.frames())) == {**EVENTS, 1: (1, 10.25)}


def test_attached(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the options to the frames."""
    sent: list[Frame | Gap] = []

    def send(info: Any, frames: Callable[[slice], Iterator[Frame | Gap]], endpoint: str, **_: Any) -> SendReport:
        sent.extend(frames(slice(0, info.geometry.rows)))
        return SendReport(len(sent), 0, 0.1, 0.0, ())

    monkeypatch.setattr(attach, "send_scan", send)
    monkeypatch.setenv(KEY_VARIABLE, catalog.key)
    scan = step_scan(write(tmp_path / "a.h5", 6), 6)
    catalog.write(scan.documents)
    config = from_dict({"source": {"roots": [str(tmp_path)]}, "attach": {"tiled": catalog.url}})
    queue = DocumentQueue()
    for document in without(scan.documents, 2, 3):
        queue(*document)
    queue.close()
    Attachment(queue, "ipc:///nowhere", [mapping_from_dict({"name": "m", **STEP})], config).run()
    assert projections(sent) == EVENTS
