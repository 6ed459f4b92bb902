"""A URI, a path or a link leads to a file beneath the allowed folders, or is refused with what to do about it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from streamrecon.errors import SourceError
from streamrecon.sources.roots import Landing, Roots


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize(
    "uri",
    [
        "file://localhost{0}/a%20b/s.h5",
        "file://ioc7.beamline{0}/a%20b/s.h5",
        "file:{0}/a%20b/s.h5",
        "FILE://{0}/a%20b/s.h5",
        "{0}/a b/s.h5",
        "/{0}/a b/s.h5",
        "{0}/./a b//s.h5",
    ],
)
def test_every_way_to_name_a_file(uri: str, folder: Path) -> None:
    assert Roots([folder]).locate(uri.format(folder)) == folder / "a b/s.h5"


def test_parts_below_a_folder(folder: Path) -> None:
    roots = Roots([folder])
    assert roots.locate(str(folder), "", "x/y", "s.h5") == folder / "x/y/s.h5"
    assert roots.locate(f"file://localhost{folder}/", "s%20.h5") == folder / "s%20.h5"
    for part in ("/etc/passwd", "C:\\x", "../s.h5", "x/../../s.h5"):
        with pytest.raises(SourceError):
            roots.locate(str(folder), part)


@pytest.mark.parametrize(
    ("uri", "said"),
    {
        "": "absolute path",
        "s.h5": "absolute path",
        "./s.h5": "absolute path",
        "/": "names no file",
        "file://localhost": "absolute path",
        "file://localhost/": "names no file",
        "{0}/../x.h5": "`..`",
        "file://localhost{0}/%2e%2e/x.h5": "`..`",
        "file://localhost{0}/..%2fx.h5": "`..`",
        "{0}/x\0.h5": "NUL",
        "file://localhost{0}/x%00.h5": "NUL",
        "file://localhost{0}/%ff.h5": "is not a URI",
        "file://localhost{0}/x.h5?a=1": "query",
        "file://localhost{0}/x.h5#a": "fragment",
        "http://localhost{0}/x.h5": "names no file",
        "file://ioc/C:/data/x.h5": "source.remap",
        "C:\\data\\x.h5": "source.remap",
        "\\\\server\\share\\x.h5": "beneath none",
        "/etc/passwd": "source.roots",
        "file://localhost/etc/passwd": "source.roots",
        "{0}x/s.h5": "beneath none",
        "{0}/out/s.h5": "beneath none",
    }.items(),
)
def test_what_is_refused_and_why(uri: str, said: str, folder: Path) -> None:
    (folder / "out").symlink_to("/etc")
    roots = Roots([folder])
    with pytest.raises(SourceError) as caught:
        roots.locate(uri.format(folder))
    assert said in str(caught.value)


def test_the_error_names_what_was_got_what_is_allowed_and_what_to_change(folder: Path) -> None:
    roots = Roots([folder, Path("/mnt/x")], allowed_option="attach.roots", remap_option="attach.remap")
    with pytest.raises(SourceError) as caught:
        roots.locate("file://ioc7/data/s.h5")
    for part in ("file://ioc7/data/s.h5", "/data/s.h5", str(folder), "/mnt/x", "attach.roots", "attach.remap"):
        assert part in str(caught.value)
    with pytest.raises(SourceError, match=r"\(none\)"):
        Roots([]).locate("/data/s.h5")


def test_the_longest_prefix_that_fits_is_mapped(folder: Path) -> None:
    roots = Roots(
        [folder],
        {
            "/data": f"{folder}/all",
            "/data/one/": f"{folder}/one",
            "file://ioc7/data": f"{folder}/ioc7/",
            "C:\\frames": f"{folder}/windows",
            "D:": f"{folder}/d",
        },
    )
    assert roots.locate("/data/s.h5") == folder / "all/s.h5"
    assert roots.locate("/data/one/s.h5") == folder / "one/s.h5"
    assert roots.locate("file://localhost/data/ones/s.h5") == folder / "all/ones/s.h5"
    assert roots.locate("file://ioc7/data/one/s.h5") == folder / "ioc7/one/s.h5"
    assert roots.locate("file://pc/C:/frames/a/s.h5") == folder / "windows/a/s.h5"
    assert roots.locate("C:\\frames\\a\\s.h5") == folder / "windows/a/s.h5"
    assert roots.locate("D:/s.h5") == folder / "d/s.h5"
    with pytest.raises(SourceError, match="beneath none"):
        roots.locate("/database/s.h5")
    with pytest.raises(SourceError, match=r"`\.\.`"):
        roots.locate("/data/../../etc/passwd")


def test_a_link_is_followed_to_where_it_leads_and_not_beyond(folder: Path) -> None:
    (folder / "in").mkdir()
    with h5py.File(folder / "in" / "s.h5", "w") as file:
        file["a/b/data"] = np.zeros((1, 2, 2))
        file["a/soft"] = h5py.SoftLink("b/data")
        file["absolute"] = h5py.SoftLink("/a/b")
        file["out"] = h5py.ExternalLink("other.h5", "x/y")
        file["a/over"] = h5py.SoftLink("/out")
        file["escape"] = h5py.ExternalLink("../../s.h5", "x")
        roots = Roots([folder])
        assert roots.follow(file, "/a/b/data") == Landing(None, "/a/b/data")
        assert roots.follow(file, "a/soft") == Landing(None, "/a/b/data")
        assert roots.follow(file, "absolute/data") == Landing(None, "/a/b/data")
        assert roots.follow(file, "a/over/z") == Landing(folder / "in" / "other.h5", "x/y/z")
        for missing in ("a/c", "x/y/z", "a/b/data/more"):
            with pytest.raises(KeyError):
                roots.follow(file, missing)
        with pytest.raises(SourceError, match="beneath none"):
            roots.follow(file, "escape")


def test_virtual_sources_are_followed_to_the_last_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    secret = tmp_path / "outside" / "s.h5"
    with h5py.File(secret, "w") as file:
        file["d"] = np.zeros((1, 2, 2))

    def virtual(name: str, source: str, inner: str = "d") -> Path:
        with h5py.File(folder / name, "w") as file:
            layout = h5py.VirtualLayout((1, 2, 2), "f8")
            layout[:] = h5py.VirtualSource(source, inner, (1, 2, 2))
            file.create_virtual_dataset("d", layout)
        return folder / name

    def check(path: Path) -> frozenset[Path]:
        with h5py.File(path, "r", locking=False) as file:
            return Roots([folder]).check(file, file["d"], "d")

    missing = virtual("a.h5", "nothing.h5")
    assert check(missing) == {folder / "nothing.h5"}
    assert check(virtual("b.h5", "a.h5")) == {folder / "a.h5", folder / "nothing.h5"}
    virtual("c.h5", str(secret))
    for path in (folder / "c.h5", virtual("d.h5", "c.h5"), virtual("e.h5", "d.h5")):
        with pytest.raises(SourceError, match="beneath none"):
            check(path)
    with h5py.File(folder / "f.h5", "w") as file:
        file["d"] = h5py.ExternalLink(str(secret), "d")
    with pytest.raises(SourceError, match="beneath none"):
        check(virtual("g.h5", "f.h5"))
    circle = virtual("h.h5", "h.h5")
    with pytest.raises(SourceError, match="deep"):
        check(circle)


def test_what_hdf5_would_find_elsewhere_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not beside the file is looked for in the working folder, and where the environment says."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "s.h5").write_bytes(b"")
    with h5py.File(folder / "a.h5", "w") as file:
        file["x"] = h5py.ExternalLink("s.h5", "d")
        file.create_dataset("raw", (4,), "u1", external=[("s.h5", 0, 4)])
        roots = Roots([folder])
        assert roots.follow(file, "x").file == folder / "s.h5"
        monkeypatch.setenv("HDF5_EXT_PREFIX", str(tmp_path / "outside"))
        with pytest.raises(SourceError, match="beneath none"):
            roots.follow(file, "x")
        monkeypatch.delenv("HDF5_EXT_PREFIX")
        monkeypatch.chdir(tmp_path / "outside")
        with pytest.raises(SourceError, match="beneath none"):
            roots.follow(file, "x")
        with pytest.raises(SourceError, match="beneath none"):
            roots.check(file, file["raw"], "raw")
        monkeypatch.chdir(folder)
        assert roots.check(file, file["raw"], "raw") == {folder / "s.h5"}
