"""Scent: lexical evidence for a question, gathered in one pass over the files, without an index.

The question is split into terms; a term hits a *part* of an identifier (``max_conn``, ``maxConn``
and ``MAX-CONN`` all have the parts max and conn). Rare terms count more, hits in paths count
again, and the best lines of the most promising files become evidence that a model can read.
"""

from __future__ import annotations

import math
import posixpath
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from repoagent.repo import Entry, Repo, is_binary
from repoagent.terms import find_parts, literals, terms

WINDOW = 8
"""Lines of one window of evidence."""
_HIT_CAP = 16  # hits of one term in one file that still count: BM25 saturates long before
_RELATED = 0.4  # what a word that is only related to one of the question counts beside it
_ASIDE = 0.7  # what evidence counts in files that are vendored, generated, examples or changelogs
_HEAD = 15  # lines at the top of a file that tend to say what it is for
_SHORTLIST = 80  # files whose lines are looked at

_DEFINITION = re.compile(
    rb"^\s*(?:(?:export|default|pub(?:\([a-z]+\))?|public|private|protected|static|final|abstract|async|"
    rb"inline|extern|unsafe|const|virtual|override|local|declare)\s+)*"
    rb"(?:def|class|func|fn|function|struct|enum|interface|trait|type|impl|module|macro_rules!|#\s*define|"
    rb"const|let|var|object|record|namespace|sub|typedef)\b|^#+\s|^[A-Za-z_][\w.\-]*\s*(?:=|:)(?!=)|^\s*\"[\w\-]+\"\s*:",
)


@dataclass(frozen=True, slots=True)
class Window:
    """Lines ``start`` to ``end`` (1-based, inclusive) and how much of the question they cover."""

    start: int
    end: int
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a file that belongs together; ``position`` runs from 0 (top) to 1."""

    start: int
    end: int
    score: float
    text: str
    definition: bool
    position: float


def segment(lines: Sequence[bytes], least: int = 6, most: int = 20) -> list[tuple[int, int]]:
    """Cut ``lines`` into [start, end) blocks of ``least`` to ``most`` lines.

    A block ends, best first: before the least indented line that follows a blank one, before the
    least indented definition, before any blank line; else after ``most`` lines.
    """
    blocks, start = [], 0
    while start < len(lines):
        if len(lines) - start <= most:
            cut = len(lines)
        else:
            cut, best = start + most, -1.0
            for at in range(start + least, start + most + 1):
                line = lines[at]
                if not line.strip():
                    continue
                indent = len(line) - len(line.lstrip())
                blank = not lines[at - 1].strip()
                value = 3.0 * blank + 2.0 * bool(_DEFINITION.match(line)) - 0.5 * min(indent, 8)
                value += 0.05 * (at - start)
                if (blank or indent == 0) and value > best:
                    cut, best = at, value
        if any(line.strip() for line in lines[start:cut]):
            blocks.append((start, cut))
        start = cut
    return blocks


@dataclass(slots=True)
class Hit:
    """One file with its evidence.

    ``score`` picks the files whose lines are looked at; among those ``rank`` orders them.
    """

    path: str
    score: float = 0.0
    rank: float = 0.0
    counts: tuple[float, ...] = ()
    path_counts: tuple[float, ...] = ()
    related_counts: tuple[float, ...] = ()
    related_path_counts: tuple[float, ...] = ()
    size: int = 0
    literal: float = 0.0
    content: float = 0.0
    name: float = 0.0
    related: float = 0.0
    related_name: float = 0.0
    windows: list[Window] = field(default_factory=list)
    line: float = 0.0
    definition: float = 0.0
    head: float = 0.0
    features: tuple[float, ...] = ()


FILE_FEATURES = (
    "content_bm25", "content_bm25_log", "path_bm25", "basename_coverage", "path_coverage",
    "content_coverage", "window_coverage", "second_window_coverage", "content_reciprocal_rank",
    "path_reciprocal_rank", "literal_matches", "window_definition", "is_test", "is_documentation",
    "is_configuration", "is_source", "is_secondary", "asks_test", "asks_documentation",
    "asks_configuration", "depth", "log_size", "line_coverage", "definition_coverage", "head_coverage",
    "related_content_bm25", "related_path_bm25",
)  # fmt: skip

RANK_WEIGHTS = (
    1.005, 0.089, -0.248, -0.243, 1.007, -0.547, 2.648, 2.787, 0.203, 0.473, 2.301, 0.154, -3.689,
    -1.083, -0.087, 0.239, -1.681, 2.15, -0.368, 0.653, -1.82, -2.625, 1.739, 1.261, 1.264, 1.316,
    1.489, 2.025,
)  # fmt: skip
"""Weights of ``FILE_FEATURES`` and of ``Hit.score`` in ``Hit.rank``, fitted by
``repoagent train bundled scent`` (listwise softmax over the shortlist, training repositories only)."""

_DOCUMENTS = (".md", ".rst", ".txt", ".adoc", ".mdx", ".org", ".1", ".texi")
_SETTINGS = (".toml", ".yaml", ".yml", ".json", ".cfg", ".ini", ".conf", ".env", ".properties", ".xml",
             ".lock", ".mk", ".cmake", ".gradle", ".nix")  # fmt: skip
_TEST_PATH = re.compile(
    r"(^|[/_.\-])(tests?|specs?|testing|testdata|fixtures?|__tests__|e2e)([/_.\-]|$)|[a-z]Tests?\."
)
_SECONDARY = re.compile(
    r"(^|/)(vendor|third_party|examples?|samples?|benchmarks?|bench|demo|locales?|i18n|translations?|dist|"
    r"node_modules|generated|snapshots?|changelogs?|news|archive)(/|$)|changelog|changes|history|\.lock$|"
    r"\.min\.|\.snap$|\.svg$|\.po$|package-lock|\.sum$", re.IGNORECASE)  # fmt: skip
_ASKS_TEST = re.compile(r"\b(tests?|tested|testing|benchmark|fixture|spec|suite|assert)", re.IGNORECASE)
_ASKS_DOCUMENT = re.compile(
    r"\b(docs?|document\w*|readme|guide|tutorial|explain\w*|describ\w*|page|manual|changelog|contribut\w*|"
    r"written|instructions?|licen[sc]e|release notes)\b", re.IGNORECASE)  # fmt: skip
_ASKS_SETTING = re.compile(
    r"\b(ci|workflow|lint\w*|config\w*|settings?|pipeline|github actions?|docker\w*|build|makefile|version|"
    r"dependenc\w*|package|packaging|pinned|minimum|release\w*|publish\w*|matrix|coverage|format\w*)\b",
    re.IGNORECASE)  # fmt: skip


class Scent:
    """Evidence for one question over one repository.

    ``search=False`` scans no contents: only paths are scored (for the environment's plain form).
    """

    def __init__(
        self, repo: Repo, question: str, *, exclude: Sequence[str] = (), search: bool = True
    ) -> None:
        self.repo, self.question = repo, question
        self.terms = terms(question)
        self.literals = literals(question)
        barred = frozenset(exclude)
        self.entries: list[Entry] = [e for e in repo.files() if e.path not in barred]
        self._by_path: dict[str, Hit] = {}
        self._below: dict[str, tuple[float, int]] | None = None
        self._lines: tuple[str, list[dict[int, float]], list[bytes]] = ("", [], [])
        self._best: dict[tuple[str, int, int], tuple[int, str]] = {}  # asked again at every step
        for entry in self.entries:
            self._by_path[entry.path] = self._scan(entry, search)
        self._weigh()
        self.ranking = sorted(self._by_path.values(), key=lambda h: (-self._reach(h), h.path))
        for hit in self.ranking[:_SHORTLIST] if search else ():
            self._look(hit)
        by_content = sorted(self.ranking, key=lambda h: -h.content)
        by_name = sorted(self.ranking, key=lambda h: -h.name)
        self._by_content = {h.path: rank for rank, h in enumerate(by_content)}
        self._by_name = {h.path: rank for rank, h in enumerate(by_name)}
        self._asks = tuple(
            float(bool(p.search(question))) for p in (_ASKS_TEST, _ASKS_DOCUMENT, _ASKS_SETTING)
        )
        shortlist = self.ranking[:_SHORTLIST]
        for hit in shortlist:
            values = (*self.features(hit.path), hit.score)
            hit.rank = sum(w * v for w, v in zip(RANK_WEIGHTS, values, strict=True))
        shortlist.sort(key=lambda h: (-h.rank, h.path))
        self.ranking[:_SHORTLIST] = shortlist

    # -- scanning --------------------------------------------------------------------------

    def _scan(self, entry: Entry, search: bool) -> Hit:
        hit = Hit(entry.path, size=entry.size)
        name = entry.path.encode("utf-8", "surrogateescape")
        low = name.lower()
        hit.path_counts = self._counts(name, low, 4)
        hit.related_path_counts = self._related_counts(name, low, 4)
        data = self.repo.read_bytes(entry.path) if search and entry.size else b""
        if not data or is_binary(data):
            hit.counts = hit.related_counts = (0.0,) * len(self.terms)
            return hit
        low = data.lower()
        hit.counts = self._counts(data, low, _HIT_CAP)
        hit.related_counts = self._related_counts(data, low, _HIT_CAP)
        hit.literal = float(sum(t in low for t in self.literals))
        return hit

    def _counts(self, data: bytes, low: bytes, cap: int) -> tuple[float, ...]:
        counts = []
        for term in self.terms:
            count = 0.0
            for stem, weight in term.variants:
                if stem in low:
                    count += weight * len(find_parts(data, low, stem, cap))
            counts.append(count)
        return tuple(counts)

    def _related_counts(self, data: bytes, low: bytes, cap: int) -> tuple[float, ...]:
        return tuple(
            float(sum(len(find_parts(data, low, stem, cap)) for stem in term.related if stem in low))
            for term in self.terms
        )

    def _weigh(self) -> None:
        hits = list(self._by_path.values())
        n = max(1, len(hits))
        self.idf = self._idf([h.counts for h in hits], n)
        self.path_idf = self._idf([h.path_counts for h in hits], n)
        # Related words have a rarity of their own: a common one must not make the term itself count less.
        related_idf = self._idf([h.related_counts for h in hits], n)
        related_path_idf = self._idf([h.related_path_counts for h in hits], n)
        mean = max(1.0, sum(min(h.size, 1 << 20) for h in hits) / n)
        for hit in hits:
            long = 0.25 + 0.75 * min(hit.size, 1 << 20) / mean
            deep = 0.5 + (1 + hit.path.count("/")) / 6
            hit.content = _bm25(self.idf, hit.counts, long)
            hit.name = _bm25(self.path_idf, hit.path_counts, deep)
            hit.related = _bm25(related_idf, hit.related_counts, long)
            hit.related_name = _bm25(related_path_idf, hit.related_path_counts, deep)
        self._top_content = max((h.content for h in hits), default=0.0) or 1.0
        self._top_name = max((h.name for h in hits), default=0.0) or 1.0
        self._top_related = max((h.related for h in hits), default=0.0) or 1.0
        self._top_related_name = max((h.related_name for h in hits), default=0.0) or 1.0
        for hit in hits:
            hit.score = hit.content / self._top_content + 0.6 * hit.name / self._top_name
            hit.score += 0.15 * hit.literal
            if _SECONDARY.search(hit.path):
                hit.score *= _ASIDE

    def _reach(self, hit: Hit) -> float:
        """What brings a file onto the shortlist: its score, and related words for what the question words
        otherwise."""
        related = hit.related / self._top_related + 0.6 * hit.related_name / self._top_related_name
        return hit.score + _RELATED * related * (_ASIDE if _SECONDARY.search(hit.path) else 1.0)

    @staticmethod
    def _idf(rows: list[tuple[float, ...]], n: int) -> list[float]:
        if not rows:
            return []
        frequency = [sum(1 for c in column if c) for column in zip(*rows, strict=True)]
        return [math.log(1 + (n - f + 0.5) / (f + 0.5)) for f in frequency]

    # -- reading ---------------------------------------------------------------------------

    def hits(self, k: int) -> list[Hit]:
        """The ``k`` files with the most evidence, best first; files without any are left out."""
        return [h for h in self.ranking[:k] if h.content or h.name or h.related or h.related_name]

    def hit(self, path: str) -> Hit:
        """Evidence for the file at ``path``; ``KeyError`` if it was not seen."""
        return self._by_path[path]

    def knows(self, path: str) -> bool:
        """Whether the scan has seen the file at ``path``."""
        return path in self._by_path

    def directory(self, path: str) -> tuple[float, int]:
        """(best score beneath ``path`` as a share of the top score, promising files beneath it)."""
        if self._below is None:
            self._below = {}
            top = self.ranking[0].rank if self.ranking else 0.0
            for rank, hit in enumerate(self.ranking[:_SHORTLIST]):
                folder = posixpath.dirname(hit.path)
                while folder:
                    best, count = self._below.get(folder, (0.0, 0))
                    self._below[folder] = (max(best, math.exp(hit.rank - top)), count + (rank < 24))
                    folder = posixpath.dirname(folder)
        return self._below.get(path, (0.0, 0))

    def best_line(self, path: str, window: Window) -> tuple[int, str]:
        """(number, text) of the line of ``window`` with the greatest weight."""
        key = path, window.start, window.end
        if key not in self._best:
            rows, lines = self.line_weights(path)
            span = range(window.start - 1, min(window.end, len(lines)))
            best = max(span, key=lambda i: sum(self.idf[t] * w for t, w in rows[i].items()), default=0)
            self._best[key] = best + 1, " ".join(_clip([lines[best]], 100).split()) if lines else ""
        return self._best[key]

    def blocks(self, path: str, count: int = 24) -> list[Block]:
        """The file at ``path`` cut where its structure suggests it; the ``count`` best by evidence."""
        rows, lines = self.line_weights(path)
        total = sum(self.idf) or 1.0
        blocks = []
        for start, end in segment(lines):
            best: dict[int, float] = {}
            repeat = 0.0
            for row in rows[start:end]:
                for t, w in row.items():
                    best[t] = max(w, best.get(t, 0.0))
                    repeat += self.idf[t] * w
            distinct = sum(self.idf[t] * w for t, w in best.items())
            score = (distinct + 0.1 * min(repeat - distinct, distinct)) / total
            first = next((line for line in lines[start:end] if line.strip()), b"")
            is_definition = bool(_DEFINITION.match(first))
            position = start / max(1, len(lines))
            blocks.append(Block(start + 1, end, score, _clip(lines[start:end]), is_definition, position))
        blocks.sort(key=lambda b: (-b.score, b.start))
        return blocks[:count]

    def line_weights(self, path: str) -> tuple[list[dict[int, float]], list[bytes]]:
        """Per line, term index -> match weight; and the lines as bytes."""
        if self._lines[0] != path:  # a file is asked for several times in a row
            self._lines = (path, *self._weigh_lines(path))
        return self._lines[1:]

    def _weigh_lines(self, path: str) -> tuple[list[dict[int, float]], list[bytes]]:
        data = self.repo.read_bytes(path)
        if is_binary(data):
            return [], []
        lines = data.split(b"\n")
        if lines and lines[-1] == b"":
            lines.pop()
        starts, at = [], 0
        for line in lines:
            starts.append(at)
            at += len(line) + 1
        low = data.lower()
        rows: list[dict[int, float]] = [{} for _ in lines]
        for index, term in enumerate(self.terms):
            for stem, weight in (*term.variants, *((stem, _RELATED) for stem in term.related)):
                for offset in find_parts(data, low, stem, 400):
                    row = rows[min(bisect_right(starts, offset) - 1, len(rows) - 1)]
                    row[index] = max(weight, row.get(index, 0.0))
        return rows, lines

    def windows(self, path: str, count: int, size: int = WINDOW) -> list[Window]:
        """The ``count`` best windows of ``size`` lines that do not overlap, best first.

        A window scores the weights of the distinct terms on its lines, a little for repeats and
        for lines that define something. A file without hits gives its first lines.
        """
        rows, lines = self.line_weights(path)
        if not lines:
            return []
        weight = self.idf
        total = sum(weight) or 1.0
        line_score = [sum(weight[t] * w for t, w in row.items()) for row in rows]
        scored: list[tuple[float, int]] = []
        for start in range(len(lines)):
            if not rows[start]:
                continue
            begin = max(0, start - 1)  # one line of context above the first hit
            best: dict[int, float] = {}
            for row in rows[begin : begin + size]:
                for t, w in row.items():
                    if w > best.get(t, 0.0):
                        best[t] = w
            distinct = sum(weight[t] * w for t, w in best.items())
            repeat = sum(line_score[begin : begin + size]) - distinct
            score = distinct + 0.1 * min(repeat, distinct)
            if _DEFINITION.match(lines[start]):
                score += 0.3 * line_score[start]
            scored.append((score / total, begin))
        scored.sort(key=lambda s: (-s[0], s[1]))
        chosen: list[tuple[float, int]] = []
        for score, begin in scored:
            if all(abs(begin - b) >= size for _, b in chosen):
                chosen.append((score, begin))
                if len(chosen) == count:
                    break
        if not chosen:
            chosen = [(0.0, 0)]
        return [Window(b + 1, min(b + size, len(lines)), s, _clip(lines[b : b + size])) for s, b in chosen]

    def _look(self, hit: Hit) -> None:
        """Fill in what takes reading ``hit``'s lines."""
        hit.windows = self.windows(hit.path, 3)
        if not hit.windows:
            return
        rows, lines = self.line_weights(hit.path)
        total = sum(self.idf) or 1.0
        head: dict[int, float] = {}
        for number, row in enumerate(rows):
            if not row:
                continue
            score = sum(self.idf[t] * w for t, w in row.items()) / total
            hit.line = max(hit.line, score)
            if score > hit.definition and _DEFINITION.match(lines[number]):
                hit.definition = score
            if number < _HEAD:
                for t, w in row.items():
                    head[t] = max(w, head.get(t, 0.0))
        hit.head = sum(self.idf[t] * w for t, w in head.items()) / total
        hit.score += 0.8 * hit.windows[0].score

    # -- features --------------------------------------------------------------------------

    def features(self, path: str) -> tuple[float, ...]:
        """The values of ``FILE_FEATURES`` for the file at ``path``, each about 0 to 1."""
        hit = self._by_path[path]
        if hit.features:
            return hit.features
        low = path.lower()
        base = posixpath.basename(path).encode("utf-8", "surrogateescape")
        base_counts = self._counts(base, base.lower(), 1) if hit.name else hit.path_counts
        test = float(bool(_TEST_PATH.search(low)))
        document = float(low.endswith(_DOCUMENTS) or "/docs/" in "/" + low)
        setting = float(low.endswith(_SETTINGS) or bool(re.search(r"^\.github/|makefile|dockerfile", low)))
        window = hit.windows[0] if hit.windows else Window(1, 1, 0.0, "")
        second = hit.windows[1].score if len(hit.windows) > 1 else 0.0
        asks_test, asks_document, asks_setting = self._asks
        hit.features = (
            hit.content / self._top_content,
            math.log1p(hit.content) / 4,
            hit.name / self._top_name,
            _coverage(self.path_idf, base_counts),
            _coverage(self.path_idf, hit.path_counts),
            _coverage(self.idf, hit.counts),
            window.score,
            second,
            1 / (1 + self._by_content[path]) if hit.content else 0.0,
            1 / (1 + self._by_name[path]) if hit.name else 0.0,
            min(hit.literal, 4) / 4,
            float(any(_DEFINITION.match(x.encode()) for x in window.text.split("\n"))),
            test,
            document,
            setting,
            float(not (document or setting)),
            float(bool(_SECONDARY.search(low))),
            test * asks_test,
            document * asks_document,
            setting * asks_setting,
            path.count("/") / 8,
            math.log1p(hit.size) / 14,
            hit.line,
            hit.definition,
            hit.head,
            hit.related / self._top_related,
            hit.related_name / self._top_related_name,
        )
        return hit.features


def _bm25(idf: list[float], counts: tuple[float, ...], norm: float) -> float:
    """Okapi BM25 with k1 = 1.2 of a document whose length, or what stands for it, is ``norm`` of the mean."""
    return sum(w * c * 2.2 / (c + 1.2 * norm) for w, c in zip(idf, counts, strict=True) if c)


def _coverage(idf: list[float], counts: tuple[float, ...]) -> float:
    """Share of the question's weight that is hit at all."""
    total = sum(idf)
    return sum(w * min(1.0, c) for w, c in zip(idf, counts, strict=True)) / total if total else 0.0


def _clip(lines: list[bytes], width: int = 240) -> str:
    return "\n".join(line[:width].decode("utf-8", "replace").rstrip("\r") for line in lines)
