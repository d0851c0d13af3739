"""The contract of environments, and the adapter to gymnasium."""

from pathlib import Path

import pytest

from repoagent.environment import Environment, Observation, Option, StepResult, as_gymnasium
from repoagent.explore import ExploreConfig, RepoEnvironment, Task
from repoagent.repo import Repo


@pytest.fixture
def environment(tmp_path: Path) -> RepoEnvironment:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/retry.py").write_text("retries = 3\n")
    (tmp_path / "README.md").write_text("text\n")
    return RepoEnvironment(Repo.open(tmp_path), ExploreConfig())


TASK = Task("How many retries?", ("src/retry.py",))


def test_a_result_is_done_when_terminated_or_truncated() -> None:
    observation = Observation("t", "", (), "", (Option("go a", "go", "a"),))
    for terminated, truncated in ((False, False), (True, False), (False, True)):
        assert StepResult(observation, 0.0, terminated, truncated).done == (terminated or truncated)


def test_observations_and_options_can_be_compared_and_kept(environment: RepoEnvironment) -> None:
    first = environment.reset(TASK, 1)
    assert isinstance(environment, Environment)
    assert first == environment.reset(TASK, 1)
    assert len({first, environment.reset(TASK, 1)}) == 1
    with pytest.raises(AttributeError):
        first.task = "other"  # type: ignore[misc]


def test_gymnasium_sees_the_same_episode(environment: RepoEnvironment) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    adapted = as_gymnasium(environment, TASK)
    assert isinstance(adapted, gymnasium.Env)
    observation, info = adapted.reset(seed=3)
    assert (observation, info) == (environment.observation, {})
    rewards = []
    for _ in range(3):
        assert adapted.action_space.n == len(environment.observation.options)
        (action, *_) = environment.oracle() or [0]
        assert adapted.action_space.contains(action)
        _observation, reward, terminated, truncated, info = adapted.step(action)
        rewards.append(reward)
    assert terminated
    assert not truncated
    assert info["success"]
    assert 0 < sum(rewards) <= 1
    assert adapted.action_space.n == 1  # the end has no options, which gymnasium cannot say
    assert adapted.reset(seed=3)[0] == observation
    adapted.close()


def test_gymnasium_wrappers_work(environment: RepoEnvironment) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    limited = gymnasium.wrappers.TimeLimit(as_gymnasium(environment, TASK), max_episode_steps=1)
    limited.reset(seed=0)
    *_, truncated, _info = limited.step(0)
    assert truncated


def test_gymnasium_agents_may_sample_what_the_space_allows(environment: RepoEnvironment) -> None:
    pytest.importorskip("gymnasium")
    adapted = as_gymnasium(environment, TASK)
    for seed in range(10):
        adapted.reset(seed=seed)
        done = False
        while not done:
            *_, terminated, truncated, _info = adapted.step(int(adapted.action_space.sample()))
            done = terminated or truncated
