"""The tasks of one repository, their split, what is remembered, and what a teacher adds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repoagent.environment import Option
from repoagent.errors import InputError
from repoagent.memory import CORRECTED, MEMORY_FEATURES, Memory, Note, words
from repoagent.models import CHECKPOINTS, load_policy
from repoagent.repo import Repo
from tests.chat_server import completion, serving
from tests.tune_helpers import git, make_repository
from training.tune_extra import corrected, settings_of, taught
from training.tune_report import figures
from training.tune_tasks import Moved, Similar, fingerprint, gather, head, history


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("trees") / "shop")


def test_later_commits_are_held_out_and_nothing_of_them_is_remembered(shop: Path) -> None:
    tasks = gather(shop, 0, 500)
    held = [r["age"] for r in tasks.held_out if "age" in r]
    trained = [r["age"] for r in [*tasks.train, *tasks.validation] if "age" in r]
    assert held and trained and max(held) < min(trained)
    assert min(c.age for c in tasks.commits) > max(held)
    same = Similar(r["question"] for r in tasks.held_out)
    assert not any(same.holds(c.subject) for c in tasks.commits)
    assert not any(same.holds(r["question"]) for r in tasks.train)


def test_doc_comments_are_split_by_file(shop: Path) -> None:
    tasks = gather(shop, 0, 500)

    def files(rows: list[dict[str, object]]) -> set[str]:
        return {r["gold"][0] for r in rows if r["kind"] == "mined-doc"}  # type: ignore[index]

    assert files(tasks.held_out) and not files(tasks.held_out) & files([*tasks.train, *tasks.validation])


def test_the_split_follows_the_seed_alone(shop: Path) -> None:
    one, same, other = (gather(shop, seed, 500) for seed in (0, 0, 1))
    assert one.train == same.train and one.held_out == same.held_out
    assert one.held_out != other.held_out
    assert len(gather(shop, 0, 20).train) < 20


def test_the_fingerprint_changes_with_files_commits_and_settings(shop: Path, tmp_path: Path) -> None:
    tree = make_repository(tmp_path / "shop")
    first = fingerprint(tree, 1)
    assert fingerprint(tree, 1) == first != fingerprint(tree, 2)
    (tree / "README.md").write_text("# Shop\n\nA ship.\n")
    second = fingerprint(tree, 1)
    assert second != first
    git(tree, "commit", "-q", "-am", "Sail")
    assert fingerprint(tree, 1) != second


def test_a_folder_without_history_has_none(tmp_path: Path) -> None:
    tree = make_repository(tmp_path / "plain", history=False)
    assert history(tree, ["shop/search.py"]) == [] and head(tree) == ""


def test_history_follows_files_that_moved_and_runs_nothing(tmp_path: Path) -> None:
    tree = make_repository(tmp_path / "shop")
    git(tree, "mv", "shop", "store")
    git(tree, "commit", "-q", "-m", "Rename the folder")
    witness = tmp_path / "ran"
    (tree / "evil").write_text(f"#!/bin/sh\ntouch {witness}\n")
    (tree / "evil").chmod(0o755)
    for key in ("gpg.program", "core.fsmonitor", "diff.external", "core.pager"):
        git(tree, "config", key, str(tree / "evil"))
    git(tree, "config", "log.showSignature", "true")
    commits = history(tree, [f"store/{n}.py" for n in ("billing", "search", "delivery")])
    assert sum("store/search.py" in c.files for c in commits) >= 10
    assert not witness.exists()


def test_moved_files_are_found_by_name_where_one_alone_has_it() -> None:
    moved = Moved(["src/a/core.py", "src/b/util.py", "lib/b/util.py", "docs/guide.md"])
    assert moved.now("a/core.py") == "src/a/core.py"
    assert moved.now("util.py") is None
    assert moved.now("docs/guide.rst") == "docs/guide.md"
    assert moved.now("gone.py") is None


def test_nearly_the_same_words_are_the_same_question() -> None:
    same = Similar(["Where do we merge the ledgers of customers?"])
    assert same.holds("merges ledger of the customer")
    assert not same.holds("merge the parcels of couriers")


# -- memory ------------------------------------------------------------------------------------

NOTES = (
    Note(words("Collect parcels of couriers"), ("delivery.py",), 5),
    Note(words("Archive the ledger"), ("billing.py", "docs/money.md"), 3),
    Note(words("Sign the newsletter"), ("messages.py",), CORRECTED),
)


def test_memory_knows_which_words_went_with_which_files() -> None:
    memory = Memory(NOTES)
    rows = memory.features("who collects the parcel?", ["delivery.py", "billing.py", "never.py", ""])
    told = [row[0] for row in rows]
    assert told[0] == 1.0 and told[1] == told[2] == told[3] == 0.0
    assert all(0 <= value <= 1 for row in rows for value in row)
    document = memory.features("the ledger", ["docs/money.md"])[0]
    assert not any(document[:4]) and document[4] > 0


def test_a_question_made_of_a_note_does_not_remember_it_nor_later_ones() -> None:
    memory = Memory(NOTES)
    memory.newest = {"archive the ledger": 3, "sign the newsletter": CORRECTED}
    assert not any(memory.features("archive the ledger", ["billing.py"])[0])
    assert not any(memory.features("sign the newsletter", ["messages.py"])[0])
    assert any(memory.features("sign newsletters", ["messages.py"])[0])


def test_memory_comes_back_from_its_file(tmp_path: Path) -> None:
    Memory(NOTES).save(tmp_path)
    again = Memory.load(tmp_path)
    assert again.notes == NOTES
    (tmp_path / "memory.json").write_text('{"files": ["a"], "notes": [[0, "word", [7]]]}')
    with pytest.raises(LookupError):
        Memory.load(tmp_path)


def test_memory_moves_files_alone() -> None:
    policy = load_policy("encoder")
    options = [Option("", kind, "delivery.py") for kind in ("open", "identify", "go", "lines")]
    assert policy.remembered("parcels", options) == 0.0  # type: ignore[attr-defined]
    policy.memory = Memory(NOTES)  # type: ignore[attr-defined]
    policy.memory_weight = policy.memory_weight + 1  # type: ignore[attr-defined]
    gained = policy.remembered("parcels", options).tolist()  # type: ignore[attr-defined]
    assert gained[0] == gained[1] > 0 and gained[2:] == [0, 0]
    assert len(MEMORY_FEATURES) == len(policy.memory_weight)  # type: ignore[attr-defined]


# -- corrections, teacher, figures -------------------------------------------------------------


def test_corrections_that_cannot_be_read_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPOAGENT_DATA", str(tmp_path))
    assert corrected("/code/none") == []
    from repoagent.corrections import location

    option = {"text": "open a", "kind": "open", "target": "a", "evidence": "a", "features": [0.0]}
    seen = {"task": "where?", "location": "", "history": [], "last_result": "", "options": [option]}
    file = location("/code/old")
    file.parent.mkdir(parents=True)
    row = json.dumps({"observation": seen, "best": [0], "mistake": ""})
    file.write_text(f'{row}\n{{"cut\n{{"observation": {{}}}}\n')
    assert corrected("/code/old") == [], "features of another version"


def test_a_teacher_asks_about_files_that_are_not_held_out(shop: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(body: dict[str, object]) -> tuple[int, bytes]:
        asked.append(body["messages"][-1]["content"])  # type: ignore[index]
        return completion(f'"How is thing number {len(asked)} put aside?"')

    barred = ["shop/search.py", "README.md"]
    with serving(answer) as url:
        spec = f"openai:{url}#teacher"
        rows = taught(Repo.open(shop), spec, tmp_path / "cache.jsonl", barred, 0)
        count = len(asked)
        assert taught(Repo.open(shop), spec, tmp_path / "cache.jsonl", barred, 0) == rows
    assert len(asked) == count == len(rows) == 5, "the second time from the cache"
    assert {r["gold"][0] for r in rows}.isdisjoint(barred)
    assert all(r["question"].startswith("How is thing") for r in rows)


def test_a_teacher_is_named_in_full() -> None:
    assert settings_of("openai:http://localhost:1/v1#m").model == "m"
    for spec in ("openai:localhost#m", "openai:http://localhost", "http://localhost#m"):
        with pytest.raises(InputError, match="write openai:BASE_URL#MODEL"):
            settings_of(spec)


def test_the_interval_of_the_difference_is_paired() -> None:
    before = [True, False] * 50
    after = [True, True, *before[2:]]
    one, two, difference = figures(before, after, 0)
    assert (one.value, two.value) == (0.5, 0.51) and difference.value == pytest.approx(0.01)
    assert difference.low == 0 and difference.high <= 0.04 < one.high - one.low
    assert figures(before, after, 0)[2] == difference


def test_the_bundled_checkpoint_is_whole() -> None:
    from repoagent.tuned import digest

    assert {"adapter_model.safetensors", "head.safetensors"} <= digest(CHECKPOINTS / "policy").keys()
