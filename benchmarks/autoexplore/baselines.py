"""What people use instead: keyword search, BM25 over files or chunks, embeddings of chunks.

Each is an index of one repository, built once; ask as many questions as you like.
"""

from __future__ import annotations

import functools
import heapq
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from repoagent.answer import Answer, snippet
from repoagent.encoder import EncoderPolicy
from repoagent.repo import Repo
from repoagent.terms import STOPWORDS, parts

K1 = 1.2
B = 0.75
WINDOW = 8
CHUNK = 40
OVERLAP = 10
"""Lines of a chunk, and how many of them it shares with the next."""

CHUNK_TOKENS = 256
"""What the encoder was made for; the rest of a chunk is not read."""

_IDENTIFIER = re.compile(r"\w+")


class Index(Protocol):
    """A repository made ready for questions."""

    def answers(self, question: str, top: int = 10) -> list[Answer]:
        """The ``top`` files, best first, each with its lines."""
        ...


def tokens(text: str) -> list[str]:
    """Lower-cased parts of the identifiers of ``text``, and each whole one where that is another word."""
    found = []
    for word in _IDENTIFIER.findall(text):
        split = parts(word)
        found += split
        if split != [word.lower()]:
            found.append(word.lower())
    return found


def keywords(question: str) -> list[str]:
    """The different tokens of ``question`` that are no stop words."""
    return list(dict.fromkeys(t for t in tokens(question) if t not in STOPWORDS))


def chunks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """First and last line (from 1) of overlapping chunks that cover ``lines``."""
    for start in range(0, max(1, len(lines) - OVERLAP), CHUNK - OVERLAP):
        yield start + 1, min(start + CHUNK, len(lines))


class KeywordSearch:
    """ripgrep by hand: ``rg --ignore-case --count WORD`` for every keyword of the question.

    Files in which most keywords occur come first, then those with most matching lines; the answer's lines
    are around the line with most keywords.
    """

    def __init__(self, repo: Repo) -> None:
        self.repo = repo

    def answers(self, question: str, top: int = 10) -> list[Answer]:
        words = keywords(question)
        found: list[tuple[int, int, str, int]] = []
        for entry in self.repo.files():
            text = self.repo.text(entry.path).lower()
            if not any(word in text for word in words):
                continue
            rows = [[word in line for word in words] for line in text.split("\n")]
            different = sum(map(any, zip(*rows, strict=True)))
            best = max(range(len(rows)), key=lambda n: (sum(rows[n]), -n))
            found.append((different, sum(map(any, rows)), entry.path, best + 1))
        found.sort(key=lambda f: (-f[0], -f[1], f[2]))
        result = []
        for different, count, path, line in found[:top]:
            first = max(1, line - WINDOW // 2)
            span = (first, max(first, min(first + WINDOW - 1, len(self.repo.lines(path)))))
            result.append(
                Answer(path, *span, different + count / (count + 1), snippet(self.repo, path, span))
            )
        return result


class _Okapi:
    """Okapi BM25 (k1 1.2, b 0.75) over documents that are added one by one."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._postings: dict[str, list[tuple[int, int]]] = {}
        self._split: dict[str, list[str]] = {}

    def add(self, text: str) -> bool:
        """Add a document; false, and nothing is added, if it has no tokens."""
        counts: Counter[str] = Counter()
        words = Counter(_IDENTIFIER.findall(text))
        for word, count in words.items():  # an identifier is split once, not once per use
            split = self._split.get(word)
            if split is None:
                split = self._split[word] = tokens(word)
            for token in split:
                counts[token] += count
        if not counts:
            return False
        number = len(self._lengths)
        self._lengths.append(counts.total())
        for token, count in counts.items():
            self._postings.setdefault(token, []).append((number, count))
        return True

    def idf(self, token: str) -> float:
        frequency = len(self._postings.get(token, ()))
        return math.log(1 + (len(self._lengths) - frequency + 0.5) / (frequency + 0.5))

    def scores(self, query: Sequence[str]) -> dict[int, float]:
        """Score of every document that has a token of ``query``."""
        mean = sum(self._lengths) / max(1, len(self._lengths))
        scores: dict[int, float] = {}
        for token in query:
            idf = self.idf(token)
            for number, count in self._postings.get(token, ()):
                norm = K1 * (1 - B + B * self._lengths[number] / mean)
                scores[number] = scores.get(number, 0.0) + idf * count * (K1 + 1) / (count + norm)
        return scores


class BM25:
    """BM25 over the text of every file of ``repo``; paths do not count."""

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        self._okapi = _Okapi()
        self.paths = [entry.path for entry in repo.files() if self._okapi.add(repo.text(entry.path))]

    def rank(self, question: str, top: int = 10) -> list[tuple[str, float]]:
        """The ``top`` files as (path, score), best first; equal scores by path."""
        scores = self._okapi.scores(keywords(question))
        best = heapq.nsmallest(top, scores, key=lambda n: (-scores[n], self.paths[n]))
        return [(self.paths[n], scores[n]) for n in best]

    def answers(self, question: str, top: int = 10) -> list[Answer]:
        """The ``top`` answers: each file with its window of most query weight."""
        found = []
        for path, score in self.rank(question, top):
            span = self._window(path, keywords(question))
            found.append(Answer(path, *span, score, snippet(self.repo, path, span)))
        return found

    def _window(self, path: str, query: list[str]) -> tuple[int, int]:
        """First and last of the ``WINDOW`` lines with the greatest idf of distinct query tokens."""
        idf = {t: self._okapi.idf(t) for t in query}
        rows = [idf.keys() & tokens(line) for line in self.repo.lines(path)]

        def weight(start: int) -> float:
            held = set().union(*rows[start : start + WINDOW])
            return sum(w for t, w in idf.items() if t in held)  # in one order: sums of floats differ by it

        best = max(range(max(1, len(rows) - WINDOW + 1)), key=weight)
        return best + 1, min(best + WINDOW, len(rows))


class _Chunked:
    """A file is as good as the best of its chunks, whose lines are the answer."""

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        self.chunks: list[tuple[str, tuple[int, int]]] = []

    def fill(self, add: Callable[[str], bool]) -> None:
        """Give every chunk's text to ``add`` and keep those that it takes."""
        for entry in self.repo.files():
            lines = self.repo.lines(entry.path)
            for span in chunks(lines):
                if add("\n".join(lines[span[0] - 1 : span[1]])):
                    self.chunks.append((entry.path, span))

    def best(self, scores: dict[int, float], top: int) -> list[Answer]:
        found: dict[str, Answer] = {}
        for number in sorted(scores, key=lambda n: (-scores[n], n)):
            path, span = self.chunks[number]
            if path not in found:
                found[path] = Answer(path, *span, scores[number], snippet(self.repo, path, span))
                if len(found) == top:
                    break
        return list(found.values())


class ChunkBM25(_Chunked):
    """BM25 over chunks of lines."""

    def __init__(self, repo: Repo) -> None:
        super().__init__(repo)
        self._okapi = _Okapi()
        self.fill(self._okapi.add)

    def answers(self, question: str, top: int = 10) -> list[Answer]:
        return self.best(self._okapi.scores(keywords(question)), top)


@functools.cache
def sentence_encoder() -> EncoderPolicy:
    """all-MiniLM-L6-v2 as it is published; loaded once."""
    return EncoderPolicy.base(())


class ChunkEmbeddings(_Chunked):
    """Cosine similarity of sentence embeddings: all-MiniLM-L6-v2 as published, mean of its token vectors."""

    def __init__(self, repo: Repo) -> None:
        super().__init__(repo)
        self._policy = sentence_encoder()
        rows: list[list[int]] = []

        def add(text: str) -> bool:
            if written := _IDENTIFIER.search(text) is not None:
                rows.append(self._ids(text))
            return written

        self.fill(add)
        self._vectors = torch.empty(len(rows), self._policy.encoder.width)
        order = sorted(range(len(rows)), key=lambda n: len(rows[n]))  # like lengths waste no padding
        for first, last in pairwise([*range(0, len(order), 32), len(order)]):
            batch = order[first:last]
            self._vectors[batch] = self._embed([rows[n] for n in batch])

    def _ids(self, text: str) -> list[int]:
        tokenizer = self._policy.tokenizer
        ids: list[int] = tokenizer.encode(text[: 16 * CHUNK_TOKENS]).ids
        return ids if len(ids) <= CHUNK_TOKENS else [*ids[: CHUNK_TOKENS - 1], ids[-1]]

    @torch.inference_mode()
    def _embed(self, rows: Sequence[Sequence[int]]) -> Tensor:
        length = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
        mask = torch.arange(length) < torch.tensor([[len(row)] for row in rows])
        vectors = self._policy.encoder(ids, mask) * mask[..., None]
        return F.normalize(vectors.sum(1), dim=-1)

    def answers(self, question: str, top: int = 10) -> list[Answer]:
        scores = self._vectors @ self._embed([self._ids(question)])[0]
        return self.best(dict(enumerate(scores.tolist())), top)


BASELINES: dict[str, Callable[[Repo], Index]] = {
    "keywords": KeywordSearch,
    "bm25": BM25,
    "bm25-chunks": ChunkBM25,
    "minilm-chunks": ChunkEmbeddings,
}
