"""Documents of real runs, over the real proxy, through pipes and from a RunEngine in this process: all of them, in order."""

from __future__ import annotations

import contextlib
import copy
import enum
import itertools
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack_numpy
import numpy as np
import pytest
import zmq
import zmq.auth
from bluesky.callbacks.json_writer import JSONLinesWriter
from bluesky.callbacks.zmq import ClientCurve, Publisher
from bluesky_documents import Run, same
from bluesky_hostile import HOSTILE
from bluesky_proxy import running_proxy
from event_model import DocumentNames
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrecon.bluesky.account import document_names
from streamrecon.bluesky.documents import DocumentQueue, Documents, JsonlDocuments, ZmqDocuments, open_documents
from streamrecon.bluesky.queue import RESERVE
from streamrecon.errors import ConfigError, EndpointError
from streamrecon.transport import Subscriber, read_curve_keys

All = list[tuple[str, dict[str, Any]]]
START = {"uid": "a", "time": 1.0}


def as_json(value: Any) -> Any:
    """What JSON makes of NumPy's arrays and scalars."""
    return value.tolist()


SERIALIZERS: dict[str, Callable[[Any], bytes]] = {
    "pickle": pickle.dumps,
    **{f"pickle {protocol}": (lambda doc, protocol=protocol: pickle.dumps(doc, protocol)) for protocol in (2, 3, 4, 5)},
    "msgpack": msgpack_numpy.packb,
    "json": lambda doc: json.dumps(doc, default=as_json).encode(),
}


def plainly(value: Any) -> Any:
    """What a document says, in plain types: the oracle."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {key: plainly(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plainly, value))
    return value


def taken(documents: Documents, count: int) -> All:
    """So many documents, which must come."""
    got: All = []
    for _ in range(count):
        document = documents.take(30)
        assert document is not None, (len(got), documents.last_error)
        got.append(document)
    return got


@contextlib.contextmanager
def opened(url: str, **options: Any) -> Iterator[Documents]:
    documents = open_documents(url, **options)
    try:
        yield documents
    finally:
        documents.close()


def connected(publisher: Callable[[str, dict[str, Any]], Any], documents: Documents) -> None:
    """Wait until what is published is heard, which nobody tells."""
    number, heard = 0, None
    while heard is None:
        number += 1
        publisher("start", {"probe": number})
        heard = documents.take(0.05)
    while heard is not None and heard[1]["probe"] != number:
        heard = documents.take(30)
    assert heard is not None


@pytest.fixture(scope="module")
def proxy() -> Iterator[tuple[str, str]]:
    with running_proxy() as addresses:
        yield addresses


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_a_run_comes_through_the_proxy(serializer: str, proxy: tuple[str, str], run: Run) -> None:
    write = SERIALIZERS[serializer]
    publisher = Publisher(proxy[0], serializer=write)
    try:
        with opened(proxy[1].replace("tcp", "bluesky+zmq")) as documents:
            connected(publisher, documents)
            before = documents.received
            sent = run(publisher)
            got = taken(documents, len(sent))
            assert documents.received - before == len(sent)
            assert (documents.malformed, documents.ignored, documents.ended) == (0, 0, False)
    finally:
        publisher.close()
    assert {name for name, _ in sent} >= {"start", "descriptor", "event", "stream_resource", "stream_datum", "stop"}
    for (name, doc), (ours, got_doc) in zip(sent, got, strict=True):
        assert ours == name
        if "pickle" in serializer:
            assert same(got_doc, plainly(doc))
        else:  # have no tuples, and no scalars of NumPy but those that are not Python's
            assert json.dumps(got_doc, default=as_json) == json.dumps(plainly(doc), default=as_json)


def test_only_the_publisher_that_is_wanted_is_heard(proxy: tuple[str, str]) -> None:
    ours, theirs = Publisher(proxy[0], prefix=b"raw"), Publisher(proxy[0], prefix=b"fit")
    url = proxy[1].replace("tcp", "bluesky+zmq")
    try:
        with opened(url, prefix="raw") as raw, opened(url, prefix="fit") as fit, opened(url) as everything:
            connected(ours, raw)
            connected(theirs, fit)
            connected(theirs, everything)
            for uid in ("a", "b"):
                theirs("start", {"uid": f"their {uid}"})
                ours("start", {"uid": f"our {uid}"})
            assert taken(raw, 2) == [("start", {"uid": "our a"}), ("start", {"uid": "our b"})]
            expected, heard = {"our a", "our b", "their a", "their b"}, set()
            while heard != expected:
                heard |= {doc["uid"] for _, doc in taken(everything, 1) if "uid" in doc}
    finally:
        ours.close()
        theirs.close()


def test_hostile_documents_leave_the_run_alive(proxy: tuple[str, str]) -> None:
    names = [name for name in HOSTILE if len(HOSTILE[name]) < 20_000 and "2^60" not in name]
    good = pickle.dumps(START)
    with opened(proxy[1].replace("tcp", "bluesky+zmq")) as documents, zmq.Context.instance().socket(zmq.PUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(proxy[0])
        connected(lambda name, doc: socket.send(b" start " + pickle.dumps(doc)), documents)
        for name in names:
            socket.send(b" event " + HOSTILE[name])
        socket.send(b" no-such-name " + good)
        socket.send(b" event " + pickle.dumps([1]))
        socket.send(b" event " + pickle.dumps({1: 2}))
        socket.send(b"nonsense")
        socket.send(b" stop " + good)
        assert taken(documents, 1) == [("stop", START)]
        assert documents.malformed == len(names) + 3
        assert documents.ignored == 1
        assert documents.last_error


def test_a_flood_of_what_is_malformed_does_not_hold_up_who_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subscriber, "messages", lambda _: itertools.repeat(("event", b"\xc1")))
    with opened("bluesky+zmq://127.0.0.1:1") as documents:
        assert documents.take(0.01) is None
        assert documents.malformed > 0


def test_a_proxy_with_keys(tmp_path: Path) -> None:
    server, server_secret = zmq.auth.create_certificates(tmp_path, "server")
    public, secret = zmq.auth.create_certificates(tmp_path, "ours")
    _, other_secret = zmq.auth.create_certificates(tmp_path, "other")
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "ours.key").write_bytes(Path(public).read_bytes())
    options = ("--out-curve-secret", str(server_secret), "--out-curve-client-keys", str(allowed))
    with running_proxy(*options) as (into, out_of):
        url = out_of.replace("tcp", "bluesky+zmq")
        publisher = Publisher(into)
        try:
            with (
                opened(url, curve=read_curve_keys(secret, server), trust_pickle=True) as documents,
                opened(url, curve=read_curve_keys(other_secret, server)) as refused,
                opened(url) as without,
            ):
                connected(publisher, documents)
                publisher("start", START)
                assert taken(documents, 1) == [("start", START)]
                for other in (refused, without):
                    while other.last_error is None:
                        assert other.take(0.1) is None
                    assert "CURVE" in other.last_error
        finally:
            publisher.close()


def test_a_publisher_with_keys(tmp_path: Path) -> None:
    """Documents come also where the proxy asks the publishers for keys."""
    server, server_secret = zmq.auth.create_certificates(tmp_path, "server")
    _, secret = zmq.auth.create_certificates(tmp_path, "publisher")
    with running_proxy("--in-curve-secret", str(server_secret)) as (into, out_of):
        publisher = Publisher(into, curve_config=ClientCurve(Path(secret), Path(server)))
        try:
            with opened(out_of.replace("tcp", "bluesky+zmq")) as documents:
                connected(publisher, documents)
        finally:
            publisher.close()


def test_pickles_are_trusted_only_where_nobody_else_can_send(tmp_path: Path) -> None:
    server, _ = zmq.auth.create_certificates(tmp_path, "server")
    _, secret = zmq.auth.create_certificates(tmp_path, "ours")
    for far in ("bluesky+zmq://10.0.0.1:5578", "bluesky+zmq://beamline.example.org:5578"):
        with pytest.raises(ConfigError, match="CURVE"):
            open_documents(far, trust_pickle=True)
        open_documents(far).close()
        open_documents(far, trust_pickle=True, curve=read_curve_keys(secret, server)).close()
    for near in (
        "bluesky+zmq://127.0.0.1:5578",
        "bluesky+zmq://localhost:5578/",
        "bluesky+zmq://[::1]:5578",
        f"bluesky+ipc://{tmp_path}/s",
    ):
        open_documents(near, trust_pickle=True).close()


@pytest.mark.parametrize(
    "url", ["", "-", "tcp://127.0.0.1:1", "bluesky+zmq://", "documents+jsonl://", "bluesky+zmq:127.0.0.1:1"]
)
def test_an_unknown_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"documents\+jsonl"):
        open_documents(url)


def test_options_that_are_not_for_the_url_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EndpointError):
        open_documents("bluesky+zmq://127.0.0.1")
    with pytest.raises(ConfigError, match="prefix"):
        open_documents("documents+jsonl://-", prefix="raw")
    with pytest.raises(ConfigError, match="trusted"):
        open_documents("documents+jsonl://-", trust_pickle=True)
    with pytest.raises(ConfigError, match="No such file"):
        open_documents(f"documents+jsonl://{tmp_path}/none")


# Lines of JSON.


def all_of(documents: Documents) -> All:
    """All documents of a file."""
    got = []
    while not documents.ended:
        if (document := documents.take(30)) is not None:
            got.append(document)
    return got


def test_the_files_that_bluesky_writes_are_read(tmp_path: Path) -> None:
    """Its writer writes what JSON can: no enumerations or arrays."""
    sent: All = [
        ("start", START),
        ("descriptor", {"data_keys": {}}),
        ("event", {"data": {"x": float("nan")}}),
        ("stop", {}),
    ]
    writer = JSONLinesWriter(str(tmp_path), "run.jsonl")
    for name, doc in sent:
        writer(name, doc)
    with opened(f"documents+jsonl://{tmp_path}/run.jsonl") as documents:
        assert str(all_of(documents)) == str(sent)
        assert (documents.received, documents.malformed, documents.ignored) == (4, 0, 0)


def test_bad_lines_leave_the_run_alive(tmp_path: Path) -> None:
    bad = [
        b"[",
        b"nonsense",
        b'["start"]',
        b'["start", []]',
        b"{}",
        b'"start"',
        b"[" * 10_000,
        b"\xff",
        b'["start", {"a": 1, "a": 2}]',
    ]
    bad += [b"x" * 3000, b'["start", {"a": ' + b"9" * 2000 + b"}]"]
    ignored = [b'["begin", {}]', b'[{}, {"a": 1}]']
    good = b'["start", {"uid": "a"}]'
    (tmp_path / "lines").write_bytes(b"\n".join([good, b"", b"  ", *bad, *ignored, good + b"\r", good]))
    with opened(f"documents+jsonl://{tmp_path}/lines", max_bytes=2500) as documents:
        assert all_of(documents) == [("start", {"uid": "a"})] * 3
        assert documents.malformed == len(bad)
        assert documents.ignored == len(ignored)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_lines_come_out_whole_however_they_are_written(data: st.DataObject) -> None:
    docs: All = [("event", {"seq_num": number, "data": "x" * data.draw(st.integers(0, 30))}) for number in range(8)]
    stream = "\n".join(json.dumps(doc) for doc in docs).encode() + data.draw(st.sampled_from([b"", b"\n", b"\n\n"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reading, writing = os.pipe()
    documents = JsonlDocuments(Path(f"/proc/self/fd/{reading}"))
    got: All = []
    try:
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            os.write(writing, stream[begin:end])
            while (document := documents.take(0)) is not None:
                got.append(document)
        os.close(writing)
        got += all_of(documents)
    finally:
        os.close(reading)
        documents.close()
    assert got == docs


def test_a_pipe_is_read_as_it_is_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with opened(f"documents+jsonl://{tmp_path}/pipe") as documents:
        assert documents.take(0) is None
        assert not documents.ended, "nobody has written yet"
        with (tmp_path / "pipe").open("w", buffering=1) as pipe:
            print(json.dumps(["start", START]), file=pipe)
            assert taken(documents, 1) == [("start", START)]
            assert documents.take(0) is None
            assert not documents.ended
            pipe.write('["stop"')
            pipe.flush()
            assert documents.take(0) is None
            pipe.write(", {}]")
        assert taken(documents, 1) == [("stop", {})]
        assert documents.take(0) is None
        assert documents.ended


def test_the_standard_input_is_a_pipe() -> None:
    code = (
        "from streamrecon.bluesky.documents import open_documents\n"
        "documents = open_documents('documents+jsonl://-')\n"
        "while not documents.ended:\n"
        "    document = documents.take(1)\n"
        "    if document: print(document, flush=True)\n"
        "documents.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(["start", START]), file=process.stdin, flush=True)
        assert process.stdout.readline().strip() == str(("start", START))
        process.stdin.close()
        assert process.wait(30) == 0


def test_who_writes_waits_for_who_reads(tmp_path: Path) -> None:
    """What is not taken stays in the pipe: no memory fills."""
    os.mkfifo(tmp_path / "pipe")
    line = json.dumps(["event", {"data": "x" * 1000}]).encode() + b"\n"
    with opened(f"documents+jsonl://{tmp_path}/pipe") as documents:
        writing = os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK)
        lines = 0
        with contextlib.suppress(BlockingIOError):
            while lines < 10_000:
                lines += os.write(writing, line) // len(line)
                if lines < 3:
                    assert documents.take(0)
        os.close(writing)
        assert lines < 10_000
        assert len(all_of(documents)) >= lines - 2


# A RunEngine in this process.


def test_a_queue_takes_all_documents_of_a_run(run: Run) -> None:
    queue = DocumentQueue()
    sent = run(queue)
    got = taken(queue, len(sent))
    assert [name for name, _ in got] == [name for name, _ in sent]
    assert all(same(ours, plainly(theirs)) for (_, ours), (_, theirs) in zip(got, sent, strict=True))
    assert (queue.received, queue.dropped, queue.malformed, queue.take(0)) == (len(sent), 0, 0, None)


def test_a_queue_gives_what_was_put_however_it_is_changed_later() -> None:
    queue = DocumentQueue()
    document = {"data": {"list": [1], "array": np.zeros(3)}}
    expected = copy.deepcopy(document)
    queue("event", document)
    document["data"]["list"].append(2)  # type: ignore[attr-defined]
    document["data"]["array"][:] = 7  # type: ignore[index]
    assert same(taken(queue, 1)[0][1], expected)


def test_a_queue_that_nobody_empties_drops_and_tells_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    queue = DocumentQueue(limit=10)
    queue("start", START)
    for number in range(50):
        queue("event", {"seq_num": number})
    queue("stop", {})
    assert queue.dropped == 41
    assert len(caplog.records) == 1
    got = taken(queue, 11)
    assert [name for name, _ in got] == ["start"] + ["event"] * 9 + ["stop"], "the stop is kept all the same"
    for _ in range(RESERVE + 100):
        queue("start", START)
    assert queue.dropped == 41 + 90


class Angry:
    """Raises whatever is done with it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class AngryDict(dict[str, Any]):
    """Raises when it is read."""

    def items(self) -> Any:
        raise RuntimeError


@pytest.mark.parametrize(
    "arguments",
    [
        ("start", None),
        ("start", [1]),
        ("start", {"a": Angry()}),
        ("start", AngryDict(a=1)),
        ("start", {("a",): 1}),
        ("start", {1: 1}),
        ("start", {"a": "\ud800"}),
        (None, {}),
        ([], {}),
        ("begin", {}),
    ],
    ids=range(10),
)
def test_a_queue_never_raises(arguments: tuple[Any, Any]) -> None:
    queue = DocumentQueue()
    queue(*arguments)
    endless: dict[str, Any] = {}
    endless["a"] = endless
    queue("start", endless)
    queue("stop", {})
    got = queue.take(0), queue.take(0)
    assert ("stop", {}) in got
    assert queue.malformed >= 1
    assert queue.malformed + queue.ignored + queue.received == 3


def test_what_json_has_not_is_text_in_a_queue() -> None:
    queue = DocumentQueue()
    queue("start", {"path": Path("a"), "objects": np.array([None]), "set": {1}, "name": np.str_("x")})
    ((_, document),) = taken(queue, 1)
    assert same(
        document, {"path": document["path"], "objects": "numpy.ndarray of object", "set": {1}, "name": np.str_("x")}
    )
    assert isinstance(document["path"], str)


def test_many_threads_put_and_one_takes() -> None:
    queue = DocumentQueue()
    threads = [
        threading.Thread(target=lambda t=t: [queue("event", {"thread": t, "seq_num": i}) for i in range(500)])
        for t in range(4)
    ]
    for thread in threads:
        thread.start()
    got = [doc for _, doc in taken(queue, 2000)]
    for thread in threads:
        thread.join()
    assert all([doc["seq_num"] for doc in got if doc["thread"] == t] == list(range(500)) for t in range(4))


def test_a_closed_queue_wakes_who_waits_and_takes_no_more() -> None:
    queue = DocumentQueue()
    queue("start", START)
    timer = threading.Timer(0.05, queue.close)
    timer.start()
    assert taken(queue, 1)
    begin = time.monotonic()
    assert queue.take(60) is None
    assert time.monotonic() - begin < 30
    timer.join()
    queue("stop", {})
    assert queue.ended
    assert queue.take(0) is None


def test_the_names_are_those_of_the_event_model() -> None:
    assert document_names() == {kind.name for kind in DocumentNames} >= {"start", "event_page", "stream_datum"}


def test_importing_does_not_load_the_event_model() -> None:
    code = (
        "import sys, streamrecon.bluesky.documents; assert not {'event_model', 'bluesky', 'ophyd'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_kinds_are_documents() -> None:
    kinds: list[Documents] = [DocumentQueue(), JsonlDocuments(Path(os.devnull)), ZmqDocuments("tcp://127.0.0.1:1")]
    for documents in kinds:
        assert documents.take(0) is None
        assert (documents.received, documents.malformed, documents.ignored, documents.last_error) == (0, 0, 0, None)
        documents.close()
