"""A walk that is held, let go by steps, taken back and led another way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from repoagent.episode import Acted, Decided, Event, Finished, Reflected, ReflectionToken, Taken, play
from repoagent.errors import InputError
from repoagent.explore import RepoEnvironment, Task
from repoagent.players import NoReflector, RandomPolicy
from repoagent.repo import Repo
from repoagent.walk import Held, Start, Walk
from tests.tui_helpers import QUESTION, Guide, Talker, make_repo

TASK = Task(QUESTION)


@pytest.fixture
def environment(tmp_path: Path) -> RepoEnvironment:
    return RepoEnvironment(Repo.open(make_repo(tmp_path)))


class Counting(Guide):
    """A guide that counts how often it is asked."""

    asked = 0

    def distribution(self, *given: object) -> list[list[float]]:
        self.asked += 1
        return super().distribution(*given)  # type: ignore[arg-type]


def ways(events: list[Event | Held]) -> list[str]:
    return [e.option.text.split(" (")[0] for e in events if isinstance(e, Acted)]


def in_thread(walk: Walk, environment: RepoEnvironment, on: Callable[[Event | Held], object]) -> None:
    """Play ``walk`` in a thread to its end; ``on`` is told in that thread."""

    def work() -> None:
        for event in walk.events(environment, Guide(), NoReflector()):
            on(event)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the walk is held for ever"


def test_what_was_taken_is_played_again_without_the_players(environment: RepoEnvironment) -> None:
    first = list(play(environment, TASK, Guide(), Talker()))
    walk = Walk(TASK)
    assert list(walk.events(environment, Guide(), Talker())) == first
    policy = Counting()
    again = list(Walk(TASK, Start([d.taken for d in walk.decisions])).events(environment, policy, Talker()))
    assert policy.asked == 0
    assert again == [e for e in first if not isinstance(e, ReflectionToken)]
    assert isinstance(again[-1], Finished) and len(again[-1].trajectory.steps) == 5


def test_a_random_walk_taken_again_is_the_same(environment: RepoEnvironment) -> None:
    walk = Walk(TASK)
    first = ways(list(walk.events(environment, RandomPolicy())))
    again = Walk(TASK, Start([d.taken for d in walk.decisions]))
    assert ways(list(again.events(environment, RandomPolicy()))) == first


def test_held_before_every_action(environment: RepoEnvironment) -> None:
    walk = Walk(TASK, Start(held=True))
    seen: list[Event | Held] = []

    def on(event: Event | Held) -> None:
        seen.append(event)
        if isinstance(event, Held):
            assert walk.waiting and isinstance(seen[-2], Decided)
            walk.step()

    in_thread(walk, environment, on)
    assert sum(isinstance(e, Held) for e in seen) == 5 and isinstance(seen[-1], Finished)
    assert not walk.waiting


def test_held_and_let_go(environment: RepoEnvironment) -> None:
    walk = Walk(TASK)
    held = []

    def on(event: Event | Held) -> None:
        if isinstance(event, Reflected) and not walk.decisions:
            walk.hold()
        elif isinstance(event, Held):
            held.append(event)
            walk.go_on()

    in_thread(walk, environment, on)
    assert len(held) == 1 and len(walk.decisions) == 5


def test_called_off_while_held(environment: RepoEnvironment) -> None:
    walk = Walk(TASK, Start(held=True))
    seen: list[Event | Held] = []

    def on(event: Event | Held) -> None:
        seen.append(event)
        if isinstance(event, Held):
            threading.Timer(0.05, walk.call_off).start()

    in_thread(walk, environment, on)
    assert isinstance(seen[-1], Held) and walk.called_off and not ways(seen)


def test_back_decides_anew_and_holds(environment: RepoEnvironment) -> None:
    walk = Walk(TASK)
    list(walk.events(environment, Guide()))
    again = Walk(TASK, walk.back(2))
    policy, seen = Counting(), []
    for event in again.events(environment, policy):
        seen.append(event)
        if isinstance(event, Held):
            break
    assert ways(seen) == ["go src/", "go shop/"] and policy.asked == 1 and again.waiting


def test_taking_over_goes_on_from_there(environment: RepoEnvironment) -> None:
    walk = Walk(TASK)
    list(walk.events(environment, Guide()))
    options = [o.text for o in walk.decisions[0].observation.options]
    other = next(i for i, text in enumerate(options) if text.startswith("open docs/guide.md"))
    led = Walk(TASK, walk.instead(0, other))
    policy = Counting()
    found = ways(list(led.events(environment, policy)))
    assert found[0] == "open docs/guide.md" and found[1] == "go src/" and policy.asked == len(found) - 1
    assert led.decisions[0].proposed == options.index(walk.decisions[0].taken.option.text)
    assert [d.proposed for d in led.decisions[1:]] == [None] * (len(found) - 1)
    kept = Walk(TASK, led.instead(1, led.decisions[1].index))
    list(kept.events(environment, Guide()))
    assert kept.decisions[0].proposed == led.decisions[0].proposed and kept.decisions[1].proposed is None
    agreed = led.instead(0, led.decisions[0].proposed or 0)
    assert not agreed.proposed, "the policy's own choice is no take-over"


def test_a_repository_that_has_changed(environment: RepoEnvironment) -> None:
    walk = Walk(TASK)
    list(walk.events(environment, Guide()))
    gone = Taken("", (0.0,), walk.decisions[0].taken.option)
    with pytest.raises(InputError, match="changed"):
        list(play(environment, TASK, Guide(), taken=[gone]))
