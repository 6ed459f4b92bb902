"""What the documents say is what happens."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import h5py
import pytest

import streamrecon
from streamrecon.bluesky.mapping import FramesRule, RunRule, ScanRule, ThetaRule
from streamrecon.config import SimulatedConfig

ROOT = Path(__file__).parents[1]


def test_the_readme_and_the_check_run_the_same_tests() -> None:
    readme, check = ((ROOT / name).read_text() for name in ("README.md", ".ci/run"))
    (command,) = re.findall(r"^python3 -m venv .*pytest$", readme, re.M)
    assert command in check


def test_every_link_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_page_waits_for_its_figures() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        assert not re.search(r"^(FIGURES|TABLE|TODO)$", page.read_text(), re.M), page.name


def test_the_example_of_the_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pieces in the package's docstring, with a simulated scan in place of a file."""
    assert streamrecon.__doc__ is not None
    code = streamrecon.__doc__.split("```")[1].replace('"scan.h5"', '"simulated"').replace('"out"', repr(str(tmp_path)))
    small = "streamrecon.Config(simulated=SimulatedConfig(rows=2, columns=32, projections=20))"
    code = code.replace("streamrecon.Config()", small).replace(
        'reconstruct("simulated")', f'reconstruct("simulated", config={small})'
    )
    names: dict[str, object] = {"SimulatedConfig": SimulatedConfig}
    exec(code, names)
    assert getattr(names["result"], "final", False)
    assert getattr(names["volume"], "shape", None) == (2, 32, 32)


def test_the_tree_of_the_architecture_is_the_tree() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    for package in ("sources", "wire", "transport", "recon", "engine", "bluesky", "viewer"):
        (line,) = re.findall(rf"^  {package}/ +(.*)$", text, re.M)
        for module in (ROOT / "streamrecon" / package).glob("[!_]*.py"):
            assert re.search(rf"\b{module.stem}\b", line), f"{package}/{module.stem} is not named"


def test_the_floors_of_the_architecture_are_the_contract() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (line,) = re.findall(r"^`(cli -> .*)`$", text, re.M)
    floors = [floor.strip() for floor in line.split("->")]
    assert [f"streamrecon.{f}".replace("| ", "| streamrecon.") for f in floors] == contracts[0]["layers"]


def test_a_detector_of_ones_own(tmp_path: Path) -> None:
    config = streamrecon.Config()
    with streamrecon.Engine(config, tmp_path) as engine:
        script = ROOT / "docs/examples/detector.py"
        done = subprocess.run([sys.executable, script, engine.endpoint], capture_output=True, text=True, timeout=60)
        result = engine.wait(30)
    assert done.returncode == 0, done.stderr
    assert result is not None
    assert result.final
    with h5py.File(tmp_path / "volume.h5", "r", locking=False) as file:
        x, y = file["entry/data/x"][:], file["entry/data/y"][:]
        slices = file["entry/data/data"][:].mean(axis=0)
    # The rod of the example: 25 pixels of 2 um from the axis, radius 10, 0.05 per pixel.
    inside = (x - 50e-6) ** 2 + y[:, None] ** 2 < (8 * 2e-6) ** 2
    assert slices[inside].mean() == pytest.approx(0.05 / 2e-6, rel=0.01)


def test_the_mapping_reference_has_every_option() -> None:
    text = (ROOT / "docs/attach.md").read_text()
    for rule in (RunRule, FramesRule, ThetaRule, ScanRule):
        for option in dataclasses.fields(rule):
            assert f"`{option.name.rstrip('_')}`" in text, f"{rule.__name__}.{option.name} is not explained"


@pytest.mark.slow
def test_the_bench_prints_its_figures(tmp_path: Path) -> None:
    arguments = ["--rows", "4", "--columns", "32", "--projections", "20", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(
        [sys.executable, "-m", "bench.end_to_end", *arguments], capture_output=True, text=True, timeout=100, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    for word in ("frames/s", "GB/s", "p50", "p99", "transport", "normalize + filter", "accumulate", "snapshot"):
        assert word in done.stdout
    assert (tmp_path / "figures.json").exists()
