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
import math
import os
import resource
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import SafetensorError

from repoagent import __version__, storage, tuned
from repoagent.encoder import EncoderPolicy
from repoagent.errors import InputError
from repoagent.memory import CORRECTED, Memory, Note, words
from repoagent.models import CHECKPOINTS
from repoagent.precision import fast_type
from repoagent.repo import Repo, display
from training.checkpoint import replace_folder
from training.encoder_player import EncoderPlayer
from training.pack import pack_task
from training.tune_extra import QUESTIONS, corrected, settings_of, taught
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
from training.tune_tasks import LEAST, Similar, Tasks, fingerprint, gather, head

BASE = CHECKPOINTS / "policy"
FEWEST_HELD_OUT = 12
FEWEST_TRAINED = 24
TRAINED = 500
"""Tasks packed for training at most: more than are seen in half an hour."""
RESERVE = 0.05
"""Share of the time that is left alone, for what takes longer than measured."""
SHARES = {"measuring": 0.3, "packing": 0.2, "teacher": 0.1}
"""Of the time, at most; SFT and RLFT share what is left. A teacher's questions are packed on top."""
SFT_SHARE = 0.65
TOGETHER = 20
"""Tasks that are prepared before they are written."""
FORMAT = 2
_TRAINING_MIB = 450  # a guess: gradients, activations, Adam's moments of the adapter, packed tasks

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
    questions: int = 0
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
            "questions of the teacher": self.questions,
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
    place = storage.folder("models").absolute()
    near = next(p for p in (place, *place.parents) if os.path.lexists(p))
    if not os.path.isdir(near) or not os.access(near, os.W_OK | os.X_OK):
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
    started = time.monotonic()
    if not math.isfinite(minutes):
        raise InputError(f"--minutes {minutes} is no time; name a number, such as 30.")
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
    made.digest = fingerprint(root, FORMAT, __version__, seed, own)
    allot(made, time.monotonic() - started)
    if made.questions and not dry:
        report("asking the teacher for questions")
        apart = [r["gold"][0] for r in tasks.held_out if "age" not in r]
        cache = storage.folder("training") / "teacher.jsonl"
        until = time.monotonic() + made.stages["ask the teacher"]
        asked = taught(Repo.open(root), teacher, cache, apart, seed, made.questions, until)
        same = Similar(r["question"] for r in tasks.held_out)
        tasks.train += [row for row in asked if not same.holds(row["question"])]
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


def allot(made: Plan, spent: float = 0.0) -> None:
    """Cut the tasks to what ``made.minutes`` allow of which ``spent`` seconds are over, and say how long each
    stage may take."""
    seconds, tasks = 60 * made.minutes * (1 - RESERVE) - spent, made.tasks
    pack, play = made.speeds["pack"], made.speeds["play"]
    # What the user corrected is never left out, and was packed then.
    ours = [r for r in tasks.train if r["kind"] == "correction"]
    others = [r for r in tasks.train if r["kind"] != "correction"]
    held = min(len(tasks.held_out), int(SHARES["measuring"] * seconds / (2 * play)))
    trained = min(len(others), int(0.85 * SHARES["packing"] * seconds / pack))
    least = FEWEST_HELD_OUT * 2 * play / SHARES["measuring"], FEWEST_TRAINED * pack / 0.85 / SHARES["packing"]
    if held < FEWEST_HELD_OUT or trained + len(ours) < FEWEST_TRAINED:
        needed = (max(least) + spent) / 60 / (1 - RESERVE)
        raise InputError(
            f"--minutes {made.minutes:g} is too little here: {spent:.0f} s to find the tasks, {play:.1f} s a "
            f"question and {pack:.1f} s per task prepared need at least {needed * 1.1:.1f} minutes."
        )
    # Evenly from the whole, so that every kind stays.
    tasks.held_out = _spread(tasks.held_out, held)
    tasks.train = ours + _spread(others, trained)
    tasks.validation = _spread(tasks.validation, max(6, round(0.18 * trained)))
    made.questions = min(QUESTIONS, trained // 2) if made.teacher else 0
    stages = {
        "find the tasks": spent,
        "ask the teacher": SHARES["teacher"] * seconds if made.questions else 0.0,
        "measure the bundled model": play * held,
        "prepare the tasks": pack * (trained + len(tasks.validation) + made.questions),
        "SFT": 0.0,
        "RLFT": 0.0,
        "choose between them": 2 * play * len(tasks.validation),
        "measure the tuned model": play * held,
    }
    left = seconds + spent - sum(stages.values())
    made.stages = stages | {"SFT": SFT_SHARE * left, "RLFT": (1 - SFT_SHARE) * left}


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
    began = time.monotonic()
    before = [right for right, _ in outcomes(repo, tasks.held_out, bundled, _progress(report, "bundled"))]
    # As long as it took now, if that is longer than planned: it must be done again at the end.
    measuring = max(made.stages["measure the tuned model"], time.monotonic() - began)
    choosing = 2 * measuring * len(tasks.validation) / len(tasks.held_out)
    del bundled
    trained, validation = prepared(made, repo, report)
    memory = memory_of(tasks)
    trainee = Trainee(BASE, memory, made.device)
    left = ends - time.monotonic() - choosing - measuring
    supervised(trainee, trained, validation, SFT_SHARE * left, settings, made.seed, report)
    player = trainee.player()
    del trainee
    rows = tasks.validation
    report("playing the validation tasks")
    after_sft = _mean_return(outcomes(repo, rows, player.policy))
    snapshot = [p.detach().clone() for p in player.parameters()]
    left = ends - time.monotonic() - choosing / 2 - measuring
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
    try:
        known = _kept(file)
        missing = [row for row in wanted if "decisions" not in row and _key(row) not in known]
        for start in range(0, len(missing), TOGETHER):
            part = {_key(row): packed(repo, row) for row in missing[start : start + TOGETHER]}
            _keep(file, part)
            known |= part
            report(f"preparing tasks: {min(start + TOGETHER, len(missing))} of {len(missing)}")
    except OSError as error:
        raise InputError(f"cannot write {display(str(file))}: {error.strerror}.") from error

    def of(rows: Sequence[Row]) -> list[Row]:
        found = [row if "decisions" in row else known[_key(row)] for row in rows]
        return [row for row in found if row["decisions"]]

    found = of(made.tasks.train), of(made.tasks.validation)
    if not all(found):
        raise InputError(f"the files of {display(str(made.root))} were removed meanwhile; run it again.")
    return found


def _key(row: Row) -> tuple[str, tuple[str, ...]]:
    return row["question"], tuple(row["gold"])  # a teacher asks the same of several files


def _kept(file: Path) -> dict[tuple[str, tuple[str, ...]], Row]:
    """What :func:`_keep` wrote; a file that a kill cut short is written anew as far as it can be read, and
    those of another state of the repository go."""
    for old in file.parent.glob("*.jsonl.gz"):
        if old != file:
            old.unlink(missing_ok=True)
    known: dict[tuple[str, tuple[str, ...]], Row] = {}
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                known[_key(row)] = row
    except FileNotFoundError:
        pass
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error):
        file.unlink()
        _keep(file, known)
    return known


def _keep(file: Path, rows: dict[tuple[str, tuple[str, ...]], Row]) -> None:
    """Add ``rows`` to ``file``, which quotes the repository and is therefore for the user alone."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with gzip.open(file, "at", encoding="utf-8", compresslevel=2) as out:
        out.writelines(json.dumps(row) + "\n" for row in rows.values())


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

    try:
        made.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_folder(made.folder, write)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(made.folder.with_name(made.folder.name + ".part"), ignore_errors=True)
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {display(str(made.folder))}: {why}.") from error
