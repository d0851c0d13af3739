"""Baselines for AutoExplore that need no model: BM25 over the contents of the files."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter

from repoagent.answer import Answer, snippet
from repoagent.repo import Repo
from repoagent.terms import STOPWORDS, parts

K1 = 1.2
B = 0.75
WINDOW = 8
_IDENTIFIER = re.compile(r"\w+")


def tokens(text: str) -> list[str]:
    """Lower-cased parts of the identifiers of ``text``, and each whole one where that is another word."""
    found = []
    for word in _IDENTIFIER.findall(text):
        split = parts(word)
        found += split
        if split != [word.lower()]:
            found.append(word.lower())
    return found


class BM25:
    """Okapi BM25 (k1 1.2, b 0.75) over the text of every file of ``repo``; paths do not count.

    The index is built once; ask as many questions as you like.
    """

    name = "bm25"

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        self.paths: list[str] = []
        self._lengths: list[int] = []
        self._postings: dict[str, list[tuple[int, int]]] = {}
        cache: dict[str, list[str]] = {}
        for entry in repo.files():
            counts: Counter[str] = Counter()
            words = Counter(_IDENTIFIER.findall(repo.text(entry.path)))
            for word, count in words.items():  # an identifier is split once per file, not once per use
                split = cache.get(word)
                if split is None:
                    split = cache[word] = tokens(word)
                for token in split:
                    counts[token] += count
            if not counts:
                continue
            number = len(self.paths)
            self.paths.append(entry.path)
            self._lengths.append(counts.total())
            for token, count in counts.items():
                self._postings.setdefault(token, []).append((number, count))
        self._mean = sum(self._lengths) / max(1, len(self._lengths))

    def rank(self, question: str, top: int = 10) -> list[tuple[str, float]]:
        """The ``top`` files as (path, score), best first; equal scores by path."""
        scores: dict[int, float] = {}
        for token in self._query(question):
            idf = self._idf(token)
            for number, count in self._postings.get(token, ()):
                norm = K1 * (1 - B + B * self._lengths[number] / self._mean)
                scores[number] = scores.get(number, 0.0) + idf * count * (K1 + 1) / (count + norm)
        best = heapq.nsmallest(top, scores, key=lambda n: (-scores[n], self.paths[n]))
        return [(self.paths[n], scores[n]) for n in best]

    def answers(self, question: str, top: int = 10) -> list[Answer]:
        """The ``top`` answers: each file with its window of most query weight."""
        found = []
        for path, score in self.rank(question, top):
            span = self._window(path, self._query(question))
            found.append(Answer(path, *span, score, snippet(self.repo, path, span)))
        return found

    def _query(self, question: str) -> list[str]:
        return list(dict.fromkeys(t for t in tokens(question) if t not in STOPWORDS))

    def _idf(self, token: str) -> float:
        frequency = len(self._postings.get(token, ()))
        return math.log(1 + (len(self.paths) - frequency + 0.5) / (frequency + 0.5))

    def _window(self, path: str, query: list[str]) -> tuple[int, int]:
        """First and last of the ``WINDOW`` lines with the greatest idf of distinct query tokens."""
        idf = {t: self._idf(t) for t in query}
        rows = [idf.keys() & tokens(line) for line in self.repo.lines(path)]

        def weight(start: int) -> float:
            held = set().union(*rows[start : start + WINDOW])
            return sum(w for t, w in idf.items() if t in held)  # in one order: sums of floats differ by it

        best = max(range(max(1, len(rows) - WINDOW + 1)), key=weight)
        return best + 1, min(best + WINDOW, len(rows))
