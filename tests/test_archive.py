"""Repo over archives: the same as over a directory, and within limits whatever they hold."""

import bz2
import gzip
import io
import os
import random
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from repoagent.errors import InputError
from repoagent.repo import READ_LIMIT, Entry, Repo
from tests.trees import unix_socket

RANDOM = random.Random(0)
FORMATS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def make(folder: Path) -> Path:
    """A repository with one of everything an archive can hold."""
    root = folder / "project-1.2"
    for name in ("src/deep/er", "empty", ".github/workflows", ".git/objects", "build"):
        (root / name).mkdir(parents=True)
    (root / ".git/config").write_text("[core]")
    (root / ".gitignore").write_text("build/\n*.log\n!keep.log\n")
    (root / "src/.gitignore").write_text("!x.log\n/local\n")
    for name in ("build/out", "a.log", "keep.log", "src/x.log", "src/local", ".github/workflows/ci.yml"):
        (root / name).write_text(name)
    (root / "src/main.py").write_text("def main():\n    pass\n")
    (root / "src/deep/er/crlf.txt").write_bytes(b"one\r\ntwo\r\n")
    (root / "wide.txt").write_text("wide ž\n", encoding="utf-16")
    (root / "big.txt").write_bytes(b"line\n" * 400_000)
    (root / "binary.bin").write_bytes(b"\x7fELF\0" + bytes(range(256)) * 100)
    (root / "žluť.txt").write_text("name")
    (root / "new\nline").write_text("name")
    os.link(root / "src/main.py", root / "src/twin.py")
    for link, to in {
        "link.py": "src/main.py",
        "folder": "src/deep",
        "via": "folder/er/crlf.txt",
        "src/up": "../keep.log",
        "round": f"../{root.name}/src",
        "self": ".",
        "out": "../../secret",
        "parent": "..",
        "passwd": "/etc/passwd",
        "dangling": "nowhere",
        "loop": "loop",
        "notdir": "keep.log/x",
    }.items():
        (root / link).symlink_to(to)
    return root


def pack(root: Path, target: Path, top: str) -> Path:
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(root.rglob("*")):
                name = os.path.join(top, path.relative_to(root))
                if path.is_symlink():
                    info = zipfile.ZipInfo(name)
                    info.external_attr = 0o120777 << 16
                    archive.writestr(info, os.fsencode(path.readlink()))
                else:
                    archive.write(path, name)
    else:
        mode = f"w:{target.suffix[1:]}" if target.suffix != ".tar" else "w"
        with tarfile.open(target, mode) as archive:
            archive.add(root, top or ".")
    return target


def everything(repo: Repo, directory: str = "") -> list[Entry]:
    found = []
    for entry in repo.entries(directory):
        found.append(entry)
        if entry.kind == "dir":
            found += everything(repo, entry.path)
    return found


@pytest.mark.parametrize("top", ["project-1.2", ""])
@pytest.mark.parametrize("suffix", FORMATS)
def test_an_archive_is_the_same_as_its_directory(tmp_path: Path, suffix: str, top: str) -> None:
    root = make(tmp_path)
    if not top:
        (root / "round").unlink()  # an archive without a top directory does not know the root's name
    packed = Repo.open(pack(root, tmp_path / f"project-1.2.{suffix}", top))
    plain = Repo.open(root)
    assert packed.name == plain.name == "project-1.2"
    assert everything(packed) == everything(plain)
    assert [e.path for e in packed.files()] == [e.path for e in plain.files()]
    for entry in everything(plain):
        if entry.kind in ("file", "link"):
            assert packed.lines(entry.path) == plain.lines(entry.path), entry
            assert packed.read_bytes(entry.path) == plain.read_bytes(entry.path), entry
        assert packed.entry(entry.path) == entry


def test_the_example_holds_what_it_should(tmp_path: Path) -> None:
    files = {e.path for e in Repo.open(make(tmp_path)).files()}
    assert {".github/workflows/ci.yml", "keep.log", "src/x.log", "src/twin.py"} < files
    assert not files & {"a.log", "build/out", "src/local", ".git/config", "link.py"}


def test_sockets_and_fifos_in_a_tar_are_other(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r/x").write_text("x")
    os.mkfifo(tmp_path / "r/fifo")
    unix_socket(tmp_path / "r/socket")  # tar leaves it out
    repo = Repo.open(pack(tmp_path / "r", tmp_path / "r.tar", "r"))
    assert {e.name: e.kind for e in repo.entries()} == {"fifo": "other", "x": "file"}


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def member(
    name: str, kind: bytes = tarfile.REGTYPE, to: str = "", data: bytes = b""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info, data


ESCAPES = ("../../evil", "/etc/evil", "a/../../evil", "//evil", "..", "../x")


def test_members_outside_the_root_are_left_out(tmp_path: Path) -> None:
    good = member("in/a", data=b"good")
    tarred = tar(
        tmp_path / "x.tar", *[member(name, data=b"evil") for name in ESCAPES], good, member("b", data=b"b")
    )
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in (*ESCAPES, "in/a", "b"):
            archive.writestr(name, "good")
    for path in (tarred, tmp_path / "x.zip"):
        repo = Repo.open(path)
        assert [e.path for e in everything(repo)] == ["in", "in/a", "b"]
        assert repo.text("in/a") == "good"
        for name in ESCAPES:
            with pytest.raises(KeyError):
                repo.read_bytes(name)
    assert not list(tmp_path.parent.glob("evil*"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.tar", "x.zip"]


def test_links_in_an_archive_lead_nowhere_else(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    sym, hard = tarfile.SYMTYPE, tarfile.LNKTYPE
    path = tar(
        tmp_path / "x.tar",
        member("a/file", data=b"inside"),
        member("a/absolute", sym, str(secret)),
        member("a/relative", sym, "../../" * 20 + str(secret)[1:]),
        member("a/parent", sym, ".."),
        member("a/hard", hard, "a/file"),
        member("a/hard-out", hard, str(secret)),
        member("a/hard-up", hard, "../../secret"),
        member("a/hard-later", hard, "a/later"),
        member("a/later", data=b"later"),
        member("a/ping", sym, "pong"),
        member("a/pong", sym, "ping"),
        member("a/hard-loop", hard, "a/ping"),
        member("a/long", sym, "./" * 200_000 + "file"),
        member("b/x", data=b"x"),
    )
    repo = Repo.open(path)
    entries = {e.name: e for e in repo.entries("a")}
    assert {n: repo.text(f"a/{n}") for n in entries if repo.text(f"a/{n}")} == {
        "file": "inside",
        "hard": "inside",
        "later": "later",
    }
    assert {e.target for e in entries.values() if e.kind == "link"} == {None, ""}
    assert "hard-out" not in entries


def test_a_file_that_is_also_a_directory_is_a_directory(tmp_path: Path) -> None:
    repo = Repo.open(
        tar(tmp_path / "x.tar", member("a", data=b"file"), member("a/b", data=b"b"), member("c"))
    )
    assert [(e.path, e.kind) for e in everything(repo)] == [("a", "dir"), ("a/b", "file"), ("c", "file")]
    assert repo.text("a") == ""


# -- limits --------------------------------------------------------------------------------


def zeros(stream: io.BufferedIOBase, size: int) -> None:
    block = bytes(1 << 20)
    for _ in range(size >> 20):
        stream.write(block)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info, _ = member(name, kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE, tarfile.REGTYPE]
)
def test_a_small_gzip_of_a_huge_header_costs_little_memory(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", 6) as stream:
        stream.write(header("first", 0) + header("bomb", 100 << 20, kind))
        zeros(stream, 100 << 20)
    tracemalloc.start()
    try:
        repo = Repo.open(path)
        assert kind == tarfile.REGTYPE
        assert [e.size for e in repo.entries()] == [100 << 20, 0]
        assert len(repo.read_bytes("bomb")) <= READ_LIMIT
    except InputError as error:
        assert str(error).isprintable()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("opener", [gzip.open, bz2.open])
def test_what_unpacks_to_too_much_is_refused(
    tmp_path: Path, opener: Callable[..., io.BufferedIOBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repoagent.archive.UNPACK_LIMIT", 8 << 20)
    path = tmp_path / "bomb"
    with opener(path, "wb") as stream:
        stream.write(header("bomb", 1 << 32))
        zeros(stream, 32 << 20)
    with pytest.raises(InputError, match=r"GiB; unpack it and name the directory\.$"):
        Repo.open(path)


def test_what_keeps_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repoagent.archive.KEEP_LIMIT", 3 << 20)
    for suffix in FORMATS:
        folder = tmp_path / suffix
        folder.mkdir()
        for i in range(5):
            (folder / f"{i}.txt").write_bytes(b"text " * 200_000)
        with pytest.raises(InputError, match="MiB of text; unpack it"):
            Repo.open(pack(folder, tmp_path / f"x.{suffix}", "x"))


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repoagent.archive.MEMBER_LIMIT", 10)
    path = tar(tmp_path / "x.tar", *[member(f"f{i}") for i in range(11)])
    with pytest.raises(InputError, match="members; unpack it"):
        Repo.open(path)


def test_a_zip_bomb_costs_a_block_per_member(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(2):
            with archive.open(f"{i}", "w", force_zip64=True) as stream:
                zeros(stream, 64 << 20)
    start = time.process_time()
    repo = Repo.open(path)
    assert time.process_time() - start < 1
    assert [e.size for e in repo.entries()] == [64 << 20] * 2
    assert sum(len(repo.read_bytes(e.path)) for e in repo.files()) < 1 << 20


def test_very_deep_names_are_left_out(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", member("a/" * 30_000 + "x", data=b"x"), member("b"), member("c"))
    assert [e.path for e in everything(Repo.open(path))] == ["b", "c"]


# -- broken archives -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_broken_archives_are_said_in_one_line(tmp_path: Path, suffix: str) -> None:
    """Cut anywhere, or with bytes changed: an answer or one line, never anything else."""
    (tmp_path / "r").mkdir()
    for i in range(6):
        (tmp_path / f"r/{i}\n.py").write_bytes(RANDOM.randbytes(700))
    whole = pack(tmp_path / "r", tmp_path / f"x.{suffix}", "r").read_bytes()
    broken = tmp_path / f"broken.{suffix}"
    refused = 0
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        changed = whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
        for data in (whole[:at], changed, changed[:at] + whole[at + 7 :]):
            broken.write_bytes(data)
            try:
                list(Repo.open(broken).files())
            except InputError as error:
                refused += 1
                assert str(error).isprintable()
    assert refused > 20


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_truncated_archive_is_not_taken_for_a_whole_one(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "r").mkdir()
    for i in range(6):
        (tmp_path / f"r/{i}").write_bytes(RANDOM.randbytes(700))
    whole = pack(tmp_path / "r", tmp_path / f"x.{suffix}", "r").read_bytes()
    broken = tmp_path / f"broken.{suffix}"
    broken.write_bytes(whole[: len(whole) // 3 + 100])
    with pytest.raises(InputError, match="broken"):
        Repo.open(broken)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", *[member(f"f{i}", data=b"x") for i in range(4)])
    data = bytearray(path.read_bytes())
    data[2048 + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged header"):
        Repo.open(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("secret", "x" * 100)
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[6] |= 1
    data[directory + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="encrypted"):
        Repo.open(path)


def test_a_zip_that_lies_about_sizes_is_no_danger(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("liar", "x" * 5000)
        archive.writestr("other", "y")
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", 10)
    path.write_bytes(data)
    try:
        assert len(Repo.open(path).read_bytes("liar")) <= 10
    except InputError as error:
        assert str(error).isprintable()
