"""Answers: the order of files, their scores, lines and snippets, and the trail."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repoagent.answer import SNIPPET_LINES, answers, rank_files, snippet, trail
from repoagent.environment import Observation, Option, StepResult
from repoagent.episode import Finished, Step, Trajectory, play
from repoagent.explore import PLAIN, ExploreConfig, RepoEnvironment, Task
from repoagent.players import OraclePolicy, RandomPolicy
from repoagent.repo import Repo


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("answer")
    (root / "src").mkdir()
    rows = [f"line {n}" for n in range(1, 201)]
    rows[99] = "retries = 3  # how many retries"
    (root / "src/retry.py").write_text("\n".join(rows))
    for i in range(8):
        (root / f"src/other{i}.py").write_text(f"retries {i}\n" * (i + 1))
    (root / "empty.txt").touch()
    return root


def played(root: Path, form: ExploreConfig, seed: int, oracle: bool) -> tuple[RepoEnvironment, Trajectory]:
    environment = RepoEnvironment(Repo.open(root), form)
    task = Task("How many retries?", ("src/retry.py",), (100, 100))
    policy = OraclePolicy(environment) if oracle else RandomPolicy()
    *_, finished = play(environment, task, policy, seed=seed, greedy=False)
    assert isinstance(finished, Finished)
    return environment, finished.trajectory


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(form=st.sampled_from([ExploreConfig(), PLAIN]), seed=st.integers(0, 10**6), oracle=st.booleans())
def test_answers_keep_their_promises(root: Path, form: ExploreConfig, seed: int, oracle: bool) -> None:
    environment, trajectory = played(root, form, seed, oracle)
    found = answers(environment, trajectory)
    assert len(found) <= 5
    assert len({a.path for a in found}) == len(found)
    assert [a.score for a in found] == sorted((a.score for a in found), reverse=True)
    assert sum(a.score for a in found) <= 1 + 1e-9
    if environment.identified:
        assert found[0].path == environment.identified
        if environment.chosen:
            assert (found[0].start_line, found[0].end_line) == environment.chosen
    for answer in found:
        lines = (root / answer.path).read_text().split("\n")
        assert 0 <= answer.start_line <= answer.end_line <= len(lines)
        assert (answer.start_line == 0) == (answer.path == "empty.txt")
        shown = lines[answer.start_line - 1 : answer.end_line] if answer.start_line else []
        assert answer.snippet.split("\n") == (shown[:SNIPPET_LINES] or [""])
    json.dumps([asdict(move) for move in trail(trajectory)])


def test_the_oracles_answer_is_the_right_one(root: Path) -> None:
    environment, trajectory = played(root, ExploreConfig(), 0, oracle=True)
    best = answers(environment, trajectory, top=1)[0]
    assert best.path == "src/retry.py"
    assert best.start_line <= 100 <= best.end_line
    assert best.score == 1
    assert "retries = 3" in best.snippet


def test_runners_up_point_at_their_best_lines(root: Path) -> None:
    environment, trajectory = played(root, ExploreConfig(), 0, oracle=True)
    _, *others = answers(environment, trajectory)
    assert others
    assert all("retries" in a.snippet for a in others if a.path != "empty.txt")


def step(index: int, *options: tuple[str, str, float]) -> Step:
    shown = tuple(Option(f"{kind} {path}", kind, path) for kind, path, _ in options)
    observation = Observation("?", "", (), "", shown)
    result = StepResult(observation, 0.0, False, False)
    return Step(observation, "because", tuple(math.log(p) for *_, p in options), index, result)


def paths(steps: Sequence[Step]) -> list[str]:
    return [path for path, _ in rank_files(steps)]


def test_the_policys_last_word_on_a_file_counts() -> None:
    early = step(0, ("open", "a", 0.6), ("open", "b", 0.3), ("open", "c", 0.1))
    late = step(1, ("identify", "a", 0.2), ("open", "c", 0.8))
    assert paths([early]) == ["a", "b", "c"]
    assert paths([early, late]) == ["c", "a", "b"]
    end = step(0, ("identify", "a", 0.2), ("open", "c", 0.8))
    assert paths([early, end]) == ["a", "c", "b"]


def test_the_probability_of_a_file_is_not_lost_on_directories_or_lines() -> None:
    ranked = rank_files(
        [step(0, ("go", "src", 0.7), ("open", "a", 0.2), ("more", "", 0.1)), step(0, ("lines", "1-2", 1.0))]
    )
    assert [(path, pytest.approx(score)) for path, score in ranked] == [("a", 0.2)]


@settings(max_examples=200, derandomize=True)
@given(st.data())
def test_scores_fall_and_sum_to_at_most_one(data: st.DataObject) -> None:
    steps = []
    for last in (False, False, False, True):
        size = data.draw(st.integers(1, 5))
        weights = data.draw(st.lists(st.floats(0.001, 1), min_size=size, max_size=size))
        kinds = st.sampled_from(["identify"] if last else ["open", "identify", "go"])
        drawn = [(data.draw(kinds), data.draw(st.sampled_from("abcdefg"))) for _ in weights]
        index = next((i for i, (kind, _) in enumerate(drawn) if last or kind != "identify"), None)
        if index is not None:
            total = sum(weights)
            steps.append(step(index, *[(*o, w / total) for o, w in zip(drawn, weights, strict=True)]))
    ranked = rank_files(steps)
    scores = [score for _, score in ranked]
    assert ranked[0][0] == steps[-1].option.target
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 + 1e-9 for score in scores)
    assert sum(scores) <= 1 + 1e-9


def test_no_steps_no_answers(root: Path) -> None:
    environment = RepoEnvironment(Repo.open(root))
    environment.reset(Task("?"))
    assert answers(environment, Trajectory()) == []
    assert rank_files([]) == []


def test_a_snippet_is_cut_and_never_out_of_range(root: Path) -> None:
    repo = Repo.open(root)
    assert snippet(repo, "src/retry.py", (100, 100)) == "retries = 3  # how many retries"
    assert snippet(repo, "src/retry.py", (1, 200)).count("\n") == SNIPPET_LINES - 1
    assert snippet(repo, "src/retry.py", (199, 900)) == "line 199\nline 200"
    assert snippet(repo, "empty.txt", (0, 0)) == ""
    assert snippet(repo, "nothing", (1, 5)) == ""


def test_the_trail_is_plain_data(root: Path) -> None:
    _, trajectory = played(root, ExploreConfig(), 3, oracle=False)
    kept = json.loads(json.dumps([asdict(move) for move in trail(trajectory)]))
    assert len(kept) == len(trajectory.steps)
    for row, taken in zip(kept, trajectory.steps, strict=True):
        assert set(row) == {"location", "reflection", "action", "probability", "options"}
        assert row["action"] == taken.option.text
        assert sum(o["probability"] for o in row["options"]) == pytest.approx(1)
