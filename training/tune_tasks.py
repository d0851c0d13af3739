"""What ``repoagent train PATH`` learns from and is judged by: tasks of one repository, and their split.

Tasks come from the miners of ``repoagent train mine`` (doc comments, headings, settings) and from the whole
history: here a commit need not stand in the tree word by word, it is enough that a file it changed is still
there, since in one repository there are few.

**The split** is made so that nothing that answers a held-out question was seen in training:

* *Commits by time.* The latest ones are held out. At any moment a user asks about files that were asked
  about before, so the same file may be the answer on both sides, but nobody knows what will be written later.
* *Everything else by file.* All doc comments, headings and settings of one file are on one side, so no
  sentence is judged whose neighbours in the file were trained on; near-duplicates mostly share a file too.
* A training task or a commit whose words are nearly those of a held-out question is left out altogether.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import random
import subprocess
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from repoagent import memory
from repoagent.repo import Repo, is_binary
from training import mine, mine_history, mine_sources
from training.mine_sources import Candidate

LEAST = 40
"""Fewer tasks than this say nothing about a model."""
HELD_OUT = 160
"""Tasks held out at most: as many again would halve neither the interval nor be ready in the same time."""
SHARE = 0.3
"""Of the tasks that are held out, where there are few."""
VALIDATION = 0.15
"""Of the training tasks, to stop early by and to choose between stages."""
SAME = 0.7
"""Share of words in common from which two questions are one."""
DEPTH = 6000
"""Commits looked at."""
PATIENCE = 60.0
"""Seconds that git may take: of a folder that few commits of a huge history touch, the latest must do."""
MINED = 4000
"""Tasks mined at most from the files, and again from the history: each is looked for in all files."""
_TEXT_LIMIT = 96 << 20  # bytes of all files that are mined; the first ones, breadth first
_TOUCHED = 12  # a commit that changes more files says little about each
_PER_FILE = 12
_FILE_LIMIT = 256 << 10

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: what it says and which of today's files it changed; the newest has the age 0."""

    age: int
    subject: str
    files: tuple[str, ...]


@dataclass(slots=True)
class Tasks:
    """The tasks of a repository by part, and the ``commits`` that training may know of."""

    train: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    held_out: list[Row] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    history: int = 0

    def kinds(self, part: Sequence[Row]) -> dict[str, int]:
        """How many tasks of each kind there are in ``part``."""
        return dict(sorted(Counter(str(r["kind"]) for r in part).items()))


# -- history -----------------------------------------------------------------------------------


_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR",
              "GIT_NAMESPACE", "GIT_PREFIX", "GIT_ALTERNATE_OBJECT_DIRECTORIES")  # fmt: skip
"""What git sets for its hooks, which would lead to another repository than that of the folder."""


def git(tree: Path, *arguments: str) -> bytes:
    """What git prints, as far as it comes: a broken object or ``PATIENCE`` end it early. Nothing that the
    repository's own settings name is run."""
    safe = ("log.showSignature=false", "core.fsmonitor=false", "core.hooksPath=/dev/null",
            "color.ui=false", "diff.external=")  # fmt: skip
    flags = [word for setting in safe for word in ("-c", setting)]
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
    here = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    try:
        done = subprocess.run(
            ["git", "-C", str(tree), *flags, *arguments],
            capture_output=True, check=False, env=here | quiet, timeout=PATIENCE,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return late.stdout or b""
    except OSError:  # no git on this machine: the files alone serve
        return b""
    return done.stdout


def head(tree: Path) -> str:
    """The commit that is checked out; empty where there is no history."""
    return git(tree, "rev-parse", "--verify", "-q", "HEAD").decode("ascii", "replace").strip()


def history(tree: Path, files: Iterable[str]) -> list[Commit]:
    """The commits that changed something in ``tree``, newest first, with those of ``files`` (all there are)
    they changed."""
    log = git(tree, "log", "--no-merges", "--no-renames", "--name-only", "-z", "--relative",
              "--encoding=UTF-8", "--no-show-signature", "--full-history", f"-n{DEPTH}",
              "--format=%x01%s%x03", "HEAD", "--", ".")  # fmt: skip
    moved = Moved(files)
    commits: list[Commit] = []
    for piece in log.split(b"\x01")[1:]:
        subject, _, names = piece.partition(b"\x03")
        touched = [os.fsdecode(n) for n in names.strip(b"\0\n").split(b"\0") if n]
        found = tuple(dict.fromkeys(p for n in touched if (p := moved.now(n))))
        kept = found if found and len(touched) <= _TOUCHED else ()
        commits.append(Commit(len(commits), subject.decode("utf-8", "replace").strip(), kept))
    return commits


class Moved:
    """Where a file of long ago is today: at its path, or at the only one with the same name, if need be with
    another ending (a document that was translated to another markup)."""

    def __init__(self, files: Iterable[str]) -> None:
        self._files = set(files)
        self._named: dict[str, list[str]] = defaultdict(list)
        self._written: dict[str, list[str]] = defaultdict(list)
        for path in self._files:
            self._named[posixpath.basename(path)].append(path)
            self._written[posixpath.splitext(path)[0]].append(path)

    def now(self, path: str) -> str | None:
        """Today's path; None where it is gone, or where several might be it."""
        if path in self._files:
            return path
        same = self._named.get(posixpath.basename(path)) or self._written.get(posixpath.splitext(path)[0], [])
        if len(same) == 1:
            return same[0]
        below = f"/{posixpath.dirname(path)}"
        near = [p for p in same if f"/{posixpath.dirname(p)}".endswith(below)]
        return near[0] if len(near) == 1 else None


# -- tasks -------------------------------------------------------------------------------------


def gather(tree: Path, seed: int, limit: int, extra: Sequence[Row] = ()) -> Tasks:
    """At most about ``limit`` tasks for training, and those held out. ``extra`` (such as corrections) are
    for training alone."""
    repo = Repo.open(tree)
    texts = _texts(repo)
    lines = {p: repo.lines(p) for p in texts}
    commits = history(tree, texts)
    rng = random.Random(seed)
    copies = mine.Copies(texts)
    written = _written(lines, copies, rng)
    told = list(islice(_told(commits, lines, copies, rng), MINED))
    tasks = split(written, told, rng, limit)
    tasks.history = len(commits)
    last = max((r["age"] for r in tasks.held_out if "age" in r), default=-1)
    same = Similar(r["question"] for r in tasks.held_out)
    tasks.train += [row for row in extra if not same.holds(row["question"])]
    tasks.commits = [c for c in commits if c.age > last and c.files and not same.holds(c.subject)]
    return tasks


def _texts(repo: Repo) -> dict[str, str]:
    """The text files that are mined, none of them large, and all together no more than fits into memory."""
    texts: dict[str, str] = {}
    left = _TEXT_LIMIT
    for entry in repo.files():
        if entry.size <= min(left, _FILE_LIMIT) and not is_binary(repo.read_bytes(entry.path)):
            texts[entry.path] = repo.text(entry.path)
            left -= entry.size
    return texts


def _row(found: Candidate, number: int, **more: Any) -> Row:
    return {
        "id": f"{found.kind.removeprefix('mined-')}-{number:04d}",
        "repo": "",
        "kind": found.kind,
        "question": found.question,
        "gold": list(found.gold),
        "span": list(found.span) if found.span else None,
        "hide": [list(h) for h in found.hide],
        **more,
    }


def _written(lines: dict[str, list[str]], copies: mine.Copies, rng: random.Random) -> list[Row]:
    """Tasks from what stands in the files."""
    pools: dict[str, list[Candidate]] = defaultdict(list)
    for path in lines:
        for found in mine_sources.candidates(path, lines[path]):
            pools[found.kind].append(found)
    most = min(MINED, sum(map(len, pools.values())))
    everything = mine.choose(pools, most, rng, copies, lines, per_file=_PER_FILE)
    return [_row(found, number) for number, found in enumerate(everything)]


def _told(
    commits: Sequence[Commit], lines: dict[str, list[str]], copies: mine.Copies, rng: random.Random
) -> Iterator[Row]:
    """Tasks from what commits say, newest first."""
    seen: set[str] = set()
    for commit in commits:
        source = tuple(p for p in commit.files if mine_history.is_source(p))
        text = mine_history.subject(commit.subject)
        if not 1 <= len(source) <= 3 or not mine_history.telling(text):
            continue
        needles = (text,) if len(text) >= 20 else ()
        found = Candidate("mined-commit", text, source, None, [], needles)
        for taken in mine.accept([found], rng, copies, seen, lines):
            yield _row(taken, commit.age, age=commit.age)


def split(written: Sequence[Row], told: Sequence[Row], rng: random.Random, limit: int) -> Tasks:
    """The parts, as the module says; ``told`` newest first. No more than ``limit`` are trained on."""
    tasks = Tasks()
    total = len(written) + len(told)
    wanted = min(HELD_OUT, round(SHARE * total))
    # Half of each, as far as there are so many: documentation and history ask for different things.
    of_told = min(round(SHARE * len(told)) + 1, max(wanted // 2, wanted - round(SHARE * len(written))))
    of_told = min(of_told, len(told))
    held = list(told[:of_told])
    by_file: dict[str, list[Row]] = defaultdict(list)
    for row in written:
        by_file[row["gold"][0]].append(row)
    names = sorted(by_file)
    rng.shuffle(names)
    apart: set[str] = set()
    count = 0
    for name in names:
        # A file with very many tasks would be most of what is held out.
        if count < wanted - of_told and len(by_file[name]) <= max(3, wanted // 3):
            apart.add(name)
            held += by_file[name]
            count += len(by_file[name])
    same = Similar(r["question"] for r in held)
    free = [r for name in names if name not in apart for r in by_file[name]]
    free += told[of_told:]
    free = [r for r in free if not same.holds(r["question"])]
    rng.shuffle(free)
    free = free[:limit]
    cut = round(VALIDATION * len(free))
    tasks.held_out, tasks.validation, tasks.train = held, free[:cut], free[cut:]
    return tasks


class Similar:
    """Which sentences are nearly one of ``questions``, by the words they have in common."""

    def __init__(self, questions: Iterable[str]) -> None:
        self._sets = [s for q in questions if (s := words(q))]
        self._where: dict[str, list[int]] = defaultdict(list)
        for number, found in enumerate(self._sets):
            for word in found:
                self._where[word].append(number)

    def holds(self, text: str) -> bool:
        """Whether ``text`` shares ``SAME`` of its words, and of theirs, with one of the questions."""
        mine_ = words(text)
        common = Counter(n for w in mine_ for n in self._where.get(w, ()))
        return any(c >= SAME * len(mine_ | self._sets[n]) for n, c in common.items())


def words(text: str) -> frozenset[str]:
    """The roots of the telling words of ``text``."""
    return frozenset(memory.words(text))


def fingerprint(tree: Path, *settings: object) -> str:
    """A digest of what the tasks are made of: the files' paths and contents, the commit, ``settings``."""
    digest = hashlib.sha256(repr((head(tree), settings)).encode())
    repo = Repo.open(tree)
    for entry in repo.files():
        content = repo.read_bytes(entry.path) if entry.size <= _FILE_LIMIT else b""
        digest.update(
            f"{entry.path}\0{entry.size}\0{zlib.crc32(content)}\n".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()
