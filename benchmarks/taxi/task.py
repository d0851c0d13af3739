"""DangerousTaxi, the second benchmark of the paper, on the transition table of gymnasium's Taxi.

The taxi stands on a grid of 5 x 5 cells with walls that the text does not mention, fetches a
passenger from one of four places and brings them to another. Driving into a wall and an illegal
pick-up or drop-off end the episode. The state is Markov, so that the history stays empty; what the
last action did is in ``last_result``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from repoagent.environment import Observation, Option, StepResult
from repoagent.episode import Trajectory

if TYPE_CHECKING:
    from training.benchmark import Split
    from training.states import State

PLACES = {"R": (0, 0), "G": (0, 4), "Y": (4, 0), "B": (4, 3)}
NAMES = tuple(PLACES)
IN_TAXI = len(PLACES)
MOVES = ("south", "north", "east", "west")
PICK_UP, DROP_OFF = 4, 5
OPTIONS = (*(Option(m, "go", m) for m in MOVES), Option("pick up", "act"), Option("drop off", "act"))
STAGES = ("pickup", "dropoff")
SPLIT_SEED = 2402
SIZES = {"train": 160, "validation": 40, "test": 100}

Start = tuple[int, int, int, int]
"""Row and column of the taxi, place of the passenger, destination."""


@cache
def transitions() -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:
    """gymnasium's table: state -> action -> [(probability, next state, reward, terminated)]."""
    import gymnasium

    # Taxi-v3 was retired; the table of v4 without rain is the same.
    table: Any = gymnasium.make("Taxi-v4").unwrapped
    found: dict[int, dict[int, list[tuple[float, int, float, bool]]]] = table.P
    return found


def encode(row: int, column: int, passenger: int, destination: int) -> int:
    """gymnasium's number of a state."""
    return ((row * 5 + column) * 5 + passenger) * 4 + destination


def decode(state: int) -> tuple[int, int, int, int]:
    """Row, column, passenger (4: in the taxi) and destination of a state."""
    rest, destination = divmod(state, 4)
    rest, passenger = divmod(rest, 5)
    row, column = divmod(rest, 5)
    return row, column, passenger, destination


def legal(state: int, action: int) -> bool:
    """Whether ``action`` neither drives into a wall nor is an illegal pick-up or drop-off.

    Setting the passenger down at a place that is not the destination is legal in Taxi and costs as
    much as a move; here it is an illegal drop-off, as is picking up a passenger already in the taxi.
    """
    if action < len(MOVES):
        return transitions()[state][action][0][1] != state
    row, column, passenger, destination = decode(state)
    if action == PICK_UP:
        return passenger != IN_TAXI and PLACES[NAMES[passenger]] == (row, column)
    return passenger == IN_TAXI and PLACES[NAMES[destination]] == (row, column)


@cache
def distances(stage: str) -> dict[int, int]:
    """Actions that are left until ``stage`` is achieved, for every state from which it can be."""
    found = {}
    edge = []
    for state in transitions():
        wanted = PICK_UP if stage == "pickup" else DROP_OFF
        if legal(state, wanted):
            found[state] = 1
            edge.append(state)
    before: dict[int, list[int]] = {}
    for state, actions in transitions().items():
        for action in actions:
            # A finished delivery leads nowhere: its entry in the table is a state like any other.
            if legal(state, action) and action != DROP_OFF:
                before.setdefault(actions[action][0][1], []).append(state)
    for distance in range(2, len(transitions())):
        edge = [s for state in edge for s in before.get(state, ()) if s not in found]
        found |= dict.fromkeys(edge, distance)
    return found


def best_actions(state: int, stage: str) -> list[int]:
    """The legal actions that bring ``stage`` one step nearer."""
    left = distances(stage)
    if left.get(state) == 1:
        return [PICK_UP if stage == "pickup" else DROP_OFF]
    return [
        action
        for action in range(len(OPTIONS))
        if legal(state, action)
        and left.get(transitions()[state][action][0][1], len(left)) == left.get(state, 0) - 1
    ]


class TaxiEnvironment:
    """One stage of the curriculum: "pickup" ends with the passenger in the taxi.

    Every step costs ``step_cost``, an illegal act ends the episode with -1, achieving the stage
    gives 1; on the way to the drop-off the pick-up gives ``pickup_reward``.
    """

    def __init__(self, stage: str, horizon: int, step_cost: float, pickup_reward: float) -> None:
        self.stage, self.horizon = stage, horizon
        self.step_cost, self.pickup_reward = step_cost, pickup_reward
        self.state = 0
        self.steps = 0
        self.over = True

    def reset(self, task: Start, seed: int | None = None) -> Observation:
        self.state, self.steps, self.over = encode(*task), 0, False
        return self._observe("The ride begins.")

    def step(self, index: int) -> StepResult:
        if self.over or not 0 <= index < len(OPTIONS):
            raise IndexError(f"no option {index}")
        self.steps += 1
        option = OPTIONS[index]
        if not legal(self.state, index):
            self.over = True
            crash = "into a wall" if option.kind == "go" else "illegal"
            seen = self._observe(f"{option.text}: {crash}. The ride is over.", final=True)
            return StepResult(seen, -1.0, True, False, {"illegal": option.text})
        self.state = transitions()[self.state][index][0][1]
        picked, delivered = index == PICK_UP, index == DROP_OFF
        won = delivered or (picked and self.stage == "pickup")
        reward = 1.0 if won else (self.pickup_reward if picked else 0.0) - self.step_cost
        late = not won and self.steps >= self.horizon
        self.over = won or late
        seen = self._observe(f"You went {option.text}." if option.kind == "go" else "Done.", final=self.over)
        return StepResult(seen, reward, won, late, {"pickup": picked, "dropoff": delivered})

    def oracle(self) -> list[int]:
        return [] if self.over else best_actions(self.state, self.stage)

    def _observe(self, happened: str, final: bool = False) -> Observation:
        row, column, passenger, destination = decode(self.state)
        where = "in the taxi" if passenger == IN_TAXI else f"at {NAMES[passenger]}"
        goal = PLACES[NAMES[destination if passenger == IN_TAXI else passenger]]
        return Observation(
            task=f"Bring the passenger to {NAMES[destination]}.",
            location=f"row {row}, column {column}",
            history=(),
            last_result=f"{happened} The passenger is {where}. Go to row {goal[0]}, column {goal[1]}.",
            options=() if final else OPTIONS,
        )


class DangerousTaxi:
    """The benchmark: 300 starts, of which 100 are kept for the test and 40 for validation."""

    name = "taxi"
    stages = STAGES

    def __init__(self, horizon: int = 40, step_cost: float = 0.01, pickup_reward: float = 0.5) -> None:
        self.horizon, self.step_cost, self.pickup_reward = horizon, step_cost, pickup_reward

    def environment(self, stage: str) -> TaxiEnvironment:
        return TaxiEnvironment(stage, self.horizon, self.step_cost, self.pickup_reward)

    def tasks(self, split: Split) -> Sequence[Start]:
        starts = [
            (row, column, passenger, destination)
            for row in range(5)
            for column in range(5)
            for passenger in range(len(PLACES))
            for destination in range(len(PLACES))
            if passenger != destination
        ]
        random.Random(SPLIT_SEED).shuffle(starts)
        first = {"train": 0, "validation": SIZES["train"], "test": SIZES["train"] + SIZES["validation"]}
        return starts[first[split] : first[split] + SIZES[split]]

    def plays(self, stage: str, task: Start) -> bool:
        return True

    def outcomes(self, trajectory: Trajectory) -> Mapping[str, bool]:
        """*pickup*: the passenger was legally picked up; *dropoff*: and set down at the destination."""
        return {
            stage: any(step.result.info.get(stage, False) for step in trajectory.steps) for stage in STAGES
        }

    def reflection(self, state: State) -> str:
        return reflection(state)


def reflection(state: State) -> str:
    """What the template teacher writes: the way to the goal, what is blocked, and what follows."""
    seen = state.observation
    row, column = _cell(seen.location)
    waiting = "in the taxi" not in seen.last_result
    goal = _cell(seen.last_result.rpartition("Go to ")[2])
    # Walls do not depend on the passenger: any state at this cell tells what is blocked.
    here = encode(row, column, IN_TAXI, 0)
    blocked = [move for action, move in enumerate(MOVES) if not legal(here, action)]
    down, right = goal[0] - row, goal[1] - column
    way = [MOVES[(n < 0) + 2 * axis] for axis, n in enumerate((down, right)) if n]
    target = "The passenger" if waiting else "The destination"
    parts = [f"{target} is {' and '.join(way)}." if way else f"{target} is here."]
    if state.mistake:
        parts.insert(0, f"Going {state.mistake} was a mistake.")
    parts.append(f"Blocked: {', '.join(blocked)}." if blocked else "Nothing is blocked.")
    parts.append(f"Next: {seen.options[state.best[0]].text}.")
    return " ".join(parts)


def _cell(text: str) -> tuple[int, int]:
    """Row and column in "row 3, column 0"."""
    row, column = (int(part.split()[-1].rstrip(".")) for part in text.split(", "))
    return row, column
