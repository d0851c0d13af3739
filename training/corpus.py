"""The training corpus: which repositories, at which commit, in which split; cloning and checking."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from repoagent.errors import InputError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

DATA = Path(__file__).parent / "data"
MANIFEST = DATA / "corpus.jsonl"
HOST = "https://github.com"


@dataclass(frozen=True, slots=True)
class CorpusRepo:
    """One repository of the corpus: ``commit`` is a full sha, ``licence`` an SPDX expression,
    ``language`` the one that most of its source is written in."""

    repo: str
    commit: str
    licence: str
    split: Split
    language: str

    @property
    def folder(self) -> str:
        """Name of its tree's folder and of its task files."""
        return self.repo.replace("/", "__")


def load(split: Split | None = None, manifest: Path = MANIFEST) -> list[CorpusRepo]:
    """The repositories of the manifest, in its order, those of ``split`` alone if given."""
    items = []
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1):
        try:
            item = CorpusRepo(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{manifest}:{number} is no corpus entry ({error}); restore the file."
            ) from error
        if item.split not in SPLITS:
            raise InputError(
                f"{manifest}:{number} has the unknown split {item.split!r}; use {', '.join(SPLITS)}."
            )
        items.append(item)
    return [i for i in items if split is None or i.split == split]


def clone(
    items: Iterable[CorpusRepo],
    destination: Path,
    *,
    host: str = HOST,
    history: int = 0,
    jobs: int = 4,
    report: Callable[[str], None] = print,
) -> list[str]:
    """Fetch each repository at its commit into ``destination``; errors, one line each, are returned.

    What is there already is kept, so that an interrupted run can be repeated. ``history`` commits
    before the pinned one come along (mining reads their messages).
    """
    destination.mkdir(parents=True, exist_ok=True)

    def one(item: CorpusRepo) -> str | None:
        try:
            report(f"{item.repo}: {_clone(item, destination / item.folder, host, history)}")
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        return [error for error in pool.map(one, items) if error]


def _clone(item: CorpusRepo, tree: Path, host: str, history: int) -> str:
    # Fetched beside its place and moved there when complete: a folder with the final name is whole.
    partial = tree.with_name(tree.name + ".partial")
    whole = (tree / ".git").is_dir() and head(tree) == item.commit
    if whole and _depth(tree) > history:
        return "there already"
    if tree.exists() and not whole:
        raise InputError(
            f"{tree} exists but is not {item.repo} at {item.commit[:12]}; move it away and run again."
        )
    if not whole:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _git(item, partial, "init", "-q")
    target = tree if whole else partial
    url = f"{host}/{item.repo}.git"
    _git(item, target, "fetch", "-q", "--no-tags", f"--depth={history + 1}", url, item.commit)
    if not whole:
        _git(item, target, "-c", "advice.detachedHead=false", "checkout", "-q", "--detach", "FETCH_HEAD")
    if head(target) != item.commit:
        raise InputError(f"{url} gave another commit than {item.commit[:12]}; check the host and run again.")
    if not whole:
        partial.rename(tree)
    return f"{item.commit[:12]} with {history} commits before it" if history else item.commit[:12]


def verify(items: Iterable[CorpusRepo], trees: Path) -> Iterator[str]:
    """Trees of ``items`` that are git checkouts of another commit than the manifest's."""
    for item in items:
        tree = trees / item.folder
        if (tree / ".git").exists() and (at := head(tree)) != item.commit:
            yield f"{item.repo}: {tree} is at {str(at)[:12]} instead of {item.commit[:12]}"


def head(tree: Path) -> str | None:
    """The commit that ``tree`` is at, None if it is no git checkout."""
    done = subprocess.run(
        ["git", "-C", str(tree), "rev-parse", "--verify", "-q", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def _depth(tree: Path) -> int:
    done = subprocess.run(
        ["git", "-C", str(tree), "rev-list", "--count", "--first-parent", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    count = int(done.stdout.strip() or 0)
    return count if (tree / ".git" / "shallow").exists() else 1 << 30


def _git(item: CorpusRepo, tree: Path, *arguments: str) -> None:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
    try:
        done = subprocess.run(
            ["git", "-C", str(tree), *arguments], capture_output=True, text=True, check=False, env=environment
        )
    except FileNotFoundError as error:
        raise InputError("git is not installed; install it and run again.") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"git {arguments[0]} failed"
        if any(s in said for s in ("Could not resolve host", "Failed to connect", "unable to access")):
            hint = "the host cannot be reached; check the network and run again, what is complete is kept"
        else:
            hint = "run again, what is complete is kept"
        raise InputError(f"cannot fetch {item.repo}: {said[:200]}; {hint}.")
