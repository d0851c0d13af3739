"""``repoagent train PATH``: the whole of it on a small repository, and what ``ask`` makes of the result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from repoagent import corrections, storage, tuned
from repoagent.assistant import Assistant, Happening, Warned
from repoagent.cli import app
from repoagent.corrections import ANSWER, answered
from repoagent.errors import RepoagentError
from repoagent.explore import RepoEnvironment, Task
from repoagent.models import CHECKPOINTS, chosen, load_policy
from repoagent.repo import Repo
from tests.tune_helpers import make_repository
from training import tune
from training.tune_fit import FitSettings
from training.tune_tasks import gather

ASKED = "where do we pack the goods for the lorry?"
"""A question that no word of the answer stands in."""
ANSWERED = "shop/delivery.py"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def run(*arguments: object) -> Ran:
    """The command line in this process, which has loaded torch already."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, RepoagentError):
        return Ran(result.exception.exit_code, result.stdout, str(result.exception))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tune")
        patch.setenv("REPOAGENT_DATA", str(folder / "data"))
        patch.setenv("REPOAGENT_CONFIG", os.devnull)
        yield folder


@pytest.fixture(scope="module")
def shop(base: Path) -> Path:
    root = make_repository(base / "shop")
    environment = RepoEnvironment(Repo.open(root))
    states = answered(environment, Task(ASKED), [], ANSWERED)
    corrections.store(str(root.resolve()), states, ANSWER, "2026-01-01T00:00:00+00:00")
    return root


@pytest.fixture(scope="module")
def bundled() -> str:
    return load_policy("bundled").name


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_dry_run_prints_the_plan_and_changes_nothing(base: Path, shop: Path) -> None:
    before = snapshot(base)
    ran = run("train", shop, "--minutes", 20, "--dry-run")
    assert ran.code == 0, ran.err
    for said in ("61 commits", "Corrections  1", "Held out", "SFT", "RLFT", "Memory", "measured here",
                 str(base / "data" / "models")):  # fmt: skip
        assert said in ran.out
    assert "mining tasks" in ran.err
    assert snapshot(base) == before


@pytest.fixture(scope="module")
def trained(base: Path, shop: Path) -> dict[str, Any]:
    ran = run("train", shop, "--minutes", 20, "--epochs", 0.3, "--json")
    result: dict[str, Any] = json.loads(ran.out)
    assert ran.code == (0 if result["kept"] else 1)
    assert "SFT: step" in ran.err and "RLFT: update" in ran.err
    return result


def test_training_measures_the_same_tasks_before_and_after(trained: dict[str, Any], shop: Path) -> None:
    before, after, difference = trained["before"], trained["after"], trained["difference"]
    assert before["tasks"] == after["tasks"] == trained["plan"]["tasks"]["held out"]["count"] >= 12
    assert difference["value"] == pytest.approx(after["value"] - before["value"], abs=2e-4)
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert before["low"] <= before["value"] <= before["high"]
    assert sum(k["tasks"] for k in trained["by kind"].values()) == before["tasks"]
    assert trained["kept"] == (after["value"] > before["value"])


def test_what_was_kept_is_registered_and_asked(trained: dict[str, Any], shop: Path) -> None:
    assert trained["kept"], "the history of the shop names its files, so tuning helps"
    found = tuned.find(shop, CHECKPOINTS / "policy")
    assert found is not None and found.problem is None
    assert found.entry["after"] == trained["after"] and found.entry["seed"] == 0
    assert "acc@1 after" in (found.folder / "README.md").read_text()
    assert not [p for p in found.folder.parent.iterdir() if p.suffix in (".part", ".old")]
    said = json.loads(run("ask", ASKED, shop, "--no-reflect", "--json", "--quiet").out)
    assert "+tuned-shop-" in said["model"]["policy"]
    assert said["answers"][0]["path"].endswith(ANSWERED), "what was corrected is known from then on"


def test_bundled_is_still_to_be_had(
    trained: dict[str, Any], shop: Path, bundled: str, tmp_path: Path
) -> None:
    for more in (("--policy", "bundled"), (str(make_repository(tmp_path, history=False)),)):
        said = json.loads(run("ask", ASKED, shop, *more, "--no-reflect", "--json", "--quiet").out)
        assert said["model"]["policy"] == bundled
    assert chosen("auto", [shop / "shop"]) == ("bundled", ""), "a folder below it is another tree"


def test_models_lists_and_forgets(trained: dict[str, Any], shop: Path) -> None:
    root = str(shop.resolve())
    assert root in run("models").out
    kept = tuned.location(root)
    aside = kept.with_name("aside")
    shutil.copytree(kept, aside)
    assert run("models", "--forget", shop).code == 0
    assert not kept.exists() and chosen("auto", [shop]) == ("bundled", "")
    again = run("models", "--forget", shop)
    assert again.code == 2 and "no model is registered" in again.err
    aside.rename(kept)


@pytest.mark.parametrize("harm", ["weights", "memory", "manifest", "version"])
def test_a_broken_model_is_warned_of_and_the_bundled_one_answers(
    trained: dict[str, Any], shop: Path, bundled: str, harm: str
) -> None:
    folder = tuned.location(str(shop.resolve()))
    file = folder / {"weights": "head.safetensors", "memory": "memory.json"}.get(harm, "repoagent.json")
    whole = file.read_bytes()
    if harm == "version":
        changed = json.loads(whole)
        changed["tuned"]["base"] = {"head.safetensors": "another"}
        file.write_text(json.dumps(changed))
    else:
        file.write_bytes(whole[: len(whole) // 2])
    try:
        events: list[Happening] = []
        found = Assistant("auto", "none").ask(ASKED, shop, watch=events.append)
        assert found.policy == bundled
        (warned,) = (e for e in events if isinstance(e, Warned))
        assert "cannot be used" in warned.text and "\n" not in warned.text
        if harm == "version":  # where nobody watches, Python warns
            with pytest.warns(UserWarning, match="cannot be used"):
                Assistant("auto", "none").load(repos=[shop])
        assert "cannot be used" in run("models").out
    finally:
        file.write_bytes(whole)


def test_a_second_run_prepares_no_task_again(trained: dict[str, Any], shop: Path) -> None:
    (file,) = (storage.folder("training") / storage.named(str(shop.resolve()))).iterdir()
    plan = tune.plan(str(shop), 20, 0)
    assert file.name.startswith(plan.digest[:16])
    changed = file.stat().st_mtime_ns
    said: list[str] = []
    train, validation = tune.prepared(plan, Repo.open(shop), said.append)
    assert len(train) == len(plan.tasks.train) and len(validation) == len(plan.tasks.validation)
    assert not said and file.stat().st_mtime_ns == changed
    plan.tasks.train[-1]["question"] += " really?"
    tune.prepared(plan, Repo.open(shop), said.append)
    assert said == ["preparing tasks: 1 of 1"]


def test_a_model_that_is_not_better_is_not_kept(base: Path, trained: dict[str, Any], shop: Path) -> None:
    before = snapshot(base / "data" / "models")
    plan = tune.plan(str(shop), 20, 0)
    plan.tasks.commits = []  # nothing remembered
    plan.tasks.train = [r for r in plan.tasks.train if r["kind"] != "correction"]
    result = tune.train(plan, time.monotonic(), FitSettings(epochs=0.0, adapter_rate=0.0, head_rate=0.0))
    assert result.kept is None and result.after.value == result.before.value
    assert snapshot(base / "data" / "models") == before


def test_corrections_are_trained_on_and_never_held_out(shop: Path) -> None:
    tasks = tune.plan(str(shop), 20, 0).tasks
    assert [r["gold"] for r in tasks.train if r["kind"] == "correction"] == [[ANSWERED]]
    assert not any(r["question"] == ASKED for r in [*tasks.held_out, *tasks.validation])
    assert ANSWERED in {path for note in tune.memory_of(tasks).notes for path in note.files}
    assert gather(shop, 0, 500).kinds(tasks.held_out).keys() <= {"mined-doc", "mined-commit"}


def test_errors_are_one_line_and_2(base: Path, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "a.py").write_text("print('hello')\n")
    for arguments, said in (
        (("nowhere",), "nowhere does not exist"),
        ((tmp_path / "file",), "is no folder"),
        ((tmp_path / "empty",), "no files that can be read"),
        ((tmp_path / "few",), "too few tasks in"),
        ((shop, "--minutes", 0.1), "--minutes 0.1 is too little here"),
        ((shop, "--teacher", "gpt"), "write openai:BASE_URL#MODEL"),
    ):
        ran = run("train", *arguments)
        assert ran.code == 2 and said in ran.err.splitlines()[-1] and ran.out == "", ran


def test_an_interrupt_leaves_nothing_registered(shop: Path, tmp_path: Path) -> None:
    place = {"REPOAGENT_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "repoagent", "train", str(shop)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | place,
    ) as process:  # fmt: skip
        assert process.stderr is not None and process.stdout is not None
        for line in process.stderr:
            if "held-out questions" in line:
                process.send_signal(signal.SIGINT)
                break
        assert process.wait(timeout=120) == 130
        assert process.stdout.read() == "" and "Traceback" not in process.stderr.read()
    assert not (tmp_path / "data" / "models").exists()


def test_a_place_that_cannot_be_written_is_said_at_once(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").write_text("a file where the folder would be")
    monkeypatch.setenv("REPOAGENT_DATA", str(tmp_path / "data"))
    ran = run("train", shop)
    assert ran.code == 2 and "REPOAGENT_DATA may name another place" in ran.err


def test_a_first_argument_is_a_command_or_a_path(shop: Path) -> None:
    assert "pallets/click" in run("train", "corpus", "list").out
    text = run("train", "--help").out
    assert "train PATH" in text and "corpus" in text and "rlft" in text
    assert "--minutes" in run("train", "repository", "--help").out
    for arguments in (("--minutes", 20, shop, "--dry-run"), ("repository", shop, "--dry-run")):
        assert "61 commits" in run("train", *arguments).out
