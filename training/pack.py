"""Pack tasks and trees into one file of decisions that training reads anywhere.

repoagent train bundled pack --trees DIR --out runs/pack/train.jsonl.gz [--tasks FILE ...]

A decision is a state on or off the optimal path with its options and the indices of the best
ones. Off the path means after opening a wrong file: a teacher's distractor where the task has
one, else the wrong file with the most evidence (the negatives of the paper).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repoagent.environment import Observation
from repoagent.explore import ExploreConfig, RepoEnvironment, Task
from repoagent.repo import Repo
from training.files import whole

MAX_STEPS = 8  # of an oracle trajectory; deeper files are left to the walk


@dataclass(frozen=True, slots=True)
class Decision:
    """One state; ``best`` holds the indices of the best options of its observation.

    ``reflection`` is the teacher's on this state, empty where there is none.
    """

    stage: str
    observation: Observation
    reflection: str
    best: tuple[int, ...]


def decisions(env: RepoEnvironment, row: dict[str, Any]) -> Iterator[Decision]:
    """Decisions of the oracle trajectory of ``row``, then of those with one and two wrong files first."""
    task = Task(row["question"], tuple(row["gold"]), tuple(row["span"]) if row.get("span") else None)
    said = {d["path"]: d["reflection"] for d in row.get("distractors", [])}
    yield from _follow(env, task, row, said, wrong=0)
    yield from _follow(env, task, row, said, wrong=1)
    yield from _follow(env, task, row, said, wrong=2)


def _follow(
    env: RepoEnvironment, task: Task, row: dict[str, Any], said: dict[str, str], wrong: int
) -> Iterator[Decision]:
    observation = env.reset(task)
    reflection = row.get("plan", "")
    for _ in range(wrong):
        pick = _wrong(observation, task, said)
        if pick is None:
            return
        reflection = said.get(observation.options[pick].target, "")
        observation = env.step(pick).observation
    for step in range(MAX_STEPS):
        best = env.oracle()
        if not best:
            return
        kind = observation.options[best[0]].kind
        # Wrong openings change the states up to `identify` only.
        if wrong == 0 or (kind != "lines" and not (wrong == 2 and step)):
            yield Decision(f"{kind}{wrong}", observation, reflection, tuple(best))
        chosen = _canonical(observation, best, task)
        option = observation.options[chosen]
        reflection = row.get("why", "") if option.kind == "open" and option.target == task.gold[0] else ""
        result = env.step(chosen)
        if result.done:
            return
        observation = result.observation


def _canonical(observation: Observation, best: list[int], task: Task) -> int:
    """Of several best options the one that leads to the canonical gold file."""
    return next((i for i in best if observation.options[i].target == task.gold[0]), best[0])


def _wrong(observation: Observation, task: Task, said: dict[str, str]) -> int | None:
    opens = [i for i, o in enumerate(observation.options) if o.kind == "open" and o.target not in task.gold]
    taught = [i for i in opens if observation.options[i].target in said]
    return (taught or opens or [None])[0]


def pack_rows(rows: list[dict[str, Any]], trees: Path, out: Path, config: ExploreConfig | None = None) -> int:
    """Write the decisions of ``rows`` to ``out`` (gzipped JSON lines, one task a line); their number."""
    count = 0
    by_repo: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_repo.setdefault(row["repo"], []).append(row)
    with whole(out) as part, gzip.open(part, "wt", encoding="utf-8", compresslevel=3) as file:
        for name, group in by_repo.items():
            repo = Repo.open(trees / name.replace("/", "__"))
            for row in group:
                hide = tuple((p, a, b) for p, a, b in row.get("hide", ()))
                env = RepoEnvironment(MaskedRepo(repo, hide) if hide else repo, config)
                packed = pack_task(env, row)
                if packed["decisions"]:
                    file.write(json.dumps(packed, ensure_ascii=False).replace("\u2028", " ") + "\n")
                    count += len(packed["decisions"])
            print(f"{out.name}: {name} packed, {count} decisions so far", flush=True)
    return count


def pack_task(env: RepoEnvironment, row: dict[str, Any]) -> dict[str, Any]:
    """One task as plain data: texts are stored once and referred to by index."""
    texts: dict[str, int] = {}
    found = []
    for decision in decisions(env, row):
        options = [
            (texts.setdefault(o.evidence, len(texts)), o.kind, o.target, o.text,
             [round(f, 4) for f in o.features])
            for o in decision.observation.options
        ]  # fmt: skip
        found.append(
            {
                "stage": decision.stage,
                "location": decision.observation.location,
                "history": decision.observation.history,
                "last_result": decision.observation.last_result[:4000],
                "reflection": decision.reflection,
                "options": options,
                "best": decision.best,
            }
        )
    return {
        "id": row["id"],
        "repo": row["repo"],
        "kind": row["kind"],
        "question": row["question"],
        "gold": row["gold"],
        "texts": list(texts),
        "decisions": found,
    }


class MaskedRepo(Repo):
    """``repo`` with the text that gives a mined task away blanked: (path, first, last) line ranges."""

    def __init__(self, repo: Repo, hide: tuple[tuple[str, int, int], ...]) -> None:
        super().__init__()
        self.name, self._inner = repo.name, repo
        self._hide: dict[str, list[tuple[int, int]]] = {}
        for path, first, last in hide:
            self._hide.setdefault(path, []).append((first, last))

    def entries(self, directory: str = "") -> Any:
        return self._inner.entries(directory)

    def read_bytes(self, path: str) -> bytes:
        data = self._inner.read_bytes(path)
        if path not in self._hide:
            return data
        lines = data.split(b"\n")
        for first, last in self._hide[path]:
            lines[first - 1 : last] = [b""] * len(lines[first - 1 : last])
        return b"\n".join(lines)

    def _list(self, directory: str) -> Any:
        return list(self._inner.entries(directory))

    def _read(self, path: str) -> bytes:
        return self._inner.read_bytes(path)
