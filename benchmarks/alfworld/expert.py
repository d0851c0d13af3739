"""A scripted player of ALFWorld that sees what any player sees: the texts and the admissible commands.

It keeps :class:`~benchmarks.alfworld.beliefs.Beliefs` and follows a few rules. Where an object has not been
seen it looks into the places that most probably hold one, for what looking costs, counted in the training
games (``likely.json``); among equals the lower number comes first. So each decision is a function of the goal
and of what was seen, which a model can imitate. What it holds for as good as its decision it can name too.

    python -m benchmarks.alfworld.expert --data DIR --split valid_unseen
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.alfworld.beliefs import LOOK, PREPARE, PUT, Beliefs, arguments, kind, number
from benchmarks.alfworld.engine import Engine, Player
from benchmarks.alfworld.game import TASK_TYPES
from benchmarks.alfworld.likely import likely
from benchmarks.alfworld.sources import OfficialGames
from benchmarks.statistics import bootstrap_mean, wilson
from repoagent.errors import InputError

HORIZON = 50
"""Steps in which a game has to be won."""


class Expert:
    """Says what to do next; :meth:`observe` tells it of every transition, also of those it did not choose."""

    beliefs: Beliefs

    def reset(self, intro: str) -> None:
        """Begin a game with its welcome text."""
        self.beliefs = Beliefs.begin(intro)

    def observe(self, command: str, feedback: str) -> None:
        """Learn what ``command`` did."""
        self.beliefs.learn(command, feedback)

    def act(self, admissible: Sequence[str]) -> str:
        """What it does: the first of :meth:`best`."""
        return decide(self.beliefs, admissible)[0]

    def best(self, admissible: Sequence[str]) -> list[str]:
        """All of the ``admissible`` commands that are as good as the one that it does, which comes first."""
        return decide(self.beliefs, admissible)


def decide(beliefs: Beliefs, admissible: Sequence[str]) -> list[str]:
    """What to do in one state, of which nothing else is remembered: the choice, then its equals."""
    return _Decision(beliefs, admissible).commands()


class _Decision:
    """The rules, for one state."""

    def __init__(self, beliefs: Beliefs, admissible: Sequence[str]) -> None:
        self.beliefs, self.goal = beliefs, beliefs.goal
        self.admissible = sorted(admissible, key=_order)
        self.places = sorted(beliefs.places, key=_order)
        named = [name for c in admissible if not c.startswith("go ") for name in arguments(c)[-1:]]
        self.near = {beliefs.here, *named} & set(beliefs.places)
        """Where things can be done without going: some places share a spot."""

    def commands(self) -> list[str]:
        chosen = self._hands_full() if self.beliefs.held else self._fetch()
        return chosen or [self._after(self.places)]

    def _hands_full(self) -> list[str]:
        held, goal = self.beliefs.held, self.goal
        if kind(held) != goal.object:
            return self._put_back()
        if goal.verb == LOOK:
            return self._light()
        if self._raw(held):
            return self._all(f"{goal.verb} {held} ") or self._nearest(self._of_kind(PREPARE[goal.verb]))
        ways = [self._any(f"move {held} to {home}") or self._reach(home) for home in self._homes()]
        return [way for way in ways if way]

    def _fetch(self) -> list[str]:
        """Take a wanted object, go to where one was seen, or look for one."""
        home = next(iter(self._homes()), "") if self.goal.count > 1 else ""
        settled = self.beliefs.contents.get(home, [])
        ways = []
        for place in self.places:
            for thing in self._things(place):
                if kind(thing) == self.goal.object and place != home and thing not in settled:
                    way = self._any(f"take {thing} from {place}") or self._reach(place)
                    rank = (self._raw(thing), self._steps(place))
                    ways += [(rank, (_order(place), _order(thing)), way)] if way else []
        return _foremost(ways) or self._search(self.goal.object)

    def _raw(self, thing: str) -> bool:
        """Whether ``thing`` has yet to be cleaned, heated or cooled."""
        return self.goal.verb in PREPARE and self.goal.verb not in self.beliefs.prepared.get(thing, ())

    def _light(self) -> list[str]:
        """Turn on the lamp, go to one, or look for one."""
        lamp = self.goal.place
        known = [p for p in self.places if any(kind(thing) == lamp for thing in self._things(p))]
        return self._all(f"use {lamp} ") or self._nearest(known) or self._search(lamp)

    def _put_back(self) -> list[str]:
        """Free the hand from an object that is not wanted: here, else where such things lie."""
        held = self.beliefs.held
        if here := self._all(f"move {held} to "):
            return here
        fits = likely()[0].get(kind(held), {})
        places = sorted(self.places, key=lambda place: (-fits.get(kind(place), 0.0), _order(place)))
        return [self._after(places)]

    def _homes(self) -> list[str]:
        """Where the goal's objects are put: by one that lies there already, else what takes fewest steps."""
        ways = []
        for place in self._of_kind(self.goal.place):
            settled = sum(kind(thing) == self.goal.object for thing in self._things(place))
            rank = (0, self._steps(place), 0)
            if self.goal.count > 1 and settled:
                # Of two that hold one each the nearer would be the other one after every step.
                rank = (-settled, 0.0, number(place))
            ways.append((rank, number(place), place))
        return _foremost(ways)

    def _search(self, wanted: str) -> list[str]:
        # Putting one object somewhere is not asked for where one lies there already.
        vain = self.goal.place if self.goal.verb == PUT and self.goal.count == 1 else ""
        left = [p for p in self.places if p not in self.beliefs.searched and kind(p) != vain]
        return self._likeliest(wanted, left)

    def _likeliest(self, wanted: str, places: Iterable[str]) -> list[str]:
        """On to the place that most probably holds what is wanted, for the steps it takes."""
        probability = likely()[0].get(wanted, {})

        def rank(place: str) -> tuple[float, object]:
            gain = probability.get(kind(place), 0.0) / max(1.0, self._steps(place))
            # Two kinds are equal by chance alone, and where nothing is to be gained the order decides.
            return -gain, kind(place) if gain else _order(place)

        return _foremost((rank(p), _order(p), way) for p in places if (way := self._reach(p)))

    def _nearest(self, places: Iterable[str]) -> list[str]:
        return _foremost((self._steps(p), _order(p), way) for p in places if (way := self._reach(p)))

    def _after(self, places: Sequence[str]) -> str:
        """To the next of ``places`` from the one here on, round and round."""
        start = places.index(self.beliefs.here) if self.beliefs.here in places else 0
        ways = [way for place in (*places[start:], *places[:start]) if (way := self._reach(place))]
        return ways[0] if ways else self.admissible[0]

    def _reach(self, place: str) -> str:
        """The next command on the way to seeing what is in ``place``; "" if nothing is left to do."""
        if place in self.near:
            look = "" if place in self.beliefs.searched else f"examine {place}"
            return self._any(f"open {place}") or self._any(look)
        return self._any(f"go to {place}")

    def _steps(self, place: str) -> float:
        """What it takes until ``place`` can be seen into."""
        if place in self.near:
            return float(f"open {place}" in self.admissible)
        if place in self.beliefs.closed:
            return 2.0
        return 1.0 if place in self.beliefs.searched else likely()[1].get(kind(place), 1.0)

    def _things(self, place: str) -> list[str]:
        """What is known to lie in ``place``, or can be taken from it now."""
        shown = [
            arguments(c)[0] for c in self.admissible if c.startswith("take ") and c.endswith(f" from {place}")
        ]
        return list(dict.fromkeys((*self.beliefs.contents.get(place, ()), *shown)))

    def _of_kind(self, wanted: str) -> list[str]:
        return [place for place in self.places if kind(place) == wanted]

    def _any(self, command: str) -> str:
        """``command`` if it is admissible."""
        return command if command in self.admissible else ""

    def _all(self, beginning: str) -> list[str]:
        return [command for command in self.admissible if command.startswith(beginning)]


def _foremost(ways: Iterable[tuple[Any, Any, str]]) -> list[str]:
    """Of (rank, order, way) the ways of the lowest rank, in their order."""
    found = sorted(ways)
    return list(dict.fromkeys(way for rank, _, way in found if rank == found[0][0]))


def _order(text: str) -> tuple[str | int, ...]:
    """Sorts by words, and "cabinet 2" before "cabinet 10"."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text))


def play(game: Player, expert: Expert, horizon: int = HORIZON) -> int | None:
    """The steps in which ``expert`` wins ``game``; None where ``horizon`` steps are not enough."""
    expert.reset(game.reset())
    for step in range(1, horizon + 1):
        command = expert.act(game.commands())
        expert.observe(command, game.step(command))
        if game.won:
            return step
    return None


def main() -> None:
    """Play a split of the official games and print the rates and the steps."""
    parser = argparse.ArgumentParser(description="How the scripted expert fares.")
    parser.add_argument("--data", type=Path, help="folder of ALFWorld's games (default: ALFWORLD_DATA)")
    parser.add_argument("--split", default="valid_unseen", help="a folder of the release")
    parser.add_argument("--limit", type=int, help="play so many games, evenly spread")
    parser.add_argument("--horizon", type=int, default=HORIZON)
    options = parser.parse_args()
    try:
        source = OfficialGames(options.data)
        tasks = source.listed(options.split)
    except InputError as error:
        parser.error(str(error))
    if options.limit:
        tasks = [tasks[i * len(tasks) // options.limit] for i in range(min(options.limit, len(tasks)))]
    steps: dict[str, list[int | None]] = {name: [] for name in (*TASK_TYPES, "all")}
    for task in tasks:
        taken = play(Engine(source.game(task.name)), Expert(), options.horizon)
        for name in (task.kind, "all"):
            steps[name].append(taken)
    print(
        f"{options.split}, at most {options.horizon} steps: success and, of the games won, mean steps (95 %)"
    )
    for name, results in steps.items():
        won = [n for n in results if n is not None]
        rate, mean = wilson(len(won), len(results)), bootstrap_mean(won)
        print(f"{name:24} {len(won):4}/{len(results):<4} {rate!s:22} {mean}")


if __name__ == "__main__":
    main()
