"""Tasks of the corpus: loading, checking, and what the environment needs of them.

``training/data/tasks/<split>/<owner>__<name>.jsonl`` holds the teacher-written tasks, one JSON
object a line; ``training/data/README.md`` describes the keys. Mined tasks have the same form
without ``answer``, ``plan``, ``why`` and ``distractors``, and with ``hide``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from repoagent.errors import InputError
from repoagent.explore import Task
from repoagent.repo import Repo, contained
from training import corpus
from training.corpus import DATA, SPLITS, CorpusRepo, Split

TASKS = DATA / "tasks"
KINDS = (
    "where", "behaviour", "docs", "config", "conceptual",
    "mined-doc", "mined-heading", "mined-config", "mined-commit",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Distractor:
    """A plausible wrong file, and what is to be thought after opening it."""

    path: str
    reflection: str


@dataclass(frozen=True, slots=True)
class TeacherTask:
    """A question about a repository with its verified answer.

    ``plan`` and ``why`` are the teacher's reflections at the start and after opening ``gold[0]``;
    ``hide`` the lines (path, first, last) to be removed from the evidence, as they hold the
    question itself.
    """

    id: str
    repo: str
    commit: str
    licence: str
    question: str
    kind: str
    gold: tuple[str, ...]
    span: tuple[int, int] | None
    answer: str = ""
    plan: str = ""
    why: str = ""
    distractors: tuple[Distractor, ...] = ()
    hide: tuple[tuple[str, int, int], ...] = ()
    source: str = "teacher"

    @classmethod
    def parse(cls, line: str) -> TeacherTask:
        """The task of one line; ``ValueError`` says what is wrong with it."""
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("not a JSON object")
        try:
            row["gold"] = tuple(row["gold"])
            row["span"] = _span(row["span"]) if row["span"] is not None else None
            row["distractors"] = tuple(Distractor(**d) for d in row.get("distractors", ()))
            row["hide"] = tuple((str(p), *_span((a, b))) for p, a, b in row.get("hide", ()))
            task = cls(**row)
        except KeyError as error:
            raise ValueError(f"the key {error} is missing") from error
        except TypeError as error:
            raise ValueError(str(error).removeprefix("TeacherTask.__init__() ")) from error
        task._check()
        return task

    def _check(self) -> None:
        texts = (self.id, self.repo, self.commit, self.licence, self.question, *self.gold)
        if not self.gold or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ValueError("id, repo, commit, licence, question and gold must be non-empty text")
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}")
        if wrong := {d.path for d in self.distractors} & set(self.gold):
            raise ValueError(f"{min(wrong)} is both gold and distractor")
        for path in (*self.gold, *(d.path for d in self.distractors)):
            try:
                clean = contained(path)
            except KeyError:
                clean = ""
            if clean != path:
                raise ValueError(f"{path!r} is no clean path inside the repository")

    def task(self) -> Task:
        """What :class:`repoagent.explore.RepoEnvironment` plays."""
        return Task(self.question, self.gold, self.span, self.id)


def _span(value: Iterable[int]) -> tuple[int, int]:
    first, last = value
    if not (isinstance(first, int) and isinstance(last, int) and 1 <= first <= last):
        raise ValueError(f"[{first}, {last}] are no lines: count from 1, first before last")
    return first, last


def read(path: Path) -> list[TeacherTask]:
    """The tasks of one file; ``InputError`` names the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}; name a .jsonl file of tasks.") from error
    tasks = []
    for number, line in enumerate(lines, 1):
        try:
            tasks.append(TeacherTask.parse(line))
        except ValueError as error:
            raise InputError(f"{path}:{number} is no task: {error}; correct the line.") from error
    return tasks


def load(split: Split, folder: Path = TASKS) -> list[TeacherTask]:
    """The teacher-written tasks of ``split``, by repository."""
    return [task for path in sorted((folder / split).glob("*.jsonl")) for task in read(path)]


def validate(tasks: Iterable[TeacherTask], tree: Path) -> Iterator[str]:
    """What is wrong with ``tasks`` of the repository at ``tree``: files that are not there, lines
    that lie outside their file."""
    repo = Repo.open(tree)
    for task in tasks:
        # Asked of the file system: a few committed files are hidden from the tool by .gitignore.
        for path in task.gold:
            if not (tree / path).is_file():
                yield f"{task.id}: gold file {path} is not in the tree"
        for distractor in task.distractors:
            if not (tree / distractor.path).exists():  # a wrong turn may be a directory
                yield f"{task.id}: distractor {distractor.path} is not in the tree"
        ranges = [(task.gold[0], *task.span)] if task.span else []
        for path, first, last in [*ranges, *task.hide]:
            if (tree / path).is_file() and last > (count := len(repo.lines(path))):
                yield f"{task.id}: lines {first}-{last} lie outside {path}, which has {count}"


def validate_corpus(items: Iterable[CorpusRepo], trees: Path, folder: Path = TASKS) -> Iterator[str]:
    """Problems of every repository of ``items`` whose tree lies in ``trees``, and trees not there."""
    for item in items:
        tree = trees / item.folder
        if not tree.is_dir():
            yield f"{item.repo}: no tree at {tree}"
            continue
        for problem in validate(read(folder / item.split / f"{item.folder}.jsonl"), tree):
            yield f"{item.repo}: {problem}"


def counts() -> str:
    """The tables of ``training/data/README.md``."""
    items = corpus.load()
    by_split = {split: load(split) for split in SPLITS}
    everything = [t for tasks in by_split.values() for t in tasks]

    def table(title: str, cell: Callable[[Split], dict[str, int]]) -> list[str]:
        columns = [cell(split) for split in SPLITS]
        names = sorted({n for c in columns for n in c}, key=lambda n: (-sum(c.get(n, 0) for c in columns), n))
        head = [f"| {title} | {' | '.join(SPLITS)} | all |", "|---|" + "---:|" * (len(SPLITS) + 1)]
        values = {name: [c.get(name, 0) for c in columns] for name in names}
        rows = [f"| {name} | {' | '.join(map(str, v))} | {sum(v)} |" for name, v in values.items()]
        return [*head, *rows, ""]

    lengths = sorted((t.span[1] - t.span[0] + 1) for t in everything if t.span)
    words = [len(t.question.split()) for t in everything]
    return "\n".join(
        [
            *table(
                "", lambda s: {"repositories": sum(i.split == s for i in items), "tasks": len(by_split[s])}
            ),
            *table("kind", lambda s: Counter(t.kind for t in by_split[s])),
            *table("language (repositories)", lambda s: Counter(i.language for i in items if i.split == s)),
            *table("licence (repositories)", lambda s: Counter(i.licence for i in items if i.split == s)),
            f"Questions: {min(words)} to {max(words)} words, mean {sum(words) / len(words):.1f}; "
            f"{sum(t.question.endswith('?') for t in everything)} end with a question mark. "
            f"Spans: {lengths[0]} to {lengths[-1]} lines, median {lengths[len(lengths) // 2]}. "
            f"More than one right file: {sum(len(t.gold) > 1 for t in everything)}. "
            f"Distractors with reflections: {sum(len(t.distractors) for t in everything)}.",
        ]
    )
