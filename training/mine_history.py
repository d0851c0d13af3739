"""Tasks from the history: what a commit says it did, asked as where that is done."""

from __future__ import annotations

import posixpath
import random
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from training.mine_sources import CONFIGS, LANGUAGES, SPAN_LIMIT, Candidate, is_side
from training.phrasing import fit, plain

_NOISE = re.compile(
    r"\b(?:bump|upgrade|downgrade|typos?|spelling|grammar|release[sd]?|changelog|merge|lint(?:er|ing)?|"
    r"rustfmt|gofmt|"
    r"clippy|flake8|mypy|ruff|isort|prettier|eslint|golint|pylint|whitespace|indent\w*|reformat\w*|"
    r"formatting|"
    r"copyright|licen[sc]e|wip|fixup|squash|review|comments?|docstrings?|readme|documentation|docs?|"
    r"translations?|"
    r"locales?|coverage|cleanups?|clean(?:ed|ing)?[- ]?up|refactor\w*|renam\w+|unused|obsolete|"
    r"deprecat\w+|nits?|"
    r"minor|tests?|testing|spec|specs|ci|travis|appveyor|dependenc\w+|deps|version|warnings?|revert\w*|"
    r"style|tidy|tweaks?|todo|regenerate\w*|backport\w*|cherry|rebase\w*|snapshot|benchmarks?|"
    r"type ?(?:hints?|annotations?)|pr|pull request|follow-?up|various|misc\w*|more|another|some|oops|"
    r"simplify|"
    r"modernize|move[sd]?|moving|split|extract(?:ed)?|inline|reorganize|reorder|sort|imports?)\b",
    re.I,
)
_GONE = re.compile(
    r"^(?:remove|delete|drop|disable|get rid|stop|no longer|don'?t|do not|undo|back out)", re.I
)

_CUT = re.compile(
    r"\b(?:the|an?|of|to|for|in|on|at|by|with|from|and|or|when|if|only|that|which|is|are|based)$", re.I
)
_WEAK = re.compile(
    r"\s*(?://|/?\*|\.\. |#(?!\s*(?:if|define|include))|--|<!--|\"\"\"|(?:import|from|use|using|require|"
    r"package|include|#\s*include)\b|"
    r"\"[\w./@-]+\"$|(?:const|var|let) [\w{},\s]+ = require|[(){}\[\];,]*$|version\s*[=:])"
)
"""Lines that alone make no answer: comments, imports, closing brackets."""


def subject(line: str) -> str:
    """A commit's subject without ticket numbers and prefixes such as ``fix(core):``."""
    line = re.sub(
        r"\s*[\[(]?(?:(?:fix(?:es|ed)?|clos(?:es|ed?)|resolves?|refs?|see|issue|gh|pr)[ :]*)*#\d+[\])]?\.?",
        " ",
        line,
        flags=re.I,
    )
    line = re.sub(r"^\s*(?:\[[^\]]*\]\s*)+", "", line)
    line = re.sub(r"^[\w./*{},() -]{1,40}!?:\s+(?=\S+ \S+ \S+)", "", line)
    line = re.sub(r"\s+\([^()]*\)$|\s+-\s+\w+$|^(?:[-*]|:\w+:)\s*", "", plain(line))
    line = re.sub(
        r"[;,.(]? *(?:ok|with|from|feedback|reported by|requested by|patch from|spotted by) [\w ,&-]*@.*$",
        "",
        line,
        flags=re.I,
    )
    return re.sub(r"^[^\x00-\x7f]+\s*", "", line).strip(" .:,;-")


def candidates(
    git_dir: Path,
    commit: str,
    lines: Callable[[str], Sequence[str]],
    files: set[str],
    *,
    wanted: int,
    seed: int,
    depth: int = 8000,
) -> Iterator[Candidate]:
    """Commits before ``commit`` that changed a few source files of ``files`` (the pinned tree).

    ``lines`` reads a file of that tree. Only changes whose text still stands there are used.
    """
    picked: dict[str, str] = {}
    for sha, said, touched in _log(git_dir, commit, depth):
        source = [p for p in touched if is_source(p)]
        if not 1 <= len(source) <= 3 or len(touched) > 8 or not all(p in files for p in source):
            continue
        text = subject(said)
        if telling(text):
            picked[sha] = text
    shas = list(picked)
    random.Random(seed).shuffle(shas)
    found = 0
    for start in range(0, len(shas), 40):
        for sha, hunks in _hunks(git_dir, shas[start : start + 40]):
            if made := _locate(picked[sha], hunks, lines):
                yield made
                found += 1
        if found >= wanted:
            return


def telling(text: str) -> bool:
    """Whether a subject says what the code does since then, in words that make a question."""
    cut = _CUT.search(text) or _NOISE.search(text) or _GONE.match(text)
    return fit(text, 4, 22) and not cut


def is_source(path: str) -> bool:
    """Whether ``path`` is code or configuration that questions are about."""
    extension = posixpath.splitext(path)[1].lower()
    known = extension in LANGUAGES or extension in CONFIGS
    return known and not is_side(path) and not path.startswith((".github/", ".circleci/", ".gitlab"))


def _git(git_dir: Path, *arguments: str, stdin: str = "") -> str:
    # A broken object ends git's output early; what came before it is still good.
    done = subprocess.run(
        ["git", "--git-dir", str(git_dir), *arguments], input=stdin.encode(), capture_output=True, check=False
    )
    return done.stdout.decode("utf-8", "replace")


def _log(git_dir: Path, commit: str, depth: int) -> Iterator[tuple[str, str, list[str]]]:
    log = _git(
        git_dir, "-c", "core.quotepath=off", "log", "--no-merges", "--no-renames", "--name-only",
        f"-n{depth}", "--format=%x01%H%x02%s", commit,
    )  # fmt: skip
    for head, rest in _records(log):
        sha, _, said = head.partition("\x02")
        yield sha, said, [p for p in rest.split("\n") if p]


def _records(output: str) -> Iterator[tuple[str, str]]:
    """The lines after \\x01 and what follows them; patches may hold any byte, but not first on a line."""
    pieces = re.split(r"^\x01(.*)\n", output, flags=re.MULTILINE)[1:]
    yield from zip(pieces[::2], pieces[1::2], strict=True)


def _hunks(git_dir: Path, shas: Sequence[str]) -> Iterator[tuple[str, dict[str, list[list[str]]]]]:
    """For each commit: path -> its hunks, each a list of added lines."""
    patch = _git(
        git_dir, "-c", "core.quotepath=off", "log", "--no-walk=unsorted", "--stdin", "--no-renames",
        "-p", "-U0", "--no-color", "--no-ext-diff", "--no-textconv", "--format=%x01%H",
        stdin="\n".join(shas) + "\n",
    )  # fmt: skip
    for sha, rest in _records(patch):
        files: dict[str, list[list[str]]] = {}
        path, header = "", True
        for line in rest.split("\n"):
            if line.startswith("diff --git "):
                path, header = "", True
            elif line.startswith("@@"):
                header = False
                if path:
                    files.setdefault(path, []).append([])
            elif header and line.startswith("+++ b/"):
                path = line[6:].rstrip("\t")
            elif not header and path and line.startswith("+"):
                files[path][-1].append(line[1:].rstrip("\r"))
        yield sha, files


def _locate(
    text: str, hunks: dict[str, list[list[str]]], lines: Callable[[str], Sequence[str]]
) -> Candidate | None:
    """The candidate whose gold files still hold what the commit added."""
    sources = {p: h for p, h in hunks.items() if is_source(p)}
    if not sources or sum(len(h) for hs in sources.values() for h in hs) > 80:
        return None
    spans: dict[str, tuple[int, int]] = {}
    for path, added in sources.items():
        current = lines(path)
        telling = [hunk for hunk in added if not all(_WEAK.match(line) for line in hunk)]
        places = [s for hunk in telling if (s := _find(hunk, current))]
        if places:
            spans[path] = max(places, key=lambda s: s[1] - s[0])
    if not spans:
        return None
    gold = sorted(spans, key=lambda p: spans[p][0] - spans[p][1])
    first, last = spans[gold[0]]
    # One small hunk of a large change says little about where the whole is.
    if sum(b - a + 1 for a, b in spans.values()) < 0.3 * sum(len(h) for hs in sources.values() for h in hs):
        return None
    return Candidate(
        "mined-commit",
        text,
        tuple(gold),
        (first, min(last, first + SPAN_LIMIT - 1)),
        [],
        (text,) if len(text) >= 20 else (),
    )


def _find(hunk: Sequence[str], current: Sequence[str]) -> tuple[int, int] | None:
    """Where ``hunk`` (edges without weight left out) stands in ``current``; None if nowhere or twice."""
    first, last = 0, len(hunk)
    while first < last and len(hunk[first].strip()) < 4:
        first += 1
    while last > first and len(hunk[last - 1].strip()) < 2:
        last -= 1
    wanted = [line.strip() for line in hunk[first:last]]
    if sum(len(w) for w in wanted) < 16:
        return None
    found = [
        at
        for at in range(len(current) - len(wanted) + 1)
        if current[at].strip() == wanted[0] and [c.strip() for c in current[at : at + len(wanted)]] == wanted
    ]
    return (found[0] + 1, found[0] + len(wanted)) if len(found) == 1 else None
