"""Repo: a read-only, contained, ignore-aware view of a directory or an archive.

Paths are relative to the root and ``/``-separated; the root is ``""``. Nothing outside the root
is ever read: links are resolved first and, where they leave it, only shown. Nothing is written.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Literal

from repoagent import archive
from repoagent.errors import InputError
from repoagent.ignore import Ignore

Kind = Literal["dir", "file", "link", "other"]

READ_LIMIT = 1 << 20
"""Bytes read of any one file; what lies beyond is neither searched nor shown."""
CACHE_LIMIT = 128 << 20
"""Bytes of file content kept in memory between questions."""
FILE_LIMIT = 200_000
"""Files that a walk yields before it stops, and names taken from one directory."""
DEPTH_LIMIT = 200
"""Levels of directories; what lies deeper is not entered."""
PATTERN_LIMIT = 20_000
"""Lines of all ``.gitignore`` files together that are honoured."""
HIDDEN = frozenset({".git", ".hg", ".svn", ".jj"})

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


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
    if path.isprintable():
        return path
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)


def is_binary(data: bytes) -> bool:
    """Whether ``data`` is not text: a NUL byte early on, unless it begins with a UTF-16 mark."""
    return b"\0" in data[:8192] and not data.startswith(_UTF16)


def decode(data: bytes) -> str:
    """Text of what :func:`head` kept, undecodable bytes replaced."""
    return data.decode(errors="replace").replace("\r\n", "\n")


def head(file: IO[bytes]) -> bytes:
    """What is kept of ``file``: ``READ_LIMIT`` bytes, of a binary one only its first block.

    UTF-16 becomes UTF-8, so that whoever searches bytes finds its words and its lines.
    """
    data = file.read(8192)
    if is_binary(data):
        return data
    if len(data) == 8192:
        data += file.read(READ_LIMIT - len(data))
    if data.startswith(_UTF16):
        return data.decode("utf-16", errors="replace").encode()
    return data.removeprefix(b"\xef\xbb\xbf")


class Repo(ABC):
    """A tree of files that can be listed and read."""

    name: str

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Entry, ...]] = {}
        self._ignore: dict[str, tuple[tuple[str, Ignore], ...]] = {}
        self._patterns_left = PATTERN_LIMIT
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0
        self.files_read: set[str] = set()

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Repo:
        """The repository at ``path``, a directory or a ``.zip`` / ``.tar*`` archive.

        Raises ``InputError`` if there is none.
        """
        root = Path(path)
        shown = display(str(path))
        try:
            if root.is_dir():
                return DirectoryRepo(root)
            if root.is_file():
                if (members := archive.members(root, head, _wanted)) is not None:
                    return ArchiveRepo(root, members)
                raise InputError(
                    f"{shown} is a file but no zip or tar archive; name a directory or an archive."
                )
            missing = not os.path.lexists(root)
        except archive.BROKEN as error:
            # Its first line, since a parser may quote whatever the archive holds.
            raise InputError(
                f"cannot read {shown}: {display(str(error) or type(error).__name__)}; "
                "name a readable repository."
            ) from error
        raise InputError(
            f"{shown} {'does not exist' if missing else 'is no directory and no archive'}; "
            "name a directory or an archive."
        )

    # -- listing ---------------------------------------------------------------------------

    def entries(self, directory: str = "") -> tuple[Entry, ...]:
        """Visible entries of ``directory``, directories first, each group by name.

        Unreadable directories are empty. ``KeyError`` if the path leaves the root.
        """
        directory = contained(directory)
        if directory not in self._entries:
            if directory:  # the ignore files above count, whichever directory is asked for first
                names = directory.split("/")
                for depth in range(len(names)):
                    above = "/".join(names[:depth])
                    if above not in self._entries:
                        self.entries(above)
            found = [e for e in self._list(directory) if e.name not in HIDDEN]
            if any(e.name == ".gitignore" and e.kind == "file" for e in found):
                self._ignore[directory] = (*self._ignore_stack(directory), self._gitignore(directory))
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
                    if len(queue) < FILE_LIMIT:
                        queue.append(entry.path)
                elif entry.kind == "file":
                    yield entry
                    count += 1
                    if count >= FILE_LIMIT:
                        return

    def entry(self, path: str) -> Entry | None:
        """The visible entry at ``path``, or None."""
        found, parent = None, ""
        for name in contained(path).split("/"):
            found = next((e for e in self.entries(parent) if e.name == name), None)
            if found is None:
                return None
            parent = found.path
        return found

    def _gitignore(self, directory: str) -> tuple[str, Ignore]:
        lines = self.read_bytes(posixpath.join(directory, ".gitignore")).split(b"\n")
        lines = lines[: self._patterns_left]
        self._patterns_left -= len(lines)
        return directory, Ignore(lines)

    def _ignore_stack(self, directory: str) -> tuple[tuple[str, Ignore], ...]:
        if directory not in self._ignore:
            parent = posixpath.dirname(directory)
            self._ignore[directory] = () if directory == "" else self._ignore_stack(parent)
        return self._ignore[directory]

    # -- reading ---------------------------------------------------------------------------

    def read_bytes(self, path: str) -> bytes:
        """What :func:`head` keeps of the file at ``path``; empty if it cannot be read."""
        path = contained(path)
        data = self._cache.get(path)
        if data is None:
            data = self._read(path)
            self._cache[path] = data
            self._cached += len(data)
            while self._cached > CACHE_LIMIT and self._cache:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return data

    def forget(self, path: str) -> None:
        """Read the file at ``path`` anew when it is next asked for, as it may have been edited."""
        self._cached -= len(self._cache.pop(path, b""))

    def text(self, path: str) -> str:
        """:meth:`read_bytes` as text; empty if binary."""
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
    if clean.startswith("/") or clean == ".." or clean.startswith("../") or "\0" in path:
        raise KeyError(path)
    return "" if clean == "." else clean


def _ignored(stack: tuple[tuple[str, Ignore], ...], entry: Entry) -> bool:
    # The deepest .gitignore that has an opinion decides, as in git.
    path = os.fsencode(entry.path)
    for prefix, ignore in reversed(stack):
        relative = path[len(os.fsencode(prefix)) + 1 :] if prefix else path
        verdict = ignore.verdict(relative, entry.kind == "dir")
        if verdict is not None:
            return verdict
    return False


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO put in the file's place must not hang us.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class DirectoryRepo(Repo):
    """A repository in a directory of the file system."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = os.path.realpath(root)
        self.name = os.path.basename(self.root) or self.root
        os.close(self._open("", _FOLDER))  # an unreadable root is an error, not an empty repository

    def _open(self, path: str, flags: int) -> int:
        """A descriptor of ``path``, opened name by name so that no link is followed on the way,
        not even one that takes a directory's place this moment."""
        current = os.open(self.root, _FOLDER)
        if not path:
            return current
        *folders, name = path.split("/")
        try:
            for folder in folders:
                inner = os.open(folder, _FOLDER, dir_fd=current)
                os.close(current)
                current = inner
            return os.open(name, flags, dir_fd=current)
        finally:
            os.close(current)

    def _inside(self, path: str) -> str | None:
        """Path of what ``path`` resolves to, relative to the root; None if outside or broken."""
        try:
            full = os.path.join(self.root, path)
            os.stat(full)  # the kernel gives up on loops and long chains at once, realpath does not
            real = os.path.realpath(full, strict=True)
        except (OSError, ValueError):
            return None
        if real == self.root:
            return ""
        prefix = self.root.rstrip("/") + "/"
        return real[len(prefix) :] if real.startswith(prefix) else None

    def _list(self, directory: str) -> list[Entry]:
        if directory.count("/") >= DEPTH_LIMIT:
            return []
        prefix = directory + "/" if directory else ""
        try:
            descriptor = self._open(directory, _FOLDER)
        except (OSError, ValueError):
            return []  # unreadable, or a link: its own place in the tree lists it
        try:
            with os.scandir(descriptor) as scan:
                return [self._entry(item, prefix + item.name) for item in islice(scan, FILE_LIMIT)]
        except OSError:
            return []
        finally:
            os.close(descriptor)

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
        try:
            try:
                descriptor = self._open(path, _FILE)
            except OSError:
                inside = self._inside(path)  # perhaps a link to elsewhere in the tree
                if not inside or inside == path:
                    return b""
                descriptor = self._open(inside, _FILE)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                return b""
            with os.fdopen(descriptor, "rb") as file:
                return head(file)
        except (OSError, ValueError):
            return b""


class ArchiveRepo(Repo):
    """A repository in an archive, held in memory; one common top directory is stripped."""

    def __init__(self, path: Path, members: Iterator[archive.Member]) -> None:
        super().__init__()
        self.name = _ARCHIVE_SUFFIX.sub("", path.name) or path.name
        self._nodes: dict[str, archive.Member] = {}
        self._children: dict[str, set[str]] = {"": set()}
        rooted = False
        for member in members:
            clean = contained(member.name)
            rooted |= not clean
            if clean:
                self._nodes[clean] = member
        for child in self._nodes:
            while child:
                parent, name = posixpath.split(child)
                known = parent in self._children
                self._children.setdefault(parent, set()).add(name)
                if known:
                    break
                child = parent
            if len(self._children) > FILE_LIMIT:
                raise InputError(
                    f"the archive holds more than {FILE_LIMIT:,} directories; "
                    "unpack it and name the directory."
                )
        self._top = ""
        tops = self._children[""]
        if len(tops) == 1 and tops <= self._children.keys() and not rooted:
            (top,) = tops
            self._top = top + "/"

    def _node(self, full: str) -> archive.Member | None:
        """The member at ``full``; a directory that has entries but no member of its own gets one."""
        if full in self._children:
            return archive.Member(full, "dir")
        return self._nodes.get(full)

    def _inside(self, path: str) -> str | None:
        """Full path of what ``path`` resolves to; None if outside or broken. As the kernel does it."""
        todo = (self._top + path).split("/")[::-1]
        done: list[str] = []
        for _ in range(3 * DEPTH_LIMIT):  # links may loop
            if not todo:
                return "/".join(done) if "/".join([*done, ""]).startswith(self._top) else None
            name = todo.pop()
            if name == "..":
                if not done:
                    return None
                done.pop()
                continue
            if name in ("", "."):
                continue
            full = "/".join([*done, name])
            node = self._node(full)
            if node is None or (node.kind not in ("dir", "link") and todo):
                return None
            if node.kind != "link":
                done.append(name)
            elif node.target.startswith("/") or len(node.target) > 4096:
                return None
            else:
                todo += node.target.split("/")[::-1]
        return None

    def _list(self, directory: str) -> list[Entry]:
        found = []
        prefix = directory + "/" if directory else ""
        for name in self._children.get((self._top + directory).rstrip("/"), ()):
            path = prefix + name
            node = self._node(self._top + path)
            if node is None:
                continue
            target = None
            if node.kind == "link" and (full := self._inside(path)) is not None:
                target = full[len(self._top) :]
            found.append(Entry(name, path, node.kind, node.size, target))
        return found

    def _read(self, path: str) -> bytes:
        full = self._inside(path)
        node = self._node(full) if full else None
        return node.data if node and node.kind == "file" else b""


_ARCHIVE_SUFFIX = re.compile(r"(\.(zip|t[gbx]z2?|tar(\.\w+)?))$", re.IGNORECASE)


def _wanted(name: str) -> bool:
    """Whether the archive member ``name`` lies in the root and is not hidden."""
    try:
        names = contained(name).split("/")
    except KeyError:
        return False
    return len(names) <= DEPTH_LIMIT and HIDDEN.isdisjoint(names)
