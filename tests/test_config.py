"""Options: one place, one default, and nothing unknown or out of range gets in."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrecon.config import _LIMITS, Config, EmitConfig, ReconConfig, from_dict, load, to_dict
from streamrecon.errors import ConfigError, StreamreconError

TABLES = [f.name for f in dataclasses.fields(Config)]
OPTIONS = [
    (table, f.name, typing.get_type_hints(type(getattr(Config(), table)))[f.name])
    for table in TABLES
    for f in dataclasses.fields(getattr(Config(), table))
]


def valid(table: str, name: str, hint: Any) -> st.SearchStrategy[Any]:
    arguments = typing.get_args(hint)
    if type(None) in arguments and typing.get_origin(hint) is not typing.Literal:
        inner = next(a for a in arguments if a is not type(None))
        return st.none() | valid(table, name, inner)
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(arguments)
    if typing.get_origin(hint) is tuple and arguments[-1] is Ellipsis:
        return st.lists(st.just("/here=/there"), max_size=3).map(tuple)
    if typing.get_origin(hint) is tuple:
        return st.tuples(st.integers(0, 100), st.integers(1, 100)).map(lambda p: (p[0], p[0] + p[1]))
    low, high = _LIMITS.get(f"{table}.{name}", (-1e6, 1e6))
    if name == "preview":
        return st.sampled_from([1, 2, 4, 8, 16])
    if name in ("center", "arc"):
        low, high = (1.0, 100.0)
    return {
        bool: st.booleans(),
        int: st.integers(int(low), int(high)),
        float: st.floats(low, high),
        str: st.text('ab0:/\\"\n .é', max_size=20),
    }[hint]


@st.composite
def tables(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    chosen = draw(st.lists(st.sampled_from(OPTIONS), max_size=6, unique_by=lambda o: o[:2]))
    out: dict[str, dict[str, Any]] = {}
    for table, name, hint in chosen:
        out.setdefault(table, {})[name] = draw(valid(table, name, hint))
    return out


@given(tables())
def test_options_survive_a_round_trip_through_json(options: dict[str, dict[str, Any]]) -> None:
    config = from_dict(options)
    assert from_dict(to_dict(config)) == config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    for table, values in options.items():
        for name, value in values.items():
            assert getattr(getattr(config, table), name) == value


def test_defaults_survive() -> None:
    assert from_dict({}) == Config()
    assert from_dict(to_dict(Config())) == Config()


def test_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[recon]\ncenter = 296\nrows = [3, 9]\nfilter = "hann"\ncircle = true\n[emit]\nevery = 7\n')
    config = load(path)
    assert config.recon.center == 296.0
    assert isinstance(config.recon.center, float)
    assert config.recon.rows == (3, 9)
    assert config.recon.filter == "hann"
    assert config.recon.circle is True
    assert config.emit == EmitConfig(every=7)
    assert load(str(path)) == config


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[recom]\ncenter = 1.0\n", ["recom", "recon"]),
        ("[recon]\ncentre = 1.0\n", ["recon.centre", "center"]),
        ("center = 1.0\n", ["center"]),
        ("recon = 3\n", ["recon", "3"]),
        ('[recon]\ncenter = "left"\n', ["recon.center", "left"]),
        ("[recon]\ncenter = true\n", ["recon.center"]),
        ("[recon]\ncenter = nan\n", ["recon.center", "nan"]),
        ("[recon]\ncenter = inf\n", ["recon.center"]),
        ('[recon]\nfilter = "ramps"\n', ["recon.filter", "ramps", "shepp"]),
        ("[recon]\nfilter = 3\n", ["recon.filter"]),
        ("[recon]\nfilter = [1]\n", ["recon.filter"]),
        ("[recon]\nrows = [3]\n", ["recon.rows"]),
        ("[recon]\nrows = [3, 3]\n", ["recon.rows"]),
        ("[recon]\nrows = [9, 3]\n", ["recon.rows"]),
        ("[recon]\nrows = [-1, 3]\n", ["recon.rows"]),
        ("[recon]\nrows = [0.0, 3.0]\n", ["recon.rows"]),
        ('[recon]\noffset_axis = "left"\n', ["recon.offset_axis", "auto, yes, no"]),
        ("[normalize]\nair = [0, 0]\n", ["normalize.air", "0,0", "--air LEFT,RIGHT"]),
        ("[normalize]\nair = [-1, 5]\n", ["normalize.air", "-1,5"]),
        ("[normalize]\nair = [5]\n", ["normalize.air"]),
        ("[normalize]\nrings = 1\n", ["normalize.rings", "3"]),
        ("[normalize]\nrings = 9.0\n", ["normalize.rings"]),
        ("[normalize]\nbad_pixels = 3\n", ["normalize.bad_pixels"]),
        ("[recon]\ncircle = 1\n", ["recon.circle", "true or false"]),
        ("[recon]\nupsampling = 0\n", ["recon.upsampling"]),
        ("[recon]\nupsampling = 2.0\n", ["recon.upsampling"]),
        ("[recon]\nwidth = 1000\n", ["recon.width"]),
        ("[emit]\nevery = 0\n", ["emit.every"]),
        ("[emit]\nkeep = 0\n", ["emit.keep"]),
        ("[emit]\npreview = 3\n", ["emit.preview"]),
        ("[emit]\ninterval = -1\n", ["emit.interval"]),
        ("[engine]\nring_bytes = 0\n", ["engine.ring_bytes"]),
        ("[engine]\ndelay = -0.1\n", ["engine.delay"]),
        ("[engine]\nheartbeat = 0\n", ["engine.heartbeat"]),
        ("[engine]\nbatch = 0\n", ["engine.batch"]),
        ("[source]\nfps = 0\n", ["source.fps"]),
        ('[source]\nlayout = "tiff"\n', ["source.layout", "nxtomo"]),
        ("[simulated]\nrows = 0\n", ["simulated.rows"]),
        ("[normalize]\nfloor = 0\n", ["normalize.floor"]),
        ("[[recon]]\ncenter = 1.0\n", ["recon"]),
        ("[recon\n", ["TOML"]),
        ("[recon]\ncenter = 1.0\ncenter = 2.0\n", ["TOML"]),
        ("[recon]\n[recon.center]\na = 1\n", ["recon.center"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert isinstance(raised.value, ValueError)
    message = str(raised.value)
    assert "bad.toml" in message, "which file is wrong"
    assert all(word in message for word in words), message
    assert "\n" not in message.strip() or "TOML" in message


@pytest.mark.parametrize("content", [b"\xff\xfe[recon]", b"\x80", b"[recon]\ncenter = \xe9"])
def test_a_file_that_is_not_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"binary\.toml"):
        load(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError):
        load(tmp_path)


@pytest.mark.parametrize("tables", [3, [], "recon", {"recon": None}, {1: {}}, {"recon": {1: 2}}])
def test_tables_of_another_kind(tables: Any) -> None:
    with pytest.raises(ConfigError):
        from_dict(tables)


@pytest.mark.parametrize("name", sorted(_LIMITS))
def test_limits(name: str) -> None:
    table, option = name.split(".")
    hint = typing.get_type_hints(type(getattr(Config(), table)))[option]
    kind = int if int in (hint, *typing.get_args(hint)) else float
    low, high = _LIMITS[name]
    for inside in (low, high):
        if name != "emit.preview":
            assert getattr(getattr(from_dict({table: {option: kind(inside)}}), table), option) == inside
    below = low - 1 if kind is int else np.nextafter(low, -np.inf).item()
    above = high + 1 if kind is int else np.nextafter(high, np.inf).item()
    for outside in (below, above):
        with pytest.raises(ConfigError, match=name):
            from_dict({table: {option: kind(outside)}})


def test_every_limit_is_of_an_option() -> None:
    assert set(_LIMITS) <= {f"{table}.{name}" for table, name, _ in OPTIONS}


def test_options_made_in_a_program_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"emit\.every"):
        Config(emit=EmitConfig(every=0))
    with pytest.raises(StreamreconError):
        Config(recon=ReconConfig(filter="nonsense"))  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().recon.center = 3.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        ReconConfig(centre=3.0)  # type: ignore[call-arg]


def test_numbers_of_numpy_are_numbers() -> None:
    """A center that was computed in a notebook is a numpy.float64."""
    assert Config(recon=ReconConfig(center=np.float64(12.5))).recon.center == 12.5
    assert Config(emit=EmitConfig(every=np.int64(5))).emit.every == 5  # type: ignore[arg-type]


def test_every_option_has_a_docstring_or_an_obvious_name() -> None:
    source = (Path(__file__).parents[1] / "streamrecon" / "config.py").read_text()
    for table, name, _ in OPTIONS:
        assert f"    {name}: " in source, f"{table}.{name}"


def test_tables_as_toml_writes_them() -> None:
    assert from_dict(tomllib.loads("[engine]\npeer_timeout = 5\n")).engine.peer_timeout == 5.0
