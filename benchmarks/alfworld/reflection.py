"""The template teacher of ALFWorld: what to think in a state, from what the player sees of it.

The history is read back into :class:`~benchmarks.alfworld.beliefs.Beliefs`, so that a reflection says only
what a model could have worked out itself; the best option it is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from benchmarks.alfworld.beliefs import LOOK, PREPARE, Beliefs, arguments, kind, number, parse_goal
from benchmarks.alfworld.likely import likely

if TYPE_CHECKING:
    from repoagent.environment import Observation
    from training.states import State

DONE = {"clean": "clean", "heat": "hot", "cool": "cool"}
"""What an object is after a verb of :data:`~benchmarks.alfworld.beliefs.PREPARE`."""

KINDS_NAMED = 4
"""Kinds of places that a list of searched ones names at most."""


def beliefs_of(observation: Observation, history: Sequence[str] | None = None) -> Beliefs:
    """What a player knows who has seen ``observation``, or had seen when its history was ``history``."""
    lines = observation.history if history is None else history
    split = [line.partition(": ") for line in lines]
    commands = [*(option.text for option in observation.options), *(command for command, _, _ in split)]
    places = {name: None for command in commands for name in arguments(command) if _is_place(name, command)}
    beliefs = Beliefs(parse_goal(observation.task), tuple(places))
    for i, (command, _, shown) in enumerate(split):
        # A history may leave to the last result what the last action showed.
        newest = history is None and i == len(split) - 1
        beliefs.learn(command, shown or (observation.last_result if newest else ""))
    return beliefs


def reflection(state: State) -> str:
    """What the template teacher writes: a mistake, what is needed, what is known, and what follows."""
    seen = state.observation
    beliefs = beliefs_of(seen)
    following = seen.options[state.best[0]].text
    parts = [_mistake(state)] if state.mistake else []
    parts += [_need(beliefs), *_situation(beliefs, following), f"Next: {following}."]
    return " ".join(part for part in parts if part)


def _is_place(name: str, command: str) -> bool:
    """Whether ``name`` in ``command`` is a receptacle: objects are examined and moved too."""
    return command.startswith("go ") or kind(name) in likely()[1]


def _need(beliefs: Beliefs) -> str:
    """What the goal still asks for."""
    goal = beliefs.goal
    if goal.verb == LOOK:
        return f"Needed: {_a(goal.object)} in hand, by {_a(goal.place)} that is on."
    if goal.count > 1:
        home, settled = _settled(beliefs)
        there = f"one is at {home}" if settled else "none is there yet"
        return f"Needed: two {goal.object} at one {goal.place}; {there}."
    wanted = f"{DONE[goal.verb]} {goal.object}" if goal.verb in DONE else goal.object
    return f"Needed: {_a(wanted)} at {goal.place}."


def _situation(beliefs: Beliefs, following: str) -> list[str]:
    """What is held, what that needs, and where what is missing was or was not seen."""
    goal, held = beliefs.goal, beliefs.held
    if not held:
        return _missing(beliefs, goal.object, following)
    if kind(held) != goal.object:
        return [f"Held: {held}, which is not wanted; put it down."]
    if goal.verb == LOOK:
        return [f"Held: {held}.", *_missing(beliefs, goal.place, following)]
    if _raw(beliefs, held):
        return [f"Held: {held}, not yet {DONE[goal.verb]}; the {PREPARE[goal.verb]} does that."]
    return [f"Held: {held}, ready for {goal.place}."]


def _missing(beliefs: Beliefs, wanted: str, following: str) -> list[str]:
    """Where a ``wanted`` thing is; else what was searched in vain, and where one is likely."""
    if following.startswith(("take ", "use ")):
        return [f"{arguments(following)[0]} is here."]
    place = arguments(following)[-1] if arguments(following) else ""
    seen = next((thing for thing in beliefs.contents.get(place, ()) if kind(thing) == wanted), "")
    if seen:
        return [f"{seen} was seen at {place}."]
    home, settled = _settled(beliefs) if beliefs.goal.count > 1 else ("", 0)
    another = f"other {wanted}" if settled else wanted
    vain = _listed(wanted, beliefs.searched - {home} if settled else beliefs.searched)
    parts = [f"No {another} at {vain}." if vain else f"No {another} seen yet."]
    if place in beliefs.closed:
        return [*parts, f"{place} is closed and may hold one."]
    return [*parts, f"Likeliest now: {place}."] if place else parts


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _listed(wanted: str, places: Iterable[str]) -> str:
    """The ``places``, those that are likely for ``wanted`` first: "desk 1, cabinet 1-3 5"."""
    numbers: dict[str, list[int]] = {}
    for place in sorted(places, key=number):
        numbers.setdefault(kind(place), []).append(number(place))
    probability = likely()[0].get(wanted, {})
    kinds = sorted(numbers, key=lambda k: (-probability.get(k, 0.0), k))
    shown = [f"{k} {_runs(numbers[k])}" for k in kinds[:KINDS_NAMED]]
    return ", ".join([*shown, "and others"] if len(kinds) > KINDS_NAMED else shown)


def _runs(numbers: Sequence[int]) -> str:
    """ "1-3 5" for 1, 2, 3 and 5."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _raw(beliefs: Beliefs, thing: str) -> bool:
    return beliefs.goal.verb in PREPARE and beliefs.goal.verb not in beliefs.prepared.get(thing, ())


def _settled(beliefs: Beliefs) -> tuple[str, int]:
    """Which place of the goal's type holds most of its objects, and how many."""
    counts = {
        place: sum(kind(thing) == beliefs.goal.object for thing in things)
        for place, things in beliefs.contents.items()
        if kind(place) == beliefs.goal.place
    }
    home = max(counts, key=lambda place: (counts[place], -number(place)), default="")
    return home, counts.get(home, 0)


_ACTS = {
    "go": "Going", "open": "Opening", "close": "Closing", "take": "Taking", "move": "Moving", "use": "Using",
    "clean": "Cleaning", "heat": "Heating", "cool": "Cooling", "slice": "Slicing", "examine": "Examining",
    "look": "Looking around", "inventory": "Checking the inventory", "help": "Asking for help",
}  # fmt: skip


def _mistake(state: State) -> str:
    verb, _, rest = state.mistake.partition(" ")
    act = f"{_ACTS.get(verb, verb)} {rest}".strip()
    return f"{act} was a mistake: {_why(state, verb)}."


def _why(state: State, verb: str) -> str:
    """What was wrong with the last action, for what was known before it."""
    before = beliefs_of(state.observation, state.observation.history[:-1])
    goal, held, names = before.goal, before.held, arguments(state.mistake)
    if verb == "take":
        return (
            "it is where it belongs" if kind(names[0]) == goal.object else f"the goal needs {_a(goal.object)}"
        )
    if verb == "move":
        if kind(names[0]) == goal.object and _raw(before, held):
            return f"it is not {DONE[goal.verb]} yet"
        return "it belongs elsewhere" if kind(names[0]) == goal.object else "it is of no use"
    if verb in PREPARE or verb == "slice":
        return "the goal does not ask for that"
    if verb in ("go", "open", "examine"):
        return _astray(before, names[-1] if names else "")
    if verb == "use":
        return f"no {goal.object} is in hand" if goal.verb == LOOK else "the goal needs no light"
    return "it brings the goal no nearer"


def _astray(before: Beliefs, place: str) -> str:
    """Why ``place`` was not the one to see to."""
    goal, held = before.goal, before.held
    if place not in before.places:
        return "it brings the goal no nearer"
    if held and kind(held) == goal.object and goal.verb != LOOK:
        target = PREPARE[goal.verb] if _raw(before, held) else goal.place
        return f"{held} must go to a {target}" if kind(place) != target else "it was not the first choice"
    if held and kind(held) != goal.object:
        return f"{held} must be put down first"
    wanted = goal.place if held else goal.object
    seen = [(thing, p) for p, things in before.contents.items() for thing in things if kind(thing) == wanted]
    home, settled = _settled(before) if goal.count > 1 else ("", 0)
    known = next(((thing, p) for thing, p in seen if not (settled and p == home)), None)
    if known and known[1] != place:
        return f"{known[0]} was seen at {known[1]}"
    if place in before.searched:
        return f"{place} was searched before" if not known else "it is open already"
    return f"{_a(wanted)} was likelier elsewhere"
