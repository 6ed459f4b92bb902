"""The mapping: what it allows, and what it says of what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bluesky_scans import COLUMNS, ROWS, STEP, Scan, collected, step_scan, write
from hypothesis import given
from hypothesis import strategies as st

from streamrecon.bluesky.describe import describe
from streamrecon.bluesky.mapping import at_path, bounds, fits, load_mapping, mapping_from_dict, profiles, why_no_scan
from streamrecon.bluesky.stream import _within
from streamrecon.errors import ConfigError
from streamrecon.scan import FrameKind
from streamrecon.sources.roots import Roots

LINEAR = {"from": "linear", "start": 0, "step": 1}


@pytest.mark.parametrize("name", profiles())
def test_the_profiles_that_are_shipped(name: str) -> None:
    mapping = load_mapping(name)
    assert mapping.name == name
    assert mapping.run.match, "a profile does not take every run for a scan"
    assert FrameKind.PROJECTION in mapping.rules()


PLANS = ["scan", "list_scan", "rel_scan", "step_scan", "tomo", "tomo_scan", "tomo_step_scan", "tomo_fly_scan", "tomography_fly",
         "fly", "flyscan", "fly_scan", "fly_scan2", "fly_scan_3", "flyer", "count"]  # fmt: skip


@pytest.mark.parametrize("plan", PLANS)
def test_the_profiles_do_not_take_each_others_runs(plan: str) -> None:
    start = {"plan_name": plan, "theta_start": 0.0, "theta_step": 1.0}
    found = {name.split("-")[0] for name in profiles() if why_no_scan(load_mapping(name), start) is None}
    assert len(found) == (0 if plan == "count" else 1)
    assert found <= ({"fly", "fxi"} if "fly" in plan else {"step"})


def test_angles_that_the_start_should_tell_have_to_be_there() -> None:
    linear = load_mapping("fly-scan-linear")
    assert why_no_scan(linear, {"plan_name": "fly", "theta_start": 0.0, "theta_step": 1.0}) is None
    assert why_no_scan(linear, {"plan_name": "fly", "theta_start": 0.0}) == "it has no theta_step"
    assert why_no_scan(load_mapping("fly-scan-dataset"), {"plan_name": "fly"}) is None


def test_a_run_that_fits_several_is_told(tmp_path: Path) -> None:
    (run,) = collected(step_scan(tmp_path / "a.h5", 1).documents)
    both = [mapping_from_dict({"name": name, **STEP}) for name in ("one", "two")]
    lines = describe(run, both, Roots([tmp_path]))
    assert any("it fits two as well: the first counts" in line for line in lines)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"theta": {"from": "moon"}}, "theta.from is 'moon'; expected one of: event, dataset, attribute, monitor, linear"),
    ({"theta": {"from": "event"}}, "theta.from is event; expected theta.key"),
    ({"theta": {"from": "linear", "start": 0}}, "theta.from is linear; expected theta.start and theta.step"),
    ({"theta": {"from": "monitor", "key": "m"}}, "theta.times names 0 datasets"),
    ({"theta": {**LINEAR, "at": "noon"}}, "theta.at is 'noon'; expected one of: start, middle, end"),
    ({"theta": {**LINEAR, "step": "start"}}, "theta.step is 'start'; expected a number, start.PATH or config.PATH"),
    ({"theta": {**LINEAR, "speed": 3}}, "unknown option theta.speed; expected one of: from,"),
    ({"theta": LINEAR, "flats": {}}, "unknown option flats"),
    ({"theta": LINEAR, "projection": {"range": "1-2"}}, "range is '1-2'"),
    ({"theta": LINEAR, "projection": {"select": "image_key"}}, "expected projection.image_key"),
    ({"theta": LINEAR, "projection": {"select": "run"}}, "projection.select is run"),
    ({"theta": LINEAR, "projection": {"select": "frames", "image_key": "k"}}, "projection.image_key is given"),
    ({"theta": LINEAR, "flat": {}}, "projection and flat are the same events ':' and ':' of the stream primary"),
    (
        {"theta": LINEAR, "projection": {"range": "2:"}, "dark": {"range": "0:3"}},
        "projection and dark are the same events",
    ),
    (
        {"theta": LINEAR, "projection": {"stream": "a"}, "flat": {"range": "-1"}, "dark": {"range": "-3:"}},
        "flat and dark are the same events",
    ),
    ({"theta": LINEAR, "flat": {"select": "run"}}, "expected flat.match"),
    ({"theta": LINEAR, "run": {"match": {"plan_name": "("}}}, "not a regular expression"),
    ({"theta": LINEAR, "run": {"match": "scan"}}, "run.match is 'scan'; expected a table"),
    ({"theta": LINEAR, "scan": {"pixel_size_units": "ell"}}, "scan.pixel_size_units is 'ell'"),
    ({"theta": LINEAR, "scan": {"center": True}}, "scan.center is True"),
    ({"theta": 3}, "theta is 3; expected a table"),
    ({"theta": {**LINEAR, "units": "turns"}}, "theta has units 'turns'; expected one of: deg"),
    ({"theta": {**LINEAR, "scale": "start."}}, "theta.scale is 'start.'; expected a number, start.PATH or config.PATH"),
    ({"theta": {**LINEAR, "scale": 0}}, "theta.scale is 0"),
    ({"theta": {**LINEAR, "scale": float("nan")}}, "theta.scale is nan; expected a finite number"),
    ({"theta": {**LINEAR, "motion": -1}}, "theta.motion is -1"),
    (
        {"theta": {"key": "m", "otherwise": {"from": "linear", "start": "foo", "step": 1}}},
        "theta.otherwise.start is 'foo'; expected a number",
    ),
    (
        {"theta": {"key": "m", "otherwise": {"from": "dataset"}}},
        "theta.otherwise.from is dataset; expected theta.otherwise.key",
    ),
    ({"theta": LINEAR, "scan": {"pixel_size": -1}}, "scan.pixel_size is -1; expected more than 0"),
    ({"theta": LINEAR, "scan": {"projections": 0}}, "scan.projections is 0; expected more than 0"),
]


@pytest.mark.parametrize(("tables", "words"), WRONG, ids=lambda each: str(each)[:40])
def test_what_is_wrong_is_named(tables: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        mapping_from_dict(tables)
    assert words in str(raised.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a TOML file, or one of: fly-scan"):
        load_mapping("no-such-thing")
    path = tmp_path / "m.toml"
    path.write_text("[run")
    with pytest.raises(ConfigError, match="not TOML"):
        load_mapping(path)
    path.write_text("[theta]\nfrom = 'x'\n")
    with pytest.raises(ConfigError, match=r"m\.toml: theta\.from"):
        load_mapping(path)


START = {"plan_name": "tomo_scan", "motors": ["rot", "x"], "n": 5, "on": True, "a": {"b.c": {"d": "e"}}, "a.b": 1}


@pytest.mark.parametrize(
    ("match", "fit"),
    [
        ({}, True),
        ({"plan_name": "tomo.*"}, True),
        ({"plan_name": "tomo"}, False),
        ({"plan_name": ["count", "tomo_scan"]}, True),
        ({"motors": "rot"}, True),
        ({"motors": "y"}, False),
        ({"n": 5, "on": True}, True),
        ({"n": True}, False),
        ({"on": 1}, False),
        ({"a.b.c.d": "e"}, True),
        ({"nothing": "x"}, False),
    ],
)
def test_which_runs_fit(match: dict[str, Any], fit: bool) -> None:
    why = fits(match, START)
    assert (why is None) == fit
    assert why is None or next(iter(match)) in why


def test_paths_into_documents() -> None:
    assert at_path(START, "a.b") == 1
    assert at_path(START, "a.b.c") == {"d": "e"}
    assert at_path(START, "a.x") is None
    assert at_path(3, "a") is None


ENDS = st.one_of(st.none(), st.integers(-6, 6))


@given(first=ENDS, end=ENDS, total=st.integers(0, 12))
def test_ranges_are_those_of_python_whenever_it_is_known(first: int | None, end: int | None, total: int) -> None:
    """What is decided before all have come is what is decided in the end."""
    chosen = list(range(total))[first:end]
    for unit in range(total):
        expected = chosen.index(unit) if unit in chosen else -1
        assert _within(unit, (first, end), total, True) == expected
        for count in range(unit + 1, total + 1):
            assert _within(unit, (first, end), count, False) in (None, expected)


@given(
    first=st.one_of(st.none(), st.integers(0, 6)), end=st.one_of(st.none(), st.integers(-6, 6)), unit=st.integers(0, 9)
)
def test_ranges_are_known_as_soon_as_they_can_be(first: int | None, end: int | None, unit: int) -> None:
    later = unit + 1 + max(0, -(end or 0))
    assert _within(unit, (first, end), later, False) is not None


@given(first=st.integers(-9, 9), end=st.one_of(st.none(), st.integers(-9, 9)))
def test_ranges_as_texts(first: int, end: int | None) -> None:
    assert bounds(f"{first}:{'' if end is None else end}") == (first, end)
    assert list(range(20))[slice(*bounds(str(first)))] == [range(20)[first]]


# What people are told of a run.


def test_a_run_that_would_be_reconstructed(tmp_path: Path) -> None:
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 4), 4).documents)
    text = "\n".join(describe(run, [mapping_from_dict({"name": "mine", **STEP})], Roots([tmp_path])))
    assert "mapping     mine" in text
    assert f"4 so far, det of the stream primary, 1 an event; {tmp_path / 'a.h5'}: /entry/data/data" in text
    assert "from event rot: 0.0000 to 30.0000 degrees" in text
    assert "flats       none: the mapping has no [flat]" in text
    assert "state       ended: success" in text


def test_why_a_run_would_not_be(tmp_path: Path) -> None:
    rules = [
        mapping_from_dict({"name": "one", **STEP, "run": {"match": {"plan_name": "fly"}}}),
        mapping_from_dict({"name": "two", **STEP, "run": {"match": {"beamline": "x"}}}),
    ]
    (run,) = collected(step_scan(tmp_path / "a.h5", 1).documents)
    text = "\n".join(describe(run, rules, Roots([tmp_path])))
    assert "one: no scan, as plan_name is 'scan'; expected 'fly'" in text
    assert "two: no scan, as it has no beamline" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"projection": {"key": "camera"}},
            "refused     the stream primary has no data key camera; expected one of: det, rot",
        ),
        ({"projection": {"stream": "main"}}, "no descriptor of the stream main has come (streams: primary)"),
        (
            {"theta": {"from": "event", "key": "phi", "units": "deg"}},
            "its event of primary came without phi; it has: rot",
        ),
        ({"theta": {"from": "event", "key": "rot"}}, "units 'mm'"),
    ],
)
def test_what_is_missing(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 2), 2).documents)
    assert words in "\n".join(describe(run, [mapping_from_dict({**STEP, **change})], Roots([tmp_path])))


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (run,) = collected(step_scan(write(tmp_path / "a.h5", 2), 2, stop=False).documents)
    text = "\n".join(describe(run, [mapping_from_dict(STEP)], Roots([tmp_path / "elsewhere"])))
    assert "cannot be read" in text
    assert "source.roots" in text
    assert "state       going on" in text


def test_a_run_of_flats(tmp_path: Path) -> None:
    scan = Scan(plan_name="flats")
    scan.stream(det={"shape": [1, ROWS, COLUMNS]})
    (run,) = collected(scan.documents)
    rules = {**STEP, "flat": {"select": "run", "match": {"plan_name": "flats"}}}
    assert (
        "it has the flats of the scans that follow" in describe(run, [mapping_from_dict(rules)], Roots([tmp_path]))[-1]
    )
