"""Where may be listened, and that nobody's endpoint or file is taken."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest
import zmq
from transport_engine import Source, raw, scan

from streamrecon.errors import EndpointError
from streamrecon.transport import Publisher, Receiver, check_bind, private_ipc, send_scan
from streamrecon.transport.endpoint import bind, lane_endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:*",
        "tcp://127.0.0.1:5555",
        "tcp://127.8.9.10:5555",
        "tcp://localhost:5555",
        "tcp://[::1]:5555",
        "tcp://127.0.0.1:0",
    ],
)
def test_loopback_is_allowed(endpoint: str) -> None:
    check_bind(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://0.0.0.0:5555",
        "tcp://*:5555",
        "tcp://*:*",
        "tcp://[::]:5555",
        "tcp://192.168.1.7:5555",
        "tcp://10.0.0.1:5555",
        "tcp://8.8.8.8:5555",
        "tcp://[2001:db8::1]:5555",
        "tcp://eth0:5555",
        "tcp://enp3s0:*",
        "tcp://example.org:5555",
        "tcp://localhost.example.org:5555",
        "tcp://127.0.0.1.example.org:5555",
        "tcp://127.1:5555",
        "tcp://2130706433:5555",
        "tcp://0x7f000001:5555",
        "tcp://LOCALHOST.:5555",
        "tcp://[fe80::1%eth0]:5555",
    ],
)
def test_what_others_can_reach_is_refused_unless_insecure(endpoint: str) -> None:
    with pytest.raises(EndpointError, match="insecure"):
        check_bind(endpoint)
    check_bind(endpoint, insecure=True)


@pytest.mark.parametrize(
    "endpoint",
    [
        "", "tcp", "tcp:", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://127.0.0.1:x", "tcp://127.0.0.1:99999",
        "tcp://127.0.0.1:-1", "tcp://:5555", "tcp://127.0.0.1:5555/", "tcp://127.0.0.1:5555 ", "tcp://127.0.0.1:5555\n",
        "tcp://127.0.0.1:5555:6", "tcp://::1:5555", "127.0.0.1:5555", "http://127.0.0.1:80",
        "udp://127.0.0.1:5555", "inproc://x", "pgm://127.0.0.1:5555", "ipc://", "ipc:", "TCP://127.0.0.1:5555", " tcp://127.0.0.1:1",
        "tcp://127.0.0.1:+5",
    ],
)  # fmt: skip
@pytest.mark.parametrize("insecure", [False, True])
def test_malformed(endpoint: str, insecure: bool) -> None:
    with pytest.raises(EndpointError, match="endpoint"):
        check_bind(endpoint, insecure)


@pytest.mark.parametrize("port", ["١٢٣٤", "５５５５", "²"])
def test_digits_are_ascii(port: str) -> None:
    with pytest.raises(EndpointError):
        Receiver(f"tcp://127.0.0.1:{port}", 1000).close()


def test_ipc_in_a_private_folder(folder: Path) -> None:
    check_bind(f"ipc://{folder / 'x'}")


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o770, 0o755, 0o750, 0o711, 0o701, 0o710, 0o702, 0o720])
def test_ipc_in_a_folder_of_others(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    try:
        with pytest.raises(EndpointError, match="insecure"):
            check_bind(f"ipc://{folder / 'x'}")
        check_bind(f"ipc://{folder / 'x'}", insecure=True)
    finally:
        folder.chmod(0o700)


def test_ipc_in_tmp() -> None:
    if not Path("/tmp").stat().st_mode & stat.S_IWOTH:
        pytest.skip("/tmp is private here")
    for endpoint in ("ipc:///tmp/x", "ipc:///tmp/../tmp/x", "ipc:////tmp//x"):
        with pytest.raises(EndpointError, match="insecure"):
            check_bind(endpoint)


def test_ipc_behind_a_link(folder: Path) -> None:
    (folder / "link").symlink_to("/tmp")
    if Path("/tmp").stat().st_mode & stat.S_IWOTH:
        with pytest.raises(EndpointError, match="insecure"):
            check_bind(f"ipc://{folder / 'link' / 'x'}")


def test_ipc_abstract() -> None:
    with pytest.raises(EndpointError):
        check_bind("ipc://@name")
    check_bind("ipc://@name", insecure=True)


def test_ipc_wildcard_is_no_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libzmq would choose a path of its own, which the check did not see."""
    monkeypatch.chdir(folder)
    try:
        receiver = Receiver("ipc://*", 1000)
    except EndpointError:
        return
    path = Path(receiver.endpoint.removeprefix("ipc://"))
    mode = path.parent.stat().st_mode
    receiver.close()
    assert not mode & (stat.S_IXGRP | stat.S_IXOTH | stat.S_IWGRP | stat.S_IWOTH)


def test_ipc_path_too_long_or_without_folder(folder: Path) -> None:
    with pytest.raises(EndpointError, match="longer"):
        check_bind(f"ipc://{folder}/{'x' * 120}")
    with pytest.raises(EndpointError, match="longer"):
        check_bind(f"ipc://{folder}/{'é' * 60}", insecure=True)
    for insecure in (False, True):
        with pytest.raises(EndpointError, match="does not exist"):
            check_bind(f"ipc://{folder}/none/x", insecure)
    room = 107 - len(str(folder).encode()) - 1
    Receiver(f"ipc://{folder}/{'x' * room}", 1000).close()
    with pytest.raises(EndpointError):
        Receiver(f"ipc://{folder}/{'x' * (room + 1)}", 1000)


@pytest.mark.parametrize(
    "endpoint", ["ipc:///\0", "ipc:///root\0/x/y", "ipc:///\udcff/x", "tcp://127.0.0.1\0:1", "ipc://" + "x/" * 3000]
)
def test_strange_characters_are_endpoint_errors(endpoint: str) -> None:
    with pytest.raises(EndpointError):
        Receiver(endpoint, 1000).close()


def test_a_private_endpoint_is_private_and_new() -> None:
    one, two = private_ipc(), private_ipc()
    try:
        assert one != two
        for endpoint in (one, two):
            check_bind(endpoint)
            receiver = Receiver(endpoint, 1000)
            assert receiver.endpoint == endpoint
            receiver.close()
    finally:
        for endpoint in (one, two):
            path = Path(endpoint.removeprefix("ipc://"))
            path.unlink(missing_ok=True)
            path.parent.rmdir()


def test_a_port_in_use() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(EndpointError, match="in use"):
            Receiver(endpoint, 1000)
        with pytest.raises(EndpointError, match="in use"):
            Publisher(endpoint)
    first = Receiver("tcp://127.0.0.1:*", 1000)
    assert not first.endpoint.endswith("*")
    with pytest.raises(EndpointError, match="in use"):
        Receiver(first.endpoint, 1000)
    first.close()


def test_an_ipc_path_in_use(ipc: str) -> None:
    """libzmq removes what lies at the path; a second engine would silently take the first one's place."""
    first = Receiver(ipc, 1000)
    try:
        with pytest.raises(EndpointError, match="in use"):
            Receiver(ipc, 1000).close()
    finally:
        first.close()


def test_an_ipc_path_of_a_dead_engine_is_taken_over(folder: Path) -> None:
    left = folder / "left"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    assert left.exists()
    Receiver(f"ipc://{left}", 1000).close()


def test_a_file_is_not_removed_by_listening_at_it(folder: Path) -> None:
    precious = folder / "volume.h5"
    precious.write_text("precious")
    with pytest.raises(EndpointError):
        Receiver(f"ipc://{precious}", 1000).close()
    assert precious.read_text() == "precious"


def test_a_refused_socket_is_closed_and_bind_says_where(ipc: str) -> None:
    each = raw(zmq.ROUTER)
    try:
        with pytest.raises(EndpointError):
            bind(each, "tcp://0.0.0.0:*", insecure=False)
        assert bind(each, ipc, insecure=False) == ipc
    finally:
        each.close()


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "nonsense",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:x",
        "ipc://" + "x" * 200,
        "foo://x",
        "tcp://127.0.0.1:99999",
    ],
)
def test_connecting_to_nonsense(endpoint: str) -> None:
    source = Source(scan())
    with pytest.raises(EndpointError, match=r"is not ipc://PATH|cannot connect"):
        send_scan(source.info, source, endpoint, connect_timeout=0.2)
    assert source.read == 0


# One endpoint for each rank.

HERE, FAR = ["a", "a", "a"], ["a", "a", "b"]


@pytest.mark.parametrize(
    ("listen", "rank", "hosts", "insecure", "expected"),
    [
        (None, 2, FAR, False, (None, "")),
        ("tcp://127.0.0.1:5000", 0, HERE, False, ("tcp://127.0.0.1:5000", "")),
        ("tcp://127.0.0.1:5000", 2, HERE, False, ("tcp://127.0.0.1:5002", "")),
        ("tcp://127.0.0.1:*", 2, HERE, False, ("tcp://127.0.0.1:*", "")),
        ("tcp://[::1]:5000", 1, HERE, False, ("tcp://[::1]:5001", "")),
        ("tcp://*:5000", 0, FAR, True, ("tcp://*:5000", "tcp://a:*")),
        ("tcp://*:5000", 1, FAR, True, ("tcp://*:5001", "tcp://a:*")),
        ("tcp://*:5000", 2, FAR, True, ("tcp://*:5002", "tcp://b:*")),
        ("tcp://10.0.0.1:5000", 1, FAR, True, ("tcp://10.0.0.1:5001", "")),
        ("tcp://10.0.0.1:5000", 2, FAR, True, ("tcp://*:5002", "tcp://b:*")),
        ("tcp://10.0.0.1:*", 2, FAR, True, ("tcp://*:*", "tcp://b:*")),
    ],
)
def test_a_rank_listens_beside_rank_0_where_a_sender_can_find_it(
    listen: str | None, rank: int, hosts: list[str], insecure: bool, expected: tuple[str | None, str]
) -> None:
    assert lane_endpoint(listen, rank, hosts, insecure) == expected


def test_ranks_of_one_machine_have_sockets_beside_each_other(ipc: str) -> None:
    assert [lane_endpoint(ipc, rank, HERE, False) for rank in (0, 1, 2)] == [
        (ipc, ""), (f"{ipc}.1", ""), (f"{ipc}.2", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:5000", "tcp://localhost:*", "tcp://[::1]:5000", "ipc:///tmp/x"])
@pytest.mark.parametrize("insecure", [False, True])
def test_an_endpoint_of_one_machine_is_none_for_ranks_elsewhere(listen: str, insecure: bool) -> None:
    with pytest.raises(EndpointError, match="rank 2 is on b, rank 0 on a"):
        lane_endpoint(listen, 2, FAR, insecure)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("listen", ["tcp://*:5000", "tcp://10.0.0.1:5000"])
def test_what_others_can_reach_is_refused_of_every_rank(listen: str, rank: int) -> None:
    with pytest.raises(EndpointError, match="insecure"):
        lane_endpoint(listen, rank, FAR, insecure=False)


def test_a_port_beyond_the_last_one_is_refused() -> None:
    """Rank 0 can listen on it, rank 1 not on the next one."""
    assert lane_endpoint("tcp://127.0.0.1:65535", 0, HERE, False) == ("tcp://127.0.0.1:65535", "")
    with pytest.raises(EndpointError, match="rank 1 would listen on port 65536"):
        lane_endpoint("tcp://127.0.0.1:65535", 1, HERE, False)


@pytest.mark.parametrize("rank", [0, 1])
def test_malformed_endpoints_of_ranks(rank: int) -> None:
    with pytest.raises(EndpointError, match="is not ipc"):
        lane_endpoint("nonsense", rank, HERE, False)
