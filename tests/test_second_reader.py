"""The second reader's answers: what counts as agreement, and that the splits hold agreed tasks alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repoagent.errors import InputError
from training import second_reader, tasks
from training.second_reader import Reading


def reading(**values: Any) -> Reading:
    base: dict[str, Any] = {
        "id": "a-01", "repo": "o/a", "split": "test", "kind": "where", "gold": ("x.py", "y.md"),
        "span": (10, 20), "path": "x.py", "lines": (20, 25), "also": (),
    }  # fmt: skip
    return Reading(**base | values)


def test_what_counts_as_agreement() -> None:
    same, other_gold = reading(), reading(path="y.md")
    named, different = reading(path="z.py", also=("y.md",)), reading(path="z.py", also=("w.py",))
    nothing = reading(path="")
    assert [r.first for r in (same, other_gold, named, different, nothing)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert [r.agreed for r in (same, other_gold, named, different, nothing)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert same.overlap is True and reading(lines=(21, 25)).overlap is False and other_gold.overlap is None


def test_the_table_by_hand() -> None:
    rows = [reading(), reading(path="z.py", kind="docs"), reading(lines=(1, 2), split="validation")]
    found = second_reader.table(rows).splitlines()
    assert found[2:4] == [
        "| test | 2 | 0.500 | 0.500 | 1.000 | 1 |",
        "| validation | 1 | 1.000 | 1.000 | 0.000 | 0 |",
    ]
    assert found[-1] == "| all | 3 | 0.667 | 0.667 | 0.500 | 1 |"


def test_the_datasheet_shows_the_agreement() -> None:
    sheet = (second_reader.DATA / "README.md").read_text()
    assert second_reader.table(second_reader.load()) in sheet, "run: repoagent train datasheet"


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "readings.jsonl"
    file.write_text('{"id": "a"}\n')
    with pytest.raises(InputError, match=r"readings.jsonl:1 is no reading"):
        second_reader.load(file)


def test_validation_and_test_hold_exactly_the_agreed_tasks() -> None:
    readings = second_reader.load()
    assert len({(r.repo, r.id) for r in readings}) == len(readings)
    for split in ("validation", "test"):
        kept = {(t.repo, t.id): t for t in tasks.load(split)}
        assert {(r.repo, r.id) for r in readings if r.split == split and r.agreed} == set(kept)
        assert all(kept[r.repo, r.id].gold == r.gold for r in readings if r.split == split and r.agreed)
