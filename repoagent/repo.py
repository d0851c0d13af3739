"""Repo: a read-only, contained, ignore-aware view of a directory or an archive.

Paths are relative to the root and ``/``-separated; the root is ``""``. Nothing outside the root
is ever read: links are resolved first and, where they leave it, only shown. Nothing is written.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pathspec import GitIgnoreSpec

from repoagent.errors import InputError

Kind = Literal["dir", "file", "link", "other"]

READ_LIMIT = 1 << 20
"""Bytes read of any one file; what lies beyond is neither searched nor shown."""
CACHE_LIMIT = 128 << 20
"""Bytes of file content kept in memory between questions."""
FILE_LIMIT = 200_000
"""Files that a walk yields before it stops."""
ARCHIVE_LIMIT = 1 << 30
"""Bytes that the files of an archive may unpack to."""
HIDDEN = frozenset({".git", ".hg", ".svn", ".jj"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory.

    ``kind`` "link" is a symbolic link: ``target`` is the path inside the repository that it leads
    to, or None where it is broken, loops or leaves the repository. "other" is a socket, FIFO, ...
    """

    name: str
    path: str
    kind: Kind
    size: int = 0
    target: str | None = None


def display(path: str) -> str:
    """``path`` on one printable line: control characters and lone surrogates are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path)


def is_binary(data: bytes) -> bool:
    """Whether ``data`` is not text: a NUL byte early on, unless it begins with a UTF-16 mark."""
    return b"\0" in data[:8192] and not data.startswith((b"\xff\xfe", b"\xfe\xff"))


def decode(data: bytes) -> str:
    """Text of ``data``: UTF-16 by its mark, else UTF-8 with undecodable bytes replaced."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return data.decode(encoding, errors="replace").replace("\r\n", "\n")


class Repo(ABC):
    """A tree of files that can be listed and read."""

    name: str

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Entry, ...]] = {}
        self._ignore: dict[str, tuple[tuple[str, GitIgnoreSpec], ...]] = {}
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0
        self.files_read: set[str] = set()

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Repo:
        """The repository at ``path``, a directory or a ``.zip`` / ``.tar*`` archive.

        Raises ``InputError`` if there is none.
        """
        root = Path(path)
        try:
            if root.is_dir():
                return DirectoryRepo(root)
            if root.is_file():
                if zipfile.is_zipfile(root):
                    return ArchiveRepo(root, _zip_members(root))
                if tarfile.is_tarfile(root):
                    return ArchiveRepo(root, _tar_members(root))
                raise InputError(
                    f"{display(str(path))} is a file but no zip or tar archive; "
                    "name a directory or an archive."
                )
        except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
            raise InputError(
                f"cannot read {display(str(path))}: {error}; name a readable repository."
            ) from error
        raise InputError(f"{display(str(path))} does not exist; name a directory or an archive.")

    # -- listing ---------------------------------------------------------------------------

    def entries(self, directory: str = "") -> tuple[Entry, ...]:
        """Visible entries of ``directory``, directories first, each group by name.

        Unreadable directories are empty. ``KeyError`` if the path leaves the root.
        """
        directory = contained(directory)
        if directory not in self._entries:
            found = [e for e in self._list(directory) if e.name not in HIDDEN]
            if any(e.name == ".gitignore" and e.kind == "file" for e in found):
                spec = GitIgnoreSpec.from_lines(_valid_patterns(self._gitignore(directory)))
                self._ignore[directory] = (*self._ignore_stack(directory), (directory, spec))
            stack = self._ignore_stack(directory)
            kept = [e for e in found if not _ignored(stack, e)] if stack else found
            kept.sort(key=lambda e: (e.kind != "dir", e.name))
            self._entries[directory] = tuple(kept)
        return self._entries[directory]

    def files(self) -> Iterator[Entry]:
        """Every visible regular file, breadth first, links left out, at most ``FILE_LIMIT``."""
        queue, count = [""], 0
        for directory in queue:
            for entry in self.entries(directory):
                if entry.kind == "dir":
                    queue.append(entry.path)
                elif entry.kind == "file":
                    yield entry
                    count += 1
                    if count >= FILE_LIMIT:
                        return

    def entry(self, path: str) -> Entry | None:
        """The visible entry at ``path``, or None."""
        parent, name = posixpath.split(contained(path))
        return next((e for e in self.entries(parent) if e.name == name), None)

    def _gitignore(self, directory: str) -> list[str]:
        return decode(self.read_bytes(posixpath.join(directory, ".gitignore"))).split("\n")

    def _ignore_stack(self, directory: str) -> tuple[tuple[str, GitIgnoreSpec], ...]:
        if directory not in self._ignore:
            parent = posixpath.dirname(directory)
            self._ignore[directory] = () if directory == "" else self._ignore_stack(parent)
        return self._ignore[directory]

    # -- reading ---------------------------------------------------------------------------

    def read_bytes(self, path: str) -> bytes:
        """The first ``READ_LIMIT`` bytes of the file at ``path``; empty if it cannot be read."""
        path = contained(path)
        data = self._cache.get(path)
        if data is None:
            data = self._read(path)
            self._cache[path] = data
            self._cached += len(data)
            while self._cached > CACHE_LIMIT:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return data

    def text(self, path: str) -> str:
        """The file at ``path`` as text, at most ``READ_LIMIT`` bytes; empty if binary."""
        data = self.read_bytes(path)
        self.files_read.add(path)
        return "" if is_binary(data) else decode(data)

    def lines(self, path: str) -> list[str]:
        """Lines of :meth:`text` without line ends; line ``n`` of an editor is ``lines[n - 1]``."""
        text = self.text(path)
        lines = text.split("\n")
        return lines[:-1] if lines[-1] == "" else lines

    @abstractmethod
    def _list(self, directory: str) -> list[Entry]: ...

    @abstractmethod
    def _read(self, path: str) -> bytes: ...


def contained(path: str) -> str:
    """``path`` normalised; ``KeyError`` if it is absolute or climbs out of the root."""
    clean = posixpath.normpath(path) if path else ""
    if clean.startswith("/") or clean == ".." or clean.startswith("../"):
        raise KeyError(path)
    return "" if clean == "." else clean


def _valid_patterns(lines: list[str]) -> list[str]:
    """Lines that pathspec accepts; git passes over a malformed pattern too."""
    valid = []
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            continue
        valid.append(line)
    return valid


def _ignored(stack: tuple[tuple[str, GitIgnoreSpec], ...], entry: Entry) -> bool:
    # The deepest .gitignore that has an opinion decides, as in git.
    for prefix, spec in reversed(stack):
        relative = entry.path[len(prefix) + 1 :] if prefix else entry.path
        verdict = spec.check_file(relative + "/" if entry.kind == "dir" else relative).include
        if verdict is not None:
            return verdict
    return False


class DirectoryRepo(Repo):
    """A repository in a directory of the file system."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = os.path.realpath(root)
        self.name = os.path.basename(self.root) or self.root
        os.scandir(self.root).close()  # an unreadable root is an error, not an empty repository

    def _inside(self, path: str) -> str | None:
        """Path of what ``path`` resolves to, relative to the root; None if outside or broken."""
        try:
            real = os.path.realpath(os.path.join(self.root, path), strict=True)
        except (OSError, ValueError):
            return None
        if real == self.root:
            return ""
        prefix = self.root.rstrip("/") + "/"
        return real[len(prefix) :] if real.startswith(prefix) else None

    def _list(self, directory: str) -> list[Entry]:
        if self._inside(directory) != directory:
            return []  # a link on the way: its own place in the tree lists it
        found: list[Entry] = []
        try:
            with os.scandir(os.path.join(self.root, directory)) as scan:
                for item in scan:
                    found.append(self._entry(item, posixpath.join(directory, item.name)))
        except OSError:
            pass
        return found

    def _entry(self, item: os.DirEntry[str], path: str) -> Entry:
        try:
            if item.is_symlink():
                return Entry(item.name, path, "link", target=self._inside(path))
            if item.is_dir(follow_symlinks=False):
                return Entry(item.name, path, "dir")
            if item.is_file(follow_symlinks=False):
                return Entry(item.name, path, "file", item.stat(follow_symlinks=False).st_size)
        except OSError:
            pass
        return Entry(item.name, path, "other")

    def _read(self, path: str) -> bytes:
        inside = self._inside(path)
        if not inside:
            return b""
        try:
            # O_NONBLOCK: a FIFO put in the file's place must not hang us. O_NOFOLLOW: nor a link.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(os.path.join(self.root, inside), flags)
        except (OSError, ValueError):
            return b""
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return b""
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return file.read(READ_LIMIT)
        except OSError:
            return b""
        finally:
            os.close(descriptor)


Member = tuple[str, Kind, bytes, str]
"""Path, kind, content and link target of one archive member."""


class ArchiveRepo(Repo):
    """A repository in an archive, held in memory; one common top directory is stripped."""

    def __init__(self, path: Path, members: Iterator[Member]) -> None:
        super().__init__()
        self.name = path.name.split(".")[0] or path.name
        nodes: dict[str, Member] = {}
        for name, kind, data, target in members:
            try:
                clean = contained(name)
            except KeyError:
                continue  # would leave the root
            if clean:
                nodes[clean] = (clean, kind, data, target)
        tops = {p.split("/")[0] for p in nodes}
        if len(tops) == 1:
            (top,) = tops
            if any(p.startswith(top + "/") for p in nodes):
                nodes = {p[len(top) + 1 :]: m for p, m in nodes.items() if p != top}
        self._nodes = nodes
        self._children: dict[str, dict[str, str]] = {"": {}}
        for path_ in list(nodes):
            child = path_
            while child:
                parent, name = posixpath.split(child)
                self._children.setdefault(parent, {})[name] = child
                child = parent

    def _resolve(self, path: str) -> str | None:
        for _ in range(16):
            node = self._nodes.get(path)
            if node is None or node[1] != "link":
                return path if node is not None or path in self._children else None
            try:
                path = contained(posixpath.join(posixpath.dirname(path), node[3]))
            except KeyError:
                return None
        return None

    def _list(self, directory: str) -> list[Entry]:
        found = []
        for name, path in self._children.get(directory, {}).items():
            node = self._nodes.get(path)
            if path in self._children or (node and node[1] == "dir"):
                found.append(Entry(name, path, "dir"))
            elif node is not None and node[1] == "link":
                found.append(Entry(name, path, "link", target=self._resolve(path)))
            elif node is not None:
                found.append(Entry(name, path, node[1], len(node[2])))
        return found

    def _read(self, path: str) -> bytes:
        resolved = self._resolve(path)
        node = self._nodes.get(resolved) if resolved else None
        return node[2] if node and node[1] == "file" else b""


def _budget(path: Path, total: int) -> None:
    if total > ARCHIVE_LIMIT:
        raise InputError(
            f"{path} unpacks to more than {ARCHIVE_LIMIT >> 20} MiB; unpack it and name the directory."
        )


def _zip_members(path: Path) -> Iterator[Member]:
    total = 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if info.is_dir():
                yield info.filename, "dir", b"", ""
                continue
            with archive.open(info) as file:
                data = file.read(READ_LIMIT)
            total += len(data)
            _budget(path, total)
            if stat.S_ISLNK(mode):
                yield info.filename, "link", b"", data.decode("utf-8", "surrogateescape")
            else:
                yield info.filename, "file", data, ""


def _tar_members(path: Path) -> Iterator[Member]:
    total = 0
    with tarfile.open(path) as archive:
        for info in archive:
            if info.isdir():
                yield info.name, "dir", b"", ""
            elif info.issym():
                yield info.name, "link", b"", info.linkname
            elif info.isfile() or info.islnk():
                try:
                    file = archive.extractfile(info)
                except KeyError:
                    continue  # a hard link to a member that is not there
                data = file.read(READ_LIMIT) if file else b""
                total += len(data)
                _budget(path, total)
                yield info.name, "file", data, ""
            else:
                yield info.name, "other", b"", ""
