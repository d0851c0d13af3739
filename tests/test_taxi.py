"""DangerousTaxi against gymnasium itself, its oracle, its splits and its teacher."""

import random
from itertools import pairwise

import gymnasium
import pytest

from benchmarks.taxi import task as taxi
from benchmarks.taxi.task import DROP_OFF, IN_TAXI, OPTIONS, PICK_UP, DangerousTaxi, distances, encode
from repoagent.environment import Environment
from repoagent.episode import play_batch
from repoagent.players import RandomPolicy
from training.benchmark import load_benchmark
from training.states import optimal, perturbed

STARTS = [t for split in ("train", "validation", "test") for t in DangerousTaxi().tasks(split)]


def test_legal_steps_are_those_of_gymnasium() -> None:
    real = gymnasium.make("Taxi-v4").unwrapped
    rng = random.Random(0)
    env = DangerousTaxi(horizon=200).environment("dropoff")
    compared = 0
    for start in STARTS:
        env.reset(start)
        real.reset(seed=0)
        real.s = taxi.encode(*start)
        for _ in range(60):
            action = rng.randrange(6)
            before = real.s
            state, reward, terminated, _, _ = real.step(action)
            result = env.step(action)
            compared += 1
            # Illegal: gymnasium fines it with -10, or nothing moves; or the passenger is set down elsewhere.
            set_down = action == DROP_OFF and reward == -1
            illegal = reward == -10 or (action < 4 and state == before) or set_down
            assert (result.reward == -1) == illegal
            assert result.terminated == (illegal or terminated)
            if result.done:
                break
            assert env.state == state
    assert compared > 500


def test_the_oracle_is_optimal() -> None:
    """Its way is as long as the shortest one that a search over gymnasium's own table finds."""
    env = DangerousTaxi().environment("dropoff")
    table = gymnasium.make("Taxi-v4").unwrapped.P
    for start in STARTS[::7]:
        walk = optimal(env, start, random.Random(1))
        seen, edge, length = {taxi.encode(*start)}, [taxi.encode(*start)], 1
        while not any(table[s][DROP_OFF][0][3] for s in edge):
            edge = [n for s in edge for a in range(6) if (n := table[s][a][0][1]) not in seen]
            seen |= set(edge)
            length += 1
        assert len(walk) == length


@pytest.mark.parametrize("stage", ["pickup", "dropoff"])
def test_every_best_action_is_a_step_nearer(stage: str) -> None:
    left = taxi.distances(stage)
    assert len(left) == (400 if stage == "pickup" else 500)
    for state, distance in left.items():
        best = taxi.best_actions(state, stage)
        assert best
        for action in best:
            assert taxi.legal(state, action)
            if distance > 1:
                assert left[taxi.transitions()[state][action][0][1]] == distance - 1


def test_illegal_acts_end_the_episode_and_success_is_the_papers() -> None:
    bench = DangerousTaxi()
    env = bench.environment("dropoff")
    assert isinstance(env, Environment)
    env.reset((0, 0, 1, 2))
    result = env.step(PICK_UP)  # the passenger is at G
    assert (result.reward, result.terminated, result.info) == (-1.0, True, {"illegal": "pick up"})
    assert result.observation.options == () and env.oracle() == []
    with pytest.raises(IndexError):
        env.step(0)
    env.reset((0, 0, 0, 2))
    assert env.step(1).reward == -1  # north of R is the wall around the grid

    class Script:
        name = "script"

        def __init__(self, actions):
            self.actions = iter(actions)

        def distribution(self, observations, reflections):
            return [[0.0 if i == next_ else -9.0 for i in range(6)] for next_ in [next(self.actions)]]

    down = [PICK_UP, 0, 0, 0, 0, DROP_OFF]  # from R straight down to Y
    (whole,) = play_batch([env], [(0, 0, 0, 2)], Script(down), greedy=True)
    assert bench.outcomes(whole) == {"pickup": True, "dropoff": True}
    assert whole.total == pytest.approx(0.5 + 1 - 5 * 0.01)
    (half,) = play_batch([env], [(0, 0, 0, 2)], Script([PICK_UP, DROP_OFF]), greedy=True)
    assert bench.outcomes(half) == {"pickup": True, "dropoff": False}
    (first,) = play_batch([bench.environment("pickup")], [(0, 0, 0, 2)], Script(down), greedy=True)
    assert len(first.steps) == 1 and first.total == 1 and first.steps[0].result.terminated


def test_the_horizon_truncates() -> None:
    env = DangerousTaxi(horizon=3).environment("dropoff")
    env.reset((2, 2, 0, 1))
    results = [env.step(a) for a in (0, 1, 0)]
    assert [r.truncated for r in results] == [False, False, True]
    assert results[-1].observation.options == ()


def test_splits_share_no_start_and_cover_all() -> None:
    bench = DangerousTaxi()
    parts = [set(bench.tasks(split)) for split in ("train", "validation", "test")]
    assert [len(p) for p in parts] == [160, 40, 100]
    assert len(set.union(*parts)) == 300
    assert bench.tasks("test") == DangerousTaxi().tasks("test")


def test_the_text_tells_the_state_and_not_the_walls() -> None:
    env = DangerousTaxi().environment("dropoff")
    texts = {}
    for start in STARTS:
        seen = env.reset(start)
        texts[seen.task, seen.location, seen.last_result] = start
        assert seen.options == OPTIONS and seen.history == ()
        assert "wall" not in seen.task + seen.last_result
    assert len(texts) == len(STARTS)


def test_a_mistake_can_be_recovered_from_and_the_teacher_says_so() -> None:
    bench = DangerousTaxi()
    env = bench.environment("dropoff")
    rng = random.Random(3)
    for start in bench.tasks("train")[:40]:
        state = perturbed(env, start, rng)
        assert state is not None and state.best
        assert state.mistake in {"south", "north", "east", "west"}
        assert bench.reflection(state).startswith(f"Going {state.mistake} was a mistake. The ")
        assert f"went {state.mistake}" in state.observation.last_result


def test_several_mistakes_in_a_row_lead_further_off() -> None:
    env = DangerousTaxi().environment("dropoff")
    further = []
    for number, start in enumerate(DangerousTaxi().tasks("train")[:40]):
        left = []
        for mistakes in (1, 4):  # the same draws: the second goes on from the first
            state = perturbed(env, start, random.Random(number), mistakes)
            assert state is not None and state.best and state.mistake in {"south", "north", "east", "west"}
            row, column = (int(part.split()[-1]) for part in state.observation.location.split(", "))
            passenger = IN_TAXI if "in the taxi" in state.observation.last_result else start[2]
            left.append(distances("dropoff")[encode(row, column, passenger, start[3])])
        further.append(left[1] - left[0])
    assert set(further) == {0, 1, 2, 3}


def test_the_template_teacher_tells_the_truth() -> None:
    bench = DangerousTaxi()
    env = bench.environment("dropoff")
    for start in STARTS[::5]:
        for state in optimal(env, start, random.Random(0)):
            text = bench.reflection(state)
            assert text.endswith(f"Next: {state.observation.options[state.best[0]].text}.")
            row, column = (int(w.split()[1]) for w in state.observation.location.split(", "))
            blocked = [
                m for a, m in enumerate(taxi.MOVES) if not taxi.legal(taxi.encode(row, column, IN_TAXI, 0), a)
            ]
            assert all(
                (m in text.partition("locked")[2].partition("Next")[0]) == (m in blocked) for m in taxi.MOVES
            )


def test_random_play_is_dangerous_and_reproducible() -> None:
    bench = load_benchmark("taxi")
    tasks = bench.tasks("test")
    runs = [
        play_batch(
            [bench.environment("dropoff") for _ in tasks], tasks, RandomPolicy(), seeds=range(len(tasks))
        )
        for _ in range(2)
    ]
    assert [t.total for t in runs[0]] == [t.total for t in runs[1]]
    assert sum(bench.outcomes(t)["pickup"] for t in runs[0]) < 10
    assert all(s.result.reward >= -1 for t in runs[0] for s in t.steps)
    lengths = [len(t.steps) for t in runs[0]]
    assert any(a != b for a, b in pairwise(lengths))
