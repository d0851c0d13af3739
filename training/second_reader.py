"""The second reader: questions of the validation and test splits answered anew, without the answer.

Another large language model call, which saw the question and the repository alone, named the file and lines
that it would open. ``training/data/second-reader.jsonl`` holds what it said about every task, those that
were dropped as well; only tasks on which both agree stay in the splits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repoagent.errors import InputError
from training.corpus import DATA

FILE = DATA / "second-reader.jsonl"


@dataclass(frozen=True, slots=True)
class Reading:
    """What was said about the task ``id``: ``path`` ("" for none), its ``lines``, and ``also`` other files.

    ``gold`` and ``span`` are the task's own; ``split`` and ``kind`` too.
    """

    id: str
    repo: str
    split: str
    kind: str
    gold: tuple[str, ...]
    span: tuple[int, int]
    path: str
    lines: tuple[int, int]
    also: tuple[str, ...]

    @property
    def first(self) -> bool:
        """Whether the file named first is one of the task's."""
        return self.path in self.gold

    @property
    def agreed(self) -> bool:
        """Whether any file named is one of the task's: then the task stays."""
        return self.first or bool({*self.also} & {*self.gold})

    @property
    def overlap(self) -> bool | None:
        """Whether the lines overlap the task's; None where the files differ."""
        if self.path != self.gold[0]:
            return None
        return self.lines[0] <= self.span[1] and self.span[0] <= self.lines[1]


def load(file: Path = FILE) -> list[Reading]:
    """All readings; ``InputError`` names the line that is wrong."""
    found = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; restore the file.") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            for key in ("gold", "span", "lines", "also"):
                row[key] = tuple(row[key])
            found.append(Reading(**row))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file}:{number} is no reading ({error}); restore the file.") from error
    return found


def table(readings: Sequence[Reading]) -> str:
    """Agreement by split and kind, in Markdown."""
    groups = [
        *((s, [r for r in readings if r.split == s]) for s in sorted({r.split for r in readings})),
        *((k, [r for r in readings if r.kind == k]) for k in sorted({r.kind for r in readings})),
        ("all", readings),
    ]
    rows = ["|  | tasks | same file first | among those named | lines overlap | dropped |",
            "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for name, part in groups:
        lines = [r.overlap for r in part if r.overlap is not None]
        rows.append(
            f"| {name} | {len(part)} | {_share(r.first for r in part)} | {_share(r.agreed for r in part)} | "
            f"{_share(lines)} | {sum(not r.agreed for r in part)} |"
        )
    return "\n".join(rows)


def _share(values: Iterable[bool]) -> str:
    held = list(values)
    return f"{sum(held) / len(held):.3f}" if held else "–"
