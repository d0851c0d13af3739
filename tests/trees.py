"""Hostile trees, and a watch over what a program does while it walks one."""

import os
import shutil
import socket
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

CANARY = "CANARY-5c1f9d"
"""Content of every file outside the root; it must never show up anywhere."""
QUESTION = "Where is the maximum number of parallel connections configured?"

_WORDS = "max_connections = 3  # parallel connections\n"
CONTENTS: tuple[bytes, ...] = (
    b"",
    _WORDS.encode(),
    _WORDS.encode() * 300,
    b"\n" * 500 + _WORDS.encode(),
    _WORDS.replace("\n", "\r\n").encode("utf-16"),
    b"\xff\xfe\xff",
    b"\xef\xbb\xbf" + _WORDS.encode(),
    b"connections \xff\xfe\xed\xa0\x80 \x1b[2J\x07\r maximum\n" * 20,
    b"max" * 20_000,
    b"\x7fELF\0\0\0connections",
    b"parallel\0connections\n" * 600,
    b" " * 5000 + b"def connections(maximum):\n" + b"\t" * 3000,
)
IGNORES: tuple[bytes, ...] = (
    b"*a" * 60 + b"b\n",
    b"**/" * 80 + b"x\n",
    b"[\n[a\n\\\n!\n/\n//\n**\n!**\n",
    b"\xff*\n\0\n!\xff\xfe\n",
    b"*\n",
    b"../outside\n/etc/passwd\n",
)
LINKS = (
    "../outside", "../outside/secret.txt", "../outside/..", "..", "../..", "/", "/etc", "/etc/passwd",
    "/proc/self/environ", "/dev/zero", ".", "x.py", "a/x.py", "./a/../a", "nowhere", "a" * 255, "\udcff",
)  # fmt: skip
ODD = (
    b"new\nline", b"'quote'", b'"', b"`id`", b"$(id)", b"-rf", b"--", b"\xff\xfe", b"\xed\xa0\x80", b" ",
    b"\\", b"\x1b[2J", b"*", b"?", b"~", b"#", b"%s%n", b"CON", b"x" * 255, "é".encode() * 127, b".gitignore",
    b".git", b"...", b"\xe2\x80\xae.py", b"more", b"..x", b"connections.py", b"x.py", b"README.md", b"a",
)  # fmt: skip
KINDS = (
    *("file",) * 5, *("dir",) * 4, *("link",) * 4,
    "fifo", "socket", "device", "closed file", "closed dir", "sparse", "deep", "self link", "pair", "ignore",
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One entry to make: in which of the directories so far, under which name, and what."""

    parent: int
    name: bytes
    kind: str
    variant: int


names = st.one_of(
    st.sampled_from(ODD),
    st.binary(min_size=1, max_size=40)
    .map(lambda b: b.replace(b"\0", b"0").replace(b"/", b"-"))
    .filter(lambda b: b not in (b".", b"..")),
)
hostile = st.lists(
    st.builds(Node, st.integers(0, 9), names, st.sampled_from(KINDS), st.integers(0, 99)),
    min_size=1,
    max_size=25,
)


@contextmanager
def planted(nodes: list[Node], crowd: int = 0) -> Iterator[Path]:
    """A directory ``root`` with ``nodes`` (and ``crowd`` files in one directory) beside ``outside``."""
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    try:
        outside, root = base / "outside", base / "root"
        outside.mkdir()
        root.mkdir()
        for name in ("secret.txt", "x.py", "README.md", "a", "connections.py"):
            (outside / name).write_text(f"{CANARY} max_connections\n" * 20)
        folders = [os.fsencode(root)]
        for node in nodes:
            _plant(node, folders)
        if crowd:
            (root / "crowd").mkdir(exist_ok=True)
            for i in range(crowd):
                (root / "crowd" / f"connection-{i}").touch()
        yield root
    finally:
        for folder, below, _ in os.walk(base):
            for name in below:
                path = os.path.join(folder, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
        shutil.rmtree(base)


def _plant(node: Node, folders: list[bytes]) -> None:
    path = os.path.join(folders[node.parent % len(folders)], node.name)
    if os.path.lexists(path):
        return
    try:
        match node.kind:
            case "dir" | "closed dir":
                os.mkdir(path, 0o755 if node.kind == "dir" else 0)
                if node.kind == "dir":
                    folders.append(path)
            case "deep":
                for _ in range(60 + node.variant % 20):
                    os.mkdir(path)
                    path += b"/" + b"deep" * (1 + node.variant % 3)
                _write(path, CONTENTS[1])
            case "link":
                os.symlink(os.fsencode(LINKS[node.variant % len(LINKS)]), path)
            case "self link":
                os.symlink(node.name, path)
            case "pair":
                os.symlink(path + b"~", path)
                os.symlink(path, path + b"~")
            case "fifo":
                os.mkfifo(path)
            case "socket":
                unix_socket(path)
            case "device":
                device(path)
            case "sparse":
                _write(path, CONTENTS[node.variant % 2])
                os.truncate(path, 1 << 30)
            case "ignore":
                _write(
                    os.path.join(os.path.dirname(path), b".gitignore"), IGNORES[node.variant % len(IGNORES)]
                )
            case kind:
                _write(path, CONTENTS[node.variant % len(CONTENTS)])
                if kind == "closed file":
                    os.chmod(path, 0)
    except OSError:
        pass  # a name that this file system does not take


def _write(path: bytes, data: bytes) -> None:
    Path(os.fsdecode(path)).write_bytes(data)


def unix_socket(path: Path | bytes) -> None:
    """A socket at ``path``, which may be longer than a socket's address."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{folder}/s")
        os.rename(f"{folder}/s", path)


def device(path: Path | bytes) -> bool:
    """Try to make a character device (as /dev/zero) at ``path``."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except OSError:
        return False
    return True


def snapshot(root: Path) -> dict[bytes, tuple[int, ...]]:
    """What the file system knows about everything under ``root``, access times apart."""
    seen = {}
    todo = [os.fsencode(root)]
    while todo:
        path = todo.pop()
        s = os.lstat(path)
        seen[path] = (s.st_mode, s.st_ino, s.st_nlink, s.st_uid, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        if stat.S_ISDIR(s.st_mode) and os.access(path, os.R_OK):
            todo += [os.path.join(path, name) for name in os.listdir(path)]
    return seen


# -- the watch -----------------------------------------------------------------------------

_FORBIDDEN = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.remove",
    "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate",
    "os.utime", "os.setxattr", "os.removexattr", "os.mknod", "os.mkfifo", "os.chdir", "os.kill", "os.putenv",
    "shutil.", "ctypes.", "pty.", "tempfile.", "exec", "marshal.loads", "pickle.",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_watched: list[tuple[str, list[str]]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    root, problems = _watched[-1]
    if event.startswith(_FORBIDDEN):
        problems.append(f"{event} {arguments}")
    elif event in ("open", "os.scandir", "os.listdir"):
        path = arguments[0]
        flags = arguments[2] if event == "open" else 0
        if flags & _WRITING:
            problems.append(f"{event} for writing {arguments}")
        if isinstance(path, int):  # what is read: ask the kernel where that descriptor really leads
            real = os.readlink(f"/proc/self/fd/{path}") if os.path.isdir("/proc/self/fd") else root
        elif isinstance(path, str) and "/" not in path and path not in ("", ".", ".."):
            real = root if flags & os.O_NOFOLLOW else f"{path} (followed)"
        else:
            real = os.path.realpath(path or ".")
        if (real + "/")[: len(root) + 1] != root + "/":
            problems.append(f"{event} outside the root: {path!r} is {real!r}")


@contextmanager
def watch(root: Path) -> Iterator[list[str]]:
    """List what this process does meanwhile that it must not: anything but reading under ``root``."""
    if not getattr(sys, "_tree_watch", False):
        sys.addaudithook(_hook)  # for the life of the process, hence the flag
        sys._tree_watch = True  # type: ignore[attr-defined]
    problems: list[str] = []
    _watched.append((os.path.realpath(root), problems))
    try:
        yield problems
    finally:
        _watched.pop()


def unprivileged(check: Callable[[], None]) -> None:
    """Run ``check``, as nobody in a child process if this one is root."""
    if os.geteuid():
        check()
        return
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            check()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
