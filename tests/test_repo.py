"""Repo over a directory: what is listed, what is read, and what never is."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from repoagent.errors import InputError
from repoagent.repo import DEPTH_LIMIT, READ_LIMIT, DirectoryRepo, Repo, contained, display, is_binary
from tests.trees import device, unix_socket, unprivileged

CANARY = "canary outside the root"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text(CANARY)
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def kinds(repo: Repo, directory: str = "") -> dict[str, str]:
    return {entry.name: entry.kind for entry in repo.entries(directory)}


# -- listing -------------------------------------------------------------------------------


def test_entries_are_directories_first_each_group_by_name(root: Path) -> None:
    for name in ("b.txt", "a.txt", "Z.txt"):
        (root / name).write_text("x")
    (root / "z").mkdir()
    assert [e.name for e in Repo.open(root).entries()] == ["z", "Z.txt", "a.txt", "b.txt"]


def test_version_control_is_hidden_and_other_dot_files_are_not(root: Path) -> None:
    for folder in (".git", ".hg", ".github", "sub/.git"):
        (root / folder).mkdir(parents=True)
        (root / folder / "config").write_text("x")
    (root / ".env.example").write_text("KEY=")
    (root / "worktree").mkdir()
    (root / "worktree/.git").write_text("gitdir: elsewhere")
    repo = Repo.open(root)
    assert {e.path for e in repo.files()} == {".github/config", ".env.example"}
    assert repo.entry(".git") is None
    assert repo.entry(".git/config") is None


def test_files_come_breadth_first_and_are_limited(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("a/deep/x", "a/y", "z"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
    assert [e.path for e in Repo.open(root).files()] == ["z", "a/y", "a/deep/x"]
    monkeypatch.setattr("repoagent.repo.FILE_LIMIT", 2)
    assert [e.path for e in Repo.open(root).files()] == ["z", "a/y"]


def test_directories_deeper_than_the_limit_are_not_entered(root: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(DEPTH_LIMIT + 60):  # longer than any path the kernel accepts at once
        os.mkdir("d" * 40, dir_fd=here)
        inner = os.open("d" * 40, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
        os.close(os.open("f", os.O_CREAT, dir_fd=here))
    os.close(here)
    files = list(Repo.open(root).files())
    assert DEPTH_LIMIT - 1 <= len(files) <= DEPTH_LIMIT + 1
    shutil.rmtree(root)  # leaves nothing that pytest cannot remove


def test_an_unreadable_directory_is_empty_and_an_unreadable_file_too() -> None:
    root = Path(tempfile.mkdtemp())  # not tmp_path: its parents admit nobody else
    try:
        root.chmod(0o755)
        (root / "closed").mkdir()
        (root / "closed/x").write_text("x")
        (root / "closed.txt").write_text("x")
        (root / "open.txt").write_text("text")
        (root / "closed").chmod(0)
        (root / "closed.txt").chmod(0)

        def look() -> None:
            repo = Repo.open(root)
            assert kinds(repo) == {"closed": "dir", "closed.txt": "file", "open.txt": "file"}
            assert repo.entries("closed") == ()
            assert repo.text("closed.txt") == ""
            assert repo.text("open.txt") == "text"
            with pytest.raises(InputError, match="closed"):
                Repo.open(root / "closed")

        unprivileged(look)
    finally:
        (root / "closed").chmod(0o700)
        shutil.rmtree(root)


def test_what_is_no_regular_file_is_listed_as_other_and_reads_as_empty(root: Path) -> None:
    os.mkfifo(root / "fifo")
    unix_socket(root / "socket")
    expected = {"fifo": "other", "socket": "other"}
    if device(root / "device"):
        expected["device"] = "other"
    repo = Repo.open(root)
    assert kinds(repo) == expected
    assert [repo.read_bytes(name) for name in expected] == [b""] * len(expected)


@pytest.mark.parametrize(
    "name", [b"new\nline", b"'\"`$(x)", b"-rf", b"\xff\xfe", b"\xed\xa0\x80", b" ", b"x" * 255]
)
def test_odd_names_are_listed_and_read(root: Path, name: bytes) -> None:
    full = os.path.join(os.fsencode(root), name)
    os.close(os.open(full, os.O_CREAT))
    Path(os.fsdecode(full)).write_text("text")
    repo = Repo.open(root)
    (entry,) = repo.entries()
    assert os.fsencode(entry.name) == name
    assert repo.text(entry.path) == "text"
    assert repo.entry(entry.path) == entry
    shown = display(entry.path)
    assert shown.isprintable()
    shown.encode()


# -- links ---------------------------------------------------------------------------------


def test_links_are_listed_with_what_they_lead_to_inside(root: Path) -> None:
    (root / "src").mkdir()
    (root / "src/x.py").write_text("inside")
    links = {
        "file": ("src/x.py", "src/x.py"),
        "folder": ("src", "src"),
        "through": ("folder/x.py", "src/x.py"),
        "self": (".", ""),
        "round": (f"../{root.name}/src", "src"),
        "absolute": (str(root / "src/x.py"), "src/x.py"),
        "out": ("../outside/secret.txt", None),
        "outdir": ("../outside", None),
        "parent": ("..", None),
        "passwd": ("/etc/passwd", None),
        "dangling": ("nowhere", None),
        "loop": ("loop", None),
        "ping": ("pong", None),
        "pong": ("ping", None),
        "notdir": ("src/x.py/y", None),
    }
    for name, (to, _) in links.items():
        (root / name).symlink_to(to)
    repo = Repo.open(root)
    assert {e.name: e.target for e in repo.entries() if e.kind == "link"} == {
        n: t for n, (_, t) in links.items()
    }
    assert {e.path for e in repo.files()} == {"src/x.py"}
    for name, (_, target) in links.items():
        assert repo.text(name) == ("inside" if target == "src/x.py" else "")
        assert repo.entries(name) == ()
    for path in ("outdir/secret.txt", "parent/outside/secret.txt", "folder/../../outside/secret.txt"):
        assert read_or_refuse(repo, path) == b""


def test_long_chains_of_links_end(root: Path) -> None:
    for i in range(3000):
        (root / f"l{i}").symlink_to(f"l{i + 1}")
    (root / "l3000").write_text("end")
    targets = {e.name: e.target for e in Repo.open(root).entries() if e.kind == "link"}
    assert targets["l0"] is None
    assert targets["l2999"] == "l3000"


def read_or_refuse(repo: Repo, path: str) -> bytes:
    try:
        return repo.read_bytes(path)
    except KeyError:
        return b""


@pytest.mark.parametrize("path", ["../x", "..", "/etc/passwd", "a/../../x", "//etc/passwd", "a\0b", "./../x"])
def test_paths_out_of_the_root_are_refused(root: Path, path: str) -> None:
    repo = Repo.open(root)
    for method in (repo.read_bytes, repo.text, repo.lines, repo.entries, repo.entry):
        with pytest.raises(KeyError):
            method(path)


def test_paths_are_normalised() -> None:
    assert [contained(p) for p in ("", ".", "a/", "./a//b/../c")] == ["", "", "a", "a/c"]


def test_a_file_replaced_by_a_link_after_listing_is_not_followed(root: Path) -> None:
    (root / "x").write_text("inside")
    (root / "folder").mkdir()
    (root / "folder/secret.txt").write_text("inside")
    (root / "listed").mkdir()
    repo = Repo.open(root)
    assert len(list(repo.files())) == 2
    (root / "x").unlink()
    (root / "x").symlink_to("../outside/secret.txt")
    shutil.rmtree(root / "folder")
    (root / "folder").symlink_to("../outside")
    assert repo.text("x") == ""
    assert repo.text("folder/secret.txt") == ""
    repo = Repo.open(root)
    assert repo.entries("folder") == ()


def test_a_link_swapped_in_between_check_and_open_is_not_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: after the path was found to lie inside, before it is opened."""
    (root / "folder").mkdir()
    (root / "folder/secret.txt").write_text("inside")
    (root / "link").symlink_to("folder/secret.txt")
    repo = Repo.open(root)
    assert isinstance(repo, DirectoryRepo)
    inside = repo._inside

    def swap(path: str) -> str | None:
        found = inside(path)
        shutil.rmtree(root / "folder")
        (root / "folder").symlink_to("../outside")
        return found

    monkeypatch.setattr(repo, "_inside", swap)
    assert repo.read_bytes("link") == b""


def test_a_fifo_in_a_files_place_does_not_hang(root: Path) -> None:
    (root / "x").write_text("inside")
    repo = Repo.open(root)
    assert repo.entry("x")
    (root / "x").unlink()
    os.mkfifo(root / "x")
    assert repo.read_bytes("x") == b""


def test_the_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (root / "x").write_text("inside")
    (tmp_path / "alias").symlink_to(root)
    assert Repo.open(tmp_path / "alias").text("x") == "inside"


# -- reading -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("žluť\n".encode(), "žluť\n"),
        (b"\xef\xbb\xbfmarked\n", "marked\n"),
        ("wide ž\n".encode("utf-16"), "wide ž\n"),
        (b"\xfe\xff" + "big\n".encode("utf-16-be"), "big\n"),
        (b"latin \xe9\n", "latin �\n"),
        (b"a\r\nb\rc\r\n", "a\nb\rc\n"),
        (b"\x7fELF\0\0", ""),
        (b"", ""),
        ("wide without a mark\n".encode("utf-16-le"), ""),
    ],
)
def test_text_of_all_kinds(root: Path, data: bytes, text: str) -> None:
    (root / "x").write_bytes(data)
    assert Repo.open(root).text("x") == text


def test_bytes_of_utf_16_are_searchable(root: Path) -> None:
    (root / "x").write_text("max_connections = 3\nĊ\n", encoding="utf-16")
    data = Repo.open(root).read_bytes("x")
    assert b"max_connections" in data
    assert not is_binary(data)
    assert data.count(b"\n") == 2


@pytest.mark.skipif(shutil.which("sed") is None, reason="no sed")
@pytest.mark.parametrize(
    "data",
    [
        b"one\ntwo\nthree",
        b"one\n\n\nfour\n",
        b"one\r\ntwo\r\n",
        b"form\x0cfeed\x0b\x1c\x1d\x1e\x85\n\xe2\x80\xa8separators\xe2\x80\xa9\nthree\rthree\n",
        b"\xef\xbb\xbfbom\nx\n",
        b"\n",
        b"\n\n\n",
    ],
)
def test_line_numbers_are_those_of_sed(root: Path, data: bytes) -> None:
    (root / "x").write_bytes(data)
    lines = Repo.open(root).lines("x")
    for number in range(1, data.count(b"\n") + 3):
        printed = subprocess.run(
            ["sed", "-n", f"{number}p", root / "x"], capture_output=True, check=True
        ).stdout
        ours = lines[number - 1] if number <= len(lines) else None
        if not printed:
            assert ours is None
            continue
        assert ours == printed.decode("utf-8-sig", "replace").removesuffix("\n").removesuffix("\r")


def test_of_a_huge_file_only_the_beginning_is_read(root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    with (root / "text").open("wb") as file:
        file.write(b"line\n" * (READ_LIMIT // 5 + 1000))
        file.truncate(1 << 30)
    repo = Repo.open(root)
    assert [e.size for e in repo.entries()] == [1 << 30, 1 << 30]
    assert repo.text("sparse") == ""
    assert len(repo.read_bytes("sparse")) <= READ_LIMIT
    assert len(repo.text("text")) == READ_LIMIT
    assert repo.lines("text")[-1] in ("line", "l", "li", "lin")


def test_the_cache_is_bounded_and_what_fell_out_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repoagent.repo.CACHE_LIMIT", 10_000)
    for i in range(20):
        (root / str(i)).write_text(f"{i}\n" + "x" * 2000)
    repo = Repo.open(root)
    for _ in range(2):
        for i in range(20):
            assert repo.text(str(i)).startswith(f"{i}\n")
            assert sum(map(len, repo._cache.values())) == repo._cached <= 10_000


def test_files_read_counts_what_was_shown_as_text(root: Path) -> None:
    for name in ("a", "b"):
        (root / name).write_text(name)
    repo = Repo.open(root)
    repo.read_bytes("a")
    assert repo.files_read == set()
    repo.lines("b")
    assert repo.files_read == {"b"}


# -- opening -------------------------------------------------------------------------------


def test_what_is_no_repository_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, message in {
        "nothing": "does not exist",
        "new\nline": "does not exist",
        "nul\0": "does not exist",
        "x" * 5000: "x",
        "notes.txt": "no zip or tar",
        "empty": "no zip or tar",
        "fifo": "no directory and no archive",
        "dangling": "no directory and no archive",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            Repo.open(tmp_path / name)
        assert str(caught.value).isprintable()
        assert caught.value.exit_code == 2


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir())) if folder.is_dir() else 0
    yield
    assert not before or len(list(folder.iterdir())) <= before


def test_a_file_that_is_forgotten_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("before\n")
    repo = Repo.open(tmp_path)
    assert repo.lines("a.txt") == ["before"]
    file.write_text("after\n")
    repo.forget("a.txt")
    repo.forget("never read")
    assert repo._cached == 0 and repo.lines("a.txt") == ["after"]
