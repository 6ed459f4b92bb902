"""The plan: method, previews and refusals follow from bytes and seconds, without allocating anything."""

from __future__ import annotations

import math
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamrecon.config import Config, EmitConfig, EngineConfig, NormalizeConfig, ReconConfig
from streamrecon.engine import Plan, cost, imagined_scan, make_plan
from streamrecon.engine import plan as planning
from streamrecon.engine.cost import METHODS, Work, memory, seconds
from streamrecon.engine.plan import duration, size
from streamrecon.errors import PlanError
from streamrecon.recon import workspace
from streamrecon.recon.accumulate import Shape, snapshot, snapshot_shape
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.recon.rings import Stripes
from streamrecon.scan import FrameKind, Geometry

METHOD = pytest.mark.parametrize("method", METHODS)
PLENTY = 1 << 50
ACCUMULATORS = {"direct": DirectAccumulator, "fourier": FourierAccumulator}

Planner = Callable[..., Plan]


def test_full_partial_volumes_are_not_paid_for_with_a_slower_method(plan: Planner) -> None:
    """Between what both methods need for full versions there is memory for the faster one with previews."""
    free = plan(2560, 270, 1500)
    full = {name: each.total_memory for name, each in free.estimates.items()}
    assert (free.method, free.binning) == ("fourier", 1)
    between = plan(2560, 270, 1500, memory_bytes=(full["direct"] + full["fourier"]) // 2)
    assert (between.method, between.binning > 1) == ("fourier", True)
    asked = plan(2560, 270, 1500, memory_bytes=(full["direct"] + full["fourier"]) // 2, method="direct")
    assert (asked.method, asked.binning) == ("direct", 1)


@pytest.fixture
def plan(tmp_path: Path) -> Planner:
    """Plans an imagined scan; memory and disk have no end unless said otherwise."""

    def make(
        columns: int = 256, rows: int = 32, angles: int = 400, refuse: bool = True, known: bool = True, **options: Any
    ) -> Plan:
        info = imagined_scan(columns, rows, angles)
        if not known:
            info = replace(info, theta=None, counts=dict.fromkeys(FrameKind))
        return make_plan(info, options.pop("slab", (0, rows)), config(**options), tmp_path, refuse)

    return make


def config(**options: Any) -> Config:
    tables: dict[str, dict[str, Any]] = {
        "recon": {"center": 100.0},
        "emit": {},
        "engine": {"device": "cpu", "memory_bytes": PLENTY, "disk_bytes": PLENTY},
        "normalize": {},
    }
    for name, value in options.items():
        table = next(t for t, c in CLASSES.items() if name in c.__dataclass_fields__)
        tables[table][name] = value
    return Config(**{table: CLASSES[table](**values) for table, values in tables.items()})


CLASSES: dict[str, Any] = {
    "recon": ReconConfig,
    "emit": EmitConfig,
    "engine": EngineConfig,
    "normalize": NormalizeConfig,
}


def work(columns: int = 256, rows: int = 32, **changes: Any) -> Work:
    options = ReconConfig(**changes.pop("options", {}))
    shape = Shape.of(Geometry(rows, columns), options, (columns - 1) / 2)
    base = Work(shape, options, angles=400, versions=9, binning=1, passes=1, cores=2, gpu=False)
    return replace(base, **changes)


def need(p: Plan, method: str | None = None) -> int:
    return p.estimates[method or p.method].total_memory


# The method.


@pytest.mark.parametrize("columns", [16, 64, 200, 512, 2048])
@pytest.mark.parametrize("angles", [10, 100, 3000])
@pytest.mark.parametrize("every", [None, 1, 10**6])
def test_auto_takes_the_faster_method(plan: Planner, columns: int, angles: int, every: int | None) -> None:
    p = plan(columns, 20, angles, every=every)
    other = next(name for name in METHODS if name != p.method)
    assert p.estimates[p.method].total_seconds <= p.estimates[other].total_seconds
    assert duration(p.estimates[p.method].total_seconds) in p.why
    assert duration(p.estimates[other].total_seconds) in p.why
    assert p.memory == p.estimates[p.method].memory


def test_more_columns_move_the_choice_to_fourier_and_it_stays_there(plan: Planner) -> None:
    chosen = [plan(n, 16, 3 * n // 2, every=10**6).method for n in (16, 32, 64, 128, 256, 512, 1024, 2048)]
    assert chosen[-1] == "fourier"
    assert chosen == sorted(chosen), "direct first, then fourier"


def test_more_versions_move_the_choice_to_direct(plan: Planner) -> None:
    chosen = [plan(512, 32, 900, every=every).method for every in (1, 10, 100, 1000)]
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1]) == ("direct", "fourier")


@METHOD
def test_a_method_that_is_asked_for_is_kept(plan: Planner, method: str) -> None:
    for columns, every in ((32, 1), (1024, 1000)):
        p = plan(columns, 16, 1000, method=method, every=every)
        assert (p.method, p.why) == (method, "as asked for")
        assert set(p.estimates) == set(METHODS), "the other is shown, too"
    with pytest.raises(PlanError):  # even where the other one would fit
        plan(512, 32, 900, method="fourier", memory_bytes=need(plan(512, 32, 900), "direct"), preview=1)


def test_the_memory_limit_makes_it_take_the_other_method_and_say_so(plan: Planner) -> None:
    free = plan(1024, 64, 1500, every=10**6)
    assert free.method == "fourier"
    direct, fourier = need(free, "direct"), need(free, "fourier")
    assert direct < fourier
    p = plan(1024, 64, 1500, every=10**6, memory_bytes=fourier - 1)
    assert p.method == "direct"
    assert "fourier would be faster" in p.why
    assert f"needs {size(fourier)} of memory" in p.why
    assert plan(1024, 64, 1500, every=10**6, memory_bytes=fourier).method == "fourier", "exactly enough is enough"


def test_full_versions_by_the_slower_method_rather_than_previews(plan: Planner) -> None:
    free = plan(1024, 64, 1500, every=700)
    p = plan(1024, 64, 1500, every=700, memory_bytes=need(free, "direct"))
    assert (free.method, p.method, p.binning) == ("fourier", "direct", 1)


# Versions by time.


def test_versions_often_in_time_favour_direct(plan: Planner) -> None:
    """A snapshot of the Fourier method takes most of a short interval."""
    assert plan(512, 64, 9000, every=10**6).method == "fourier"
    rare = plan(512, 64, 9000, every=10**6, interval=3600.0)
    assert rare.method == "fourier"
    often = rare.estimates["fourier"].seconds["final volume"] * 1.01
    assert plan(512, 64, 9000, every=10**6, interval=often).method == "direct"


@pytest.mark.parametrize("every", [1, 5, None])
def test_an_interval_longer_than_the_scan_changes_nothing(plan: Planner, every: int | None) -> None:
    """`emit.interval` is besides `emit.every`."""
    without, with_it = plan(256, 64, 360, every=every), plan(256, 64, 360, every=every, interval=1e6)
    assert without.method == "direct"
    assert with_it.method == without.method


def test_an_interval_keeps_more_versions_on_disk(plan: Planner) -> None:
    """By time, there may be any number of versions up to what is kept."""
    without, with_it = plan(angles=100, every=50, keep=7), plan(angles=100, every=50, keep=7, interval=1.0)
    assert without.disk["partial volumes"] == 2 * without.disk["final volume"]
    assert with_it.disk["partial volumes"] == 14 * with_it.disk["final volume"]


# Previews.


@METHOD
@pytest.mark.parametrize("preview", [2, 4, 8, 16])
def test_previews_where_full_partial_volumes_do_not_fit(plan: Planner, method: str, preview: int) -> None:
    full = plan(method=method, every=40)
    volume = 32 * 256**2 * 4
    assert full.binning == 1
    assert full.memory["versions"] == 2 * volume
    enough = need(full) - volume + volume // preview**3
    p = plan(method=method, every=40, preview=preview, memory_bytes=enough)
    assert p.binning == preview
    assert need(p) == enough
    assert p.disk["partial volumes"] == full.disk["partial volumes"] // preview**3
    assert any(f"previews binned {preview} x {preview} x {preview}" in line for line in p.lines())
    with pytest.raises(PlanError, match=r"engine\.memory_bytes"):
        plan(method=method, every=40, preview=preview, memory_bytes=enough - 1)


def test_previews_where_full_ones_do_not_fit_the_disk(plan: Planner) -> None:
    full = plan(every=40)
    disk = sum(full.disk.values())
    assert plan(every=40, disk_bytes=disk).binning == 1
    p = plan(every=40, disk_bytes=disk - 1)
    assert p.binning == 4
    assert sum(p.disk.values()) < disk
    with pytest.raises(PlanError, match=r"engine\.disk_bytes"):
        plan(every=40, disk_bytes=sum(p.disk.values()) - 1)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 9])
def test_previews_are_binned_no_more_than_a_slice_is_wide(plan: Planner, side: int) -> None:
    p = plan(side=side, preview=16, disk_bytes=1, refuse=False)
    assert 1 <= p.binning <= side < 2 * p.binning or p.binning == 16


def test_a_scan_without_partial_volumes_has_none_in_memory(plan: Planner) -> None:
    p = plan(angles=100, every=100)
    assert p.memory["versions"] == p.disk["final volume"]
    assert p.estimates[p.method].seconds["partial volumes"] == 0


# OME-Zarr.


def test_versions_as_ome_zarr_are_counted(plan: Planner) -> None:
    without, with_it = plan(512, 512, 400, every=40), plan(512, 512, 400, every=40, zarr=True)
    assert "OME-Zarr" not in without.disk
    assert {name: n for name, n in with_it.disk.items() if name != "OME-Zarr"} == without.disk
    both = without.disk["partial volumes"] + without.disk["final volume"]
    assert with_it.disk["OME-Zarr"] == pytest.approx(both * 8 / 7, rel=0.01), "the levels are a seventh of the whole"


def test_versions_as_ome_zarr_have_to_fit_the_disk(plan: Planner) -> None:
    full = plan(every=40, zarr=True)
    disk = sum(full.disk.values())
    assert plan(every=40, zarr=True, disk_bytes=disk).binning == 1
    binned = plan(every=40, zarr=True, disk_bytes=disk - 1)
    assert binned.binning == 4
    with pytest.raises(PlanError, match=r"leave OME-Zarr out \(emit\.zarr\)"):
        plan(every=40, zarr=True, disk_bytes=sum(binned.disk.values()) - 1)
    with pytest.raises(PlanError) as refused:
        plan(disk_bytes=1000)
    assert "OME-Zarr" not in str(refused.value)


# Refusals.


def test_refusals_name_what_to_change(plan: Planner) -> None:
    with pytest.raises(PlanError) as refused:
        plan(memory_bytes=1000)
    for option in ("engine.memory_bytes", "--rows", "recon.side", "engine.ring_bytes"):
        assert option in str(refused.value)
    assert "engine.disk_bytes" not in str(refused.value)
    with pytest.raises(PlanError) as refused:
        plan(disk_bytes=1000)
    for option in ("engine.disk_bytes", "--out", "emit.keep", "--every", "emit.preview", "--rows"):
        assert option in str(refused.value)
    p = plan(memory_bytes=1000, disk_bytes=1000, refuse=False)
    assert len(p.refusals) == 2, "both are told"
    assert not plan().refusals


@pytest.mark.parametrize(
    "change", [{"slab": (0, 8)}, {"side": 60}, {"ring_bytes": 40000}], ids=["rows", "side", "ring"]
)
def test_what_a_refusal_proposes_helps(plan: Planner, change: dict[str, Any]) -> None:
    before = {"every": 100, "preview": 1}
    limit = need(plan(**before)) - 1
    with pytest.raises(PlanError):
        plan(**before, memory_bytes=limit, method="fourier")
    assert plan(**before, **change, memory_bytes=limit).memory_limit == limit


def test_without_a_limit_a_share_of_what_is_there(
    plan: Planner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(planning, "available_memory", lambda: 1000)
    monkeypatch.setattr(planning, "free_disk", lambda folder: 500)
    p = plan(memory_bytes=None, disk_bytes=None, refuse=False)
    assert (p.memory_limit, p.disk_limit) == (800, 400)
    assert "800 B may be used" in p.refusals[0]
    assert "400 B may be used" in p.refusals[1]


# Seconds follow the work.

STAGES = ("normalize", "filter", "accumulate", "partial volumes", "final volume")


def times(method: str, columns: int = 256, rows: int = 32, **changes: Any) -> NDArray[np.float64]:
    """Seconds of each of the `STAGES`, over those of the usual work."""
    usual, changed = seconds(method, work()), seconds(method, work(columns, rows, **changes))
    assert tuple(changed) == STAGES
    return np.array([changed[stage] / usual[stage] for stage in STAGES])


@METHOD
def test_seconds_are_in_proportion(method: str) -> None:
    np.testing.assert_allclose(times(method, angles=1200), [3, 3, 3, 1, 1])
    np.testing.assert_allclose(times(method, passes=2), [2, 2, 2, 1, 1])
    np.testing.assert_allclose(times(method, versions=27), [1, 1, 1, 3, 1])
    np.testing.assert_allclose(times(method, rows=96), 3)
    np.testing.assert_allclose(times(method, cores=6)[:3], 1 / 3)


def test_more_cores_transform_images_sooner_but_copy_no_faster() -> None:
    np.testing.assert_allclose(times("direct", cores=6)[3:], 1)
    volumes = times("fourier", cores=6)[3:]
    assert (volumes > 1 / 3).all()
    assert (volumes < 0.8).all()


def test_wider_kernels_add_each_sample_to_as_many_more_cells() -> None:
    np.testing.assert_allclose(times("fourier", options={"width": 10}), [1, 1, 4, 1, 1])
    np.testing.assert_allclose(times("direct", options={"width": 10}), 1)


def test_a_finer_grid_is_transformed_longer() -> None:
    changed = times("fourier", options={"oversampling": 2.5})
    np.testing.assert_allclose(changed[:3], 1)
    assert (changed[3:] > 2).all()
    assert (changed[3:] < 4.5).all()
    np.testing.assert_allclose(times("direct", options={"oversampling": 2.5}), 1)


def test_longer_rows_are_filtered_longer() -> None:
    np.testing.assert_allclose(times("direct", options={"upsampling": 1})[[0, 2, 3, 4]], 1)
    # A transform there and one back, which was twice as long.
    assert times("direct", options={"upsampling": 1})[1] == pytest.approx(2 / 3, rel=0.1)
    np.testing.assert_allclose(times("fourier", options={"upsampling": 1}), 1)


def test_columns_count_once_for_fourier_and_twice_for_direct() -> None:
    np.testing.assert_allclose(times("direct", 512), [2, 2, 4, 4, 4], rtol=0.15)
    np.testing.assert_allclose(times("fourier", 512), [2, 2, 2, 4, 4], rtol=0.15)


@METHOD
def test_previews_are_made_sooner(method: str) -> None:
    changed = times(method, binning=4)
    np.testing.assert_allclose(changed[[0, 1, 2, 4]], 1)
    assert changed[3] < 0.75


# More of something is never less of another.


@METHOD
@pytest.mark.parametrize("gpu", [False, True])
def test_more_work_never_takes_less_time(method: str, gpu: bool) -> None:
    def total(**changes: Any) -> float:
        parts = seconds(method, work(gpu=gpu, **changes))
        assert all(math.isfinite(part) and part >= 0 for part in parts.values())
        return sum(parts.values())

    # Where the Fourier method begins to take two bands, more columns take less time.
    for name, values in (
        ("angles", range(1, 2000, 37)),
        ("versions", range(0, 50, 3)),
        ("passes", (1, 2, 3)),
        ("rows", range(1, 200)),
        ("columns", range(1, 600, 9)),
        ("columns", range(1000, 4000, 37)),
    ):
        times = [total(**{name: value}) for value in values]
        assert times == sorted(times), name
    cores = [total(cores=n) for n in (16, 8, 4, 2, 1)]
    assert cores == sorted(cores)


@METHOD
def test_a_plan_of_more_angles_takes_no_less_time(plan: Planner, method: str) -> None:
    times = [plan(96, 5, n, method=method, every=20).estimates[method].total_seconds for n in range(1, 200)]
    assert times == sorted(times)


def all_memory(method: str, w: Work) -> dict[str, int]:
    return memory(method, w, 16, 2, 1000, False)[0]


@METHOD
def test_more_rows_never_have_less_state_and_versions(method: str) -> None:
    """What is used for a batch or a snapshot depends on the rows of a block, which may be fewer where blocks are more."""
    parts = [all_memory(method, work(60, rows)) for rows in range(1, 300)]
    for name in ("state", "versions", "frames of a batch", "flats and dark"):
        amounts = [part[name] for part in parts]
        assert amounts == sorted(amounts), name
    whole = [sum(all_memory(method, work(60, rows)).values()) for rows in range(32, 1000, 32)]
    assert whole == sorted(whole)


@METHOD
def test_a_known_center_saves_the_second_pass(plan: Planner, method: str) -> None:
    once, twice = (plan(method=method, center=c).estimates[method].seconds for c in (127.5, None))
    for stage in ("normalize", "filter", "accumulate"):
        assert twice[stage] == pytest.approx(2 * once[stage])
    assert twice["final volume"] == once["final volume"]


# Bytes are those of the arrays.


@METHOD
@pytest.mark.parametrize("rows", [1, 3, 8, 9, 33, 65])
@pytest.mark.parametrize(
    ("columns", "options"),
    [
        (1, {}),
        (7, {"side": 13}),
        (33, {"width": 2}),
        (65, {"side": 1, "width": 12}),
        (40, {"oversampling": 1.7, "width": 4}),
        (37, {"side": 63, "upsampling": 1, "oversampling": 4.0}),
        (660, {}),
    ],
)
def test_the_state_is_as_large_as_planned(method: str, rows: int, columns: int, options: dict[str, Any]) -> None:
    recon = ReconConfig(**options)
    shape = Shape.of(Geometry(rows, columns), recon, columns / 2.3)
    made = ACCUMULATORS[method](shape, recon)
    planned = all_memory(method, work(columns, rows, shape=shape, options=options))["state"]
    assert made.nbytes == planned == ACCUMULATORS[method].state_bytes(shape, recon)


@METHOD
@pytest.mark.parametrize(
    ("columns", "rows", "angles", "options"),
    [(96, 32, 16, {}), (300, 4, 64, {"oversampling": 2.0, "width": 7}), (760, 20, 16, {"upsampling": 1})],
    ids=["small", "finer", "two bands"],
)
def test_as_much_is_allocated_as_planned(
    method: str, columns: int, rows: int, angles: int, options: dict[str, Any]
) -> None:
    w = work(columns, rows, options=options)
    planned = memory(method, w, angles, 2, 0, False)[0]
    projections, theta = np.ones((angles, rows, columns), np.float32), np.arange(angles) * 0.19
    out = np.empty(snapshot_shape(w.shape, 1), np.float32)

    def use() -> list[int]:
        """Bytes of what stays, and of what was there at most, of each step."""
        tracemalloc.start()
        amounts = [0]
        try:
            accumulator = ACCUMULATORS[method](w.shape, w.options)
            amounts.append(tracemalloc.get_traced_memory()[0])
            for step in (lambda: accumulator.add(projections, theta, theta), lambda: snapshot(accumulator, out=out)):
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                step()
                amounts.append(tracemalloc.get_traced_memory()[1] - before)
        finally:
            tracemalloc.stop()
        return amounts[1:]

    use()  # the kernels are compiled, or loaded
    state, batch, taken = use()
    assert state == pytest.approx(planned["state"], rel=0.02)
    assert batch == pytest.approx(planned["batch"], rel=0.15)
    # One core may have done all parts of a small image before another one woke.
    assert taken == pytest.approx(planned["snapshot"], rel=0.25, abs=100_000)


def test_rings_take_as_much_as_planned() -> None:
    def fields(rings: bool) -> int:
        return memory("direct", work(500, 100), 16, 2, 0, rings)[0]["flats and dark"]

    projections = np.ones((3, 100, 500), np.float32)
    tracemalloc.start()
    try:
        stripes = Stripes(100, 500, 9)
        stripes.learn(projections)
        stripes.refresh()
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fields(True) - fields(False) == pytest.approx(taken, rel=0.2)


@METHOD
def test_the_compiler_takes_memory_unless_all_is_compiled(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def program(compiled: bool) -> int:
        monkeypatch.setattr(cost, "all_compiled", lambda: compiled)
        return all_memory(method, work())["program"]

    assert program(False) - program(True) > 100e6, "a compiler is no small thing"


def test_frames_ring_and_journal_are_counted_in_the_frames_own_type(tmp_path: Path) -> None:
    for dtype in ("uint8", "uint16", "float64"):
        p = make_plan(imagined_scan(30, 5, 64, dtype), (1, 4), config(ring_bytes=5000, batch=7), tmp_path)
        frame = 3 * 30 * np.dtype(dtype).itemsize
        assert p.memory["ring"] == p.slots * frame <= 5000 < p.memory["ring"] + frame or p.slots == 64
        assert p.memory["frames of a batch"] == 7 * 3 * 30 * (np.dtype(dtype).itemsize + 4)
        assert p.disk["journal"] == 64 * frame


def test_a_scan_of_unknown_length_is_planned_for_one_version(plan: Planner) -> None:
    p = plan(known=False)
    assert p.every == 100
    assert "journal, of the frames announced" in p.disk
    assert p.estimates[p.method].seconds == plan(angles=200, every=100).estimates[p.method].seconds | {
        stage: pytest.approx(plan(angles=100, every=100).estimates[p.method].seconds[stage])
        for stage in ("normalize", "filter", "accumulate")
    }


# Numbers for people.


@pytest.mark.parametrize("amount", [0, 1, 999, 1000, 123_456, 99_949_999, 10**12])
def test_sizes_are_right_to_three_digits(amount: int) -> None:
    number, unit = size(amount).split()
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * factor == pytest.approx(amount, rel=0.005)
    assert "e" not in number


@pytest.mark.parametrize(
    ("words", "amount"), [(size, 999_600), (size, 999.9e6), (duration, 99.7), (duration, 5980.0), (duration, 1e6)]
)
def test_no_number_has_an_exponent(words: Callable[[float], str], amount: float) -> None:
    assert not re.search(r"\de", words(amount)), words(amount)


# With a GPU.


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Put a GPU with so many free bytes into this machine."""

    def put(free: int) -> None:
        monkeypatch.setattr(planning, "uses_gpu", lambda asked: asked != "cpu")
        monkeypatch.setattr(planning, "free_bytes", lambda: free)

    return put


def on_gpu(p: Plan, method: str) -> int:
    return sum(p.estimates[method].gpu_memory.values())


@METHOD
def test_the_state_is_on_the_gpu_and_no_longer_here(plan: Planner, gpu: Callable[[int], None], method: str) -> None:
    here = plan(method=method, device="auto").estimates[method]
    assert here.gpu_memory == {}
    gpu(PLENTY)
    p = plan(method=method, device="auto")
    there = p.estimates[method]
    assert p.device == "gpu"
    for name in ("state", "batch", "snapshot"):
        assert name in there.gpu_memory
        assert name in here.memory
        assert name not in there.memory
    assert there.gpu_memory["state"] == here.memory["state"]
    assert there.memory["versions"] == here.memory["versions"], "versions come here to be written"
    assert plan(method=method, device="cpu").device == "cpu"
    assert plan(method=method, device="cpu").estimates[method] == here


@METHOD
def test_a_gpu_works_on_one_block_at_a_time(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "threads", lambda: 3)

    def batch(blocks: int, gpu: bool) -> int:
        return memory(method, work(96, 32 * blocks, gpu=gpu), 16, 2, 0, False)[gpu]["batch"]

    assert batch(1, True) == batch(2, True) == batch(9, True) == batch(1, False)
    assert batch(1, False) < batch(2, False) < batch(3, False) == batch(9, False), "a block for each core"


def test_the_memory_of_the_gpu_decides(plan: Planner, gpu: Callable[[int], None]) -> None:
    gpu(PLENTY)
    scan: dict[str, Any] = {"columns": 1024, "rows": 64, "angles": 1500, "every": 10**6, "device": "gpu"}
    free = plan(**scan)
    assert free.method == "fourier"
    little = on_gpu(free, "fourier") - 1
    assert on_gpu(free, "direct") < little
    gpu(math.ceil(little / planning.SHARE))
    p = plan(**scan)
    assert p.method == "direct"
    assert "fourier would be faster" in p.why
    assert "of the GPU's memory" in p.why
    gpu(1000)
    with pytest.raises(PlanError, match=r"GPU's memory, 800 B may be used") as refused:
        plan(**scan)
    for option in ('engine.device = "cpu"', "--rows", "recon.side"):
        assert option in str(refused.value)
    assert plan(**scan | {"device": "cpu"}).device == "cpu", "what it proposes helps"


def test_the_machine_need_not_hold_the_state_of_a_gpu(plan: Planner, gpu: Callable[[int], None]) -> None:
    without = plan(512, 64, 900)
    gpu(PLENTY)
    with_it = plan(512, 64, 900, device="auto")
    state = without.memory["state"]
    assert need(with_it) < need(without) - state // 2
    limit = need(without, "direct") - state // 2
    assert plan(512, 64, 900, device="auto", memory_bytes=limit, preview=1).device == "gpu"
    with pytest.raises(PlanError, match=r"engine\.memory_bytes"):
        plan(512, 64, 900, device="cpu", memory_bytes=limit, preview=1)
    with pytest.raises(PlanError, match=r"engine\.memory_bytes"):  # versions are still here
        plan(512, 64, 900, device="gpu", memory_bytes=need(with_it) - 1, preview=1)


def test_a_scan_that_is_gone_on_with_has_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has taken is free no more, and is needed; where the rest has no room now, it is told and not refused."""
    info, config = imagined_scan(64, 8, 100), Config(recon=ReconConfig(center=31.5), emit=EmitConfig(preview=1))
    needed = sum(make_plan(info, (0, 8), config, tmp_path).disk.values())
    free = [int(needed / planning.SHARE) + 2]
    monkeypatch.setattr(planning, "free_disk", lambda path: free[0])
    before = make_plan(info, (0, 8), config, tmp_path)
    free[0] -= 2 * needed // 3
    with pytest.raises(PlanError, match="disk"):
        make_plan(info, (0, 8), config, tmp_path)
    on = make_plan(info, (0, 8), config, tmp_path, begun=2 * needed // 3)
    assert (on.binning, on.disk, on.warnings) == (before.binning, before.disk, before.warnings)
    free[0] = 0
    assert any("disk" in line for line in make_plan(info, (0, 8), config, tmp_path, begun=needed // 3).warnings)
