"""``repoagent train mine``: more training tasks out of the corpus' own repositories.

Doc comments, headings of the documentation, comments on configuration keys and commit messages all
say in words what some lines are for. Each becomes a question whose answer is known, together with
the places that hold the sentence itself (``hide``): they are to be removed from the evidence before
a model sees it, or it would learn to look for copies of the question.

The tasks hold short texts of the repositories and are therefore written to a folder of the user's
and never committed.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from repoagent.errors import InputError
from repoagent.repo import Repo, is_binary
from repoagent.terms import STOPWORDS, parts, root
from training import mine_history, mine_sources, phrasing
from training.corpus import CorpusRepo
from training.files import write_text
from training.mine_sources import Candidate

SHARES = {"mined-doc": 0.5, "mined-commit": 0.3, "mined-heading": 0.12, "mined-config": 0.08}
"""Wanted share of each kind; what one kind lacks goes to the others."""
PER_FILE = 6
COPIES_LIMIT = 8
"""A sentence that stands in more places than this is boilerplate."""
_INDEX_LIMIT = 256 << 10  # larger files are not looked through for copies of a sentence


def mine_repo(
    item: CorpusRepo, tree: Path, git_dir: Path | None, limit: int = 250
) -> list[dict[str, object]]:
    """At most ``limit`` tasks from ``tree`` and, if there is one, the history in ``git_dir``."""
    seed = zlib.crc32(item.repo.encode())
    rng = random.Random(seed)
    repo = Repo.open(tree)
    paths = [e.path for e in repo.files() if e.size <= _INDEX_LIMIT]
    texts = {p: repo.text(p) for p in paths if not is_binary(repo.read_bytes(p))}
    lines = {p: repo.lines(p) for p in texts}

    pools: dict[str, list[Candidate]] = defaultdict(list)
    for path in texts:
        for found in mine_sources.candidates(path, lines[path]):
            pools[found.kind].append(found)
    if git_dir:
        pools["mined-commit"] = list(
            mine_history.candidates(
                git_dir, item.commit, lambda p: lines.get(p, ()), set(lines), wanted=limit, seed=seed
            )
        )
    copies = Copies(texts)
    chosen = choose(pools, limit, rng, copies, lines)
    name = re.sub(r"[^a-z0-9]+", "-", item.repo.split("/")[1].lower()).strip("-")
    numbers: Counter[str] = Counter()
    records: list[dict[str, object]] = []
    for found in chosen:
        numbers[found.kind] += 1
        records.append(
            {
                "id": f"{name}-{found.kind.removeprefix('mined-')}-{numbers[found.kind]:03d}",
                "repo": item.repo,
                "commit": item.commit,
                "licence": item.licence,
                "question": found.question,
                "kind": found.kind,
                "gold": list(found.gold),
                "span": list(found.span) if found.span else None,
                "hide": [list(h) for h in found.hide],
                "source": "mined",
            }
        )
    return records


def write(records: Iterable[dict[str, object]], path: Path) -> None:
    """One JSON object a line, put in place at once so that an interrupted run leaves no half file."""
    write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))


def choose(
    pools: dict[str, list[Candidate]],
    limit: int,
    rng: random.Random,
    copies: Copies,
    lines: dict[str, list[str]],
    per_file: int = PER_FILE,
) -> list[Candidate]:
    """At most about ``limit`` of the candidates in ``pools``, by ``SHARES``, with their questions."""
    streams: dict[str, Iterator[Candidate]] = {}
    seen: set[str] = set()
    said: Counter[str] = Counter(_key(c.text) for pool in pools.values() for c in pool)
    for kind in sorted(pools):
        pool = [
            c for c in pools[kind] if _wanted(c) and (said[_key(c.text)] == 1 or c.kind == "mined-heading")
        ]
        rng.shuffle(pool)
        streams[kind] = accept(_spread(pool, per_file), rng, copies, seen, lines)
    chosen: list[Candidate] = []
    for kind, stream in streams.items():
        chosen += islice(stream, round(limit * SHARES[kind]))
    # Headings and configuration comments are easy and dull: they do not fill gaps.
    for kind in ("mined-doc", "mined-commit"):
        chosen += islice(streams.get(kind, iter(())), max(0, limit - len(chosen)))
    return sorted(chosen, key=lambda c: c.kind)


def _key(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _wanted(found: Candidate) -> bool:
    if found.kind == "mined-heading":
        both = f"{found.parent} {found.text}".strip()
        return phrasing.fit(both, 3, 24)
    return phrasing.fit(found.text, 5 if found.kind == "mined-doc" else 4, 28)


def _spread(pool: Sequence[Candidate], per_file: int) -> Iterator[Candidate]:
    """``pool`` in rounds over the files, so that no file dominates; at most ``per_file`` of each."""
    by_file: dict[str, list[Candidate]] = defaultdict(list)
    for found in pool:
        by_file[found.gold[0]].append(found)
    for turn in range(per_file):
        for group in by_file.values():
            if turn < len(group):
                yield group[turn]


def accept(
    pool: Iterable[Candidate], rng: random.Random, copies: Copies, seen: set[str], lines: dict[str, list[str]]
) -> Iterator[Candidate]:
    """Candidates with their questions and with every copy of their sentence hidden."""
    for found in pool:
        found.question = _ask(found, rng)
        key = _key(found.question)
        if key in seen or not 3 <= len(found.question.split()) <= 30:
            continue
        elsewhere = copies.find(found.needles)
        if len(elsewhere) > COPIES_LIMIT + len(found.hide):
            continue
        known = {(p, n) for p, first, last in found.hide for n in range(first, last + 1)}
        found.hide += [(p, n, n) for p, n in elsewhere if (p, n) not in known]
        if found.span and all(
            any(p == found.gold[0] and a <= n <= b for p, a, b in found.hide)
            for n in range(found.span[0], found.span[1] + 1)
        ):
            continue  # nothing of the answer would be left to see
        if not _grounded(found, lines):
            continue
        seen.add(key)
        yield found


def _grounded(found: Candidate, lines: dict[str, list[str]]) -> bool:
    """Whether what is left to see speaks of the question at all: "final bit of feedback" is about
    everything. Commits must be spoken of near the change, the others anywhere in the file."""
    words = {root(w) for w in parts(found.text) if len(w) > 2 and w not in STOPWORDS}
    path = found.gold[0]
    first, last = found.span or (1, len(lines[path]))
    margin = 25 if found.kind == "mined-commit" else 400
    hidden = {n for p, a, b in found.hide if p == path for n in range(a, b + 1)}
    near = range(max(1, first - margin), min(len(lines[path]), last + margin) + 1)
    text = " ".join(lines[path][n - 1] for n in near if n not in hidden)
    seen = {root(p) for p in set(parts(f"{path} {text}"))}
    share = len(words & seen) / len(words) if words else 0.0
    return share >= (0.5 if found.kind == "mined-commit" else 0.25)


def _ask(found: Candidate, rng: random.Random) -> str:
    match found.kind:
        case "mined-heading":
            return phrasing.ask_heading(found.text, found.parent, rng)
        case "mined-config":
            return phrasing.ask_config(found.text, rng)
        case "mined-commit":
            return phrasing.ask_commit(found.text, rng)
        case _:
            return phrasing.ask_doc(found.text, rng, found.callable)


class Copies:
    """Finds a string in all files at once, whatever its case."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._paths = list(texts)
        # lower() changes the length of a few characters; encoded ASCII folding does not.
        blobs = [t.encode("utf-8", "replace").lower() for t in texts.values()]
        self._starts = [0]
        for blob in blobs:
            self._starts.append(self._starts[-1] + len(blob) + 1)
        self._all = b"\n".join(blobs)

    def find(self, needles: Sequence[str]) -> list[tuple[str, int]]:
        """(path, line) of every line that holds one of ``needles``, few more than the limit."""
        places: set[tuple[str, int]] = set()
        for needle in needles:
            wanted = needle.encode("utf-8", "replace").lower()
            at = self._all.find(wanted)
            while at >= 0 and len(places) <= 4 * COPIES_LIMIT:
                file = bisect_right(self._starts, at) - 1
                places.add((self._paths[file], self._all.count(b"\n", self._starts[file], at) + 1))
                at = self._all.find(wanted, at + len(wanted))
        return sorted(places)


def read_git_dirs(path: Path) -> dict[str, Path]:
    """``owner/name`` -> git directory, from lines of these two (what follows is left out)."""
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}; name a file of lines 'owner/name PATH'.") from error
    if short := next((r for r in rows if len(r) < 2), None):
        raise InputError(f"{path} has the line {short[0]!r} without a path; write 'owner/name PATH'.")
    return {row[0]: Path(row[1]) for row in rows}


def mine_corpus(
    items: Iterable[CorpusRepo],
    trees: Path,
    out: Path,
    *,
    git_dirs: dict[str, Path] | None = None,
    limit: int = 250,
) -> Iterator[tuple[str, Counter[str]]]:
    """Mine every repository of ``items`` that lies in ``trees``; yields counts by kind.

    The history is read from ``git_dirs`` or else from the tree's own ``.git``.
    """
    for item in items:
        tree = trees / item.folder
        if not tree.is_dir():
            yield item.repo, Counter({"missing": 1})
            continue
        git_dir = (git_dirs or {}).get(item.repo) or tree / ".git"
        records = mine_repo(item, tree, git_dir if git_dir.is_dir() else None, limit)
        write(records, out / f"{item.folder}.jsonl")
        yield item.repo, Counter(str(r["kind"]) for r in records)
