"""What the history of a repository tells of its files: which words went with changes to which of them.

A tuned model (``repoagent train PATH``) brings such a memory along. Each *note* is a sentence, of a commit or
of a user who corrected an answer, and the files it was about. To a question, a memory gives every file a few
numbers (``MEMORY_FEATURES``), and the policy adds them to the file's score with weights that were learnt.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repoagent.terms import STOPWORDS, parts, root

_KINDS = ("told", "nearest", "gathered", "often")
MEMORY_FEATURES = (*_KINDS, *(f"{kind}_document" for kind in _KINDS))
"""Of a file: how well all that was said of it fits the question, the best single note, the sum of the best
ones, and how often it was spoken of at all; each 0 to 1. Documents have places of their own: a commit that
changes the code often changes them too, without their being the answer."""
_DOCUMENT = re.compile(r"\.(?:md|rst|txt|adoc|mdx|org|texi)$|(?:^|/)docs?/", re.IGNORECASE)
FILE = "memory.json"
CORRECTED = -1
_NEAR = 25  # notes that are gathered: those further off share a word by chance
_KEPT = 16  # questions whose answers are kept: each holds every file


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence as its telling ``words``, the ``files`` it was about and its ``age``: 0 for the newest
    commit, ``CORRECTED`` for what a user corrected."""

    words: tuple[str, ...]
    files: tuple[str, ...]
    age: int = 0


def words(text: str) -> tuple[str, ...]:
    """The roots of the telling words of ``text``, each once."""
    return tuple(dict.fromkeys(root(w) for w in parts(text) if len(w) > 2 and w not in STOPWORDS))


@dataclass(frozen=True, slots=True)
class _Past:
    """What the notes older than one of the age ``newest`` say, whatever is asked: how many they are, and how
    often each file is spoken of."""

    newest: int
    count: int
    often: Counter[str]

    @staticmethod
    def of(notes: Sequence[Note], newest: int) -> _Past:
        older = [note for note in notes if note.age > newest]
        return _Past(newest, len(older), Counter(path for note in older for path in note.files))


class Memory:
    """Notes, looked through for every question anew."""

    def __init__(self, notes: Iterable[Note]) -> None:
        self.notes = tuple(n for n in notes if n.words and n.files)
        self._holding: dict[str, list[int]] = defaultdict(list)
        for number, note in enumerate(self.notes):
            for word in note.words:
                self._holding[word].append(number)
        self.newest: dict[str, int] = {}
        """Questions made of a note, with its age: to them only older notes are remembered, as to a question
        of that day. For training; not saved."""
        self._asked: OrderedDict[str, dict[str, tuple[float, ...]]] = OrderedDict()
        self._past: _Past | None = None

    def features(self, question: str, paths: Sequence[str]) -> list[tuple[float, ...]]:
        """The values of ``MEMORY_FEATURES`` for each of ``paths``; zeros for "" and what is not known."""
        if question not in self._asked:
            self._asked[question] = self._recall(words(question), self.newest.get(question, CORRECTED - 1))
            if len(self._asked) > _KEPT:
                self._asked.popitem(last=False)
        found = self._asked[question]
        nothing = (0.0,) * len(MEMORY_FEATURES)
        return [found.get(path, nothing) for path in paths]

    def forget_answers(self) -> None:
        """Let go of what was worked out, which holds only while ``newest`` stays as it is."""
        self._asked.clear()

    def _recall(self, asked: Sequence[str], newest: int) -> dict[str, tuple[float, ...]]:
        if self._past is None or self._past.newest != newest:
            self._past = _Past.of(self.notes, newest)
        count, often = self._past.count, self._past.often
        weight: dict[str, float] = {}
        common: dict[int, float] = defaultdict(float)
        of_file: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for word in asked:
            known = [n for n in self._holding.get(word, ()) if self.notes[n].age > newest]
            weight[word] = math.log(1 + (count - len(known) + 0.5) / (len(known) + 0.5))
            for number in known:
                common[number] += weight[word] ** 2
                for path in self.notes[number].files:
                    of_file[path][word] += 1 / len(self.notes[number].files)
        in_common = {w for number in common for w in self.notes[number].words}
        rarity = {w: math.log(1 + count / (1 + len(self._holding[w]))) for w in in_common}
        mean = sum(often.values()) / max(1, len(often))
        told: dict[str, float] = {}
        for path, counts in of_file.items():
            norm = 0.25 + 0.75 * often[path] / mean
            told[path] = sum(weight[w] * c * 2.2 / (c + 1.2 * norm) for w, c in counts.items())
        size = math.sqrt(sum(w * w for w in weight.values())) or 1.0
        nearest: dict[str, float] = defaultdict(float)
        gathered: dict[str, float] = defaultdict(float)
        cosines = []
        for number, value in common.items():
            note = self.notes[number]
            length = math.sqrt(sum(rarity[w] ** 2 for w in note.words)) or 1.0
            cosines.append((min(1.0, value / (size * length)), number))
        for cosine, number in sorted(cosines, reverse=True)[:_NEAR]:
            files = self.notes[number].files
            for path in files:
                nearest[path] = max(nearest[path], cosine / math.sqrt(len(files)))
                gathered[path] += cosine**2 / len(files)
        top_told = max(told.values(), default=0.0) or 1.0
        top_gathered = max(gathered.values(), default=0.0) or 1.0
        most = math.log1p(max(often.values(), default=1))
        found: dict[str, tuple[float, ...]] = {}
        nothing = (0.0,) * len(_KINDS)
        for path, number in often.items():
            values = (
                told.get(path, 0.0) / top_told,
                nearest.get(path, 0.0),
                gathered.get(path, 0.0) / top_gathered,
                math.log1p(number) / most,
            )
            found[path] = nothing + values if _DOCUMENT.search(path) else values + nothing
        return found

    # -- files -----------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the notes to ``folder``: files by number, so that no path stands there often."""
        names = sorted({path for note in self.notes for path in note.files})
        number = {path: i for i, path in enumerate(names)}
        notes = [[n.age, " ".join(n.words), [number[p] for p in n.files]] for n in self.notes]
        text = json.dumps({"files": names, "notes": notes})
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Memory:
        """What :meth:`save` wrote; ``OSError``, ``ValueError``, ``LookupError`` or ``TypeError`` if not."""
        data = json.loads((folder / FILE).read_text(encoding="utf-8"))
        names = [str(name) for name in data["files"]]
        return Memory(
            Note(tuple(str(words_).split()), tuple(names[i] for i in files), int(age))
            for age, words_, files in data["notes"]
        )
