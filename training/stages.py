"""The regimen, stage by stage, in the folder of a run; every stage goes on where it was stopped.

    tasks        RUN/tasks.jsonl        states on optimal trajectories (the oracle's)
    reflections  RUN/reflections.jsonl  the same with the teacher's reflections
    negatives    RUN/negatives.jsonl    states after one mistake, with the reflections that recover
    reflector    RUN/reflector/model    SFT of the reflector, frozen from here on
    policy       RUN/policy/model       SFT of the policy, given the teacher's reflections
    rlft         RUN/rlft/best          RLFT of the policy with the reflector in the loop
    table        RUN/rlft/results.json  the policy before and after RLFT on the test tasks

Each stage keeps the parts of the recipe that it depends on in RUN/recipes, and refuses others.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repoagent.environment import Observation
from repoagent.errors import InputError
from repoagent.players import Reflector
from training import players
from training import recipe as recipes
from training.benchmark import Benchmark, load_benchmark
from training.files import write_json
from training.recipe import Recipe
from training.states import State, optimal, perturbed, read_states, write_states

if TYPE_CHECKING:
    from training.known import TrainablePolicy

DATA = ("run", "benchmark", "tasks")
TAUGHT = (*DATA, "teacher")
PARTS = {
    "tasks": DATA,
    "reflections": TAUGHT,
    "negatives": TAUGHT,
    "reflector": (*TAUGHT, "model", "reflector"),
    "policy": (*TAUGHT, "model", "reflector", "policy"),
    "rlft": (*TAUGHT, "model", "reflector", "policy", "rlft"),
    "table": (*TAUGHT, "model", "reflector", "policy", "rlft"),
}
"""The parts of a recipe that a stage's outcome depends on; the stages in their order."""

STAGES = tuple(PARTS)
TRAINING = ("reflector", "policy", "rlft")
"""The stages in which every process of `accelerate launch` takes part."""

RECORDS = "recipes"
WHOLE = "run"
"""Name of the record of all parts, for stages that have not begun and are given no recipe."""

RESULTS = "results.json"
SPREAD = 8
"""States walked through for one that is kept, at most."""

ROUNDS = 20
"""How often the tasks are walked anew, at most, to fill the budget of states."""

Report = Callable[[str], None]


class Run:
    """The folder ``out`` with its recipe; ``name`` tells variants of RLFT on one SFT apart."""

    def __init__(self, out: Path, recipe: Recipe, *, name: str = "", report: Report = print) -> None:
        self.out, self.recipe, self.report = out, recipe, report
        self.rlft_folder = out / (f"rlft-{name}" if name else "rlft")
        self.name = name
        players.check_players(recipe)
        options = {k: v for k, v in recipe["benchmark"].items() if k != "name"}
        self.benchmark: Benchmark = load_benchmark(recipe["benchmark"]["name"], options)
        if recipe["run"]["threads"]:
            import torch

            torch.set_num_threads(recipe["run"]["threads"])

    # -- the recipe of a run -----------------------------------------------------------------

    @staticmethod
    def recorded(out: Path, name: str = "") -> Recipe | None:
        """The recipe that the run in ``out`` has begun with; None where there is no run."""
        recipe: Recipe = _record(out, WHOLE) or {}
        for stage in STAGES:
            recipe |= _record(out, _label(stage, name)) or {}
        return recipes.defaults() | recipe if recipe else None

    def begin(self, stage: str, *, resume: bool = True, clean: bool = False) -> None:
        """Record that ``stage`` begins with this recipe, or refuse and name the keys that differ."""
        if clean:
            self.remove(stage)
        label = _label(stage, self.name)
        if not resume and _record(self.out, label) is not None:
            raise InputError(f"{self.out} has this stage already; leave --resume at auto, or use --clean.")
        changed: list[str] = []
        for earlier in STAGES[: STAGES.index(stage) + 1]:
            old = _record(self.out, _label(earlier, self.name)) or {}
            changed += recipes.differences(old, self.recipe, PARTS[earlier])
        if changed:
            raise InputError(
                f"{self.out} was begun with another recipe: {', '.join(dict.fromkeys(changed))}; "
                "use another --out, or --clean with the first stage that it changes."
            )
        self._keep(label, {p: self.recipe[p] for p in PARTS[stage]})
        if not self.name or _record(self.out, WHOLE) is None:
            self._keep(WHOLE, self.recipe)

    def _keep(self, label: str, recipe: Recipe) -> None:
        write_json(self.out / RECORDS / f"{label}.json", recipe, indent=1)

    def remove(self, stage: str) -> None:
        """Delete what ``stage`` and all stages after it have written."""
        paths = [made for later in STAGES[STAGES.index(stage) :] for made in self._made(later)]
        if stage not in ("rlft", "table"):  # what all variants stand on
            paths += [*self.out.glob("rlft-*"), *self.out.glob(f"{RECORDS}/*-*.json")]
        for made in paths:
            if made.is_dir():
                shutil.rmtree(made)
            else:
                made.unlink(missing_ok=True)

    def _made(self, stage: str) -> list[Path]:
        made = [self.out / RECORDS / f"{_label(stage, self.name)}.json"]
        if stage in ("rlft", "table"):
            folder = self.rlft_folder
            return [*made, folder if stage == "rlft" else folder / RESULTS]
        if stage == "reflector":
            return [*made, self.out / "reflector", self.out / "base"]
        return [*made, self.out / (stage if stage == "policy" else f"{stage}.jsonl")]

    # -- the stages --------------------------------------------------------------------------

    def run(self, stage: str) -> None:
        """Do ``stage`` as far as it is not done yet; the stages before it must be done."""
        getattr(self, stage)()

    def tasks(self) -> None:
        """Different states of optimal trajectories on the training tasks, a sample as large as the budget."""
        path = self.out / "tasks.jsonl"
        if not path.exists():
            budget = self.recipe["tasks"]
            wanted = budget["states"] - round(budget["states"] * budget["negatives"])
            environment = self.benchmark.environment(self.benchmark.stages[-1])
            # Budgets are of different states: a teacher has nothing new to say on the same one. Those
            # that are met often come first, by weighted sampling without replacement (Efraimidis and
            # Spirakis, 2006): the key of a state met n times is u^(1/n).
            found: dict[Observation, State] = {}
            met: Counter[Observation] = Counter()
            tasks = len(self.benchmark.tasks("train"))
            for walked, (task, rng) in enumerate(self._walked("tasks")):
                if (walked >= tasks and len(found) >= wanted) or len(found) >= SPREAD * wanted:
                    break
                for state in optimal(environment, task, rng):
                    found[state.observation] = state
                    met[state.observation] += 1
            if len(found) < wanted:
                raise InputError(
                    f"the tasks have {len(found)} different states, {wanted} are wanted; lower tasks.states."
                )
            rng = random.Random(f"{self.recipe['run']['seed']}/sample")
            keys = {seen: rng.random() ** (1 / count) for seen, count in met.items()}
            states = [found[seen] for seen in sorted(keys, key=keys.__getitem__, reverse=True)[:wanted]]
            write_states(path, states)
        self.report(f"{len(read_states(path))} states on optimal trajectories in {path}")

    def reflections(self) -> None:
        """What the teacher writes on the states of the optimal trajectories."""
        path = self.out / "reflections.jsonl"
        if not path.exists():
            self._taught(path, read_states(self.out / "tasks.jsonl"))
        self.report(f"{len(read_states(path))} reflections in {path}")

    def negatives(self) -> None:
        """States after one mistake on an optimal trajectory, with the reflections that recover."""
        path = self.out / "negatives.jsonl"
        if not path.exists():
            budget = self.recipe["tasks"]
            wanted = round(budget["states"] * budget["negatives"])
            environment = self.benchmark.environment(self.benchmark.stages[-1])
            known = {state.observation for state in read_states(self.out / "tasks.jsonl")}
            states: list[State] = []
            for task, rng in self._walked("negatives"):
                if len(states) >= wanted:
                    break
                state = perturbed(environment, task, rng, budget["mistakes"])
                if state is not None and state.observation not in known:
                    known.add(state.observation)
                    states.append(state)
            if len(states) < wanted:
                raise InputError(
                    f"only {len(states)} of {wanted} states with a mistake were found; lower tasks.negatives."
                )
            self._taught(path, states)
        self.report(f"{len(read_states(path))} states after a mistake in {path}")

    def reflector(self) -> None:
        """SFT of the reflector on the teacher's reflections; nothing where none is trained."""
        if not players.trains_reflector(self.recipe):
            enabled = self.recipe["reflector"]["enabled"]
            self.report("the bundled reflector is trained" if enabled else "no reflector in this recipe")
            return
        from training.sft import train_reflector

        settings = recipes.sft_settings(self.recipe, "reflector")
        folder = train_reflector(self._states(), self.base("reflector"), settings, self.out / "reflector")
        self.report(f"reflector in {folder}")

    def policy(self) -> None:
        """SFT of the policy; where it is not enabled the policy stays as it begins."""
        if self.recipe["policy"]["enabled"]:
            folder = players.teach_policy(
                self.recipe, self._states(), self.base("policy"), self.out / "policy"
            )
            self.report(f"policy in {folder}")
        else:
            self.report("no supervised training of the policy in this recipe")

    def rlft(self) -> None:
        """RLFT of the policy with the frozen reflector in the loop."""
        from training.rlft import Trainer

        settings = recipes.rlft_settings(self.recipe)
        trainer = Trainer(
            settings, self.benchmark, self.load_policy(), self.load_reflector(), self.rlft_folder
        )
        self.report(f"best policy in {trainer.run()}")

    def table(self) -> None:
        """The policy after SFT and the best one of RLFT, greedy, on the test tasks."""
        from training.known import Asked, KnownReflections, measure, summary

        path = self.rlft_folder / RESULTS
        if not path.exists():
            known = KnownReflections(self.load_reflector(), self.rlft_folder / "reflections.jsonl")
            tasks = self.benchmark.tasks("test")
            policies = {
                "begin": self.load_policy(),
                "best": players.load_policy(self.recipe, self.rlft_folder / "best"),
            }
            found = {}
            for label, policy in policies.items():
                rows = measure(self.benchmark, tasks, Asked(policy, None, 64), known)
                found[label] = {**summary(rows), "rows": rows}
            write_json(path, found)
        for label, figures in json.loads(path.read_text(encoding="utf-8")).items():
            rates = ", ".join(f"{k} {v:.3f}" for k, v in figures.items() if k != "rows")
            self.report(f"{'before RLFT' if label == 'begin' else 'after RLFT'}: {rates}")

    # -- players -----------------------------------------------------------------------------

    def base(self, role: str) -> Path | str:
        """What a player ("reflector" or "policy") begins from; a language model from scratch is made once."""
        model = self.recipe["model"]
        if model["base"] != "scratch":
            return str(model["base"])
        from repoagent.prompt import policy_prompt
        from training.scratch import make_causal_lm

        folder = self.out / "base" / role
        if not (folder / "tokenizer_config.json").is_file():
            # The tokenizer learns from the very prompts, so that their words are one token each.
            prompts = [
                policy_prompt(s.observation, s.reflection, count=lambda _: 0, budget=0)[0].text
                for s in self._states()
            ]
            size = {k: model[k] for k in ("arch", "width", "layers", "heads", "window", "vocabulary")}
            if role == "policy":
                size |= {k: model[f"policy_{k}"] or model[k] for k in ("width", "layers")}
            make_causal_lm(folder, **size, texts=prompts * 5, seed=self.recipe["run"]["seed"])
        return folder

    def prepare(self, stage: str) -> None:
        """Make what all processes of ``stage`` read; for one of them, before the others begin."""
        for role in ("reflector", "policy"):
            if stage == role or (stage == "rlft" and role == "policy"):
                self.base(role)

    def load_policy(self) -> TrainablePolicy:
        """The policy that RLFT begins with, trainable."""
        if self.recipe["policy"]["enabled"]:
            return players.load_policy(self.recipe, self.out / "policy" / "model", trainable=True)
        return players.new_policy(self.recipe, self.base("policy"))

    def load_reflector(self) -> Reflector:
        """The frozen reflector, or none."""
        return players.load_reflector(self.recipe, self.out / "reflector" / "model")

    # -- data --------------------------------------------------------------------------------

    def _states(self) -> list[State]:
        return read_states(self.out / "reflections.jsonl") + read_states(self.out / "negatives.jsonl")

    def _walked(self, purpose: str) -> Iterable[tuple[Any, random.Random]]:
        rng = random.Random(f"{self.recipe['run']['seed']}/{purpose}")
        order = list(self.benchmark.tasks("train"))
        random.Random(f"{self.recipe['run']['seed']}/order").shuffle(order)
        for _ in range(ROUNDS):
            yield from ((task, rng) for task in order)

    def _taught(self, path: Path, states: list[State]) -> None:
        from training.teacher import ReflectorTeacher, Teacher, make_teacher

        settings = recipes.teacher_settings(self.recipe)
        if settings.kind == "reflector":
            teacher: Teacher = ReflectorTeacher(self.load_reflector())
        else:
            teacher = make_teacher(settings, self.benchmark, self.out / "teacher.jsonl")
        texts = teacher.reflect(states)
        write_states(path, [replace(s, reflection=t) for s, t in zip(states, texts, strict=True)])


def _label(stage: str, name: str) -> str:
    return f"{stage}-{name}" if name and stage in ("rlft", "table") else stage


def _record(out: Path, label: str) -> Recipe | None:
    path = out / RECORDS / f"{label}.json"
    try:
        found: Recipe = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); start the stage over with --clean.") from None
    return found
