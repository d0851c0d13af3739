"""The rules of an ALFWorld text game, played on a compiled :class:`Game`.

Same commands, same words and same end as the real engine (TextWorld with fast-downward), which takes a
hundred milliseconds and more for a step where this one takes some microseconds; ``parity.py`` compares them.
The rules are those of ALFRED's PDDL domain, with what becomes of them in the real engine:

- Where one stands already cannot be gone to: the planner drops actions without an effect.
- Of things only the one in hand can be examined: a comma in the domain makes the other case impossible.
- A microwave heats, a fridge cools and a lamp inside something lights without being opened.
- Looking around in mid-room shows nothing, but in the text that a game begins with.
- A thing may be in two receptacles at once (1,557 of the released games have one); taking it from one
  leaves it in the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from benchmarks.alfworld import wording
from benchmarks.alfworld.game import Game

KNIVES = frozenset({"knife", "butterknife"})
SINKS = frozenset({"sinkbasin", "sink"})
PROCESSES = (
    ("clean", "cleanable", SINKS),
    ("cool", "coolable", {"fridge"}),
    ("heat", "heatable", {"microwave"}),
)
"""Verb, what a thing must be, and the kinds of receptacle that do it."""

FREE = ("help", "inventory", "look")
"""Always admissible, and of no effect."""

Command = tuple[str, int, int]
"""Verb and the numbers of what it is about (-1: nothing)."""


class Player(Protocol):
    """What plays a game by text; this engine does, and the real one behind its adapter."""

    won: bool

    def reset(self) -> str:
        """Begin anew; returns the introduction, in whose last line the task stands."""
        ...

    def commands(self) -> Sequence[str]:
        """The admissible commands, sorted."""
        ...

    def step(self, command: str) -> str:
        """Do ``command`` and return what happened; nothing does where it is not admissible."""
        ...


class Engine:
    """One run of a game."""

    __slots__ = ("_listed", "at", "game", "gone", "held", "inside", "opened", "place", "states", "won")

    def __init__(self, game: Game) -> None:
        self.game = game
        self.reset()

    def reset(self) -> str:
        """Begin anew; returns the introduction."""
        game = self.game
        self.place, self.held = game.start, -1
        self.opened = game.opened
        self.inside, self.at = list(game.inside), list(game.at)
        self.states = dict(game.states)
        # Pairs of a thing and a receptacle that it was taken out of: the real engine says "next to it" of
        # what lies at a place and is known not to be in one of the place's receptacles.
        self.gone: frozenset[tuple[int, int]] = frozenset()
        self._listed: dict[str, Command] | None = None
        self.won = self._reached()
        room = [r.name for r in game.receptacles if r.place >= 0]
        return wording.intro(self._around(room), game.sentence)

    def commands(self) -> tuple[str, ...]:
        """The admissible commands, sorted."""
        return tuple(self._admissible())

    def step(self, command: str) -> str:
        """Do ``command`` and return what happened, which is nothing where it is not admissible."""
        found = self._admissible().get(command.strip())
        if found is None:
            return wording.NOTHING_HAPPENS
        said = self._do(*found)
        if found[0] not in FREE and found[0] != "examine":
            self._listed = None
            self.won = self._reached()
        return said

    @property
    def stuck(self) -> bool:
        """Whether the game is lost: what is in hand is not wanted, and fits into no receptacle."""
        game = self.game
        if self.held < 0 or game.things[self.held].kind == game.thing:
            return False
        return not any(game.things[self.held].kind in r.fits for r in game.receptacles if r.place >= 0)

    # -- rules ---------------------------------------------------------------------------------------

    def _admissible(self) -> dict[str, Command]:
        if self._listed is not None:
            return self._listed
        game, held = self.game, self.held
        # The verbs in their order, so that only what comes before and after "go to" needs to be sorted.
        before: list[tuple[str, Command]] = []
        after: list[tuple[str, Command]] = [(verb, (verb, -1, -1)) for verb in FREE]
        thing = game.things[held] if held >= 0 else None
        for r in game.here.get(self.place, ()):
            receptacle = game.receptacles[r]
            name = receptacle.name
            before.append((f"examine {name}", ("examine", -1, r)))
            access = True
            if receptacle.openable:
                access = r in self.opened
                if access:
                    before.append((f"close {name}", ("close", -1, r)))
                else:
                    after.append((f"open {name}", ("open", -1, r)))
            if thing is None:
                if access:
                    after += [
                        (f"take {game.things[o].name} from {name}", ("take", o, r))
                        for o in self.inside[r]
                        if "pickupable" in game.things[o].affords
                    ]
            else:
                if access and thing.kind in receptacle.fits:
                    after.append((f"move {thing.name} to {name}", ("move", held, r)))
                for verb, affordance, kinds in PROCESSES:
                    if receptacle.kind in kinds and affordance in thing.affords:
                        where = after if verb == "heat" else before
                        where.append((f"{verb} {thing.name} with {name}", (verb, held, r)))
            after += [
                (f"use {game.things[o].name}", ("use", o, r))
                for o in self.inside[r]
                if "toggleable" in game.things[o].affords
            ]
        if thing is not None:
            before.append((f"examine {thing.name}", ("examine", held, -1)))
            if thing.kind in KNIVES:
                after += [
                    (f"slice {other.name} with {thing.name}", ("slice", o, held))
                    for o, other in enumerate(game.things)
                    if "sliceable" in other.affords and self.place in self.at[o]
                ]
        before.sort()
        after.sort()
        self._listed = dict(before)
        self._listed.update(self._ways())
        self._listed.update(after)
        return self._listed

    def _ways(self) -> dict[str, Command]:
        """The ways to go from here, worked out once for each place."""
        game = self.game
        ways: dict[str, Command] | None = game.cache.get(self.place)
        if ways is None:
            ways = game.cache[self.place] = dict(
                sorted(
                    (f"go to {receptacle.name}", ("go", -1, r))
                    for r, receptacle in enumerate(game.receptacles)
                    if receptacle.place not in (-1, self.place)
                )
            )
        return ways

    def _do(self, verb: str, o: int, r: int) -> str:
        things, receptacles = self.game.things, self.game.receptacles
        if verb == "go":
            self.place = receptacles[r].place
            return f"You arrive at {receptacles[r].name}. {self._seen(r)}"
        if verb == "open":
            self.opened |= {r}
            return f"You open the {receptacles[r].name}. {self._seen(r)}"
        if verb == "close":
            self.opened -= {r}
            return f"You close the {receptacles[r].name}."
        if verb == "take":
            self.inside[r] = tuple(x for x in self.inside[r] if x != o)
            self.at[o] -= {self.place}
            self.gone |= {(o, r)}
            self.held = o
            return f"You pick up the {things[o].name} from the {receptacles[r].name}."
        if verb == "move":
            self.inside[r] = tuple(sorted({*self.inside[r], o}))
            self.at[o] |= {self.place}
            self.gone -= {(o, r)}
            self.held = -1
            return f"You move the {things[o].name} to the {receptacles[r].name}."
        if verb == "use":
            self._set("istoggled", o)
            return f"You turn on the {things[o].name}."
        if verb == "slice":
            self._set("issliced", o)
            return f"You sliced the {things[o].name} with the {things[r].name}."
        if verb in ("clean", "heat", "cool"):
            if verb == "clean":
                self._set("isclean", o)
            else:
                hot = verb == "heat"
                self._set("ishot" if hot else "iscool", o)
                self.states["iscool" if hot else "ishot"] -= {o}
            return f"You {verb} the {things[o].name} using the {receptacles[r].name}."
        return self._tell(verb, o, r)

    def _tell(self, verb: str, o: int, r: int) -> str:
        """The answer to a command that changes nothing."""
        things = self.game.things
        if verb == "help":
            return wording.HELP
        if verb == "look":
            return self._around([])
        if verb == "inventory":
            if self.held < 0:
                return "You are not carrying anything."
            return f"You are carrying: a {things[self.held].name}."
        if r >= 0:
            return self._seen(r)
        if things[o].container:
            return wording.container(things[o].name, things[o].holds)
        return wording.thing(
            things[o].name, things[o].affords | {s for s, which in self.states.items() if o in which}
        )

    def _set(self, state: str, o: int) -> None:
        self.states[state] |= {o}

    def _seen(self, r: int) -> str:
        game = self.game
        receptacle = game.receptacles[r]
        inside = (game.things[o].name for o in self.inside[r])
        return wording.receptacle(receptacle.name, receptacle.openable, r in self.opened, inside)

    def _around(self, room: Sequence[str]) -> str:
        game = self.game
        here = game.here.get(self.place, ())
        beside = sorted((o, r) for o, r in self.gone if r in here and self.place in self.at[o])
        return wording.around(
            [game.receptacles[r].name for r in here], [game.things[o].name for o, _ in beside], room
        )

    def _reached(self) -> bool:
        """Whether the goal holds."""
        game = self.game
        things, kind = game.things, game.thing
        if game.kind == "look_at_obj_in_light":
            if self.held < 0 or things[self.held].kind != kind:
                return False
            lit = self.states["istoggled"]
            return any(
                o in lit and things[o].kind == game.target and "toggleable" in things[o].affords
                for r in game.here.get(self.place, ())
                for o in self.inside[r]
            )
        for r in game.targets:
            found = [o for o in self.inside[r] if things[o].kind == kind]
            if game.kind in GOAL_STATES:
                state, affordance = GOAL_STATES[game.kind]
                found = [o for o in found if o in self.states[state] and affordance in things[o].affords]
            if len(found) > (game.kind == "pick_two_obj_and_place"):
                return True
        return False


GOAL_STATES = {
    "pick_clean_then_place": ("isclean", "cleanable"),
    "pick_heat_then_place": ("ishot", "heatable"),
    "pick_cool_then_place": ("iscool", "coolable"),
}
"""What must have become of the thing that is to be placed."""
