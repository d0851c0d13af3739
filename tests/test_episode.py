"""The two-player loop: the order of events, batches, greed and seeds."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from repoagent.environment import Observation
from repoagent.episode import (
    Acted,
    Decided,
    Event,
    Finished,
    Observed,
    Reflected,
    ReflectionToken,
    Trajectory,
    play,
    play_batch,
)
from repoagent.explore import PLAIN, ExploreConfig, RepoEnvironment, Task
from repoagent.players import NoReflector, OraclePolicy, Policy, RandomPolicy, Reflector, choose
from repoagent.repo import Repo

QUESTIONS = (
    "Where are the retries?",
    "Where is the timeout?",
    "Where is the text?",
    "Which port?",
    "What button?",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("episode")
    for folder in ("net", "ui/parts"):
        (root / folder).mkdir(parents=True)
        for word in ("retries", "timeout", "port", "button"):
            (root / folder / f"{word}.py").write_text(f"{word} = 1\n\n\n" * 20)
    (root / "README.md").write_text("text\n")
    return root


class Wordy:
    """Reflects on the location and the number of options, in pieces."""

    name = "wordy"

    def stream(self, observation: Observation) -> Iterator[str]:
        yield from (" in ", observation.location or "root", f" with {len(observation.options)} options ")

    def reflect(self, observations: Sequence[Observation]) -> list[str]:
        return ["".join(self.stream(o)).strip() for o in observations]


class Swayed:
    """A policy whose choice depends on all that it is given."""

    name = "swayed"

    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]:
        found = []
        for o, reflection in zip(observations, reflections, strict=True):
            weights = [1 + (len(x.text) * 7 + len(reflection)) % 5 for x in o.options]
            found.append([math.log(w / sum(weights)) for w in weights])
        return found


def last(events: Iterator[Event]) -> Trajectory:
    *_, finished = events
    assert isinstance(finished, Finished)
    return finished.trajectory


def test_events_come_in_order_and_tell_everything(root: Path) -> None:
    events = list(
        play(RepoEnvironment(Repo.open(root)), Task(QUESTIONS[0]), Swayed(), Wordy(), seed=1, greedy=False)
    )
    step = [Observed, ReflectionToken, ReflectionToken, ReflectionToken, Reflected, Decided, Acted]
    kinds = [type(e) for e in events]
    trajectory = last(iter(events))
    assert kinds == step * len(trajectory.steps) + [Finished]
    for number, taken in enumerate(trajectory.steps):
        observed, one, two, three, reflected, decided, acted = events[number * 7 : number * 7 + 7]
        assert isinstance(observed, Observed)
        assert (observed.step, observed.observation) == (number, taken.observation)
        assert isinstance(reflected, Reflected)
        assert reflected.text == taken.reflection == "".join(e.text for e in (one, two, three)).strip()  # type: ignore[union-attr]
        assert isinstance(decided, Decided)
        assert (decided.index, decided.log_probabilities) == (taken.index, taken.log_probabilities)
        assert len(decided.log_probabilities) == len(taken.observation.options)
        assert isinstance(acted, Acted)
        assert acted.option == taken.option == taken.observation.options[taken.index]
        assert acted.result is taken.result
    for before, after in pairwise(trajectory.steps):
        assert before.result.observation is after.observation
    assert trajectory.steps[-1].result.done
    assert trajectory.total == sum(s.result.reward for s in trajectory.steps)


@pytest.mark.parametrize("reflector", [None, Wordy()])
@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("form", [ExploreConfig(), PLAIN])
@pytest.mark.parametrize("policy", [RandomPolicy(), Swayed()], ids=["random", "swayed"])
def test_a_batch_is_the_same_as_one_by_one(
    root: Path, policy: Policy, form: ExploreConfig, greedy: bool, reflector: Reflector | None
) -> None:
    tasks = [Task(q, ("net/port.py",)) for q in QUESTIONS]
    seeds = [11, 12, 13, 14, 15]
    together = play_batch(
        [RepoEnvironment(Repo.open(root), form) for _ in tasks],
        tasks,
        policy,
        reflector,
        seeds=seeds,
        greedy=greedy,
    )
    for task, seed, batched in zip(tasks, seeds, together, strict=True):
        alone = last(
            play(RepoEnvironment(Repo.open(root), form), task, policy, reflector, seed=seed, greedy=greedy)
        )
        assert batched.steps == alone.steps
    assert len({len(t.steps) for t in together}) > 1 or greedy


def test_players_are_asked_once_a_step_for_all_that_still_run(root: Path) -> None:
    sizes = []

    class Counting(Swayed):
        def distribution(
            self, observations: Sequence[Observation], reflections: Sequence[str]
        ) -> list[list[float]]:
            sizes.append(len(observations))
            return super().distribution(observations, reflections)

    tasks = [Task(q) for q in QUESTIONS]
    together = play_batch(
        [RepoEnvironment(Repo.open(root), PLAIN) for _ in tasks], tasks, Counting(), seeds=range(5)
    )
    lengths = [len(t.steps) for t in together]
    assert sizes == [sum(length > step for length in lengths) for step in range(max(lengths))]


def test_no_tasks_and_nothing_to_do(root: Path, tmp_path: Path) -> None:
    assert play_batch([], [], RandomPolicy()) == []
    (nothing,) = play_batch([RepoEnvironment(Repo.open(tmp_path))], [Task("?")], RandomPolicy())
    assert nothing.steps == []
    assert last(play(RepoEnvironment(Repo.open(tmp_path)), Task("?"), RandomPolicy())).total == 0


def test_greedy_takes_the_most_likely_and_needs_no_seed(root: Path) -> None:
    for _ in range(2):
        steps = last(play(RepoEnvironment(Repo.open(root)), Task(QUESTIONS[0]), Swayed())).steps
        assert all(s.log_probabilities[s.index] == max(s.log_probabilities) for s in steps)


def test_sampling_follows_the_seed(root: Path) -> None:
    def run(seed: int) -> list[int]:
        environment = RepoEnvironment(Repo.open(root))
        return [
            s.index
            for s in last(
                play(environment, Task(QUESTIONS[0]), RandomPolicy(), seed=seed, greedy=False)
            ).steps
        ]

    assert run(1) == run(1)
    assert len({tuple(run(seed)) for seed in range(8)}) > 1


def test_an_episode_can_be_left_in_the_middle(root: Path) -> None:
    events = play(RepoEnvironment(Repo.open(root)), Task(QUESTIONS[0]), RandomPolicy(), Wordy())
    next(events)
    next(events)
    events.close()  # type: ignore[attr-defined]


def test_the_oracle_player_wins(root: Path) -> None:
    environment = RepoEnvironment(Repo.open(root))
    task = Task("Where is the button?", ("ui/parts/button.py",))
    trajectory = last(play(environment, task, OraclePolicy(environment), seed=1, greedy=False))
    assert trajectory.steps[-1].result.info["success"]
    assert environment.identified == "ui/parts/button.py"


def test_players_keep_their_contract(root: Path) -> None:
    environment = RepoEnvironment(Repo.open(root))
    observation = environment.reset(Task("?", ("README.md",)), 0)
    for policy in (RandomPolicy(), OraclePolicy(environment), Swayed()):
        assert isinstance(policy, Policy)
        (row,) = policy.distribution([observation], [""])
        assert len(row) == len(observation.options)
        assert sum(map(math.exp, row)) == pytest.approx(1)
    for reflector in (NoReflector(), Wordy()):
        assert isinstance(reflector, Reflector)
        assert (
            reflector.reflect([observation, observation])
            == ["".join(reflector.stream(observation)).strip()] * 2
        )


def test_choose_never_takes_the_impossible() -> None:
    import random

    row = [-math.inf, math.log(0.5), -math.inf, math.log(0.5)]
    assert {choose(row, random.Random(seed)) for seed in range(50)} == {1, 3}
    assert choose(row) == 1
