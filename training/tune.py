"""``repoagent train PATH``: the bundled policy fine-tuned on one repository, measured, and registered.

Tasks (:mod:`training.tune_tasks`) are split; the bundled policy plays the held-out ones; SFT and RLFT
(:mod:`training.tune_fit`) take what time is left; the better of the two on validation tasks plays the
held-out ones again. Only a model that answers more of them right first is registered.

What is measured is what the encoder alone answers, before the language model reads on top of it.
"""

from __future__ import annotations

import datetime
import gzip
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from repoagent import storage, tuned
from repoagent.encoder import EncoderPolicy
from repoagent.errors import InputError
from repoagent.memory import CORRECTED, Memory, Note, words
from repoagent.models import CHECKPOINTS
from repoagent.precision import fast_type
from repoagent.repo import Repo, display
from training.checkpoint import replace_folder
from training.encoder_player import EncoderPlayer
from training.files import whole
from training.pack import pack_task
from training.tune_extra import corrected, settings_of, taught
from training.tune_fit import (
    FitSettings,
    Row,
    Trainee,
    environment_of,
    episode,
    outcomes,
    reinforced,
    settle_temperature,
    supervised,
    task_of,
)
from training.tune_report import Figures, card, figures
from training.tune_tasks import LEAST, Tasks, fingerprint, gather, head

BASE = CHECKPOINTS / "policy"
FEWEST_HELD_OUT = 12
FEWEST_TRAINED = 24
TRAINED = 500
"""Tasks packed for training at most: more than are seen in half an hour."""
RESERVE = 0.05
"""Share of the time that is left alone, for what takes longer than measured."""
SHARES = {"measuring": 0.3, "packing": 0.2}
"""Of the time, at most; SFT and RLFT share what is left."""
SFT_SHARE = 0.65
FORMAT = 1
_TRAINING_MIB = 450  # gradients, activations and Adam's moments of the adapter, as measured

Report = Callable[[str], None]


@dataclass(slots=True)
class Plan:
    """What will be done: the tasks by part, and seconds by stage; ``speeds`` are measured, by task."""

    root: Path
    minutes: float
    seed: int
    tasks: Tasks
    corrections: int
    device: str
    speeds: dict[str, float]
    stages: dict[str, float] = field(default_factory=dict)
    memory: int = 0
    folder: Path = Path()
    commit: str = ""
    teacher: str = ""
    digest: str = ""

    def entry(self) -> dict[str, Any]:
        """The plan as JSON holds it."""
        tasks = self.tasks
        return {
            "repository": str(self.root),
            "commit": self.commit,
            "commits": tasks.history,
            "corrections": self.corrections,
            "tasks": {
                part: {"count": len(rows), "kinds": tasks.kinds(rows)}
                for part, rows in (
                    ("train", tasks.train), ("validation", tasks.validation), ("held out", tasks.held_out)
                )
            },
            "device": self.device,
            "teacher": self.teacher,
            "seconds per task (measured here)": {k: round(v, 3) for k, v in self.speeds.items()},
            "stages (seconds)": {k: round(v) for k, v in self.stages.items()},
            "seconds": round(sum(self.stages.values())),
            "memory (MiB)": self.memory,
            "registered at": str(self.folder),
        }  # fmt: skip


# -- planning ----------------------------------------------------------------------------------


def checked(path: str) -> Path:
    """The folder to train on; ``InputError`` says what is wrong with it."""
    root = Path(tuned.root_of(path))
    if not root.exists():
        raise InputError(f"{display(path)} does not exist; name the folder of a repository.")
    if not root.is_dir():
        raise InputError(f"{display(path)} is no folder; name the folder of a repository.")
    if not any(e.size for e in Repo.open(root).files()):
        raise InputError(f"{display(path)} holds no files that can be read, so there is nothing to learn.")
    place = storage.folder("models")
    near = next(p for p in (place, *place.parents) if p.exists())
    if not near.is_dir() or not os.access(near, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write {display(str(place))}, where the model would be registered; "
            f"{storage.VARIABLE} may name another place."
        )
    return root


def plan(
    path: str,
    minutes: float,
    seed: int,
    teacher: str = "",
    dry: bool = False,
    report: Report = lambda m: None,
) -> Plan:
    """Mine the tasks of ``path``, measure a few, and share out ``minutes``."""
    root = checked(path)
    if teacher:
        settings_of(teacher)
    report("mining tasks from the files and the history")
    there = {e.path for e in Repo.open(root).files()}
    own = [row for row in corrected(str(root)) if there.issuperset(row["gold"])]
    tasks = gather(root, seed, TRAINED, own)
    found = len(tasks.train) + len(tasks.validation) + len(tasks.held_out)
    fewest = len(tasks.held_out) < FEWEST_HELD_OUT or len(tasks.train) < FEWEST_TRAINED
    if found < LEAST or fewest or not tasks.validation:
        kinds = tasks.kinds([*tasks.train, *tasks.validation, *tasks.held_out])
        what = ", ".join(f"{n} {k.removeprefix('mined-')}" for k, n in kinds.items()) or "none"
        raise InputError(
            f"too few tasks in {display(str(root))}: {found} ({what}) from its files and {tasks.history} "
            f"commits; at least {LEAST} are needed, of documented code or of history."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report("measuring how long a task takes")
    made = Plan(root, minutes, seed, tasks, len(own), device, speeds_of(root, tasks))
    made.commit, made.teacher = head(root), teacher
    made.folder = tuned.location(str(root))
    made.memory = peak() + _TRAINING_MIB
    made.digest = fingerprint(root, FORMAT, seed, len(own), teacher)
    allot(made)
    if teacher and not dry:
        report("asking the teacher for questions")
        apart = [r["gold"][0] for r in tasks.held_out if "age" not in r]
        cache = storage.folder("training") / "teacher.jsonl"
        tasks.train += taught(Repo.open(root), teacher, cache, apart, seed)
    return made


def speeds_of(root: Path, tasks: Tasks) -> dict[str, float]:
    """Seconds to pack, to play and to learn from a task, on a few of them."""
    repo, policy = Repo.open(root), EncoderPolicy.from_folder(BASE)
    policy.bf16 = fast_type() is torch.bfloat16
    taken: dict[str, list[float]] = {"pack": [], "play": []}
    for row in [r for r in tasks.train if "decisions" not in r][:4]:
        started = time.perf_counter()
        packed(repo, row)
        taken["pack"].append(time.perf_counter() - started)
        started = time.perf_counter()
        episode(environment_of(repo, row), task_of(row), policy)
        taken["play"].append(time.perf_counter() - started)
    # The first warms up what the others use.
    return {name: median(values[1:] or values) for name, values in taken.items()}


def allot(made: Plan) -> None:
    """Cut the tasks to what ``made.minutes`` allow, and say how long each stage may take."""
    seconds, tasks = 60 * made.minutes * (1 - RESERVE), made.tasks
    pack, play = made.speeds["pack"], made.speeds["play"]
    held = min(len(tasks.held_out), int(SHARES["measuring"] * seconds / (2 * play)))
    trained = min(len(tasks.train), int(0.85 * SHARES["packing"] * seconds / pack))
    least = FEWEST_HELD_OUT * 2 * play / SHARES["measuring"], FEWEST_TRAINED * pack / 0.85 / SHARES["packing"]
    if held < FEWEST_HELD_OUT or trained < FEWEST_TRAINED:
        needed = max(least) / 60 / (1 - RESERVE)
        raise InputError(
            f"--minutes {made.minutes:g} is too little here: {play:.1f} s per question played and "
            f"{pack:.1f} s per task prepared need at least {needed * 1.1:.1f} minutes."
        )
    # Evenly from the whole, so that every kind stays; what the user corrected is never left out.
    tasks.held_out = _spread(tasks.held_out, held)
    ours = [r for r in tasks.train if r["kind"] == "correction"]
    others = [r for r in tasks.train if r["kind"] != "correction"]
    tasks.train = ours + _spread(others, max(0, trained - len(ours)))
    tasks.validation = _spread(tasks.validation, max(6, round(0.18 * trained)))
    measuring = 2 * play * len(tasks.held_out)
    packing = pack * (len(tasks.train) + len(tasks.validation))
    left = seconds - measuring - packing - 2 * play * len(tasks.validation)
    made.stages = {
        "measure the bundled model": measuring / 2,
        "prepare the tasks": packing,
        "SFT": SFT_SHARE * left,
        "RLFT": (1 - SFT_SHARE) * left,
        "choose between them": 2 * play * len(tasks.validation),
        "measure the tuned model": measuring / 2,
    }


def _spread(rows: list[Row], count: int) -> list[Row]:
    return [rows[i * len(rows) // count] for i in range(count)] if count < len(rows) else rows


def peak() -> int:
    """MiB of memory that this process has needed so far."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used >> 20 if sys.platform == "darwin" else used >> 10


# -- doing it ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it; ``kept`` is where the model lies, None where it was not better."""

    plan: Plan
    before: Figures
    after: Figures
    difference: Figures
    by_kind: dict[str, tuple[int, float, float]]
    chosen: str
    seconds: float
    kept: Path | None

    def entry(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        return {
            "kept": self.kept is not None,
            "before": self.before.entry(),
            "after": self.after.entry(),
            "difference": self.difference.entry(),
            "by kind": {
                k: {"tasks": n, "before": round(b, 4), "after": round(a, 4)}
                for k, (n, b, a) in self.by_kind.items()
            },
            "chosen": self.chosen,
            "seconds": round(self.seconds),
            "peak memory (MiB)": peak(),
            "plan": self.plan.entry(),
        }  # fmt: skip


def train(made: Plan, started: float, settings: FitSettings, report: Report = lambda m: None) -> Result:
    """Do what ``made`` says; ``started``: when, by :func:`time.monotonic`, the whole began."""
    repo, tasks = Repo.open(made.root), made.tasks
    ends = started + 60 * made.minutes * (1 - RESERVE)
    bundled = EncoderPolicy.from_folder(BASE)
    bundled.bf16 = fast_type() is torch.bfloat16
    before = [right for right, _ in outcomes(repo, tasks.held_out, bundled, _progress(report, "bundled"))]
    del bundled
    trained, validation = prepared(made, repo, report)
    memory = memory_of(tasks)
    trainee = Trainee(BASE, memory, made.device)
    last = made.stages["choose between them"] + made.stages["measure the tuned model"]
    left = ends - time.monotonic() - last
    supervised(trainee, trained, validation, SFT_SHARE * left, settings, made.seed, report)
    player = trainee.player()
    del trainee
    rows = tasks.validation
    report("playing the validation tasks")
    after_sft = _mean_return(outcomes(repo, rows, player.policy))
    snapshot = [p.detach().clone() for p in player.parameters()]
    left = ends - time.monotonic() - made.stages["measure the tuned model"] - last / 4
    reinforced(player, repo, [r for r in tasks.train if r["gold"]], left, settings, made.seed, report)
    after_rl = _mean_return(outcomes(repo, rows, player.policy))
    chosen = "SFT and RLFT" if after_rl > after_sft else "SFT"
    report(f"mean return on validation: SFT {after_sft:.3f}, RLFT {after_rl:.3f}")
    if chosen == "SFT":
        with torch.no_grad():
            for parameter, value in zip(player.parameters(), snapshot, strict=True):
                parameter.copy_(value)
    settle_temperature(player.policy, validation)
    memory.newest.clear()
    memory.forget_answers()
    after = [right for right, _ in outcomes(repo, tasks.held_out, player.policy, _progress(report, "tuned"))]
    found = figures(before, after, made.seed)
    kinds: dict[str, tuple[int, float, float]] = {}
    for kind in tasks.kinds(tasks.held_out):
        at = [i for i, row in enumerate(tasks.held_out) if row["kind"] == kind]
        kinds[kind] = (len(at), sum(before[i] for i in at) / len(at), sum(after[i] for i in at) / len(at))
    kept = sum(after) > sum(before)
    result = Result(made, *found, kinds, chosen, time.monotonic() - started, made.folder if kept else None)
    if kept:
        register(player, result)
    return result


def _progress(report: Report, name: str) -> Callable[[int, int], None]:
    def told(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            report(f"{name} model: {done} of {total} held-out questions")

    return told


def _mean_return(found: Sequence[tuple[bool, float]]) -> float:
    return sum(total for _, total in found) / len(found)


def packed(repo: Repo, row: Row) -> Row:
    """``row`` with its decisions, as SFT reads them."""
    return row if "decisions" in row else pack_task(environment_of(repo, row), row)


def prepared(made: Plan, repo: Repo, report: Report) -> tuple[list[Row], list[Row]]:
    """The packed training and validation tasks; kept until the repository changes, for a run after this."""
    place = storage.folder("training") / storage.named(str(made.root))
    file = place / f"{made.digest[:16]}.jsonl.gz"
    wanted = [*made.tasks.train, *made.tasks.validation]
    known: dict[str, Row] = {}
    if file.is_file():
        try:
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                known = {row["question"]: row for row in map(json.loads, lines)}
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            known = {}  # cut short by a kill: made again
    missing = [row for row in wanted if row["question"] not in known]
    for number, row in enumerate(missing, 1):
        known[row["question"]] = packed(repo, row)
        if number % 20 == 0 or number == len(missing):
            report(f"preparing tasks: {number} of {len(missing)}")
    if missing:
        for old in place.glob("*.jsonl.gz"):
            old.unlink()
        _keep(file, known)

    def of(rows: Sequence[Row]) -> list[Row]:
        found = [known[row["question"]] for row in rows]
        return [row for row in found if row["decisions"]]

    return of(made.tasks.train), of(made.tasks.validation)


def _keep(file: Path, known: dict[str, Row]) -> None:
    with whole(file) as part, gzip.open(part, "wt", encoding="utf-8", compresslevel=2) as out:
        out.writelines(json.dumps(row) + "\n" for row in known.values())


def memory_of(tasks: Tasks) -> Memory:
    """What the history, without the commits held out, and the corrections tell of the files."""
    notes = [Note(words(c.subject), c.files, c.age) for c in tasks.commits]
    rows = [*tasks.train, *tasks.validation]
    notes += [
        Note(words(r["question"]), tuple(r["gold"]), CORRECTED) for r in rows if r["kind"] == "correction"
    ]
    memory = Memory(notes)
    memory.newest = {r["question"]: r["age"] for r in rows if "age" in r}
    memory.newest |= {r["question"]: CORRECTED for r in rows if r["kind"] == "correction"}
    return memory


def register(player: EncoderPlayer, result: Result) -> None:
    """Write the model in one piece to where questions about the repository look for it."""
    made = result.plan
    description = {
        "root": str(made.root),
        "base": tuned.digest(BASE),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "minutes": made.minutes,
        "seed": made.seed,
        **result.entry(),
    }
    name = f"{player.policy.name}+tuned-{storage.named(str(made.root))}"

    def write(folder: Path) -> None:
        player.policy.save(
            folder,
            adapter=player.adapter,
            adapter_config=player.adapter_config,
            card=card(description),
            meta={"name": name, tuned.ENTRY: description},
        )

    made.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        replace_folder(made.folder, write)
    except OSError as error:
        shutil.rmtree(made.folder.with_name(made.folder.name + ".part"), ignore_errors=True)
        raise InputError(f"cannot write {display(str(made.folder))}: {error.strerror}.") from error
