"""``repoagent train``, the regimen of the paper: one command a stage, and ``run`` for all of them."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from repoagent.errors import InputError
from training.stages import STAGES, TRAINING, Run

regimen = typer.Typer(rich_markup_mode=None)


class Resume(StrEnum):
    """What to do where a stage has begun already."""

    auto = "auto"
    never = "never"


RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", metavar="NAME", help="A .toml file or a recipe that comes along; may be left "
                 "out where the run has begun."),
]  # fmt: skip
OutOption = Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder of the run.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="PART.KEY=VALUE", help="Change a key; may be repeated.")
]
ResumeOption = Annotated[
    Resume, typer.Option("--resume", help="auto: go on from what there is; never: refuse if there is any.")
]
CleanOption = Annotated[
    bool, typer.Option("--clean", help="Delete what this stage and those after it wrote, and start over.")
]
NameOption = Annotated[
    str, typer.Option("--name", metavar="VARIANT", help="Variant of RLFT beside others on the same SFT.")
]


def _do(
    stages: tuple[str, ...],
    out: Path,
    recipe: str | None,
    changes: list[str] | None,
    resume: Resume,
    clean: bool,
    name: str = "",
) -> None:
    import torch
    from accelerate import PartialState

    from training.recipe import load_recipe

    if name and not name.replace("-", "").isalnum():
        raise InputError(f"--name {name}: use letters, digits and '-'.")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder.")
    loaded = load_recipe(recipe, changes or (), Run.recorded(out, name))
    state = PartialState(cpu=not torch.cuda.is_available())
    run = Run(out, loaded, name=name, report=typer.echo if state.is_main_process else lambda _: None)
    if state.is_main_process:
        run.begin(stages[0], resume=resume is Resume.auto, clean=clean)
    for stage in stages:
        if state.is_main_process and stage != stages[0]:
            run.begin(stage)
        if state.is_main_process and stage in TRAINING:
            run.prepare(stage)
        state.wait_for_everyone()
        if state.is_main_process or stage in TRAINING:
            run.run(stage)
        state.wait_for_everyone()


def _stage(stage: str, command: str, text: str) -> Callable[..., None]:
    def do(
        out: OutOption,
        recipe: RecipeOption = None,
        changes: SetOption = None,
        resume: ResumeOption = Resume.auto,
        clean: CleanOption = False,
    ) -> None:
        _do((stage,), out, recipe, changes, resume, clean)

    regimen.command(command, help=text)(do)
    return do


def _variant(stages: tuple[str, ...], command: str, text: str) -> Callable[..., None]:
    def do(
        out: OutOption,
        recipe: RecipeOption = None,
        changes: SetOption = None,
        resume: ResumeOption = Resume.auto,
        clean: CleanOption = False,
        name: NameOption = "",
    ) -> None:
        _do(stages, out, recipe, changes, resume, clean, name)

    regimen.command(command, help=text)(do)
    return do


_stage("tasks", "tasks", "Stage 1: states on the oracle's optimal trajectories.")
_stage("reflections", "reflections", "Stage 2: a teacher writes a reflection on each of them.")
_stage("negatives", "negatives", "Stage 3: states after one mistake, with the reflections that recover.")
_stage("reflector", "sft-reflector", "Stage 4: supervised fine-tuning of the reflector, then frozen.")
_stage("policy", "sft-policy", "Stage 5: supervised fine-tuning of the policy, given the reflections.")
_variant(("rlft",), "rlft", "Stage 6: reinforcement learning of the policy with the reflector in the loop.")
_variant(("table",), "table", "Stage 7: both policies on the test tasks.")
_variant(STAGES, "run", "All stages in order, each as far as it is not done yet.")
