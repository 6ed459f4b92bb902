"""The live viewer's page, in a real browser: `pytest -m browser`."""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from browser_page import NO_WEBGL, WEBGL, Visit, browsing, chromium, playing
from PIL import Image
from system_processes import until
from viewer_live import TOKEN, FakeEngine, phantom

from streamrecon.viewer import FileSource, LiveSource, ViewServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

for package in ("playwright", "starlette", "uvicorn", "websockets", "bokeh"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'streamrecon[view,test]'", allow_module_level=True)
if chromium() is None:
    pytest.skip("there is no chromium: apt install chromium", allow_module_level=True)

VIEW, CONTROL = "only-to-look", "to-look-and-change"
SHAPE = 32, 64, 64
AXES = "zyx"

Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with playing() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    with browsing(playwright) as browser:
        yield browser


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(shape=SHAPE, versions=400) as engine:
        engine.step()
        yield engine


@pytest.fixture
def server(engine: FakeEngine) -> Iterator[ViewServer]:
    with ViewServer(LiveSource(engine.endpoint, TOKEN), control_token=CONTROL, view_token=VIEW) as server:
        yield server


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Open pages that must do nothing wrong: no error, nothing that the policy forbids, no other host."""
    visits: list[tuple[Visit, str]] = []

    def visit(url: str, **options: object) -> Visit:
        visits.append((Visit(browser, url, **options), url.split("/")[2]))
        return visits[-1][0]

    yield visit
    for visited, host in visits:
        visited.close()
        assert not visited.errors
        assert {url.split("/")[2] for url in visited.requests if not url.startswith(("data:", "blob:"))} == {host}


def test_three_different_slices_change_while_the_scan_runs(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    page = visit(server.view_url)
    for axis in AXES:
        page.until_shown(axis, version=1)
    before = [page.picture(axis) for axis in AXES]
    assert len(set(before)) == 3
    engine.step(200)
    for axis in AXES:
        page.until_shown(axis, version=201)
    after = [page.picture(axis) for axis in AXES]
    assert len({*before, *after}) == 6
    assert page.text("#link") == "live"
    assert page.text("#title") == "phantom, scan 1"
    assert "201" in page.text("#version")
    page.until("document.getElementById('dial').getAttribute('aria-label') === 'Angles covered: 50 %'")


def test_what_is_drawn_is_the_volume(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    engine.step(399)
    page = visit(server.view_url)
    page.until_shown("z", version=400, kind="slice")
    with page.page.expect_download() as download:
        page.page.click("[data-axis=z] .png")
    drawn = np.asarray(Image.open(download.value.path()).convert("L")).astype(float)
    expected = engine.plane("z", SHAPE[0] // 2)
    assert drawn.shape == expected.shape
    assert np.corrcoef(drawn.ravel(), expected.ravel())[0, 1] > 0.97
    with page.page.expect_download() as download:
        page.page.click("[data-axis=x] .npy")
    np.testing.assert_array_equal(np.load(download.value.path()), engine.plane("x", SHAPE[2] // 2))
    assert download.value.suggested_filename == "phantom-scan-1_v400_x32.npy"
    # On the screen, too: bright where the volume is, the first row on top.
    screen = Image.open(io.BytesIO(page.picture("z"))).convert("L")
    side = min(screen.size)
    left, top = (screen.width - side) // 2, (screen.height - side) // 2
    small = np.asarray(screen.crop((left, top, left + side, top + side)).resize((64, 64))).astype(float)
    assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.9


def test_wheel_keys_and_mouse_move_through_the_volume(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    page = visit(server.view_url)
    page.until_shown("z", index=16, kind="slice")
    before = page.picture("z")
    stage = page.page.locator("[data-axis=z] .stage")
    stage.hover()
    for _ in range(4):
        page.page.mouse.wheel(0, 100)
    page.until_shown("z", index=20, kind="slice")
    assert page.picture("z") != before
    page.page.keyboard.press("1")
    page.page.keyboard.press("Shift+PageUp")
    page.until_shown("z", index=10, kind="slice")
    page.page.keyboard.press("ArrowRight")
    page.until_shown("x", index=33, kind="slice")
    # A click: the other two follow.
    box = stage.bounding_box()
    assert box is not None
    quarter = min(box["width"], box["height"]) / 4 - 4  # 16 voxels from the middle at 31.5, less a bit
    page.page.mouse.click(box["x"] + box["width"] / 2 + quarter, box["y"] + box["height"] / 2 - quarter)
    page.until_shown("y", index=16, kind="slice")
    page.until_shown("x", index=47, kind="slice")
    assert page.text("#readout").startswith("cursor")
    # Ctrl and the wheel: all three are larger, and their bars shorter.
    scale = page.page.locator(".scalebar").all_inner_texts()
    page.page.keyboard.down("Control")
    page.page.mouse.wheel(0, -600)
    page.page.keyboard.up("Control")
    page.until("[...document.querySelectorAll('.scalebar')].every((bar, n) => bar.innerText !== it[n])", scale)
    page.page.keyboard.press("0")
    page.until("[...document.querySelectorAll('.scalebar')].every((bar, n) => bar.innerText === it[n])", scale)
    page.page.keyboard.press("?")
    assert page.page.locator("#help").is_visible()
    page.page.keyboard.press("Escape")
    page.page.locator("[data-axis=x] input.number").fill("7")
    page.until_shown("x", index=7, kind="slice")


def test_contrast_by_percentile_by_hand_and_locked(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    page = visit(server.view_url)
    page.until_shown("z", version=1)
    automatic = page.page.input_value("#high")
    engine.step(100)
    page.until_shown("z", version=101)
    page.until("document.getElementById('high').value !== it", automatic)
    page.page.click("#lock")
    locked = page.page.input_value("#high")
    engine.step(100)
    page.until_shown("z", version=201)
    assert page.page.input_value("#high") == locked
    before = page.picture("z")
    page.page.fill("#high", "100")
    page.page.keyboard.press("Enter")
    page.until("document.getElementById('auto').getAttribute('aria-pressed') === 'false'")
    changed = page.picture("z")
    assert changed != before
    page.page.fill("#low", "150")
    page.page.keyboard.press("Enter")
    page.until("Number(document.getElementById('high').value) > 150")
    page.page.fill("#high", "20")
    page.page.keyboard.press("Enter")
    page.until("Number(document.getElementById('low').value) < 20")
    page.page.select_option("#colormap", "viridis")
    pixels = np.asarray(Image.open(io.BytesIO(page.picture("z"))).convert("RGB")).astype(int)
    assert (np.ptp(pixels, axis=2) > 50).mean() > 0.3
    page.page.click("#auto")
    page.until("document.getElementById('high').value !== '100'")


def test_the_center_is_set_and_the_slice_changes(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    assert server.control_url is not None
    engine.step(200)
    page = visit(server.control_url)
    page.until_shown("z", version=201)
    before = page.picture("z")
    page.page.fill("#center", "47.3")
    page.page.click("#center-set")
    page.until_shown("z", version=202)
    assert page.picture("z") != before
    page.until("document.querySelector('#answers li.done')?.textContent === 'the center is 47.3'")
    page.until("document.getElementById('center-now').textContent === 'now 47.30'")
    # The strip: a click on a candidate sets it.
    page.page.click("#center-compare")
    page.until("document.querySelectorAll('#strip button').length === 9")
    page.until("document.querySelector('#strip [aria-current]')?.dataset.center === '47.3'")
    page.page.locator("#strip button").nth(6).click()
    page.until_shown("z", version=203)
    assert engine.center == pytest.approx(49.3)
    # The others, with refusals.
    page.page.select_option("#filter", "hann")
    page.until("document.querySelector('#answers li.done')?.textContent === 'filter is done'")
    assert engine.filter == "hann"
    page.page.fill("#side-pixels", "40")
    page.page.click("#side-set")
    page.until("document.querySelector('#answers li.refused')?.textContent === 'side is not possible here'")
    assert page.page.input_value("#side-pixels") == "", "what the engine has"
    page.page.click("#pause")
    page.until("document.getElementById('pause').textContent === 'Resume'")
    assert engine.paused
    page.page.click("#snapshot")
    page.until_shown("z", version=204)
    page.page.click("#stop")
    page.page.fill("#stop-why", "the sample has moved")
    page.page.click("#stop-dialog .danger")
    page.until("document.getElementById('line').textContent.includes('the sample has moved')")
    assert engine.advice == "the sample has moved"
    page.until("document.getElementById('stop').textContent === 'Withdraw the advice'")
    page.page.click("#stop")
    page.until("document.getElementById('stop').textContent === 'Stop the scan …'")
    assert engine.advice is None
    page.page.click("#stop")
    page.page.fill("#stop-why", " ")
    page.page.keyboard.press("Enter")
    assert page.page.locator("#stop-dialog").is_visible()
    page.page.click("#stop-cancel")
    assert not page.page.locator("#stop-dialog").is_visible()
    assert engine.advice is None


def test_what_the_center_needs(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    assert server.control_url is not None
    engine.begins = True
    page = visit(server.control_url)
    page.until("document.getElementById('center-compare').title.includes('does not know a center yet')")
    assert page.page.locator("#center-slide").is_disabled()
    assert page.page.locator("#center-compare").is_disabled()
    page.page.click("#center-set")
    assert "type a column" in page.text("#answers")
    engine.begins = False
    page.until("!document.getElementById('center-compare').disabled")
    assert page.page.locator("#center-slide").is_enabled()
    assert page.page.get_attribute("#center-slide", "max") == "63"


def test_the_scan_before_is_said_to_be_that(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    page = visit(server.view_url)
    page.until_shown("z", version=1)
    assert page.page.locator(".stage.stale").count() == 0
    engine.begins = True
    page.until("document.getElementById('version').textContent === 'version 1 of the scan before (phantom, scan 1)'")
    assert page.text("#title") == "phantom, scan 2"
    assert page.page.locator(".stage.stale").count() == 3
    engine.begins = False
    engine.step(400)
    page.until("document.getElementById('version').textContent === 'version 1, partial'")
    assert page.text("#title") == "phantom, scan 2"
    assert page.page.locator(".stage.stale").count() == 0


def test_the_dial_is_of_the_scan_that_is_shown(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    """An engine that waits for the next one knows nothing of it."""
    page = visit(server.view_url)
    engine.step(39)
    page.until_shown("z", version=40)
    page.until("document.getElementById('dial').ariaLabel.endsWith(' 10 %')")
    engine.idle = True
    page.until("document.getElementById('line').textContent.startsWith('Waiting for a sender')")
    page.until("document.getElementById('dial').ariaLabel.endsWith(' 10 %')")
    assert "received800" in page.text("#numbers-now").replace(" ", "").replace("\n", "")


def test_the_value_is_of_the_slice_that_is_looked_at(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    page = visit(server.view_url)
    page.until_shown("z", index=16, kind="slice")
    page.until("document.getElementById('readout-value').textContent.endsWith('1/m')")
    engine.withheld = {"slice", "preview"}
    page.page.keyboard.press("1")
    page.page.keyboard.press("PageDown")
    page.until("document.getElementById('readout-value').textContent === ''", seconds=2)
    engine.withheld = {"slice"}
    engine.step()
    page.until("document.getElementById('readout-value').textContent.endsWith('1/m')")


def test_place_and_value_belong_together(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    """However the slice comes to be under the mouse: it was moved, or the slices were."""

    def agree() -> bool:
        # Figure spaces pad the numbers; a value has four digits.
        _, z, _, y, _, x = page.text("#readout-voxel").replace("\u2007", " ").split()
        if page.shown("z")["index"] != z:
            return False
        expected = float(engine.plane("z", int(z))[int(y), int(x)])
        value = float(page.text("#readout-value").split()[0])
        return abs(value - expected) <= 2e-3 * abs(expected) + 0.05

    engine.step(99)
    page = visit(server.view_url)
    page.until_shown("z", version=100)
    page.page.locator("[data-axis=z] .stage").hover(position={"x": 150, "y": 150})
    page.until("document.getElementById('readout-what').textContent === 'cursor'")
    first = page.text("#readout-voxel")
    page.page.mouse.wheel(0, 100)
    page.until_shown("z", index=17, kind="slice")
    page.until("document.getElementById('readout-voxel').textContent !== it", first)
    assert agree()
    before = page.text("#readout-voxel")
    page.page.keyboard.press("1")
    for _ in range(3):
        page.page.keyboard.press("+")
    page.page.keyboard.press("Control+ArrowRight")
    page.until("document.getElementById('readout-voxel').textContent !== it", before)
    until(agree)


def test_a_scan_that_is_reconstructed_again(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    engine.step(399)
    page = visit(server.view_url)
    page.until_shown("z", version=400)
    page.until("document.getElementById('line').textContent.startsWith('Finished')")
    engine.again()
    page.until("document.getElementById('version').textContent === 'version 400 of the reconstruction before'")
    page.until("document.getElementById('dial').ariaLabel.endsWith(' –')")
    page.until("document.querySelectorAll('.stage.stale').length === 3")
    assert not page.text("#line").startswith("Finished")
    engine.step(2)
    page.until("document.getElementById('version').textContent === 'version 2, partial'")
    page.until_shown("z", version=2)
    assert page.page.locator(".stage.stale").count() == 0
    # The first one again, and then the second: word of the progress that is late hides nothing for ever.
    engine.begins = True
    page.until("document.getElementById('version').textContent === 'version 2 of the scan before (phantom, scan 1)'")
    engine.begins = False
    engine.again()
    page.until("document.getElementById('version').textContent === 'version 2 of the reconstruction before'")


def test_the_strip_of_candidates_stays_where_somebody_looks(
    engine: FakeEngine, server: ViewServer, visit: Open
) -> None:
    ends = "[...document.querySelectorAll('#strip span')].map((each) => Number(each.textContent))"
    assert server.control_url is not None
    page = visit(server.control_url)
    page.until_shown("z", version=1)
    page.until("document.getElementById('center-now').textContent === 'now 50.30'")
    page.page.click("#center-compare")
    page.until(f"{ends}.at(0) === 46.3 && {ends}.at(-1) === 54.3")
    # The engine finds another one: the strip follows it,
    engine.center = 30.0
    page.until(f"{ends}.at(0) === 26 && {ends}.at(-1) === 34")
    # but not away from where somebody searches, who is not asked for columns that there are not.
    page.page.evaluate("""() => {
        const slide = document.getElementById('center-slide')
        slide.focus()
        slide.value = 2
        slide.dispatchEvent(new Event('input'))
    }""")
    page.until(f"{ends}.at(0) === 0 && {ends}.at(-1) === 6")
    page.page.fill("#center", "3000")
    page.until(f"{ends}.at(0) === 59 && {ends}.at(-1) === 63")
    page.page.fill("#center", "2")
    page.until(f"{ends}.at(0) === 0 && {ends}.at(-1) === 6")
    engine.center = 40.0
    page.until("document.getElementById('center-now').textContent === 'now 40.00'")
    page.page.wait_for_timeout(800)
    assert page.page.evaluate(f"() => {ends}.at(-1)") == 6
    assert page.page.input_value("#center") == "2"
    # Found where the strip is, it is followed again.
    engine.center = 3.0
    page.until("document.getElementById('center-now').textContent === 'now 3.00'")
    engine.center = 60.0
    page.until(f"{ends}.at(0) === 56 && {ends}.at(-1) === 63")
    # What was tried and given up is not sent by the next click.
    page.page.fill("#center", "20")
    page.page.click("#candidates-close")
    page.until("document.getElementById('center').value === '60'")


def test_fields_have_what_the_engine_has(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    assert server.control_url is not None
    page = visit(server.control_url)
    page.until("document.getElementById('every').value === '20'")
    page.page.fill("#every", "7")
    page.page.keyboard.press("Tab")
    page.page.wait_for_timeout(1200)
    assert page.page.input_value("#every") == "7", "the focus is on its button"
    page.page.keyboard.press("Tab")
    page.until("document.getElementById('every').value === '20'")
    page.page.fill("#every", "")
    page.page.keyboard.press("Enter")
    assert "every: type a number first" in page.text("#answers")
    page.page.fill("#center", "")
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Tab")
    page.until("document.getElementById('center').value === '50.3'")
    engine.filter = "ramlak"
    page.page.focus("#snapshot")
    page.until("document.getElementById('filter').value === 'ramlak'")


def test_keys_on_the_slider_of_a_slice(server: ViewServer, visit: Open) -> None:
    page = visit(server.view_url)
    page.until_shown("z", index=16, kind="slice")
    page.page.locator("[data-axis=x] input[type=range]").focus()
    page.page.keyboard.press("PageDown")
    page.until_shown("x", index=33, kind="slice")
    page.page.keyboard.press("ArrowRight")
    page.until_shown("x", index=34, kind="slice")
    page.page.keyboard.press("m")
    page.until("document.querySelector('[data-axis=z]').hidden && !document.querySelector('[data-axis=x]').hidden")


def test_another_region_of_a_scan_is_looked_at_where_one_looked(server: ViewServer, visit: Open) -> None:
    page = visit(server.view_url)
    page.until_shown("z", version=1)
    found = page.page.evaluate("""async () => {
        const { View } = await import('/view.js')
        const view = new View()
        view.resize([32, 160, 160], false)
        view.go({ z: 5, y: 100, x: 60 })
        view.zoom(4)
        const before = view.seen.value
        view.resize([32, 120, 120], true)
        const [region, seen] = [view.point.value, view.seen.value]
        for (const side of [101, 160, 40, 101, 160, 120]) view.resize([32, side, side], true)
        if (view.point.value.y !== region.y || view.point.value.x !== region.x) throw new Error('it has drifted')
        view.resize([32, 50, 50], false)
        return [region, before, seen, view.point.value, view.seen.value.zoom]
    }""")
    region, before, seen, other, zoom = found
    assert region == {"z": 5, "y": 80, "x": 40}
    assert seen == {"zoom": 3, "z": before["z"], "y": before["y"] - 20, "x": before["x"] - 20}
    assert (other, zoom) == ({"z": 16, "y": 25, "x": 25}, 1)


def test_a_hot_voxel_does_not_hide_the_others(tmp_path: Path, visit: Open) -> None:
    volume = np.random.default_rng(1).normal(1.0, 0.1, (4, 600, 600)).astype(np.float32)
    volume[2, 300, 300] = 1e6
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file["entry/data/data"] = volume
    with ViewServer(FileSource(tmp_path / "volume.h5"), control_token=CONTROL, view_token=VIEW) as server:
        page = visit(server.view_url, viewport={"width": 1000, "height": 700})
        for axis, index in (("z", 2), ("y", 300), ("x", 300)):
            page.until_shown(axis, index=index, kind="slice")
        low, high = (float(page.page.input_value(each)) for each in ("#low", "#high"))
        # The pixels are means of some voxels.
        assert 0.7 < low < 1 < high < 1.3
        page.page.fill("#high", "12000")
        page.page.keyboard.press("Enter")
        page.page.locator("[data-axis=z] .stage").focus()
        page.page.keyboard.press("PageDown")
        page.until_shown("z", index=3, kind="slice")
        page.page.keyboard.press("PageUp")
        page.until_shown("z", index=2, kind="slice")
        page.page.click("#auto")
        assert [float(page.page.input_value(each)) for each in ("#low", "#high")] == [low, high]
        page.until("document.getElementById('readout-value').textContent.startsWith('≥ ')")
        assert "(mean of 2 × 2)" in page.text("#readout-value")
        assert "1/" not in page.text("#readout-value")


def test_a_link_for_looking_has_no_hands(server: ViewServer, visit: Open) -> None:
    page = visit(server.view_url)
    page.until_shown("z", version=1)
    assert not page.page.locator("#section-hands").is_visible()
    assert not page.page.locator("#role").is_visible()


def test_the_stream_is_lost_and_comes_back(engine: FakeEngine, server: ViewServer, visit: Open) -> None:
    page = visit(server.view_url)
    page.until_shown("z", version=1)
    engine.deaf.set()
    page.until("document.getElementById('link').dataset.state === 'gone'", seconds=30)
    assert page.text("#link") == "stream gone"
    assert "gone" in page.text("#line")
    assert page.page.locator(".stage.stale").count() == 3
    engine.deaf.clear()
    engine.step()
    page.until_shown("z", version=2)
    page.until("document.getElementById('link').dataset.state === 'live'")
    assert page.page.locator(".stage.stale").count() == 0


def test_the_server_is_lost_and_comes_back(engine: FakeEngine, browser: Browser) -> None:
    with ViewServer(LiveSource(engine.endpoint, TOKEN), view_token=VIEW) as server:
        page = Visit(browser, server.view_url)
        page.until_shown("z", version=1)
    page.until("document.getElementById('link').dataset.state === 'lost'")
    assert "lost its server" in page.text("#notice")
    assert page.page.locator(".stage.stale").count() == 3
    engine.step()
    with ViewServer(LiveSource(engine.endpoint, TOKEN), port=server.port, view_token=VIEW):
        page.until_shown("z", version=2)
        page.until("document.getElementById('link').dataset.state === 'live'")
        assert not page.page.locator("#notice").is_visible()
        page.close()
    # The browser itself says that nobody answered, and nothing else went wrong.
    assert all("ERR_CONNECTION_REFUSED" in error for error in page.errors)


def test_a_file_in_the_same_page(tmp_path: Path, visit: Open) -> None:
    volume = np.random.default_rng(1).normal(size=(10, 40, 50)).astype(np.float32)
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file["entry/data/data"] = volume
    with ViewServer(FileSource(tmp_path / "volume.h5"), control_token=CONTROL, view_token=VIEW) as server:
        assert server.control_url is not None
        page = visit(server.control_url)
        page.until_shown("z", index=5, kind="slice")
        page.until_shown("x", index=25, kind="slice")
        assert page.text("#link") == "file"
        assert page.text("#line") == f"Volume: {tmp_path / 'volume.h5'}"
        assert not page.page.locator("#dial").is_visible()
        assert not page.page.locator("#role").is_visible()
        assert page.text("[data-axis=z] .scalebar").endswith("pixels")
        page.page.keyboard.press("PageDown")
        page.until_shown("z", index=6, kind="slice")
        page.until(
            "Math.abs(parseFloat(document.getElementById('readout-value').textContent) - it) < 1e-2",
            float(volume[6, 20, 25]),
        )


def test_what_a_file_does_not_have_is_not_shown_of_the_scan_before(
    tmp_path: Path, engine: FakeEngine, server: ViewServer, visit: Open
) -> None:
    hidden = "getComputedStyle(document.getElementById('projection').firstElementChild).visibility === 'hidden'"
    page = visit(server.view_url)
    page.until("document.getElementById('projection-text').textContent.startsWith('projection ')")
    page.until(f"!({hidden})")
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file["entry/data/data"] = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    server.show(FileSource(tmp_path / "volume.h5"))
    page.until("document.getElementById('projection-text').textContent === 'a file has no projection'")
    page.until(hidden)


def test_a_file_that_is_damaged_or_away(tmp_path: Path, visit: Open) -> None:
    path = tmp_path / "volume.h5"
    volume = np.random.default_rng(1).normal(size=(4, 40, 50)).astype(np.float32)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("entry/data/data", data=volume, chunks=(1, 40, 50), compression="gzip")
        chunk = data.id.get_chunk_info(2)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    line = f"Volume: {path}, in which damaged parts cannot be read: "
    with ViewServer(FileSource(path), view_token=VIEW) as server:
        page = visit(server.view_url)
        page.until("document.getElementById('line').textContent.startsWith(it)", line)
        page.page.keyboard.press("1")
        page.page.keyboard.press("PageUp")
        page.until_shown("z", index=1, kind="slice")
        path.rename(tmp_path / "away.h5")
        page.until("document.getElementById('link').textContent === 'file gone'")
        page.until("document.querySelectorAll('.stage.stale').length === 3")
        (tmp_path / "away.h5").rename(path)
        page.until("document.getElementById('link').textContent === 'file'")
        page.until("document.getElementById('line').textContent.startsWith(it)", f"Volume: {path}")
        assert page.page.locator(".stage.stale").count() == 0


def test_a_wrong_token_is_refused_and_said(server: ViewServer, visit: Open) -> None:
    page = visit(server.view_url.replace(VIEW, "wrong"))
    page.until("document.getElementById('link').dataset.state === 'refused'")
    assert "does not accept the token" in page.text("#notice")
    assert not page.page.locator("#notice-retry").is_visible()
    # The right link, in the same window.
    page.page.goto(server.view_url)
    page.until_shown("z", version=1)


def test_another_origin_is_refused(server: ViewServer, browser: Browser) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    address = f"ws://127.0.0.1:{server.port}/ws"
    for origin in (None, "http://example.org", f"http://127.0.0.1:{server.port + 1}", "null"):
        with pytest.raises(InvalidStatus) as refused:
            connect(address, origin=origin, open_timeout=10)  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
    page = browser.new_page()
    page.goto("about:blank")
    outcome = page.evaluate(
        "address => new Promise(done => { const socket = new WebSocket(address);"
        " socket.onopen = () => done('open'); socket.onerror = () => done('refused') })",
        address,
    )
    page.close()
    assert outcome == "refused"


def test_without_webgl_there_are_slices_and_the_volume_says_why_not(server: ViewServer, playwright: Playwright) -> None:
    with browsing(playwright, *NO_WEBGL) as browser, Visit(browser, server.view_url) as page:
        for axis in AXES:
            page.until_shown(axis, version=1)
        assert page.page.evaluate("document.createElement('canvas').getContext('webgl2')") is None
        pixels = np.asarray(Image.open(io.BytesIO(page.picture("z"))).convert("L"))
        assert len(np.unique(pixels)) > 50
        page.page.click("#section-volume summary")
        page.until("document.getElementById('volume-text').textContent.includes('no WebGL')")
        assert not any("k3d" in url for url in page.requests)
        assert not page.errors


@pytest.mark.skipif(importlib.util.find_spec("k3d") is None, reason="k3d is not installed")
def test_the_volume_is_loaded_when_it_is_opened(engine: FakeEngine, server: ViewServer, playwright: Playwright) -> None:
    with browsing(playwright, *WEBGL) as browser, Visit(browser, server.view_url) as page:
        page.until_shown("z", version=1)
        assert not any("k3d" in url for url in page.requests)
        page.page.click("#section-volume summary")
        page.until(
            "document.getElementById('volume-text').textContent.startsWith('preview of 32 × 64 × 64')", seconds=60
        )
        engine.step()
        page.until("document.getElementById('volume-text').textContent.includes('version 2')", seconds=60)
        assert not page.errors


class QuickEngine(FakeEngine):
    """Makes versions in no time."""

    def _make(self, center: float | None = None) -> None:
        if self.version == 1:
            self._first = phantom(self.shape)
        self._before, self._volume = self._volume, np.roll(self._first, 3 * self.version, axis=2)


@pytest.mark.timeout(900)
def test_the_heap_stays_flat_over_a_thousand_updates(browser: Browser) -> None:
    """Three pictures of 64 kB each, and as much in colors: kept, they would be 200 MB and more."""
    with (
        QuickEngine(rate=20, shape=(32, 128, 128), versions=50000) as engine,
        ViewServer(LiveSource(engine.endpoint, TOKEN), view_token=VIEW) as server,
        Visit(browser, server.view_url) as page,
    ):
        updates = "Number(document.getElementById('slices').dataset.updates)"
        page.until(f"{updates} >= 100", seconds=60)
        first, began = page.heap(), time.monotonic()
        page.until(f"{updates} >= it", 1100, seconds=800)
        last = page.heap()
        print(f"1000 updates in {time.monotonic() - began:.0f} s: {first / 1e6:.1f} MB, then {last / 1e6:.1f} MB")
        assert last < first + 5e6
        assert not page.errors
