"""AutoExplore in the paper's form, as a benchmark that the regimen can be trained on.

Its curriculum is the paper's: *depth-1* trains on questions whose file lies in the root, where the
episode begins, *all* on every question. Trees and tasks are the corpus's (see training/data/README.md)
or, without ``trees``, generated ones. Splits are by repository.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.autoexplore.evaluate import Question, find_trees, read_tasks
from benchmarks.speed import WORDS
from repoagent.environment import Observation, StepResult
from repoagent.episode import Trajectory
from repoagent.errors import InputError
from repoagent.explore import PLAIN, ExploreConfig, RepoEnvironment, Task
from repoagent.repo import Repo
from training.tasks import TASKS

if TYPE_CHECKING:
    from training.benchmark import Split
    from training.states import State

ALL = "all"
STAGES = ("depth-1", ALL)
FOLDERS = {
    "": 8, "algorithms": 73, "algorithms/tests": 48, "classes": 40, "classes/tests": 36,
    "generators": 30, "readwrite": 25, "readwrite/tests": 16, "utils": 12,
}  # fmt: skip
"""Files per folder of a generated tree: 288 in all, 73 in the widest folder."""

TREES = {"train": (0, 1, 2), "validation": (3,), "test": (4, 5)}
"""Seeds of the generated trees."""

PER_TREE = 40
"""Questions about a generated tree."""


class ExploreEnvironment:
    """The plain form over whichever repository a task is about; rewards are those of
    :class:`RepoEnvironment`. ``layouts`` as of :class:`AutoExplore`."""

    def __init__(self, repos: Mapping[str, Repo], config: ExploreConfig, layouts: int = 0) -> None:
        self.repos, self.config, self.layouts = repos, config, layouts
        self.inner: RepoEnvironment | None = None
        self.over = True

    def reset(self, task: Question, seed: int | None = None) -> Observation:
        repo = self.repos[task.repo]
        if self.inner is None or self.inner.repo is not repo:
            self.inner = RepoEnvironment(repo, self.config)
        self.over, self.depth = False, depth(task)
        # Without a seed every reset shows the same: states are found again, evaluations are repeatable.
        seed = seed or 0
        return self.inner.reset(task.task, seed % self.layouts if self.layouts else seed)

    def step(self, index: int) -> StepResult:
        if self.over or self.inner is None:
            raise RuntimeError("the episode has ended; call reset")
        found = self.inner.step(index)
        self.over = found.done
        won = found.info["success"]
        return replace(found, info={ALL: won, f"depth-{self.depth}": won})

    def oracle(self) -> list[int]:
        return [] if self.over or self.inner is None else self.inner.oracle()


class AutoExplore:
    """The benchmark.

    ``trees``: a folder with a checkout ``owner__name`` of every repository of ``tasks``, a folder with
    the task files of each split; by default the corpus's. ``depth``: tasks whose file lies deeper are
    left out (0: none); a file in the root has depth 1. ``repositories``: train on so many of them, a
    sample that is always the same (0: all). ``layouts``: of how many draws of what is left out, and of
    the order of options, an episode of a task has one (0: a new draw for every episode); players are
    asked once for equal states, so that few layouts make training cheaper. Raises
    :class:`InputError` for numbers below 0 and for trees that are missing.
    """

    name = "autoexplore"
    stages = STAGES

    def __init__(
        self,
        trees: str = "",
        tasks: str = "",
        horizon: int = PLAIN.horizon,
        leave_out: float = PLAIN.leave_out,
        depth: int = 0,
        repositories: int = 0,
        layouts: int = 0,
    ) -> None:
        for name, value in (("depth", depth), ("repositories", repositories), ("layouts", layouts)):
            if value < 0:
                raise InputError(f"benchmark.{name} is {value}: give at least 0, which sets no limit.")
        self.trees = Path(trees) if trees else None
        self.folder = Path(tasks) if tasks else TASKS
        self.config = replace(PLAIN, horizon=horizon, leave_out=leave_out)
        self.depth, self.repositories, self.layouts = depth, repositories, layouts
        self.repos: dict[str, Repo] = {}
        self._questions: dict[str, list[Question]] = {}

    def environment(self, stage: str) -> ExploreEnvironment:
        return ExploreEnvironment(self.repos, self.config, self.layouts)

    def tasks(self, split: Split) -> Sequence[Question]:
        if split not in self._questions:
            if self.trees is None:
                questions = self._chosen([q for seed in TREES[split] for q in generated(seed)[1]], split)
                found = {f"generated/{seed}": generated(seed)[0] for seed in TREES[split]}
            else:
                questions = self._chosen(read_tasks([self.folder / split]), split)
                found = find_trees(questions, self.trees)
            self.repos |= {name: Repo.open(tree) for name, tree in found.items()}
            self._questions[split] = questions
        return self._questions[split]

    def _chosen(self, questions: list[Question], split: Split) -> list[Question]:
        if split == "train" and self.repositories:
            names = sorted({q.repo for q in questions})
            random.Random("autoexplore/repositories").shuffle(names)
            questions = [q for q in questions if q.repo in names[: self.repositories]]
        return [q for q in questions if not self.depth or depth(q) <= self.depth]

    def plays(self, stage: str, task: Question) -> bool:
        return stage == ALL or depth(task) == 1

    def outcomes(self, trajectory: Trajectory) -> Mapping[str, bool]:
        """Whether a right file was identified, by the names "all" and "depth-1", "depth-2" ..., of which
        an episode has the one that its task is of."""
        return trajectory.steps[-1].result.info

    def reflection(self, state: State) -> str:
        return reflection(state)


def depth(question: Question) -> int:
    """How deep the right file lies: 1 in the root, where the episode begins, 2 a folder below it."""
    return question.task.gold[0].count("/") + 1


def reflection(state: State) -> str:
    """What the template teacher writes; it names no file, see training/template_teacher.py."""
    best = state.observation.options[state.best[0]]
    opened = any(action.startswith("open ") for action in state.observation.history)
    if best.kind == "identify":
        text = "The lines of the opened file answer the question: name this file."
    elif best.kind == "open":
        text = "The file that answers the question is listed here: open it before naming it."
        if opened:
            text = f"The opened file is not it. {text}"
    elif len(best.target) < len(state.observation.location):
        text = "The answer does not lie below this folder: go back up."
    else:
        text = "Nothing listed fits: go on to the folder where such files live."
    return f"The last action was a mistake. {text}" if state.mistake else text


# -- generated trees -----------------------------------------------------------------------------

_kept: list[tempfile.TemporaryDirectory[str]] = []
"""Generated trees last as long as the process."""


@cache
def generated(seed: int) -> tuple[Path, list[Question]]:
    """A tree of ``FOLDERS`` and the questions about it; the same seed gives the same ones."""
    _kept.append(tempfile.TemporaryDirectory(prefix="repoagent-tree-"))
    root = Path(_kept[-1].name)
    return root, [
        Question(f"generated/{seed}", task, f"generated/{seed}:{task.id}") for task in grow(root, seed)
    ]


def grow(root: Path, seed: int) -> list[Task]:
    """Write a tree to ``root``; returns ``PER_TREE`` tasks, each about a function of one file: every file
    of the root, and a sample of the others."""
    rng = random.Random(f"autoexplore/{seed}")
    pairs = [(a, b) for a in WORDS for b in WORDS if a != b]
    subjects = iter(rng.sample(pairs, sum(FOLDERS.values())))
    tasks = []
    for folder, count in FOLDERS.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            a, b = next(subjects)
            name = f"{'test_' if folder.endswith('tests') else ''}{a}_{b}.py"
            lines = [f'"""Everything about the {b} of a {a}."""', ""]
            for verb in rng.sample(WORDS, 12):
                c = rng.choice(WORDS)
                lines += [f"def {verb}_{a}({c}):", f'    """The {verb} of a {a}, given its {c}."""', ""]
                lines += [f"    {b} = {c}.{verb}({rng.randrange(100)})", f"    return {b}", "", ""]
            path = f"{folder}/{name}".lstrip("/")
            (root / path).write_text("\n".join(lines), encoding="utf-8")
            tasks.append(Task(f"Where is the {b} of a {a} handled?", (path,), None, path))
    near = [task for task in tasks if "/" not in task.gold[0]]
    far = [task for task in tasks if task not in near]
    return rng.sample([*near, *rng.sample(far, PER_TREE - len(near))], PER_TREE)
