"""One question to several repositories: merged answers, whose they are, exit codes."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from repoagent.answer import Answer
from repoagent.assistant import Assistant, Entered, Found, merged
from repoagent.errors import InputError
from tests.test_cli import RANDOM, one_line, run

ENCODER = ("--policy", "encoder", "--no-reflect")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("several")
    files = {
        "shop/session.py": "# sessions\n" * 8 + "SESSION_TIMEOUT = 1800  # seconds until a login expires\n",
        "shop/cart.py": "def total(items):\n    return sum(items)\n",
        "blog/posts.py": "PAGE_SIZE = 20  # posts on a page\n",
        "blog/feed.py": "def feed(posts):\n    return [p.title for p in posts]\n",
    }
    for name, text in files.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(text)
    with zipfile.ZipFile(base / "blog.zip", "w") as archive:
        for name, text in files.items():
            if name.startswith("blog/"):
                archive.writestr(name, text)
    (base / "empty").mkdir()
    return base


def found(repo: str, *scores: float) -> Found:
    answers = tuple(Answer(f"{repo}{i}", 1, 1, score, "") for i, score in enumerate(scores))
    return Found("?", repo, answers, (), True, "", "", 0, 0.0)


def test_merging_is_by_score_and_stable() -> None:
    pairs = merged([found("a", 0.6, 0.2), found("b"), found("c", 0.9, 0.2, 0.1)], 4)
    assert [answer.path for _, answer in pairs] == ["c0", "a0", "a1", "c1"]
    assert [one.repo for one, _ in pairs] == ["c", "a", "a", "c"]
    assert merged([], 4) == []


@pytest.mark.parametrize("order", [("shop", "blog"), ("blog.zip", "shop")])
def test_the_right_repository_answers_whichever_comes_first(trees: Path, order: tuple[str, str]) -> None:
    result = run("ask", "Where is the session timeout?", *order, *ENCODER, cwd=trees)
    assert result.returncode == 0
    first = result.stdout.splitlines()[0]
    assert re.fullmatch(r"shop/session\.py:\d+-\d+", first)
    other = order[0] if order[1] == "shop" else order[1]
    assert f"  {other}/posts.py:1-1  " in result.stdout
    # The trail says which repository is walked.
    headings = [line for line in result.stderr.splitlines() if line.endswith(":")]
    assert headings == [f"{name}:" for name in order]


def test_json_says_whose_answers_and_steps_they_are(trees: Path) -> None:
    result = run("ask", "Where is the page size?", "shop", "blog", *ENCODER, "--json", "--top", 3, cwd=trees)
    data = json.loads(result.stdout)
    assert list(data) == ["question", "repo", "answers", "steps", "model", "files_read", "seconds"]
    assert data["repo"] == ["shop", "blog"]
    assert len(data["answers"]) == 3
    for answer in data["answers"]:
        assert list(answer) == ["repo", "path", "start_line", "end_line", "score", "snippet"]
        assert (trees / answer["repo"] / answer["path"]).is_file()
    assert (data["answers"][0]["repo"], data["answers"][0]["path"]) == ("blog", "posts.py")
    scores = [answer["score"] for answer in data["answers"]]
    assert scores == sorted(scores, reverse=True)
    assert [*dict.fromkeys(step["repo"] for step in data["steps"])] == ["shop", "blog"]
    assert data["files_read"] >= 2


def test_a_repository_named_twice_is_asked_once(trees: Path) -> None:
    result = run("ask", "total?", "shop", "shop", *RANDOM, "--json", "--quiet", cwd=trees)
    data = json.loads(result.stdout)
    assert data["repo"] == "shop" and "repo" not in data["answers"][0]


def test_one_that_cannot_be_read_is_one_line_and_nothing_is_asked(trees: Path) -> None:
    for bad in ("nowhere", "shop/cart.py"):
        result = run("ask", "total?", "shop", bad, "blog", *RANDOM, cwd=trees)
        assert (result.returncode, result.stdout) == (2, "")
        assert bad in one_line(result)
    events: list[object] = []
    with pytest.raises(InputError, match="nowhere"):
        Assistant("random", "none").ask_each("?", [trees / "shop", "nowhere"], watch=events.append)
    assert events == []


def test_nothing_anywhere_is_no_confident_answer_and_an_empty_one_does_no_harm(trees: Path) -> None:
    (trees / "empty2").mkdir(exist_ok=True)
    result = run("ask", "total?", "empty", "empty2", *RANDOM, cwd=trees)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == "repoagent: no confident answer; there is nothing to open."
    assert run("ask", "total?", "empty", "shop", *RANDOM, "--quiet", cwd=trees).returncode == 0


def test_watching_several(trees: Path) -> None:
    events: list[object] = []
    repos = [trees / "shop", trees / "blog"]
    results = Assistant("random", "none").ask_each("page?", repos, steps=40, watch=events.append)
    assert [one.repo for one in results] == [str(repo) for repo in repos]
    assert [e.repo for e in events if isinstance(e, Entered)] == [str(repo) for repo in repos]
