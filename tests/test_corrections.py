"""Corrections are states in the regimen's own form: the right way, and one mistake off it."""

from __future__ import annotations

from pathlib import Path

import pytest

from repoagent import corrections
from repoagent.errors import InputError
from repoagent.explore import FEATURES, RepoEnvironment, Task
from repoagent.repo import Repo
from repoagent.walk import Decision, Walk
from tests.tui_helpers import QUESTION, Guide, make_repo
from training.states import State, read_states

GUIDE, CONFIG = "docs/guide.md", "src/shop/config.py"
TASK = Task(QUESTION)
WRONG = (f"identify {GUIDE}", "lines", f"open {GUIDE}")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPOAGENT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def environment(tmp_path: Path) -> RepoEnvironment:
    return RepoEnvironment(Repo.open(make_repo(tmp_path)))


def walked(environment: RepoEnvironment, road: tuple[str, ...]) -> Walk:
    walk = Walk(TASK)
    list(walk.events(environment, Guide(road)))
    return walk


def led(environment: RepoEnvironment, step: int, text: str, road: tuple[str, ...] = WRONG) -> list[Decision]:
    """Decisions up to ``step``, at which the user takes the option that begins with ``text``."""
    walk = walked(environment, road)
    options = walk.decisions[step].observation.options
    index = next(i for i, o in enumerate(options) if o.text.startswith(text))
    other = Walk(TASK, walk.instead(step, index))
    list(other.events(environment, Guide(road)))
    return other.decisions[: step + 1]


def stored(states: list[corrections.State], source: str = corrections.TAKE_OVER) -> list[State]:
    """What training reads of ``states``."""
    return read_states(corrections.store("/code/shop", states, source, "2026-01-01T00:00:00+00:00"))


def best(state: State) -> list[str]:
    return [state.observation.options[i].text.split(" (")[0] for i in state.best]


def test_a_take_over_is_a_right_decision_and_the_state_after_the_wrong_one(
    environment: RepoEnvironment,
) -> None:
    right, wrong = stored(corrections.taken_over(environment, TASK, led(environment, 0, f"open {CONFIG}")))
    assert right.mistake == right.reflection == "" and right.observation.location == ""
    assert best(right) == best(wrong) == [f"open {CONFIG}"]
    assert wrong.mistake.startswith(f"open {GUIDE}")
    assert wrong.reflection.startswith("The last action was a mistake. ")
    assert wrong.observation.history == (f"open {GUIDE}",)
    assert {len(o.features) for o in wrong.observation.options} == {len(FEATURES)}


def test_a_folder_taken_over(environment: RepoEnvironment) -> None:
    road = ("go docs/", "go shop/", "go ..")
    _, wrong = stored(corrections.taken_over(environment, TASK, led(environment, 0, "go src/", road)))
    assert wrong.observation.location == "docs" and best(wrong) == ["go .."]
    assert "go back up" in wrong.reflection


def test_a_mistake_that_ends_the_walk_leaves_the_right_decision_alone(environment: RepoEnvironment) -> None:
    (right,) = corrections.taken_over(environment, TASK, led(environment, 1, f"open {CONFIG}"))
    assert best(stored([right])[0]) == [f"open {CONFIG}"]


def test_it_is_that_file(environment: RepoEnvironment) -> None:
    walk = walked(environment, WRONG)
    states = stored(corrections.answered(environment, TASK, walk.decisions, CONFIG), corrections.ANSWER)
    assert [best(s) for s in states] == [[f"open {CONFIG}"], [f"identify {CONFIG}"], [f"open {CONFIG}"]]
    assert [bool(s.mistake) for s in states] == [False, False, True]
    assert states[2].mistake.startswith(f"open {GUIDE}") and states[2].reflection


def test_corrections_add_up(environment: RepoEnvironment, data: Path) -> None:
    states = corrections.taken_over(environment, TASK, led(environment, 0, f"open {CONFIG}"))
    assert len(stored(states)) == 2 and len(stored(states)) == 4
    assert corrections.location("/code/shop") != corrections.location("/other/shop")
    assert corrections.location("/code/shop").stat().st_mode & 0o077 == 0
    assert all(data in p.parents for p in [corrections.location("/"), corrections.location("/a b\udcff")])


def test_no_such_file(environment: RepoEnvironment) -> None:
    with pytest.raises(InputError, match="there is no file nowhere"):
        corrections.answered(environment, TASK, [], "nowhere.py")
