"""The members of a ``.zip`` or ``.tar*`` archive, read in one pass and within limits.

Nothing is unpacked to disk. Whatever an archive claims, no more than ``UNPACK_LIMIT`` bytes are
decompressed, ``KEEP_LIMIT`` kept and ``MEMBER_LIMIT`` names listed.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

from repoagent.errors import InputError

UNPACK_LIMIT = 2 << 30
KEEP_LIMIT = 512 << 20
MEMBER_LIMIT = 200_000
_HEADER_LIMIT = 1 << 20

BROKEN = (
    OSError, EOFError, ValueError, RuntimeError, LookupError, ArithmeticError, AssertionError,
    TypeError, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, struct.error, zlib.error,
)  # fmt: skip
"""What the standard library's parsers raise on broken or hostile archives."""

Head = Callable[[IO[bytes]], bytes]
"""Reads as much of a file as is to be kept."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member: ``name`` as stored, ``target`` of a symbolic link, ``data`` as kept."""

    name: str
    kind: Literal["dir", "file", "link", "other"]
    size: int = 0
    data: bytes = b""
    target: str = ""


def members(path: Path, head: Head, wanted: Callable[[str], bool]) -> Iterator[Member] | None:
    """Members of the archive at ``path`` whose name is ``wanted``; None if it is no archive.

    The iterator raises ``InputError`` where a limit is hit and one of ``BROKEN`` where it is broken.
    """
    if zipfile.is_zipfile(path):
        return _within_limits(_zip(path, head, wanted))
    stream = _uncompressed(path)
    try:
        archive = tarfile.TarFile(fileobj=cast("IO[bytes]", _Bounded(stream)), mode="r")
    except BROKEN:
        stream.close()
        return None
    return _within_limits(_tar(archive, stream, head, wanted))


def _within_limits(found: Iterator[Member]) -> Iterator[Member]:
    kept = 0
    for count, member in enumerate(found):
        kept += len(member.data)
        if kept > KEEP_LIMIT:
            raise _too_large(f"more than {KEEP_LIMIT >> 20} MiB of text")
        if count >= MEMBER_LIMIT:
            raise _too_large(f"more than {MEMBER_LIMIT:,} members")
        yield member


def _too_large(what: str) -> InputError:
    return InputError(f"the archive holds {what}; unpack it and name the directory.")


def _zip(path: Path, head: Head, wanted: Callable[[str], bool]) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            form = stat.S_IFMT(info.external_attr >> 16)
            name = _name(info)
            if not wanted(name):
                continue
            if info.is_dir():
                yield Member(name, "dir")
            elif form not in (0, stat.S_IFREG, stat.S_IFLNK):
                yield Member(name, "other")
            else:
                with archive.open(info) as file:
                    data = head(file)
                if form == stat.S_IFLNK:
                    yield Member(name, "link", target=data.decode("utf-8", "surrogateescape"))
                else:
                    yield Member(name, "file", info.file_size, data)


def _name(info: zipfile.ZipInfo) -> str:
    if not info.flag_bits & 0x800:  # not marked as UTF-8, but Unix tools store it all the same
        with suppress(UnicodeError):
            return info.filename.encode("cp437").decode()
    return info.filename


class _Bounded:
    """``file`` as far as tarfile needs it, within the limits.

    A tar header can claim any size: without this, one small gzip of zeros fills the memory.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > _HEADER_LIMIT:
            raise tarfile.ReadError("a header of more than 1 MiB")
        return self._file.read(size)

    def seek(self, position: int) -> int:
        if position > UNPACK_LIMIT:
            raise _too_large(f"more than {UNPACK_LIMIT >> 30} GiB")
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def _uncompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(path))
    if magic.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.open(path))
    if magic.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
        return cast("IO[bytes]", lzma.open(path))
    return path.open("rb")


def _tar(
    archive: tarfile.TarFile, stream: IO[bytes], head: Head, wanted: Callable[[str], bool]
) -> Iterator[Member]:
    files: dict[str, Member] = {}  # a hard link names a file that came before
    with stream, archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else it remembers every one
            if not wanted(info.name):
                continue
            if info.isdir():
                yield Member(info.name, "dir")
            elif info.issym():
                yield Member(info.name, "link", target=info.linkname)
            elif info.islnk():
                if original := files.get(info.linkname):
                    yield Member(info.name, "file", original.size, original.data)
            elif info.isfile():
                file = archive.extractfile(info)
                files[info.name] = Member(info.name, "file", info.size, head(file) if file else b"")
                yield files[info.name]
            else:
                yield Member(info.name, "other")
        # tarfile takes a damaged header for the end of the archive.
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("damaged header")
