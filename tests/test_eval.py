"""The evaluation: figures that can be checked by hand, the reading of tasks, and what is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.autoexplore.baselines import BASELINES
from benchmarks.autoexplore.evaluate import (
    Question,
    Row,
    agent,
    as_data,
    baseline,
    comparison,
    confidences,
    find_trees,
    read_tasks,
    report,
    risk_coverage,
    run,
    summary,
)
from benchmarks.table import head, markdown, provenance, write
from repoagent.environment import Observation
from repoagent.errors import InputError
from repoagent.explore import ExploreConfig
from repoagent.players import NoReflector, RandomPolicy

TASK = {
    "id": "t-1",
    "repo": "acme/server",
    "question": "Where is the port?",
    "gold": ["config.py"],
    "span": [2, 3],
}


class FirstHit:
    """Opens the best hit of the scan and identifies it: the shortest walk there is."""

    name = "first hit"

    def distribution(self, observations: list[Observation], reflections: list[str]) -> list[list[float]]:
        return [[0.0] + [-50.0] * (len(o.options) - 1) for o in observations]


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    files = {
        "acme__server/config.py": "# settings\nDEFAULT_PORT = 8080\nDEFAULT_HOST = 'localhost'\n",
        "acme__server/main.py": "def main():\n    listen()\n",
        "acme__client/retry.py": "def backoff(attempt):\n    return 2**attempt\n",
        "acme__client/notes.md": "backoff backoff backoff\n" * 30,
    }
    for name, text in files.items():
        path = tmp_path / "trees" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "trees"


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    rows = [
        TASK | {"kind": "where", "why": "other keys are ignored"},
        TASK
        | {"id": "t-2", "question": "Where is the host?", "gold": ["main.py", "./config.py"], "span": [1, 1]},
        TASK
        | {
            "id": "c-1",
            "repo": "acme/client",
            "question": "backoff attempt",
            "gold": ["retry.py"],
            "span": None,
        },
        TASK | {"id": "t-3", "question": "nothing like it", "gold": ["absent.py"]},
    ]
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return file


def row(rank: int | None, span_hit: bool | None = None, **more: Any) -> Row:
    values: dict[str, Any] = {"steps": 2, "files_read": 1, "seconds": 0.5} | more
    return Row("id", "acme/server", "?", ("a",), [], rank, span_hit, **values)


# -- figures -----------------------------------------------------------------------------------


def test_figures_by_hand() -> None:
    rows = [row(1, True), row(2, False), row(4, None, steps=4), row(None, False, seconds=2.5, cold=True)]
    figures = {name: estimate.value for name, estimate in summary(rows, 10).items()}
    assert figures == pytest.approx(
        {
            "acc@1": 1 / 4,
            "acc@3": 2 / 4,
            "acc@5": 3 / 4,
            "acc@10": 3 / 4,
            "MRR": (1 + 1 / 2 + 1 / 4) / 4,
            "span hit": 1 / 3,
            "steps": 2.5,
            "files read": 1.0,
            "seconds": 1.0,
            "seconds cold": 2.5,
            "seconds warm": 0.5,
        }
    )


def test_calibration_and_risk_by_hand() -> None:
    def sure(score: float, rank: int | None) -> Row:
        answer = {"path": "a", "start_line": 1, "end_line": 2, "score": score}
        return replace(row(rank), answers=[answer] * (score > 0))

    rows = [sure(0.95, 1), sure(0.15, 2), sure(0.85, None), sure(0.55, 1), sure(0.0, None)]
    assert [p for p, _ in confidences(rows)] == [0.95, 0.85, 0.55, 0.15, 0.0]
    curve = {coverage: (p, wrong) for coverage, p, wrong in risk_coverage(rows)}
    assert curve[1.0] == (0.0, 0.6) and curve[0.4] == (0.85, 0.5) and curve[0.1] == (0.95, 0.0)
    assert as_data({"repoagent": rows}, 10)["calibration error"] == pytest.approx(
        (0.05 + 0.15 + 0.85 + 0.45 + 0.0) / 5
    )
    assert "Confidence of repoagent: calibration error 0.300" in report({"repoagent": rows}, 10)
    # The scores of BM25 are no probabilities.
    scored = [replace(sure(12.5, 1), steps=None)]
    assert "calibration error" not in as_data({"bm25": scored}, 10)
    assert "Confidence of" not in report({"bm25": scored}, 10)


def test_accuracy_by_kind_and_language_where_every_task_has_one() -> None:
    rows = [row(rank, kind=kind) for rank, kind in ((1, "docs"), (2, "docs"), (1, "where"))]
    text = report({"repoagent": rows}, 10)
    kinds = text.partition("acc@1 by kind of question:")[2].partition("By repository")[0]
    assert "| docs             | 2 | 0.50" in kinds and "| where            | 1 | 1.00" in kinds
    assert "by language" not in text  # acme/server is not in the corpus
    known = [replace(r, repo="pallets/click") for r in rows]
    assert "| Python   | 3 | 0.67" in report({"repoagent": known}, 10)
    assert "by kind" not in report({"repoagent": [row(1)]}, 10)


def test_no_accuracy_beyond_the_answers_kept() -> None:
    assert [name for name in summary([row(1)], 4) if name.startswith("acc")] == ["acc@1", "acc@3"]


def test_comparison_by_hand() -> None:
    figures = comparison([row(1), row(1), row(1), row(2)], [row(1), row(2), row(1), row(None)])
    assert figures["acc@1 difference"].value == pytest.approx(0.25)
    assert figures["acc@1 ratio"].value == pytest.approx(1.5)


# -- running -----------------------------------------------------------------------------------


def test_the_agent_is_judged_as_ask_would_answer(tasks: Path, trees: Path) -> None:
    questions = read_tasks([tasks])
    system = agent(FirstHit(), NoReflector(), ExploreConfig(), top=10)
    seen: list[str] = []
    rows = run(questions, find_trees(questions, trees), system, seen.append)
    assert [r.id for r in rows] == ["t-1", "t-2", "c-1", "t-3"]  # the order of the file
    port, host, backoff, absent = rows
    assert port.rank == 1 and port.span_hit is True
    assert (port.answers[0]["path"], port.steps, port.files_read) == ("config.py", 3, 1)
    assert host.rank == 1, "any gold file counts"
    assert host.span_hit is False, "but the span lies in the canonical one"
    assert backoff.span_hit is None
    assert (absent.rank, absent.span_hit) == (None, False)
    assert len(seen) == 4 and "acc@1" in seen[-1]


def test_the_baseline_answers_from_contents_alone(tasks: Path, trees: Path) -> None:
    questions = read_tasks([tasks])
    rows = run(questions, find_trees(questions, trees), baseline("bm25", 10))
    assert rows[0].rank == 1 and rows[0].span_hit is True
    assert rows[0].steps is None and rows[0].files_read is None
    assert rows[3].rank is None
    with pytest.raises(InputError, match="bm25"):
        baseline("grep", 10)


def test_a_random_walk_differs_by_seed_and_repeats_with_it(tasks: Path, trees: Path) -> None:
    questions = read_tasks([tasks]) * 5

    def paths(seed: int) -> list[list[str]]:
        system = agent(RandomPolicy(), NoReflector(), ExploreConfig(), 10, seed)
        return [
            [answer["path"] for answer in r.answers]
            for r in run(questions, find_trees(questions, trees), system)
        ]

    assert paths(1) == paths(1) != paths(2)


# -- reading tasks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "malformed JSON"),
        ("[1]", "not an object"),
        *((json.dumps({k: v for k, v in TASK.items() if k != key}), f"missing key '{key}'") for key in TASK),
        (json.dumps(TASK | {"repo": "../../etc"}), "owner/name"),
        (json.dumps(TASK | {"gold": []}), "gold"),
        (json.dumps(TASK | {"gold": "config.py"}), "gold"),
        (json.dumps(TASK | {"span": [3, 2]}), "span"),
        (json.dumps(TASK | {"span": [0, 2]}), "span"),
        (json.dumps(TASK | {"question": " "}), "question"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps(TASK) + "\n\n" + line + "\n")
    with pytest.raises(InputError) as caught:
        read_tasks([file])
    assert str(caught.value).startswith(f"{file}:3: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_files_and_directories_of_tasks(tmp_path: Path, tasks: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    for name in ("b.jsonl", "a.jsonl", "ignored.txt"):
        (folder / name).write_text(json.dumps(TASK | {"id": name}))
    assert [q.task.id for q in read_tasks([tasks, folder])] == [
        "t-1",
        "t-2",
        "c-1",
        "t-3",
        "a.jsonl",
        "b.jsonl",
    ]
    with pytest.raises(InputError, match="no tasks"):
        read_tasks([trees_without_tasks(tmp_path)])
    with pytest.raises(InputError, match="cannot read"):
        read_tasks([tmp_path / "absent.jsonl"])


def trees_without_tasks(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_a_missing_tree_names_the_first_task_that_needs_it(tmp_path: Path, tasks: Path, trees: Path) -> None:
    questions = read_tasks([tasks])
    (trees / "acme__client").rename(trees / "elsewhere")
    with pytest.raises(InputError) as caught:
        find_trees(questions, trees)
    assert str(caught.value).startswith(f"{tasks}:5: no tree of acme/client")


# -- what is written ---------------------------------------------------------------------------


def measured(tasks: Path, trees: Path) -> tuple[list[Question], dict[str, list[Row]]]:
    questions = read_tasks([tasks])
    found = find_trees(questions, trees)
    systems = {
        "first hit": agent(FirstHit(), NoReflector(), ExploreConfig(), 10),
        "bm25": baseline("bm25", 10),
    }
    return questions, {name: run(questions, found, system) for name, system in systems.items()}


def test_the_report_has_all_figures_in_all_and_by_repository(tasks: Path, trees: Path) -> None:
    _, rows = measured(tasks, trees)
    text = report(rows, 10)
    assert "4 questions on 2 repositories." in text
    assert "first hit against bm25, paired: acc@1 difference" in text
    for system in rows:
        assert f"By repository, {system}:" in text
    assert text.count("| acme/client ") == text.count("| acme/server ") == 2
    assert "Wilson" in text


def test_the_data_has_a_row_per_task_and_is_strict_json(tasks: Path, trees: Path) -> None:
    _, rows = measured(tasks, trees)
    data = json.loads(json.dumps(as_data(rows, 10), allow_nan=False))
    assert [r["id"] for r in data["rows"]] == ["t-1", "t-2", "c-1", "t-3"]
    assert set(data["repos"]) == {"acme/server", "acme/client"}
    assert data["overall"]["acc@1"]["n"] == 4
    assert set(data["compared"]["bm25"]["comparison"]) == {"acc@1 difference", "acc@1 ratio"}


def test_result_files_say_how_they_were_made(tmp_path: Path) -> None:
    made = provenance({"top": 10, "policy": "x"}, seed=7)
    text = head("AutoExplore", made)
    for word in ("Command: `", "Seed: 7", "top 10, policy x", "cores", "Python", "torch", "commit"):
        assert word in text
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    if commit.returncode == 0:
        assert made["commit"].startswith(commit.stdout.strip())
    write(tmp_path / "r.md", "AutoExplore", made, "body", {"x": 1})
    assert (tmp_path / "r.md").read_text() == text + "\nbody\n"
    write(tmp_path / "r.json", "AutoExplore", made, "body", {"x": 1})
    assert json.loads((tmp_path / "r.json").read_text()) == {"title": "AutoExplore", "made": made, "x": 1}


def test_a_table_survives_what_is_in_its_cells() -> None:
    lines = markdown(["a", "b"], [["x|y", "1\n2"], ["z", 3]]).split("\n")
    assert lines == ["| a    | b   |", "|------|-----|", "| x\\|y | 1 2 |", "| z    | 3   |"]


# -- by the command ----------------------------------------------------------------------------


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "repoagent", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_the_baseline_alone_needs_no_model(tasks: Path, trees: Path) -> None:
    result = command("eval", tasks, "--trees", trees, "--baseline", "bm25", "--json")
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["system"] == "bm25" and len(data["rows"]) == 4 and "compared" not in data
    assert "4/4" in result.stderr


def test_every_nth_question_alone(tasks: Path, trees: Path) -> None:
    result = command("eval", tasks, "--trees", trees, "--baseline", "bm25", "--every", "2", "--json")
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert [row["id"] for row in data["rows"]] == ["t-2", "t-3"]
    assert data["made"]["settings"]["every"] == 2


def test_the_agent_and_the_baseline_in_one_run(tmp_path: Path, tasks: Path, trees: Path) -> None:
    outputs = [tmp_path / "r.md", tmp_path / "r.json"]
    result = command(
        "eval", tasks, "--trees", trees, "--policy", "random", "--no-reflect", "--compare", "bm25",
        "--output", outputs[0], "--output", outputs[1],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert outputs[0].read_text().endswith(result.stdout)
    assert "--compare bm25" in outputs[0].read_text()
    data = json.loads(outputs[1].read_text())
    assert data["system"] == "repoagent" and list(data["compared"]) == ["bm25"]
    assert data["made"]["settings"] == {"top": 10, "steps": 8, "policy": "random", "reflector": "none"}


def test_the_benchmark_puts_every_system_in_one_table(tasks: Path, trees: Path) -> None:
    result = command(
        "bench", "autoexplore", tasks, "--trees", trees, "--policy", "random", "--reflector", "none"
    )
    assert result.returncode == 0, result.stderr
    for system in ("repoagent", "random walk", *BASELINES):
        assert f"| {system} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trees", "nowhere"], ":1: no tree of acme/server"),
        (["--trees", "TREES", "--baseline", "grep"], "bm25"),
        (["--trees", "TREES", "--every", "9"], "fewer than 9 questions"),
        (["--trees", "TREES", "--output", "r.pdf"], ".md or .json"),
        (["--trees", "TREES", "--output", "nowhere/r.md"], "nowhere"),
        ([], "--trees"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    tasks: Path, trees: Path, arguments: list[str], message: str
) -> None:
    result = command("eval", tasks, *(str(trees) if a == "TREES" else a for a in arguments))
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
