"""AutoExplore in the paper's form, as a benchmark that the regimen can be trained on.

Its curriculum has two stages: *open* ends with the right file opened, *identify* is the task itself.
Trees and tasks are the corpus's (see training/data/README.md) or, without ``trees``, generated ones.
Splits are by repository.
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
from repoagent.explore import PLAIN, ExploreConfig, RepoEnvironment, Task
from repoagent.repo import Repo
from training.tasks import TASKS

if TYPE_CHECKING:
    from training.benchmark import Split
    from training.states import State

STAGES = ("open", "identify")
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
    """One stage over whichever repository a task is about.

    The rewards are those of :class:`RepoEnvironment`; in the stage "open" opening a right file ends
    the episode with 1.
    """

    def __init__(self, stage: str, repos: Mapping[str, Repo], config: ExploreConfig) -> None:
        self.stage, self.repos, self.config = stage, repos, config
        self.inner: RepoEnvironment | None = None
        self.over = True

    def reset(self, task: Question, seed: int | None = None) -> Observation:
        repo = self.repos[task.repo]
        if self.inner is None or self.inner.repo is not repo:
            self.inner = RepoEnvironment(repo, self.config)
        self.over = False
        # Without a seed every reset shows the same: states are found again, evaluations are repeatable.
        return self.inner.reset(task.task, seed or 0)

    def step(self, index: int) -> StepResult:
        if self.over or self.inner is None:
            raise RuntimeError("the episode has ended; call reset")
        found = self.inner.step(index)
        opened = not set(self.inner.opened).isdisjoint(self.inner.task.gold)
        if opened and self.stage == "open":
            final = replace(found.observation, options=())
            found = replace(found, observation=final, reward=1.0, terminated=True, truncated=False)
        self.over = found.done
        outcomes = {"open": opened or found.info["success"], "identify": found.info["success"]}
        return replace(found, info=outcomes)

    def oracle(self) -> list[int]:
        return [] if self.over or self.inner is None else self.inner.oracle()


class AutoExplore:
    """The benchmark. ``trees``: a folder with a checkout ``owner__name`` of every repository of
    ``tasks``, a folder with the task files of each split; by default the corpus's."""

    name = "autoexplore"
    stages = STAGES

    def __init__(
        self,
        trees: str = "",
        tasks: str = "",
        horizon: int = PLAIN.horizon,
        leave_out: float = PLAIN.leave_out,
    ) -> None:
        self.trees = Path(trees) if trees else None
        self.folder = Path(tasks) if tasks else TASKS
        self.config = replace(PLAIN, horizon=horizon, leave_out=leave_out)
        self.repos: dict[str, Repo] = {}
        self._questions: dict[str, list[Question]] = {}

    def environment(self, stage: str) -> ExploreEnvironment:
        return ExploreEnvironment(stage, self.repos, self.config)

    def tasks(self, split: Split) -> Sequence[Question]:
        if split not in self._questions:
            if self.trees is None:
                self._questions[split] = [q for seed in TREES[split] for q in generated(seed)[1]]
                found = {f"generated/{seed}": generated(seed)[0] for seed in TREES[split]}
            else:
                self._questions[split] = read_tasks([self.folder / split])
                found = find_trees(self._questions[split], self.trees)
            self.repos |= {name: Repo.open(tree) for name, tree in found.items()}
        return self._questions[split]

    def outcomes(self, trajectory: Trajectory) -> Mapping[str, bool]:
        """*open*: a right file was opened (or identified unread); *identify*: and identified."""
        return {
            stage: any(step.result.info.get(stage, False) for step in trajectory.steps) for stage in STAGES
        }

    def reflection(self, state: State) -> str:
        return reflection(state)


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
    """Write a tree to ``root``; returns ``PER_TREE`` tasks, each about a function of one file."""
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
    return rng.sample(tasks, PER_TREE)
