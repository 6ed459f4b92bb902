"""The command line: exit codes, one clear line for bad input, and what a program can read from standard output."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from streamrecon.cli import main
from streamrecon.version import __version__

SMALL = """
[simulated]
rows = 6
columns = 64
projections = 60
flats = 4
darks = 4
phantom = "disc"
"""


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """`main` installs a handler of its own."""
    before = signal.getsignal(signal.SIGTERM)
    handlers = logging.root.handlers[:]
    yield
    signal.signal(signal.SIGTERM, before)
    logging.root.handlers[:] = handlers


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def scan_file(tmp_path: Path) -> Path:
    """A small scan in Data Exchange."""
    path = tmp_path / "scan.h5"
    theta = np.linspace(0, 180, 40, endpoint=False)
    u = np.arange(32) - 16.2
    rows = np.exp(-np.sqrt(np.clip(100 - u**2, 0, None)) / 20)
    with h5py.File(path, "w") as file:
        file["exchange/data"] = np.tile((100 + 1000 * rows).astype(np.uint16), (40, 3, 1))
        file["exchange/data_white"] = np.full((2, 3, 32), 1100, np.uint16)
        file["exchange/data_dark"] = np.full((2, 3, 32), 100, np.uint16)
        file["exchange/theta"] = theta
    return path


def test_the_corrections_are_options(scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, mask = tmp_path / "out", tmp_path / "mask.npy"
    bad = np.zeros((3, 32), bool)
    bad[1, 4] = True
    np.save(mask, bad)
    corrections = ["--rings", "7", "--air", "2,3", "--bad-pixels", str(mask)]
    assert main(["run", str(scan_file), "--out", str(out), "--quiet", *corrections]) == 0
    with h5py.File(out / "volume.h5", "r", locking=False) as file:
        parameters = file["entry/reconstruction/parameters"]
        assert parameters["rings"][()] == 7
        assert list(parameters["air"]) == [2, 3]
        assert parameters["bad_pixels"][()].decode() == str(mask)
        assert parameters["dead_pixels"][()] == 1
        assert not parameters["offset_axis"][()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--air", "0,0"], "expected columns of air"),
        (["--air", "30,3"], "the detector has 32"),
        (["--rings", "1"], "normalize.rings is 1"),
        (["--bad-pixels", "nowhere.npy"], "there is no file nowhere.npy"),
    ],
)
@pytest.mark.parametrize("command", ["run", "inspect"])
def test_corrections_that_cannot_be_made_are_refused(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, options: list[str], words: str
) -> None:
    assert main([command, str(scan_file), "--out", str(tmp_path / "out"), "--quiet", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out" / "volume.h5").exists()


@pytest.mark.parametrize("air", ["20", "a,b", "1,2,3", "1:2"])
def test_air_that_is_not_two_numbers(air: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "scan.h5", "--air", air])
    assert ended.value.code == 2
    assert "is not LEFT,RIGHT, such as 20,20" in capsys.readouterr().err


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def check_refusal(code: int, err: str, *words: str) -> None:
    assert code == 2, err
    assert "Traceback" not in err
    lines = [line for line in err.strip().splitlines() if not line.startswith(("usage:", " "))]
    assert len(lines) == 1, err
    assert all(word in lines[0] for word in words), err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--version")
    assert code == 0
    assert out.strip() == f"streamrecon {__version__}"


def test_module_and_script_are_the_same() -> None:
    for command in ([sys.executable, "-m", "streamrecon"], [str(Path(sys.executable).parent / "streamrecon")]):
        ran = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
        assert ran.stdout.strip() == f"streamrecon {__version__}"
        assert ran.stderr == ""


@pytest.mark.parametrize("command", ["demo", "run", "replay", "recon", "inspect"])
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert "--config" in out


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys)
    assert code == 2
    assert "COMMAND" in err


def bad_file(tmp_path: Path, scan_file: Path, what: str) -> Path:
    path = tmp_path / f"{what}.h5"
    if what == "text":
        path.write_text("this is no scan\n" * 50)
    elif what == "truncated":
        content = scan_file.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "folder":
        path.mkdir()
    elif what == "other":
        with h5py.File(path, "w") as file:
            file["something"] = np.zeros(3)
    return path


@pytest.mark.parametrize("command", ["run", "inspect", "replay"])
@pytest.mark.parametrize("what", ["missing", "text", "truncated", "empty", "folder", "other"])
def test_a_scan_that_is_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scan_file: Path, command: str, what: str
) -> None:
    path = bad_file(tmp_path, scan_file, what)
    more = {
        "replay": ["--to", "tcp://127.0.0.1:9", "--timeout", "1"],
        "run": ["--out", tmp_path / "out"],
        "inspect": [],
    }
    code, _, err = call(capsys, command, path, *more[command])
    check_refusal(code, err, path.name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "5"], ["--rows", "5"]),
        (["--rows", "a:b"], ["--rows", "a:b"]),
        (["--rows", "1:2:3"], ["--rows"]),
        (["--rows", "2:2"], ["recon.rows"]),
        (["--rows", "2:1"], ["recon.rows"]),
        (["--rows", "2:9"], ["--rows", "2:9", "3"]),
        (["--filter", "sharp"], ["--filter", "sharp", "shepp"]),
        (["--method", "magic"], ["--method"]),
        (["--center", "left"], ["--center"]),
        (["--center", "nan"], ["recon.center"]),
        (["--every", "0"], ["emit.every"]),
        (["--interval", "0"], ["emit.interval"]),
        (["--keep", "0"], ["emit.keep"]),
        (["--fps", "-3"], ["source.fps"]),
        (["--pixel-size", "0"], ["source.pixel_size"]),
        (["--delay", "-1"], ["engine.delay"]),
        (["--order", "sideways"], ["sideways", "interlaced:N"]),
        (["--order", "interlaced:0"], ["interlaced"]),
        (["--entry", "nowhere"], ["nowhere"]),
        (["--layout", "nxtomo"], ["nxtomo"]),
        (["--publish", "tcp://0.0.0.0:0"], ["--insecure"]),
        (["--publish", "nonsense"], ["nonsense"]),
        (["--config", "/nowhere.toml"], ["/nowhere.toml"]),
        (["--nonsense"], ["--nonsense"]),
        (["--view", "99999"], ["99999"]),
        (["--view", "here"], ["--view", "here"]),
    ],
)
def test_options_that_are_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scan_file: Path, arguments: list[str], words: list[str]
) -> None:
    code, _, err = call(capsys, "run", scan_file, "--out", tmp_path / "out", *arguments)
    check_refusal(code, err, *words)
    assert not (tmp_path / "out" / "volume.h5").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[recon]\ncentre = 3\n", ["recon.centre", "bad.toml"]),
        ("[recom]\n", ["recom"]),
        ("[recon]\nrows = 'all'\n", ["recon.rows"]),
        ("this is no toml", ["bad.toml"]),
        ("[engine]\nmemory_bytes = 1000\n", ["engine.memory_bytes"]),
        ("[engine]\ndisk_bytes = 1000\n", ["engine.disk_bytes"]),
        ("[simulated]\nphantom = 'unicorn'\n", []),
    ],
)
def test_a_configuration_that_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scan_file: Path, content: str, words: list[str]
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    scan = "simulated" if "unicorn" in content else scan_file
    code, _, err = call(capsys, "run", scan, "--config", path, "--out", tmp_path / "out")
    check_refusal(code, err, *words)


@pytest.mark.parametrize(
    ("endpoint", "word"),
    [
        ("tcp://0.0.0.0:5555", "--insecure"),
        ("tcp://*:5555", "--insecure"),
        ("tcp://192.0.2.1:5555", "--insecure"),
        ("tcp://127.0.0.1", "tcp://127.0.0.1"),
        ("tcp://127.0.0.1:99999", "99999"),
        ("tcp://127.0.0.1:port", "port"),
        ("127.0.0.1:5555", "127.0.0.1:5555"),
        ("ipc://", "ipc://"),
        ("ipc:///nowhere/at/all", "/nowhere/at/all"),
        ("ipc:///tmp/streamrecon-test-engine", "--insecure"),
        ("inproc://engine", "inproc"),
        ("", "endpoint"),
    ],
)
@pytest.mark.timeout(60)
def test_endpoints_that_are_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path, endpoint: str, word: str) -> None:
    code, _, err = call(capsys, "recon", "--once", "--listen", endpoint, "--out", tmp_path / "out")
    check_refusal(code, err, word)


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:x", ""])
def test_replay_to_a_wrong_endpoint(capsys: pytest.CaptureFixture[str], scan_file: Path, endpoint: str) -> None:
    code, _, err = call(capsys, "replay", scan_file, "--to", endpoint, "--timeout", "1")
    check_refusal(code, err)


def test_replay_to_nobody(capsys: pytest.CaptureFixture[str], scan_file: Path) -> None:
    code, _, err = call(capsys, "replay", scan_file, "--to", "tcp://127.0.0.1:9", "--timeout", "0.5")
    assert code != 0
    assert "no engine" in err
    assert "Traceback" not in err


def test_out_is_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, scan_file: Path) -> None:
    (tmp_path / "out").write_text("")
    code, _, err = call(capsys, "run", scan_file, "--out", tmp_path / "out")
    check_refusal(code, err, str(tmp_path / "out"))


def test_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, scan_file: Path) -> None:
    code, out, err = call(capsys, "run", scan_file, "--out", tmp_path / "out", "--center", "16.2", "--every", "10")
    assert code == 0, err
    assert err == ""
    assert "volume.h5" in out
    assert (tmp_path / "out" / "volume.png").exists()
    with h5py.File(tmp_path / "out" / "volume.h5", "r", locking=False) as file:
        assert file["entry/data/data"].shape == (3, 32, 32)
        assert file["entry/reconstruction/final"][()]
    assert "\x1b" not in out, "plain lines where there is no terminal"


def test_another_scan_needs_overwrite(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scan_file: Path, small: Path
) -> None:
    out = tmp_path / "out"
    assert call(capsys, "run", scan_file, "--out", out, "--center", "16")[0] == 0
    code, _, err = call(capsys, "run", "simulated", "--config", small, "--out", out)
    check_refusal(code, err, "--overwrite")
    assert call(capsys, "run", "simulated", "--config", small, "--out", out, "--overwrite")[0] == 0


def test_json_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path) -> None:
    code, out, err = call(
        capsys, "run", "simulated", "--config", small, "--out", tmp_path / "out", "--log-json", "--fps", "25"
    )
    assert code == 0, err
    entries = [
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in out.splitlines()
    ]
    assert all(isinstance(e, dict) and "event" in e for e in entries)
    events = [e["event"] for e in entries]
    for event in ("source", "plan", "listen", "center", "version", "status", "done"):
        assert event in events
    assert [e for e in entries if e["event"] == "done"][-1]["final"] is True
    status = next(e for e in entries if e["event"] == "status")
    for name in ("frames", "in_volume", "credit_frames", "rate", "coverage", "version", "latency"):
        assert name in status


def test_quiet(capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path) -> None:
    code, out, _ = call(capsys, "demo", "--config", small, "--out", tmp_path / "out", "--quiet", "--fps", "25")
    assert code == 0
    assert "frames/s, credit" not in out
    assert (tmp_path / "out" / "volume.h5").exists()


def test_inspect(capsys: pytest.CaptureFixture[str], scan_file: Path, tmp_path: Path) -> None:
    code, out, err = call(capsys, "inspect", scan_file, "--out", tmp_path / "nothing" / "yet")
    assert (code, err) == (0, "")
    for words in ("3 rows x 32 columns", "uint16", "40", "memory", "disk", "method", "0.0000 to 175.5000 degrees"):
        assert words in out, words
    assert not (tmp_path / "nothing").exists()


def test_inspect_refuses_as_run_would(capsys: pytest.CaptureFixture[str], scan_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "little.toml"
    path.write_text("[engine]\nmemory_bytes = 1000\n")
    code, out, _ = call(capsys, "inspect", scan_file, "--config", path)
    assert code == 2
    assert "engine.memory_bytes" in out
    code, _, err = call(capsys, "inspect", scan_file, "--rows", "2:9")
    check_refusal(code, err, "--rows")


def test_options_of_the_command_line_win(capsys: pytest.CaptureFixture[str], tmp_path: Path, scan_file: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[recon]\ncenter = 3.0\nfilter = "hann"\nrows = [0, 2]\n')
    code, _, err = call(
        capsys, "run", scan_file, "--config", path, "--center", "16.2", "--rows", "1:3", "--out", tmp_path / "out"
    )
    assert code == 0, err
    with h5py.File(tmp_path / "out" / "volume.h5", "r", locking=False) as file:
        parameters = file["entry/reconstruction/parameters"]
        assert parameters["center"][()] == 16.2
        assert parameters["filter"][()] == b"hann"
        assert list(parameters["rows"][()]) == [1, 3]


def test_a_damaged_frame_in_the_middle(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The child that reads ends; what had arrived stays, and its last words are told."""
    path = tmp_path / "damaged.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "exchange/data", (60, 4, 64), np.uint16, chunks=(1, 4, 64), compression="gzip", shuffle=True
        )
        data[:] = rng.integers(300, 60000, (60, 4, 64))
        file["exchange/data_white"] = np.full((2, 4, 64), 60000, np.uint16)
        file["exchange/data_dark"] = np.full((2, 4, 64), 100, np.uint16)
        file["exchange/theta"] = np.linspace(0, 180, 60, endpoint=False)
        place = data.id.get_chunk_info(45)
    with path.open("r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(b"\0" * place.size)
    code, out, err = call(capsys, "run", path, "--out", tmp_path / "out", "--center", "31", "--order", "interlaced:2")
    assert code == 1, out + err
    assert "Traceback" not in err
    assert "damaged.h5" in err
    assert "partial" in err
    with h5py.File(tmp_path / "out" / "volume.h5", "r", locking=False) as file:
        assert not file["entry/reconstruction/final"][()]
