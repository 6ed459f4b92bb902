"""Rings, air and bad pixels while the scan comes: the final volume is that of everything known beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from engine_scans import D, F, P, Scan, batch, config, difference, read, shuffled, simulated, stream
from PIL import Image

from streamrecon.engine import make_plan
from streamrecon.engine.mask import Mask
from streamrecon.errors import ConfigError
from streamrecon.scan import Frame, Geometry

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulated(center=24.3, bad_columns=4)


def mask_file(folder: Path, bad: np.ndarray) -> str:
    path = folder / "mask.npy"
    np.save(path, bad)
    return str(path)


# Rings.


@pytest.mark.parametrize("method", ["direct", "fourier"])
@pytest.mark.parametrize(
    ("size", "every", "order"),
    [(1, 1000, "recorded"), (7, 9, "random:4"), (16, 20, "golden"), (64, 13, "interlaced:4")],
)
def test_with_rings_neither_order_nor_batches_nor_versions_matter(
    scan: Scan, tmp_path: Path, method: str, size: int, every: int, order: str
) -> None:
    # Inside the circle: the corners of a Fourier volume magnify the rounding of float32.
    recon = {"method": method, "circle": True}
    options = config(recon=recon, emit={"every": every}, engine={"batch": size}, normalize={"rings": 6})
    sent = scan.arranged(scan.of(D), scan.of(F), shuffled(scan.of(P), order))
    volume = stream(sent, options, tmp_path).volume
    assert difference(volume, batch(scan, options, method=method)) < TOLERANCE
    assert difference(volume, batch(scan, config(recon=recon), method=method)) > 0.01
    assert read(tmp_path, "entry/reconstruction/parameters/rings") == 6


@pytest.mark.parametrize("arrangement", ["flats last", "darks last", "within"])
def test_rings_with_late_flats_and_darks(tmp_path: Path, arrangement: str) -> None:
    scan = simulated(flats=4, flats_after=4, center=24.3)
    p, f, d = scan.of(P), scan.of(F), scan.of(D)
    late = [replace(each, data=(each.data * 0.7).astype(np.uint16)) for each in f[4:]]
    sent = {
        "flats last": scan.arranged(d, p, f),
        "darks last": scan.arranged(f, p, d),
        "within": scan.arranged(d, f[:4], p[:40], late, p[40:]),
    }[arrangement]
    options = config(emit={"every": 17}, normalize={"rings": 7})
    assert difference(stream(sent, options, tmp_path).volume, batch(sent, options)) < TOLERANCE


def test_rings_with_lost_frames_and_unknown_angles(scan: Scan, tmp_path: Path) -> None:
    kept = [f for f in scan.of(P) if not 10 <= f.index < 16]
    options = config(emit={"every": 20}, normalize={"rings": 7})
    sent = scan.arranged(scan.of(D), scan.of(F), kept)
    assert difference(stream(sent, options, tmp_path / "a").volume, batch(sent, options)) < TOLERANCE
    unknown = sent.unknown()
    assert difference(stream(unknown, options, tmp_path / "b").volume, batch(sent, options)) < TOLERANCE


def test_rings_with_a_center_that_is_found(tmp_path: Path) -> None:
    scan = simulated(columns=96, projections=90, center=51.3, phantom="asymmetric")
    plain = stream(scan, config(recon={"center": None}), tmp_path / "plain")
    options = config(recon={"center": None, "center_wait": 0.0, "center_frames": 4}, normalize={"rings": 7})
    streamed = stream(scan, options, tmp_path / "rings")
    # The stripe, which changes during the scan, has no say in where the axis is.
    center = read(tmp_path / "rings", "entry/reconstruction/parameters/center")
    assert center == read(tmp_path / "plain", "entry/reconstruction/parameters/center")
    assert streamed.told("start_over")
    assert difference(streamed.volume, batch(scan, options, center)) < TOLERANCE
    assert plain.volume.shape == streamed.volume.shape


def test_rings_go(tmp_path: Path) -> None:
    """Against the scan of the same detector without bad columns, inside the circle that every angle sees."""
    options: dict[str, Any] = {"rows": 2, "columns": 256, "projections": 160, "center": 127.5, "phantom": "asymmetric"}
    volumes = {}
    for name, columns, rings in (("truth", 0, None), ("before", 8, None), ("after", 8, 9)):
        scan = simulated(**options, photons=0.0, bad_columns=columns)
        chosen = config(
            recon={"center": 127.5, "method": "fourier"}, normalize={} if rings is None else {"rings": rings}
        )
        volumes[name] = stream(scan, chosen, tmp_path / name).volume
    y, x = np.mgrid[:256, :256] - 127.5
    inside = np.hypot(x, y) < 120
    truth = volumes["truth"][:, inside]
    errors = [np.linalg.norm(volumes[n][:, inside] - truth) / np.linalg.norm(truth) for n in ("before", "after")]
    print(f"error by rings: {errors[0]:.3f} before, {errors[1]:.3f} after")
    assert errors[1] < errors[0] / 2


def test_partial_volumes_have_less_rings(tmp_path: Path) -> None:
    """From half the half circle on; a few angles would show the object rather than what is the same at all of them."""
    scan = simulated(rows=2, columns=96, projections=80, center=47.5, phantom="asymmetric", photons=0.0, bad_columns=6)
    order = shuffled(scan.of(P), "golden")
    sent = scan.arranged(scan.of(D), scan.of(F), order)
    partial = {}
    for rings in (None, 9):
        chosen = config(
            recon={"center": 47.5}, emit={"every": 20}, engine={"batch": 20, "batch_seconds": 30.0},
            normalize={"rings": rings},
        )  # fmt: skip
        stream(sent, chosen, tmp_path / f"{rings}")
        for path in sorted((tmp_path / f"{rings}" / "partials").glob("v*/slab-000.h5")):
            with h5py.File(path, "r", locking=False) as file:
                count = len(file["entry/reconstruction/theta"])
                partial[rings, count] = file["entry/data/data"][:], file["entry/reconstruction/coverage"][()]
    for count in (20, 40, 60, 80):
        same = np.allclose(partial[None, count][0], partial[9, count][0])
        assert same == (partial[9, count][1] < 0.5), count


def test_few_angles_tell_no_stripe(scan: Scan, tmp_path: Path) -> None:
    """A scan that breaks off early is left as it is."""
    sent = scan.arranged(scan.of(D), scan.of(F), scan.of(P)[:12])
    options = config(normalize={"rings": 7})
    volume = stream(sent, options, tmp_path).volume
    assert difference(volume, batch(sent, config())) < TOLERANCE


# Air.


@pytest.mark.parametrize("arrangement", ["first", "flats last", "darks last", "around"])
@pytest.mark.parametrize("air", [(6, 6), (0, 9)])
def test_air_with_flats_at_any_time(tmp_path: Path, arrangement: str, air: tuple[int, int]) -> None:
    scan = simulated(flats=4, flats_after=4, center=24.3)
    rng = np.random.default_rng(0)
    flicker = [replace(each, data=(each.data * rng.uniform(0.5, 1)).astype(np.uint16)) for each in scan.of(P)]
    f, d = scan.of(F), scan.of(D)
    parts = {
        "first": (d, f, flicker),
        "flats last": (d, flicker, f),
        "darks last": (f, flicker, d),
        "around": (d, f[:4], flicker, f[4:]),
    }[arrangement]
    sent = scan.arranged(*parts)
    options = config(emit={"every": 23}, normalize={"air": air})
    streamed = stream(sent, options, tmp_path)
    assert difference(streamed.volume, batch(sent, options)) < TOLERANCE
    assert difference(streamed.volume, batch(sent, config())) > 0.01
    assert bool(streamed.told("start_over")) == (arrangement == "darks last")
    assert list(read(tmp_path, "entry/reconstruction/parameters/air")) == list(air)


def test_air_wider_than_the_detector_is_refused(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"30 and 19 columns of air .*--air.* has 48"):
        make_plan(scan.info, (0, 6), config(normalize={"air": (30, 19)}), tmp_path)
    make_plan(scan.info, (0, 6), config(normalize={"air": (30, 18)}), tmp_path)


# Bad pixels.


def test_with_a_mask_late_flats_never_start_over(tmp_path: Path) -> None:
    scan = simulated(center=24.3)
    bad = np.random.default_rng(0).random((6, 48)) < 0.05

    def spoilt(frame: Frame) -> Frame:
        data = frame.data.copy()
        data[2, 20:23] = 0  # by the flats dead, by the mask not
        data[bad] = 60000
        return replace(frame, data=data)

    sent = scan.arranged(scan.of(D), [spoilt(f) for f in scan.of(P)], [spoilt(f) for f in scan.of(F)])
    path = mask_file(tmp_path, bad)
    options = config(emit={"every": 15}, normalize={"bad_pixels": path})
    streamed = stream(sent, options, tmp_path / "masked")
    assert not streamed.told("start_over")
    assert streamed.told("flats_corrected")
    assert difference(streamed.volume, batch(sent, options, bad=bad)) < TOLERANCE
    assert read(tmp_path / "masked", "entry/reconstruction/parameters/dead_pixels") == bad.sum()
    assert read(tmp_path / "masked", "entry/reconstruction/parameters/bad_pixels") == path
    assert stream(sent, config(), tmp_path / "plain").told("start_over")


def test_a_mask_is_cut_to_the_rows(scan: Scan, tmp_path: Path) -> None:
    bad = np.zeros((6, 48), np.uint8)
    bad[3, 10:13] = 255
    bad[0] = 1
    options = config(recon={"rows": (2, 5)}, normalize={"bad_pixels": mask_file(tmp_path, bad)})
    volume = stream(scan, options, tmp_path / "out").volume
    assert difference(volume, batch(scan, options, bad=bad != 0)[2:5]) < TOLERANCE
    assert read(tmp_path / "out", "entry/reconstruction/parameters/dead_pixels") == 3


def test_a_mask_of_another_detector_is_refused_before_anything_starts(scan: Scan, tmp_path: Path) -> None:
    options = config(normalize={"bad_pixels": mask_file(tmp_path, np.zeros((3, 48)))})
    streamed = stream(scan, options, tmp_path / "out")
    assert isinstance(streamed.engine_error, ConfigError)
    assert "3 rows and 48 columns" in str(streamed.engine_error)
    assert streamed.sender_error is not None
    assert "3 rows and 48 columns" in str(streamed.sender_error)


@pytest.mark.parametrize("kind", ["npy", "npy bool", "npy float", "tif", "tif 16 bit", "png", "png palette", "h5"])
def test_masks_of_every_kind(tmp_path: Path, kind: str) -> None:
    bad = np.random.default_rng(0).random((5, 7)) < 0.3
    path = tmp_path / f"mask.{kind.split()[0]}"
    name = str(path)
    if kind.startswith("npy"):
        np.save(path, {"npy": bad.astype(np.int16) * -3, "npy bool": bad, "npy float": bad * 0.25}[kind])
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["entry/pixel_mask"] = bad.astype(np.uint32) << 4
        name += ":/entry/pixel_mask"
    else:
        image = Image.fromarray(bad.astype(np.uint16) * 300 if "16" in kind else bad.astype(np.uint8) * 255)
        (image.convert("P") if "palette" in kind else image).save(path)
    mask = Mask.read(name)
    np.testing.assert_array_equal(mask.bad, bad)
    np.testing.assert_array_equal(mask.rows(Geometry(5, 7), (1, 4)), bad[1:4])


def hostile(folder: Path) -> dict[str, tuple[str, str]]:
    """Masks that must be refused, and a word that tells why."""
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(folder / "cube.npy", np.zeros((2, 3, 4)))
    np.save(folder / "text.npy", np.array([["a", "b"]]))
    np.save(folder / "nan.npy", np.array([[0.0, np.nan]]))
    np.save(folder / "complex.npy", np.zeros((2, 2), complex))
    np.savez(folder / "archive.npz", a=np.zeros((2, 2)))
    (folder / "archive.npz").rename(folder / "archive.npy")
    (folder / "empty.npy").write_bytes(b"")
    (folder / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (folder / "noise.tif").write_bytes(b"II*\0" + bytes(4))
    (folder / "noise.h5").write_bytes(b"not hdf5")
    (folder / "folder.npy").mkdir()
    Image.new("RGB", (4, 3)).save(folder / "colour.png")
    with h5py.File(folder / "some.h5", "w") as file:
        file["group/image"] = np.zeros((2, 3))
        file["stack"] = np.zeros((1, 2, 3))
        file["number"] = 3.0
        file["words"] = np.array([[b"a", b"b"]])
    cases = {
        "objects.npy": "pickle", "cube.npy": "shape (2, 3, 4)", "text.npy": "<U1", "nan.npy": "not finite",
        "complex.npy": "complex", "archive.npy": "read", "empty.npy": "read", "noise.png": "read", "noise.tif": "read",
        "noise.h5:/x": "read", "folder.npy": "read", "colour.png": "shape (3, 4, 3)", "some.h5": "FILE.h5:",
        "some.h5:": "FILE.h5:", "some.h5:/nothing": "no dataset", "some.h5:/group": "no dataset",
        "some.h5:/stack": "shape", "some.h5:/number": "shape", "some.h5:/words": "S1", "nothing.npy": "no file",
        "nothing.h5:/x": "no file", "mask.mat": "expected .npy",
    }  # fmt: skip
    return {name: (str(folder / name), word) for name, word in cases.items()}


def test_hostile_masks_are_refused(tmp_path: Path) -> None:
    for name, (path, word) in hostile(tmp_path).items():
        with pytest.raises(ConfigError) as refused:
            Mask.read(path)
        text = str(refused.value)
        assert word in text, (name, text)
        assert "--bad-pixels" in text
        assert path in text
    with pytest.raises(ConfigError, match=r"expected \.npy"):
        Mask.read("")


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it skips in a damaged file
@pytest.mark.parametrize("name", ["mask.npy", "mask.tif", "mask.png", "mask.h5"])
def test_a_damaged_mask_is_read_or_refused(tmp_path: Path, name: str) -> None:
    bad, path = np.eye(9, 11, dtype=np.uint8), tmp_path / name
    if name.endswith("npy"):
        np.save(path, bad)
    elif name.endswith("h5"):
        with h5py.File(path, "w") as file:
            file["m"] = bad
    else:
        Image.fromarray(bad).save(path)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(100):
        damaged = bytearray(whole)
        for at in rng.integers(min(len(damaged), 200), size=3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(1, 2 * len(damaged))])
        try:
            assert Mask.read(f"{path}:/m" if name.endswith("h5") else str(path)).bad.ndim == 2
        except ConfigError:
            refused += 1
    assert refused
