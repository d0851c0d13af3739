"""What a benchmark must offer so that the regimen can be trained on it, and the ones there are.

The stages of training know nothing else of a benchmark; the benchmarks themselves lie outside this
package and are found by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, cast

from repoagent.environment import Environment
from repoagent.episode import Trajectory
from repoagent.errors import InputError
from training.states import State

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

BENCHMARKS = {
    "alfworld": "benchmarks.alfworld.task:ALFWorld",
    "autoexplore": "benchmarks.autoexplore.task:AutoExplore",
    "taxi": "benchmarks.taxi.task:DangerousTaxi",
}
"""Where a benchmark's class lies, as ``module:name``."""


class Benchmark(Protocol):
    """Tasks, an environment for each stage of the curriculum, and what counts as success."""

    name: str
    stages: tuple[str, ...]
    """Stages of the curriculum, easiest first; the last one is the task itself."""

    def environment(self, stage: str) -> Environment[Any]:
        """A new environment of ``stage``, with an oracle."""
        ...

    def tasks(self, split: Split) -> Sequence[Any]:
        """The tasks of a split, in a fixed order; splits share none."""
        ...

    def plays(self, stage: str, task: Any) -> bool:
        """Whether ``stage`` trains on ``task``; the last stage trains on all."""
        ...

    def outcomes(self, trajectory: Trajectory) -> Mapping[str, bool]:
        """What the episode achieved, by the names of the ``stages`` that play its task; benchmarks may
        add names of their own. Rates are over the episodes that have the name."""
        ...

    def reflection(self, state: State) -> str:
        """What the template teacher writes on ``state``, whose best options it is told."""
        ...


def check_stages(benchmark: Benchmark, stages: Sequence[str]) -> None:
    """Raise :class:`InputError` for a stage without tasks to train on or to be evaluated on."""
    for stage in stages:
        for split in ("train", "validation"):
            if not any(benchmark.plays(stage, task) for task in benchmark.tasks(split)):
                raise InputError(
                    f"the stage '{stage}' of {benchmark.name} has no tasks in the split {split}: "
                    "add some, or set rlft.curriculum=false."
                )


def load_benchmark(name: str, options: Mapping[str, Any] | None = None) -> Benchmark:
    """The benchmark called ``name``, made with ``options``."""
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark '{name}': use {' or '.join(sorted(BENCHMARKS))}.")
    module, _, attribute = BENCHMARKS[name].partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the benchmark '{name}' needs {error.name}, which is not installed; "
            "run: pip install 'repoagent[train]'."
        ) from error
    try:
        return cast(Benchmark, kind(**(options or {})))
    except TypeError as error:
        raise InputError(f"benchmark '{name}': {error}.") from error
