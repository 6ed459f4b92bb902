"""Which files may be read: those beneath allowed folders, also where a URI, a link or a virtual dataset names them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import h5py

from streamrecon.errors import SourceError

DEPTH = 8
"""Links, or virtual datasets over virtual datasets, that are followed one after another."""
_BLOCKS = 4096
"""Files that one printf-style name of a virtual source may stand for."""
_DRIVE = re.compile(r"[A-Za-z]:(/|$)")
_BLOCK = re.compile(r"%(%|b|.?)")

Opener = Callable[[Path], AbstractContextManager[h5py.File]]
"""How a file is opened that a virtual dataset takes frames from."""


class Landing(NamedTuple):
    """Where a path in a file leads."""

    file: Path | None
    """Another file that an external link leads to; None: it is in the file itself."""
    path: str
    """In that file; it may hold links itself."""


class Roots:
    """The folders beneath which files may be read, and where folders of another host lie on this one.

    Parameters
    ----------
    allowed
        Folders.
    remap
        From the beginning of a URI or of a path on another host, such as `file://ioc7/data`, `/data` or `C:/data`, to the
        folder that has the same files here. The longest that fits counts.
    allowed_option, remap_option
        Names of the options that these come from, for errors.
    """

    def __init__(
        self,
        allowed: Sequence[Path],
        remap: Mapping[str, str] | None = None,
        *,
        allowed_option: str = "source.roots",
        remap_option: str = "source.remap",
    ) -> None:
        self.allowed = tuple(Path(folder).resolve() for folder in allowed)
        self._remap = {_slashes(key).rstrip("/"): value for key, value in (remap or {}).items()}
        self._options = allowed_option, remap_option

    def locate(self, uri: str, *parts: str) -> Path:
        """The file that a URI or an absolute path names, with all links resolved. It need not be there yet.

        Parameters
        ----------
        uri
            `file://HOST/PATH` or `file:/PATH`, percent-encoded, or a plain absolute path.
        parts
            Relative paths below it.

        Raises
        ------
        SourceError
            If it names no file, or one beneath none of the allowed folders.
        """
        host, path = self._split(uri)
        for part in parts:
            if part.startswith("/") or _DRIVE.match(_slashes(part)):
                raise SourceError(f"{part!r} below {uri!r} is absolute; expected a path relative to it")
            path = f"{path.rstrip('/')}/{_slashes(part)}" if part else path
        shown = "/".join((uri, *parts))
        if "\0" in path or ".." in path.split("/"):
            raise SourceError(f"{shown!r} has a NUL or a `..` in its path; expected neither")
        mapped = self._mapped(host, path)
        if not mapped.startswith("/") or _DRIVE.match(mapped[1:]):
            raise SourceError(
                f"{shown!r} is not an absolute path of this machine; if its folder is mounted here, map it with "
                f"{self._options[1]}"
            )
        if not mapped.strip("/"):
            raise SourceError(f"{shown!r} names no file")
        return self.beneath(Path("/" + mapped.lstrip("/")), repr(shown))

    def beneath(self, path: Path, what: str) -> Path:
        """A path with its links resolved, if it lies beneath an allowed folder.

        Parameters
        ----------
        path
            Of a file that need not exist.
        what
            That names it, for the error.

        Raises
        ------
        SourceError
            If it does not.
        """
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise SourceError(f"{what} cannot be resolved: {error}") from error
        if not any(real.is_relative_to(folder) for folder in self.allowed):
            listed = ", ".join(map(str, self.allowed)) or "none"
            raise SourceError(
                f"{what} is {real}, which lies beneath none of the folders that may be read ({listed}): add its folder to "
                f"{self._options[0]}, or map the path with {self._options[1]}"
            )
        return real

    def follow(self, file: h5py.File, path: str) -> Landing:
        """Walk to a path without letting HDF5 follow a link, which would open another file.

        Parameters
        ----------
        file
            Open.
        path
            In it.

        Raises
        ------
        KeyError
            If there is nothing at that path, yet.
        SourceError
            If a link leads out of the allowed folders, or links lead in a circle.
        """
        if "\0" in path or not path.strip("/"):
            raise SourceError(f"{path!r} names no dataset of {file.filename}")
        parts, group, here, links = _parts(path), file["/"], "", 0
        while parts:
            part = parts.pop(0)
            link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
            if link is None:
                raise KeyError(f"{here}/{part}")
            if isinstance(link, h5py.HardLink):
                group, here = group[part], f"{here}/{part}"
                continue
            links += 1
            if links > DEPTH or not isinstance(link, h5py.ExternalLink | h5py.SoftLink):
                raise SourceError(
                    f"{file.filename}: {path} leads over more than {DEPTH} links, or a link of unknown type"
                )
            if isinstance(link, h5py.ExternalLink):
                target = self._beside(file, link.filename, f"the external link {here}/{part} of {file.filename}")
                return Landing(target, "/".join([link.path, *parts]))
            if link.path.startswith("/"):
                group, here = file["/"], ""
            parts = _parts(link.path) + parts
        return Landing(None, here)

    def check(
        self, file: h5py.File, dataset: h5py.Dataset, path_in_file: str, opener: Opener | None = None
    ) -> frozenset[Path]:
        """Refuse a dataset that takes data from outside of the allowed folders. No data are read, nor its extent.

        Parameters
        ----------
        file, dataset, path_in_file
            The open dataset, and where it is.
        opener
            Opens files that a virtual dataset takes frames from, which are allowed.

        Returns
        -------
        The other files that it takes data from. Those that do not exist are among them.

        Raises
        ------
        SourceError
            If it does, or virtual datasets take from each other too deeply.
        KeyError, OSError
            If a virtual source's file is there, but not its dataset.
        """
        found: set[Path] = set()
        self._check(file, dataset, path_in_file, opener or _plain, found, DEPTH)
        return frozenset(found)

    def _check(
        self, file: h5py.File, dataset: h5py.Dataset, path: str, opener: Opener, found: set[Path], depth: int
    ) -> None:
        where = f"{file.filename}: {path}"
        if depth == 0:
            raise SourceError(f"{where} is a virtual dataset over virtual datasets, more than {DEPTH} deep")
        for name, _, _ in dataset.external or ():
            # HDF5 takes a relative name from the working folder, or from where the environment says.
            what = f"the raw data of {where} in {name!r}"
            if not Path(name).is_absolute():
                prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "").replace("${ORIGIN}", str(Path(file.filename).parent))
                self.beneath(Path(prefix or ".").absolute() / name, what)
            found.add(self._beside(file, name, what))
        if not dataset.is_virtual:
            return
        for source in dataset.virtual_sources():
            endless = _is_pattern(source.file_name, source.dset_name)
            for number in range(_BLOCKS if endless else 1):
                name, inner = _block(source.file_name, number), _block(source.dset_name, number)
                try:
                    if name == ".":
                        self._check_source(file, inner, path, opener, found, depth)
                        continue
                    target = self._beside(file, name, f"a source of the virtual dataset {where}, {name!r},")
                    if endless and not target.exists():
                        break  # HDF5 ends there, too
                    found.add(target)
                    if target.exists():
                        with opener(target) as other:
                            self._check_source(other, inner, path, opener, found, depth)
                except KeyError:
                    if not endless:
                        raise
                    break

    def _check_source(
        self, file: h5py.File, inner: str, path: str, opener: Opener, found: set[Path], depth: int
    ) -> None:
        landing = self.follow(file, inner)
        if landing.file is not None:
            found.add(landing.file)
            if landing.file.exists() and depth > 1:
                with opener(landing.file) as other:
                    self._check_source(other, landing.path, path, opener, found, depth - 1)
            return
        dataset = file[landing.path]
        if isinstance(dataset, h5py.Dataset):
            self._check(file, dataset, inner, opener, found, depth - 1)

    def _beside(self, file: h5py.File, name: str, what: str) -> Path:
        """The file that HDF5 would open for a name in another file; every place where it looks must be allowed."""
        if not name or "\0" in name:
            raise SourceError(f"{what} names no file")
        folder = Path(file.filename).absolute().parent
        real = self.beneath(folder / name, what)
        prefixes = [os.environ.get(variable, "") for variable in ("HDF5_EXT_PREFIX", "HDF5_VDS_PREFIX")]
        fallbacks = [Path(name).absolute(), folder / Path(name).name]
        fallbacks += [Path(p.replace("${ORIGIN}", str(folder))) / name for q in prefixes for p in q.split(":") if p]
        for fallback in fallbacks:
            if fallback.exists():
                self.beneath(fallback, what)
        return real

    def _split(self, uri: str) -> tuple[str, str]:
        """Host and path, decoded."""
        if not uri.lower().startswith("file:"):
            if "://" in uri:
                raise SourceError(f"{uri!r} names no file; expected file://HOST/PATH or an absolute path")
            path = _slashes(uri)
            return "", f"/{path}" if _DRIVE.match(path) else path
        try:
            parts = urlsplit(uri)
            path = _slashes(unquote(parts.path, errors="strict"))
        except ValueError as error:
            raise SourceError(f"{uri!r} is not a URI: {error}") from error
        if parts.query or parts.fragment:
            raise SourceError(f"{uri!r} has a query or a fragment; expected only a path: encode `?` and `#` in it")
        return parts.netloc, path

    def _mapped(self, host: str, path: str) -> str:
        plain = path[1:] if _DRIVE.match(path[1:]) else path
        names = [f"file://{host}{path}", path, plain]
        fits = [key for key in self._remap for name in names if name == key or name.startswith(f"{key}/")]
        if not fits:
            return path
        # One that names the host is meant for it alone, so it comes first.
        key = max(fits, key=lambda key: (key.startswith("file://"), len(key)))
        name = next(name for name in names if name == key or name.startswith(f"{key}/"))
        return f"{_slashes(self._remap[key]).rstrip('/')}/{name[len(key) :].lstrip('/')}".rstrip("/")


def _plain(path: Path) -> AbstractContextManager[h5py.File]:
    opened: AbstractContextManager[h5py.File] = h5py.File(path, "r", locking=False)
    return opened


def _parts(path: str) -> list[str]:
    return [part for part in PurePosixPath(path).parts if part not in ("/", "//", ".")]


def _slashes(path: str) -> str:
    """A Windows path with the separators of all others."""
    return path.replace("\\", "/") if re.match(r"[A-Za-z]:\\|\\\\", path) else path


def _is_pattern(*names: str) -> bool:
    return any(match[1] == "b" for name in names for match in _BLOCK.finditer(name))


def _block(name: str, number: int) -> str:
    """A printf-style name for one block, as HDF5 has it: %b is its number, %% a percent sign."""
    return _BLOCK.sub(lambda match: {"%": "%", "b": str(number)}.get(match[1], match[0]), name)
