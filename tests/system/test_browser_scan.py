"""The page of a scan as it is reconstructed, in a real browser: `streamrecon demo --view` as a newcomer runs it."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from browser_page import Visit, browsing, chromium, playing

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

for package in ("playwright", "starlette", "uvicorn", "websockets", "bokeh"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'streamrecon[view,test]'", allow_module_level=True)
if chromium() is None:
    pytest.skip("there is no chromium: apt install chromium", allow_module_level=True)

OPTIONS = """
[simulated]
rows = 16
columns = 96
projections = 240
[emit]
every = 10
[source]
fps = 12
"""


class Demo:
    """`streamrecon demo --view` in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        (folder / "options.toml").write_text(OPTIONS)
        self.out = folder / "out"
        command = [sys.executable, "-u", "-m", "streamrecon", "demo", "--view", "--quiet", *arguments]
        self.process = subprocess.Popen(
            [*command, "--out", str(self.out), "--config", str(folder / "options.toml")],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        (self.control_url,) = re.findall(r"http://\S+", self.until("look at http"))
        (self.view_url,) = re.findall(r"http://\S+", self.until("for looking only"))

    def until(self, text: str) -> str:
        """The line that has this text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"never said {text!r}: {''.join(self.lines)}")

    def end(self) -> int:
        """As with Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    yield demo
    demo.process.kill()
    demo.process.communicate()


def test_a_scan_is_watched_from_its_first_version_to_its_file(demo: Demo) -> None:
    demo.until("the scan begins when the page is open")
    with playing() as playwright, browsing(playwright) as browser, Visit(browser, demo.control_url) as page:
        demo.until("waiting for a sender")
        page.until("Number(document.getElementById('slices').dataset.updates) >= 2", seconds=90)
        assert page.text("#title") == "simulated foam"
        shown = {axis: page.shown(axis) for axis in "zyx"}
        assert {each["kind"] for each in shown.values()} == {"slice"}
        assert len({page.picture(axis) for axis in "zyx"}) == 3
        # Hands: the center by eye, seen before the scan has ended.
        page.page.fill("#center", "40")
        page.page.click("#center-set")
        page.until("document.querySelector('#answers li.done')?.textContent === 'the center is column 40.00'")
        page.until("document.getElementById('center-now').textContent === 'now 40.00'")
        page.page.click("#center-compare")
        page.until("document.querySelectorAll('#strip button').length === 9")
        page.page.select_option("#filter", "hann")
        page.until("document.querySelector('#answers li.done')?.textContent === 'the filter is hann'")
        page.until("document.getElementById('link').dataset.state === 'file'", seconds=90)
        assert "final" in page.text("#version")
        page.page.keyboard.press("1")
        page.page.keyboard.press("PageDown")
        page.until_shown("z", index=9, kind="slice")
        page.until("document.getElementById('line').textContent.startsWith('Finished volume')")
        assert "%" in str(page.page.get_attribute("#change", "aria-label")), "the curve stays"
        assert not page.errors
    demo.until("the page stays until Ctrl-C")
    assert demo.end() == 0
    with h5py.File(demo.out / "volume.h5", "r", locking=False) as file:
        parameters = file["entry/reconstruction/parameters"]
        assert parameters["center"][()] == 40.0
        assert parameters["filter"][()] == b"hann"
    assert not (demo.out / "control.token").exists()


def test_a_demo_that_nobody_looks_at_is_interrupted_while_it_waits(demo: Demo) -> None:
    demo.until("the scan begins when the page is open")
    demo.end()
    assert demo.process.returncode == 130
