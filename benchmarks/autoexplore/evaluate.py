"""AutoExplore measured: questions with known answers, asked of an agent or of a baseline.

    repoagent eval tasks.jsonl --trees trees/ --compare bm25 --output results.md

Every line of a task file is an object with ``id, repo ("owner/name"), question, gold, span``;
other keys are ignored. The tree of ``owner/name`` is ``DIR/owner__name``.
"""

from __future__ import annotations

import itertools
import json
import posixpath
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.autoexplore.baselines import BASELINES, ChunkEmbeddings, Index, sentence_encoder
from benchmarks.statistics import Estimate, bootstrap_mean, paired_bootstrap, wilson
from benchmarks.table import markdown
from repoagent.answer import Answer, answers
from repoagent.confidence import calibration_error
from repoagent.episode import Finished, play
from repoagent.errors import InputError
from repoagent.explore import ExploreConfig, RepoEnvironment, Task, overlap
from repoagent.players import Policy, Reflector
from repoagent.repo import Repo, display
from training import corpus

CUTOFFS = (1, 3, 5, 10)
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
DEFINITIONS = """\
acc@k: a gold file is among the first k answers. MRR: mean of 1 / rank of the first gold file, 0 if it is
not among the answers kept. Span hit: the first answer is the canonical gold file and its lines overlap the
gold span (tasks with a span only). Steps: actions taken. Files read: files opened by the agent; the lexical
scan of all files is not counted. Seconds: wall time of a question, the scan or the building of a baseline's
index included, the loading of models not; cold: the first question on each repository, which pays for the
index; warm: the others. Intervals are at 95 %: Wilson for proportions, percentile
bootstrap over tasks for means, paired for comparisons. Confidence: the score of the first answer, held to be
the probability that it is right; its calibration error is the mean difference of confidence and accuracy in
ten bins of equal width, weighted by their size. Wrong: the share of wrong first answers among the questions
answered most confidently."""


@dataclass(frozen=True, slots=True)
class Question:
    """One task of a file; ``source`` is ``file:line``."""

    repo: str
    task: Task
    source: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one task. ``rank`` counts from 1, None if no gold file was among the answers.

    ``cold``: the first question on its repository, which pays for an index.
    """

    id: str
    repo: str
    question: str
    gold: tuple[str, ...]
    answers: list[dict[str, Any]]
    rank: int | None
    span_hit: bool | None
    steps: int | None
    files_read: int | None
    seconds: float
    cold: bool = False
    kind: str = ""


# -- reading tasks -----------------------------------------------------------------------------


def read_tasks(paths: Sequence[Path]) -> list[Question]:
    """The tasks of files and of directories of ``*.jsonl``; ``InputError`` with file:line if one is bad."""
    files = [f for p in paths for f in (sorted(p.glob("*.jsonl")) if p.is_dir() else [p])]
    found = [question for file in files for question in _read_file(file)]
    if not found:
        raise InputError(
            f"no tasks in {', '.join(map(str, paths))}; name a .jsonl file or a directory of them."
        )
    return found


def _read_file(file: Path) -> Iterator[Question]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}; name a .jsonl file of tasks.") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _parse(line, f"{file}:{number}")


def _parse(line: str, source: str) -> Question:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise InputError(f"{source}: malformed JSON ({error}); write one object per line.") from error
    if not isinstance(data, dict):
        raise InputError(f"{source}: not an object; write one object per line.")
    for key in ("id", "repo", "question", "gold", "span"):
        if key not in data:
            raise InputError(f"{source}: missing key {key!r}; add it.")
    repo, question, gold, span = (data[k] for k in ("repo", "question", "gold", "span"))
    if not isinstance(repo, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InputError(f"{source}: repo is {repo!r}; write owner/name.")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{source}: question is empty or no text; write one.")
    if not isinstance(gold, list) or not gold or not all(isinstance(g, str) for g in gold):
        raise InputError(f"{source}: gold is no list of paths; name at least one file.")
    if span is not None and not (
        isinstance(span, list)
        and len(span) == 2
        and all(type(n) is int for n in span)
        and 1 <= span[0] <= span[1]
    ):
        raise InputError(f"{source}: span is {span!r}; write [first, last] line numbers from 1, or null.")
    paths = tuple(posixpath.normpath(g) for g in gold)
    task = Task(question, paths, tuple(span) if span else None, str(data["id"]))
    return Question(repo, task, source, str(data.get("kind") or ""))


def find_trees(questions: Sequence[Question], trees: Path) -> dict[str, Path]:
    """The tree of every repository asked about; ``InputError`` if one is missing."""
    found: dict[str, Path] = {}
    for question in questions:
        tree = trees / question.repo.replace("/", "__")
        if question.repo not in found and not tree.is_dir():
            raise InputError(
                f"{question.source}: no tree of {question.repo} at {tree}; put a checkout there."
            )
        found[question.repo] = tree
    return found


# -- running -----------------------------------------------------------------------------------

Asker = Callable[[Question], tuple[list[Answer], int | None, int | None]]
"""Answers a question: (answers, steps, files read)."""
System = Callable[[Repo], Asker]
"""Made ready for one repository."""


def agent(policy: Policy, reflector: Reflector, config: ExploreConfig, top: int, seed: int = 0) -> System:
    """The agent as ``ask`` runs it: the most likely option each time, unless its policy is random."""

    def ready(repo: Repo) -> Asker:
        environment = RepoEnvironment(repo, config)
        seeds = itertools.count(seed)

        def ask(question: Question) -> tuple[list[Answer], int | None, int | None]:
            repo.files_read.clear()
            *_, last = play(environment, question.task, policy, reflector, seed=next(seeds))
            assert isinstance(last, Finished)
            opened = len(repo.files_read)  # before the snippets of the answers are read
            found = answers(environment, last.trajectory, top, getattr(policy, "confidence", None))
            return found, len(last.trajectory.steps), opened

        return ask

    return ready


def baseline(name: str, top: int) -> System:
    """The baseline called ``name``; ``InputError`` if there is none."""
    if name not in BASELINES:
        raise InputError(f"no baseline {name!r}; choose from {', '.join(BASELINES)}.")
    if BASELINES[name] is ChunkEmbeddings:
        sentence_encoder()  # before the clock runs, like the agent's models

    def ready(repo: Repo) -> Asker:
        index: list[Index] = []  # built with the first question, whose time it counts towards

        def ask(question: Question) -> tuple[list[Answer], int | None, int | None]:
            index[:] = index or [BASELINES[name](repo)]
            return index[0].answers(question.task.question, top), None, None

        return ask

    return ready


def run(
    questions: Sequence[Question],
    trees: Mapping[str, Path],
    system: System,
    progress: Callable[[str], None] = lambda message: None,
) -> list[Row]:
    """Ask every question of ``system``, repository by repository; rows in the order of the questions."""
    rows: dict[int, Row] = {}
    by_repo: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        by_repo.setdefault(question.repo, []).append(number)
    for name, numbers in by_repo.items():
        repo = Repo.open(trees[name])
        ask = system(repo)
        for number in numbers:
            started = time.perf_counter()
            found, steps, opened = ask(questions[number])
            seconds = time.perf_counter() - started
            cold = number == numbers[0]
            rows[number] = _judge(questions[number], found, steps, opened, seconds, cold)
            right = sum(row.rank == 1 for row in rows.values())
            progress(f"{len(rows)}/{len(questions)} {name}: acc@1 {right / len(rows):.2f} so far")
    return [rows[number] for number in range(len(questions))]


def _judge(
    question: Question,
    found: Sequence[Answer],
    steps: int | None,
    opened: int | None,
    seconds: float,
    cold: bool,
) -> Row:
    task = question.task
    rank = next((i for i, a in enumerate(found, 1) if a.path in task.gold), None)
    span_hit = None
    if task.span is not None:
        # The span lies in gold[0]; lines of another gold file cannot be compared with it.
        span_hit = (
            bool(found)
            and found[0].path == task.gold[0]
            and overlap((found[0].start_line, found[0].end_line), task.span)
        )
    kept = [
        {"path": a.path, "start_line": a.start_line, "end_line": a.end_line, "score": a.score} for a in found
    ]
    return Row(
        task.id, question.repo, task.question, task.gold, kept, rank, span_hit, steps, opened, seconds, cold,
        question.kind,
    )  # fmt: skip


# -- figures -----------------------------------------------------------------------------------


def summary(rows: Sequence[Row], top: int, seed: int = 0) -> dict[str, Estimate]:
    """Every figure over ``rows``; what a system does not have is left out."""
    spans = [row.span_hit for row in rows if row.span_hit is not None]
    figures = {
        f"acc@{k}": wilson(sum(_within(row, k) for row in rows), len(rows)) for k in CUTOFFS if k <= top
    }
    figures["MRR"] = bootstrap_mean([1 / row.rank if row.rank else 0.0 for row in rows], seed)
    figures["span hit"] = wilson(sum(spans), len(spans))
    measured: dict[str, list[float | None]] = {
        "steps": [row.steps for row in rows],
        "files read": [row.files_read for row in rows],
        "seconds": [row.seconds for row in rows],
        "seconds cold": [row.seconds for row in rows if row.cold],
        "seconds warm": [row.seconds for row in rows if not row.cold],
    }
    for name, values in measured.items():
        known = [v for v in values if v is not None]
        if known:
            figures[name] = bootstrap_mean(known, seed)
    return figures


def confidences(rows: Sequence[Row]) -> list[tuple[float, bool]]:
    """(score of the first answer, whether it is right), most confident first; no answer counts as score 0."""
    pairs = [(row.answers[0]["score"] if row.answers else 0.0, row.rank == 1) for row in rows]
    return sorted(pairs, key=lambda pair: -pair[0])


def risk_coverage(rows: Sequence[Row]) -> list[tuple[float, float, float]]:
    """(coverage, confidence of the last question covered, share of wrong answers among those covered)."""
    pairs = confidences(rows)
    found = []
    for coverage in COVERAGES:
        kept = pairs[: max(1, round(coverage * len(pairs)))]
        found.append((coverage, kept[-1][0], sum(not right for _, right in kept) / len(kept)))
    return found


def comparison(ours: Sequence[Row], theirs: Sequence[Row], seed: int = 0) -> dict[str, Estimate]:
    """Difference and ratio of acc@1 on the same tasks."""
    a, b = ([float(_within(row, 1)) for row in rows] for rows in (ours, theirs))
    difference, ratio = paired_bootstrap(a, b, seed)
    return {"acc@1 difference": difference, "acc@1 ratio": ratio}


def _within(row: Row, k: int) -> bool:
    return row.rank is not None and row.rank <= k


def report(systems: Mapping[str, Sequence[Row]], top: int, seed: int = 0) -> str:
    """All figures in Markdown: the systems side by side, comparisons with the first, then by repository."""
    figures = {name: summary(rows, top, seed) for name, rows in systems.items()}
    names = list(systems)
    rows = systems[names[0]]
    metrics = list(dict.fromkeys(metric for of in figures.values() for metric in of))
    side_by_side = [[name, *(str(figures[name].get(m, "–")) for m in metrics)] for name in names]
    repositories = list(dict.fromkeys(row.repo for row in rows))
    parts = [
        f"{len(rows)} questions on {len(repositories)} repositories.",
        markdown(["system", *metrics], side_by_side),
    ]
    parts += [_compared(names[0], other, systems, seed) for other in names[1:]]
    parts.append(DEFINITIONS)
    languages = {item.repo: item.language for item in corpus.load()}
    groups: dict[str, Callable[[Row], str]] = {
        "kind of question": lambda row: row.kind,
        "language": lambda row: languages.get(row.repo, ""),
    }
    for what, group in groups.items():
        if all(map(group, rows)):
            parts += [f"acc@1 by {what}:", _by(group, what, systems)]
    if probable(rows):
        curve = risk_coverage(rows)
        parts += [
            f"Confidence of {names[0]}: calibration error {calibration_error(confidences(rows)):.3f}. "
            "Answered, most confident questions first:",
            markdown(
                ["answered", "confidence from", "wrong"],
                [[f"{c:.0%}", f"{p:.2f}", f"{r:.2f}"] for c, p, r in curve],
            ),
        ]
    for name in names:
        table: list[list[object]] = []
        for repo in repositories:
            part = [row for row in systems[name] if row.repo == repo]
            of = summary(part, top, seed)
            table.append([display(repo), len(part), *(of.get(m, "–") for m in figures[name])])
        parts.append(f"By repository, {name}:")
        parts.append(markdown(["repository", "n", *figures[name]], table))
    return "\n\n".join(parts) + "\n"


def probable(rows: Sequence[Row]) -> bool:
    """Whether the scores of the answers are probabilities: the agent's, which takes steps, no baseline's."""
    return all(row.steps is not None for row in rows)


def _by(group: Callable[[Row], str], what: str, systems: Mapping[str, Sequence[Row]]) -> str:
    """acc@1 of every system for each group of the tasks."""
    values = sorted({group(row) for rows in systems.values() for row in rows})
    table: list[list[object]] = []
    for value in values:
        parts = [[row for row in rows if group(row) == value] for rows in systems.values()]
        cells = [wilson(sum(_within(row, 1) for row in part), len(part)) for part in parts]
        table.append([value, len(parts[0]), *cells])
    return markdown([what, "n", *systems], table)


def _compared(name: str, other: str, systems: Mapping[str, Sequence[Row]], seed: int) -> str:
    figures = comparison(systems[name], systems[other], seed)
    return f"{name} against {other}, paired: " + ", ".join(f"{k} {v}" for k, v in figures.items()) + "."


def as_data(systems: Mapping[str, Sequence[Row]], top: int, seed: int = 0) -> dict[str, Any]:
    """All figures and a row per task as JSON can hold them.

    The first system's are at the top level; the others' under ``compared``.
    """

    def figures(rows: Sequence[Row]) -> dict[str, Any]:
        repositories = dict.fromkeys(row.repo for row in rows)
        return {
            "overall": {k: v.plain() for k, v in summary(rows, top, seed).items()},
            "repos": {
                repo: {
                    k: v.plain() for k, v in summary([r for r in rows if r.repo == repo], top, seed).items()
                }
                for repo in repositories
            },
            "rows": [asdict(row) for row in rows],
        }

    (name, rows), *others = systems.items()
    data = {"system": name, "top": top, "tasks": len(rows), "definitions": DEFINITIONS, **figures(rows)}
    if probable(rows):
        data["calibration error"] = calibration_error(confidences(rows))
        data["risk-coverage"] = risk_coverage(rows)
    if others:
        data["compared"] = {
            other: figures(theirs)
            | {"comparison": {k: v.plain() for k, v in comparison(rows, theirs, seed).items()}}
            for other, theirs in others
        }
    return data
