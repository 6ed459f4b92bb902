"""`streamrecon plan`: what it takes, what it prints, and its exit code."""

from __future__ import annotations

import logging
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamrecon.cli import main
from streamrecon.engine import device, imagined_scan
from streamrecon.errors import StreamreconError

CPU = '[engine]\ndevice = "cpu"\n'
SIMULATED = "[simulated]\nrows = 12\ncolumns = 64\nprojections = 60\nflats = 4\ndarks = 4\n"
IMAGINED = ("--columns", 256, "--rows", 10, "--angles", 100)
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "ms": 1e-3, "s": 1, "min": 60, "h": 3600}


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """`main` installs a handler of its own."""
    before = signal.getsignal(signal.SIGTERM)
    handlers = logging.root.handlers[:]
    yield
    signal.signal(signal.SIGTERM, before)
    logging.root.handlers[:] = handlers


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "options.toml"
    path.write_text(CPU + SIMULATED)
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as error:
        code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    code, out, err = call(capsys, *arguments)
    assert code == 2, out + err
    assert out == ""
    lines = [line for line in err.strip().splitlines() if not line.startswith(("usage:", " "))]
    assert len(lines) == 1, err
    return lines[0]


def columns(out: str) -> dict[str, tuple[str, str]]:
    """Both numbers of each line of the table, by its name."""
    cells = r"([\d.e+-]+ [A-Za-z]+)"
    found = re.findall(rf"^  (\S.*?) +{cells}([ *]) +{cells}([ *])$", out, re.MULTILINE)
    return {name: (direct, fourier) for name, direct, _, fourier, _ in found}


def number(text: str) -> float:
    value, unit = text.split()
    return float(value) * UNITS[unit]


# What it takes.


def test_a_scan(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    code, out, err = call(capsys, "plan", "simulated", "--config", file, "--out", tmp_path / "not" / "yet")
    assert (code, err) == (0, "")
    assert "12 rows x 64 columns, 60 projections, uint16" in out
    assert "every 6 projections" in out
    assert not (tmp_path / "not").exists(), "a plan writes nothing"
    code, out, _ = call(capsys, "plan", "simulated", "--config", file, "--rows", "2:5", "--every", "20")
    assert code == 0
    assert "3 rows x 64 columns" in out
    assert "every 20 projections" in out


def test_a_scan_that_nobody_has_measured(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, out, err = call(capsys, "plan", *IMAGINED, "--dtype", "float32", "--config", file)
    assert (code, err) == (0, "")
    assert "10 rows x 256 columns, 100 projections, float32" in out
    assert "ranks" not in out
    wide = call(capsys, "plan", "--columns", 2560, "--rows", 10, "--angles", 100, "--config", file)[1]
    assert all(number(b) > 90 * number(a) for a, b in zip(columns(out)["state"], columns(wide)["state"], strict=True))


def test_the_options_of_a_reconstruction_are_taken(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    free, asked = (
        call(capsys, "plan", *IMAGINED, "--config", file, *more)[1]
        for more in ((), ("--method", "fourier", "--center", "100"))
    )
    assert "method    direct" in free
    assert "method    fourier: as asked for" in asked
    assert number(columns(asked)["accumulate"][0]) == pytest.approx(number(columns(free)["accumulate"][0]) / 2, rel=0.1)


def test_the_chosen_method_is_marked(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    for method, place in (("direct", 0), ("fourier", 1)):
        out = call(capsys, "plan", *IMAGINED, "--config", file, "--method", method)[1]
        lines = [line for line in out.splitlines() if line.startswith("  ")]
        assert len(lines) >= 14
        head = next(line for line in out.splitlines() if line.startswith("memory"))
        end = head.index(method) + len(method)
        assert all(line[end] == "*" and line.count("*") == 1 for line in lines), place


@pytest.mark.parametrize(("ranks", "slab"), [(1, 10), (2, 8), (3, 4), (10, 1)])
def test_ranks_share_the_rows(capsys: pytest.CaptureFixture[str], file: Path, ranks: int, slab: int) -> None:
    """As the engine shares them: bins of a preview, here of four rows, stay together where there are enough."""
    code, out, _ = call(capsys, "plan", *IMAGINED, "--ranks", ranks, "--config", file)
    assert code == 0
    alone = call(capsys, "plan", "--columns", 256, "--rows", slab, "--angles", 100, "--config", file)[1]
    assert columns(out) == columns(alone)
    assert "10 rows x 256 columns" in out
    if ranks > 1:
        assert f"{ranks} ranks, the largest slab has {slab} rows" in out
        assert "memory of a rank" in out


# What it refuses.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["a scan", "--columns", "--rows", "--angles"]),
        (("--columns", 64), ["--columns", "--rows", "--angles"]),
        (("--columns", 64, "--rows", 4), ["--angles"]),
        (("--rows", 4, "--angles", 5), ["--columns"]),
        (("--columns", 64, "--rows", "1:4", "--angles", 5), ["--rows N"]),
        (("simulated", "--columns", 64), ["--columns"]),
        (("simulated", "--angles", 64), ["--angles"]),
        (("simulated", "--rows", 64), ["--rows"]),
        (("simulated", *IMAGINED), ["one or the other"]),
        (("simulated", "--rows", "0:13"), ["--rows", "0:13", "12"]),
        (("simulated", "--rows", "3:3"), ["recon.rows"]),
        (("simulated", "--ranks", 0), ["--ranks is 0", "12"]),
        (("simulated", "--ranks", -1), ["--ranks is -1"]),
        (("simulated", "--ranks", 13), ["--ranks is 13", "12"]),
        (("simulated", "--rows", "2:5", "--ranks", 4), ["--ranks is 4", "3"]),
        (("--columns", 64, "--rows", 4, "--angles", 0), ["--angles is 0"]),
        (("--columns", 64, "--rows", 4, "--angles", -3), ["--angles is -3"]),
        (("--columns", 64, "--rows", 0, "--angles", 3), ["rows", "0"]),
        (("--columns", 0, "--rows", 4, "--angles", 3), ["columns", "0"]),
        ((*IMAGINED, "--ranks", 11), ["--ranks is 11", "10"]),
        ((*IMAGINED, "--dtype", "number"), ["--dtype", "number", "uint16"]),
        ((*IMAGINED, "--dtype", "complex64"), ["complex64"]),
        ((*IMAGINED, "--dtype", ">u2"), [">u2"]),
        ((*IMAGINED, "--rows", "1:2:3"), ["--rows"]),
        ((*IMAGINED, "--rows", "4.5"), ["--rows"]),
        (("nowhere.h5",), ["nowhere.h5"]),
    ],
)
def test_what_is_wrong_is_refused(
    capsys: pytest.CaptureFixture[str], file: Path, arguments: tuple[Any, ...], words: list[str]
) -> None:
    line = refused(capsys, "plan", *arguments, "--config", file)
    assert all(word in line for word in words), line


def test_rows_that_are_no_number_say_what_is_expected(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    line = refused(capsys, "plan", "--columns", 64, "--rows", "x", "--angles", 5, "--config", file)
    assert "_rows_or_count" not in line


def test_rows_beyond_the_detector_are_refused_for_several_ranks_too(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    line = refused(capsys, "plan", "simulated", "--rows", "0:20", "--ranks", 2, "--config", file)
    assert "--rows" in line


@pytest.mark.parametrize("dtype", [",", "(-1,)i4"])
def test_any_text_that_is_no_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(StreamreconError, match="dtype"):
        imagined_scan(8, 4, 4, dtype)


def test_what_does_not_fit_is_shown_and_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, file: Path
) -> None:
    fits = call(capsys, "plan", *IMAGINED, "--config", file)[1]
    little = tmp_path / "little.toml"
    little.write_text(CPU + "memory_bytes = 1000000\ndisk_bytes = 1000\n")
    code, out, err = call(capsys, "plan", *IMAGINED, "--config", little)
    assert (code, err) == (2, "")
    table, whole = columns(out), columns(fits)
    shared = [name for name in whole if not name.startswith("of ")]
    assert len(shared) == 15
    assert set(shared) <= set(table), "the whole table"
    assert "of 1 MB" in table
    for words in ("scan", "method", "versions", "disk", "pace"):
        assert re.search(rf"^{words} ", out, re.MULTILINE)
    first, second = (line for line in out.splitlines() if line.startswith("refused"))
    assert "engine.memory_bytes" in first
    assert "--rows" in first
    assert "engine.disk_bytes" in second


def test_fewer_rows_in_a_rank_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "limit.toml"
    scan = ("--columns", 512, "--rows", 640, "--angles", 100, "--config", path)
    path.write_text(CPU + "memory_bytes = 1000000000\n")
    assert call(capsys, "plan", *scan)[0] == 2
    assert call(capsys, "plan", *scan, "--ranks", 8)[0] == 0


# The numbers.


@pytest.mark.parametrize(
    "scan",
    [
        IMAGINED,
        ("--columns", 1, "--rows", 1, "--angles", 1),
        ("--columns", 2048, "--rows", 100, "--angles", 3000, "--center", 1000, "--rings", 9),
        ("--columns", 333, "--rows", 77, "--angles", 1001, "--interval", 3),
        ("simulated", "--every", 1),
    ],
)
def test_the_columns_add_up(capsys: pytest.CaptureFixture[str], file: Path, scan: tuple[Any, ...]) -> None:
    code, out, _ = call(capsys, "plan", *scan, "--config", file)
    assert code == 0
    table = columns(out)
    names = list(table)
    limit = next(name for name in names if name.startswith("of "))
    bytes_, times = names[: names.index(limit)], names[names.index(limit) + 1 : -1]
    assert len(bytes_) == 9
    assert len(times) == 5
    assert names[-1] == "in all"
    for place in (0, 1):
        parts = sum(number(table[name][place]) for name in bytes_)
        assert parts == pytest.approx(number(table[limit][place]), rel=0.01)
        parts = sum(number(table[name][place]) for name in times)
        assert parts == pytest.approx(number(table["in all"][place]), rel=0.1)
    total, parts = re.search(r"^disk +(\S+ \S+) of [^:]*: (.*)$", out, re.MULTILINE).groups()  # type: ignore[union-attr]
    amounts = [number(" ".join(part.split()[-2:])) for part in parts.split(", ")]
    assert sum(amounts) == pytest.approx(number(total), rel=0.01)


# Other commands.


@pytest.mark.parametrize("command", ["inspect", "run"])
def test_other_commands_still_take_a_range_of_rows(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, command: str
) -> None:
    arguments = (command, "simulated", "--config", file, "--out", tmp_path / "out")
    line = refused(capsys, *arguments, "--rows", 5)
    assert "'5' is not FIRST:END" in line
    code, _, err = call(capsys, *arguments, "--rows", "5:99")
    assert code == 2
    assert "--rows" in err
    if command == "inspect":
        small, whole = (call(capsys, *arguments, *more)[1] for more in (("--rows", "2:4"), ()))
        journal = [number(re.search(r"journal (\S+ \S+),", out).group(1)) for out in (small, whole)]  # type: ignore[union-attr]
        assert journal[1] == pytest.approx(6 * journal[0], rel=0.01)


# The device.


@pytest.fixture
def _no_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import of it fails
    device._gpu.cache_clear()
    yield
    device._gpu.cache_clear()


@pytest.mark.usefixtures("_no_cupy")
@pytest.mark.parametrize(
    "command", [("plan", *IMAGINED), ("plan", "simulated"), ("inspect", "simulated"), ("run", "simulated")]
)
def test_a_gpu_without_cupy(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: tuple[Any, ...]) -> None:
    path = tmp_path / "gpu.toml"
    path.write_text('[engine]\ndevice = "gpu"\n' + SIMULATED)
    code, _, err = call(capsys, *command, "--config", path, "--out", tmp_path / "out")
    assert code == 2, err
    (line,) = err.splitlines()
    for words in ("engine.device", "cupy", "streamrecon[cuda12]", "streamrecon[cuda13]"):
        assert words in line
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_no_cupy")
def test_auto_without_cupy_is_the_processor(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "plan", *IMAGINED)
    assert (code, err) == (0, "")
    assert "GPU" not in out


def test_ome_zarr_is_an_option_that_takes_disk(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    for options, there in (((), False), (("--zarr",), True)):
        code, out, err = call(capsys, "plan", *IMAGINED, "--config", file, *options)
        assert code == 0, err
        assert ("OME-Zarr" in out) == there
