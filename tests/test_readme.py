"""The README's figures are those of the committed results, and its links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.autoexplore.evaluate import Row, as_data
from benchmarks.readme import BEGIN, END, fill
from benchmarks.table import provenance, write

ROOT = Path(__file__).parent.parent


def rows(*ranks: int | None) -> list[Row]:
    return [
        Row(f"t-{i}", "owner/name", "where?", ("a.py",), [], rank, None, 3, 1, 0.5)
        for i, rank in enumerate(ranks)
    ]


def test_the_results_are_what_the_command_makes_of_the_committed_files() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert fill(text, ROOT / "benchmarks" / "results") == text, "run: python -m benchmarks.readme"


def test_a_file_of_eval_becomes_a_table(tmp_path: Path) -> None:
    systems = {"repoagent": rows(1, 1, 2, None), "bm25": rows(None, 1, None, None)}
    write(tmp_path / "a.json", "Test questions", provenance({}, 0), "", as_data(systems, top=5))
    (tmp_path / "other.json").write_text(json.dumps({"made": {}}))
    text = fill(f"above\n{BEGIN}\nold\n{END}\nbelow\n", tmp_path)
    assert text.startswith("above\n") and text.endswith(f"{END}\nbelow\n") and "old" not in text
    lines = text.splitlines()
    (ours,) = [line for line in lines if line.startswith("| repoagent ")]
    (theirs,) = [line for line in lines if line.startswith("| bm25 ")]
    assert [cell.split()[0] for cell in ours.strip("| ").split(" | ")] == [
        "repoagent", "0.50", "0.75", "0.75", "0.62", "–", "0.50",
    ]  # fmt: skip
    assert theirs.split("|")[2].split()[0] == "0.25"
    assert "4 questions on 1 repositories" in text
    assert "acc@1 ratio 2.0 (" in text
    assert fill(text, tmp_path) == text


def test_without_results_it_says_so_and_without_markers_it_refuses(tmp_path: Path) -> None:
    assert "No results yet." in fill(f"{BEGIN}\n{END}", tmp_path)
    with pytest.raises(ValueError, match="results:begin"):
        fill(f"{END}\n{BEGIN}", tmp_path)


@pytest.mark.parametrize("page", ["README.md", "AGENTS.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (ROOT / t).exists()]
    assert missing == []
