"""Pack what the reader learns from: for each question the passages that answer it and others that do not.

repoagent train bundled passages --trees DIR --out runs/pack/passages.jsonl.gz

A passage is a block of lines as the policy reads it. ``right``: those of the canonical gold file that overlap
the answer's lines, best first; ``same``: the best others of that file; ``wrong``: the best (three times in
ten the second best) block of each other file that the lexical scan ranks high, in its order.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repoagent.environment import Passage
from repoagent.explore import overlap
from repoagent.repo import Repo, display
from repoagent.scent import Block, Scent
from training.files import whole
from training.tasks import TeacherTask

HITS = 20
SECOND = 0.3


def pack_passages(tasks: Sequence[TeacherTask], trees: Path, out: Path, seed: int = 0) -> int:
    """Write the passages of ``tasks`` to ``out`` (gzipped JSON lines, shuffled); the number of tasks."""
    rng = random.Random(seed)
    rows = []
    for name in dict.fromkeys(t.repo for t in tasks):
        repo = Repo.open(trees / name.replace("/", "__"))
        for task in tasks:
            if task.repo == name and (row := passages(repo, task, rng)) is not None:
                rows.append(row)
        print(f"{out.name}: {name} packed, {len(rows)} questions so far", flush=True)
    rng.shuffle(rows)
    with whole(out) as part, gzip.open(part, "wt", encoding="utf-8", compresslevel=3) as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    return len(rows)


def passages(repo: Repo, task: TeacherTask, rng: random.Random) -> dict[str, Any] | None:
    """The passages of one task; None where the scan does not see the gold file or it has no lines."""
    scent, gold, span = Scent(repo, task.question), task.gold[0], task.span
    if span is None or not scent.knows(gold):
        return None
    blocks = scent.blocks(gold, 10_000)
    right = sorted((b for b in blocks if overlap((b.start, b.end), span)), key=lambda b: -_fit(b, span))
    if not right:
        return None
    same = [b for b in blocks if b not in right][:2]
    wrong = []
    for hit in scent.hits(HITS + len(task.gold)):
        if hit.path not in task.gold and (best := scent.blocks(hit.path, 2)):
            wrong.append((hit.path, best[-1] if rng.random() < SECOND else best[0]))
    return {
        "id": task.id,
        "kind": task.kind,
        "question": task.question,
        "right": [_row(gold, b) for b in right[:2]],
        "same": [_row(gold, b) for b in same],
        "wrong": [_row(path, b) for path, b in wrong[:HITS]],
    }


def load_passages(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a pack, their passages as :class:`Passage`."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row | {key: [Passage(**p) for p in row[key]] for key in ("right", "same", "wrong")}


def _fit(block: Block, span: tuple[int, int]) -> float:
    """How much of the shorter of the two is shared, and how much of the question is on the lines."""
    shared = min(block.end, span[1]) - max(block.start, span[0]) + 1
    return shared / min(block.end - block.start + 1, span[1] - span[0] + 1) + block.score


def _row(path: str, block: Block) -> dict[str, Any]:
    return asdict(Passage(display(path), block.start, block.end, block.text))
