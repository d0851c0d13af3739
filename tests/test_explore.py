"""RepoEnvironment: the actions of both forms, rewards, the oracle, and what a seed fixes."""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repoagent.environment import Environment, Observation, StepResult
from repoagent.episode import Finished, play
from repoagent.explore import FEATURES, PLAIN, ExploreConfig, RepoEnvironment, Task, overlap
from repoagent.players import OraclePolicy
from repoagent.repo import Repo

QUESTION = "Where is the number of retries configured?"
GOLD = "src/net/client.py"
FULL = ExploreConfig()
WALK = ExploreConfig(hits=0)
"""The full form where the scan offers nothing, so that it takes walking."""
ALL = dataclasses.replace(PLAIN, leave_out=0.0, shuffle=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("explore")
    for folder in ("src/net", "src/ui/parts", "docs"):
        (root / folder).mkdir(parents=True)
    body = "".join(f"def step_{i}():\n    return {i}\n\n\n" for i in range(30))
    (root / GOLD).write_text(body + "RETRIES = 3  # number of retries, configured here\n")
    for i in range(6):
        (root / f"src/net/other{i}.py").write_text(f"x = {i}\n" * 9)
        (root / f"docs/page{i}.md").write_text("# Retries\n\nThe number is configured elsewhere.\n")
    (root / "src/ui/parts/button.py").write_text("class Button: pass\n")
    (root / "README.md").write_text("A client\n")
    (root / "empty.txt").touch()
    (root / "logo.png").write_bytes(b"\x89PNG\0\0")
    (root / "alias").symlink_to("src")
    (root / "out").symlink_to("/etc")
    return root


def start(root: Path, form: ExploreConfig = FULL, seed: int = 0, **task: object) -> RepoEnvironment:
    environment = RepoEnvironment(Repo.open(root), form)
    environment.reset(Task(QUESTION, **{"gold": (GOLD,), **task}), seed)  # type: ignore[arg-type]
    return environment


def take(environment: RepoEnvironment, kind: str, target: str) -> StepResult:
    options = environment.observation.options
    index = next(i for i, o in enumerate(options) if (o.kind, o.target) == (kind, target))
    return environment.step(index)


def offered(observation: Observation) -> set[tuple[str, str]]:
    return {(o.kind, o.target) for o in observation.options}


def test_it_is_an_environment(root: Path) -> None:
    assert isinstance(start(root), Environment)


# -- plain form ----------------------------------------------------------------------------


def test_plain_actions_are_those_of_the_paper(root: Path) -> None:
    environment = start(root, ALL)
    assert offered(environment.observation) == {
        ("go", "docs"),
        ("go", "src"),
        *((kind, name) for kind in ("open", "identify") for name in ("README.md", "empty.txt", "logo.png")),
    }
    assert "README.md" in environment.observation.last_result
    inside = take(environment, "go", "src").observation
    assert inside.location == "src"
    assert offered(inside) == {("go", ""), ("go", "src/net"), ("go", "src/ui")}
    opened = take(environment, "go", "src/net")
    opened = take(environment, "open", GOLD)
    assert "RETRIES = 3" in opened.observation.last_result
    assert ("open", GOLD) not in offered(opened.observation)
    assert opened.observation.history == ("go src", "go src/net", f"open {GOLD}")
    assert all(not o.text.startswith("lines") for o in opened.observation.options)
    result = take(environment, "identify", GOLD)
    assert (result.terminated, result.truncated, result.info["success"]) == (True, False, True)
    assert result.observation.options == ()
    with pytest.raises(RuntimeError, match="reset"):
        environment.step(0)


def test_plain_options_carry_no_hint_of_the_question(root: Path) -> None:
    observation = start(root, ALL).observation
    one = {(o.kind, o.target): (o.text, o.evidence) for o in observation.options}
    environment = RepoEnvironment(Repo.open(root), ALL)
    two = environment.reset(Task("quite another thing"), 0)
    assert one == {(o.kind, o.target): (o.text, o.evidence) for o in two.options}


# -- full form -----------------------------------------------------------------------------


def test_the_scan_offers_files_wherever_they_are(root: Path) -> None:
    environment = start(root)
    assert ("open", GOLD) in offered(environment.observation)
    assert not any(o.kind == "identify" for o in environment.observation.options)
    opened = take(environment, "open", GOLD).observation
    assert ("identify", GOLD) in offered(opened)
    assert ("open", GOLD) not in offered(opened)
    blocks = take(environment, "identify", GOLD)
    assert not blocks.done
    assert {o.kind for o in blocks.observation.options} == {"lines"}
    result = environment.step(0)
    assert result.terminated
    assert environment.chosen is not None
    assert environment.chosen[0] <= 121 <= environment.chosen[1]


def test_every_option_is_distinct_and_has_its_features(root: Path) -> None:
    environment = start(root)
    rng = random.Random(0)
    while options := environment.observation.options:
        assert len({(o.kind, o.target) for o in options}) == len(options)
        assert {len(o.features) for o in options} == {len(FEATURES)}
        assert all("\n" not in o.text for o in options)
        if environment.step(rng.randrange(len(options))).done:
            break


def test_links_are_shown_and_never_offered(root: Path) -> None:
    for form in (FULL, ALL):
        observation = start(root, form).observation
        assert "alias -> src" in observation.last_result
        assert "out (link leads outside)" in observation.last_result
        assert not {"alias", "out"} & {o.target for o in observation.options}


def test_a_file_without_text_can_be_identified_and_has_no_lines(root: Path) -> None:
    for name in ("empty.txt", "logo.png"):
        environment = start(root)
        assert "no text" in take(environment, "open", name).observation.last_result
        assert take(environment, "identify", name).terminated


def test_a_directory_of_10_000_entries_is_paged_and_every_entry_is_reached(tmp_path: Path) -> None:
    for i in range(10_000):
        (tmp_path / f"f{i}").touch()
    form = ExploreConfig(horizon=10**6, page=500)
    environment = start(tmp_path, form)
    seen: list[str] = []
    while len(seen) < 10_000:
        options = environment.observation.options
        assert len(options) <= form.page + form.hits + 1
        seen += [o.target for o in options if o.kind == "open"]
        take(environment, "more", "")
    assert sorted(seen) == sorted(f"f{i}" for i in range(10_000))
    assert environment.observation.options[0].target == seen[0]  # and from the start again


def test_what_matters_of_a_huge_directory_is_on_its_first_page(tmp_path: Path) -> None:
    for i in range(500):
        (tmp_path / f"a{i}").touch()
        (tmp_path / f"d{i}").mkdir()
    (tmp_path / "zz_retries").touch()
    (tmp_path / "d300/retries.py").write_text("retries = 1")
    targets = [o.target for o in start(tmp_path, WALK).observation.options]
    assert {"zz_retries", "d300"} <= set(targets)


def test_the_last_action_must_be_an_answer(root: Path) -> None:
    environment = start(root, dataclasses.replace(FULL, horizon=3))
    take(environment, "open", "README.md")
    second = take(environment, "open", GOLD).observation
    assert offered(second) == {("identify", "README.md"), ("identify", GOLD)}
    assert not take(environment, "identify", GOLD).done
    assert environment.step(0).terminated


def test_an_empty_repository_is_over_at_once(tmp_path: Path) -> None:
    for form in (FULL, PLAIN):
        assert start(tmp_path, form).observation.options == ()
        (finished,) = play(
            RepoEnvironment(Repo.open(tmp_path), form), Task(QUESTION), OraclePolicy(start(tmp_path))
        )
        assert isinstance(finished, Finished)
        assert finished.trajectory.steps == []


# -- reward --------------------------------------------------------------------------------


def total(environment: RepoEnvironment, *actions: tuple[str, str]) -> float:
    rewards = [take(environment, *action).reward for action in actions]
    assert all(-1 <= r <= 1 for r in rewards)
    return sum(rewards)


def test_a_right_answer_pays_more_the_sooner_it_comes(root: Path) -> None:
    way = [("go", "src"), ("go", "src/net")]
    short = total(start(root, ALL), *way, ("identify", GOLD))
    long = total(start(root, ALL), *way, ("open", GOLD), ("identify", GOLD))
    assert 1 > short > long > 0


def test_a_wrong_answer_and_none_cost_the_same(root: Path) -> None:
    assert total(start(root, ALL), ("go", "docs"), ("identify", "docs/page0.md")) == pytest.approx(-1)
    environment = start(root, dataclasses.replace(ALL, horizon=4))
    assert total(environment, *[("go", "docs"), ("go", "")] * 2) == pytest.approx(-1)
    assert environment._done


def test_the_right_file_with_the_wrong_lines_pays_less(root: Path) -> None:
    paid = {}
    for right in (True, False):
        environment = start(root, span=(121, 121))
        take(environment, "open", GOLD)
        options = take(environment, "identify", GOLD).observation.options
        good = environment.oracle()
        index = good[0] if right else next(i for i in range(len(options)) if i not in good)
        paid[right] = environment.step(index).reward
    assert paid == {True: 1.0, False: 0.75}


def test_any_of_several_right_files_counts(root: Path) -> None:
    other = "docs/page1.md"
    environment = start(root, dataclasses.replace(ALL, lines=False), gold=(GOLD, other))
    take(environment, "go", "docs")
    assert take(environment, "identify", other).info["success"]


def test_without_a_right_file_every_reward_is_nothing(root: Path) -> None:
    environment = start(root, gold=())
    rng = random.Random(1)
    while environment.observation.options:
        result = environment.step(rng.randrange(len(environment.observation.options)))
        assert result.reward == 0
        if result.done:
            break


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(form=st.sampled_from([FULL, WALK, PLAIN, ALL]), seed=st.integers(0, 10**6), horizon=st.integers(1, 20))
def test_no_way_through_an_episode_leaves_the_range(
    root: Path, form: ExploreConfig, seed: int, horizon: int
) -> None:
    environment = start(root, dataclasses.replace(form, horizon=horizon), seed, span=(121, 121))
    rng, rewards = random.Random(seed), list[float]()
    while True:
        result = environment.step(rng.randrange(len(environment.observation.options)))
        rewards.append(result.reward)
        assert -1 <= result.reward <= 1
        assert -1 - 1e-9 <= sum(rewards) <= 1
        assert not (result.terminated and result.truncated)
        if result.done:
            break
    assert len(rewards) <= horizon + 1


# -- oracle --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    form=st.sampled_from([FULL, WALK, ALL]), seed=st.integers(0, 10**6), page=st.sampled_from([0, 1, 2, 40])
)
def test_the_oracle_finds_the_file_from_anywhere(
    root: Path, form: ExploreConfig, seed: int, page: int
) -> None:
    config = dataclasses.replace(form, horizon=200, page=page if form.search else 0)
    environment = start(root, config, span=(121, 121))
    rng = random.Random(seed)
    for _ in range(rng.randrange(8)):
        options = environment.observation.options
        wander = [i for i, o in enumerate(options) if o.kind in ("go", "open", "more")]
        environment.step(rng.choice(wander))
    for _ in range(60):
        best = environment.oracle()
        assert best, (environment.location, [o.text for o in environment.observation.options])
        assert set(best) <= set(range(len(environment.observation.options)))
        result = environment.step(rng.choice(best))
        if result.done:
            break
    assert result.terminated
    assert result.info["success"]
    assert environment.chosen is None or overlap(environment.chosen, (121, 121))


def test_the_oracle_takes_a_shortest_way(root: Path) -> None:
    for form, steps in ((FULL, 3), (WALK, 5), (ALL, 4)):
        environment = start(root, form, span=(121, 121))
        taken = 0
        while environment.observation.options:
            environment.step(environment.oracle()[0])
            taken += 1
        assert taken == steps


def test_without_a_right_file_the_oracle_knows_nothing_to_go_for(root: Path) -> None:
    assert start(root, gold=()).oracle() == []


# -- seeds ---------------------------------------------------------------------------------


def observations(root: Path, form: ExploreConfig, seed: int, choices: Sequence[int]) -> list[Observation]:
    environment = start(root, form, seed)
    seen = [environment.observation]
    for choice in choices:
        if not seen[-1].options:
            break
        seen.append(environment.step(choice % len(seen[-1].options)).observation)
    return seen


@pytest.mark.parametrize("form", [FULL, PLAIN])
def test_the_same_seed_gives_the_same_episode(root: Path, form: ExploreConfig) -> None:
    choices = [random.Random(2).randrange(100) for _ in range(10)]
    assert observations(root, form, 5, choices) == observations(root, form, 5, choices)


def test_reset_starts_afresh(root: Path) -> None:
    environment = start(root, PLAIN, 5)
    first = environment.observation
    while environment.observation.options:
        environment.step(0)
    assert environment.reset(Task(QUESTION, (GOLD,)), 5) == first
    assert (environment.opened, environment.identified, environment.chosen) == ([], None, None)


def test_seeds_shuffle_and_leave_out_but_never_the_right_file(root: Path) -> None:
    firsts, hidden = set(), set()
    for seed in range(40):
        environment = start(root, PLAIN, seed)
        firsts.add(tuple(o.text for o in environment.observation.options))
        hidden |= environment._hidden
        assert GOLD not in environment._hidden
        take(environment, "go", "src")
        take(environment, "go", "src/net")
        inside = environment.observation
        assert ("identify", GOLD) in offered(inside)
        for left_out in environment._hidden:
            assert left_out not in {o.target for o in inside.options}
            assert left_out.rsplit("/")[-1] not in inside.last_result.split()
    assert len(firsts) > 10
    assert "README.md" in hidden


def test_excluded_paths_are_never_shown(root: Path) -> None:
    environment = start(root, dataclasses.replace(FULL, exclude=("README.md", "docs/page0.md", "docs")))
    assert not {"README.md", "docs", "docs/page0.md"} & {o.target for o in environment.observation.options}
    assert "README.md" not in environment.observation.last_result
