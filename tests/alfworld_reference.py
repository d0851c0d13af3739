"""ALFRED's PDDL actions word by word over a set of facts: slow, and written without a look at the engine.

Each method is one action of the domain: what it needs and what it adds and takes away. The engine is compared
with it where the real one is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.alfworld.game import entity_names
from benchmarks.alfworld.pddl import Problem, Tree

Fact = tuple[str, ...]
Action = tuple[str, set[Fact], set[Fact]]
"""A command, what it adds and what it takes away."""

AGENT = "agent1"


class Reference:
    """A state of a problem as facts in lower case."""

    def __init__(self, problem: Problem) -> None:
        self.types, self.goal = problem.types, problem.goal
        self.facts: set[Fact] = {(name, *fact) for name, found in problem.facts.items() for fact in found}
        named = {word for fact in self.facts for word in fact[1:]}
        self.objects = {
            kind: sorted(n for n in named if problem.types.get(n) == kind)
            for kind in set(self.types.values())
        }
        self.names = entity_names(
            sorted(n for k in ("object", "receptacle", "location") for n in self.objects.get(k, ()))
        )

    def true(self, *fact: str) -> bool:
        return fact in self.facts

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Where the agent is, and a receptacle that is there."""
        for where in self.objects["location"]:
            if self.true("atlocation", AGENT, where):
                for r in self.objects["receptacle"]:
                    if self.true("receptacleatlocation", r, where):
                        yield where, r

    def accessible(self, r: str) -> bool:
        return not self.true("openable", r) or self.true("opened", r)

    def actions(self) -> dict[str, Action]:
        """All that can be done, by command; actions without an effect cannot."""
        found = [*self.going(), *self.doors(), *self.picking(), *self.putting(), *self.making()]
        found += [*self.toggling(), *self.slicing()]
        free = ["look", "inventory", "help"] + [f"examine {self.names[r]}" for _, r in self.pairs()]
        free += [f"examine {self.names[o]}" for o in self.objects["object"] if self.true("holds", AGENT, o)]
        return {command: (command, set(), set()) for command in free} | {
            action[0]: action for action in found
        }

    def going(self) -> Iterator[Action]:
        for start in self.objects["location"]:
            if not self.true("atlocation", AGENT, start):
                continue
            for r in self.objects["receptacle"]:
                for end in self.objects["location"]:
                    if self.true("receptacleatlocation", r, end) and end != start:
                        yield (
                            f"go to {self.names[r]}",
                            {("atlocation", AGENT, end)},
                            {("atlocation", AGENT, start)},
                        )

    def doors(self) -> Iterator[Action]:
        for _, r in self.pairs():
            if self.true("openable", r):
                if self.true("opened", r):
                    yield f"close {self.names[r]}", set(), {("opened", r)}
                else:
                    yield f"open {self.names[r]}", {("opened", r), ("checked", r)}, set()

    def picking(self) -> Iterator[Action]:
        for where, r in self.pairs():
            for o in self.objects["object"]:
                if (
                    self.true("pickupable", o)
                    and self.true("inreceptacle", o, r)
                    and not self.true("holdsany", AGENT)
                    and self.accessible(r)
                ):
                    yield (
                        f"take {self.names[o]} from {self.names[r]}",
                        {("holds", AGENT, o), ("holdsany", AGENT)},
                        {("inreceptacle", o, r), ("objectatlocation", o, where)},
                    )

    def putting(self) -> Iterator[Action]:
        for where, r in self.pairs():
            for o in self.objects["object"]:
                if not self.true("holds", AGENT, o) or not self.accessible(r):
                    continue
                for ot in self.objects["otype"]:
                    for rt in self.objects["rtype"]:
                        if (
                            self.true("objecttype", o, ot)
                            and self.true("receptacletype", r, rt)
                            and self.true("cancontain", rt, ot)
                        ):
                            yield (
                                f"move {self.names[o]} to {self.names[r]}",
                                {("inreceptacle", o, r), ("objectatlocation", o, where)},
                                {("holds", AGENT, o), ("holdsany", AGENT)},
                            )

    def making(self) -> Iterator[Action]:
        for _, r in self.pairs():
            for o in self.objects["object"]:
                if not self.true("holds", AGENT, o):
                    continue
                name = f"{self.names[o]} with {self.names[r]}"
                if self.true("cleanable", o) and self.true("receptacletype", r, "sinkbasintype"):
                    yield f"clean {name}", {("isclean", o)}, set()
                if self.true("heatable", o) and self.true("receptacletype", r, "microwavetype"):
                    yield f"heat {name}", {("ishot", o)}, {("iscool", o)}
                if self.true("coolable", o) and self.true("receptacletype", r, "fridgetype"):
                    yield f"cool {name}", {("iscool", o)}, {("ishot", o)}

    def toggling(self) -> Iterator[Action]:
        for _, r in self.pairs():
            for o in self.objects["object"]:
                if self.true("toggleable", o) and self.true("inreceptacle", o, r):
                    yield f"use {self.names[o]}", {("istoggled", o)}, set()

    def slicing(self) -> Iterator[Action]:
        knives = [
            o
            for o in self.objects["object"]
            if self.true("holds", AGENT, o)
            and (self.true("objecttype", o, "knifetype") or self.true("objecttype", o, "butterknifetype"))
        ]
        for knife in knives:
            for where in self.objects["location"]:
                for cut in self.objects["object"]:
                    if (
                        self.true("atlocation", AGENT, where)
                        and self.true("sliceable", cut)
                        and self.true("objectatlocation", cut, where)
                    ):
                        yield f"slice {self.names[cut]} with {self.names[knife]}", {("issliced", cut)}, set()

    def step(self, action: Action) -> None:
        _, added, removed = action
        self.facts = (self.facts - removed) | added

    # -- the goal, as PDDL has it --------------------------------------------------------------------

    def won(self) -> bool:
        return self.holds(self.goal, {})

    def holds(self, tree: Tree, bound: dict[str, str]) -> bool:
        """Whether a formula holds with the variables ``bound``."""
        assert isinstance(tree, list)
        head, *rest = tree
        if head == "and":
            return all(self.holds(part, bound) for part in rest)
        if head == "not":
            return not self.holds(rest[0], bound)
        if head == "exists":
            words, body = rest
            assert isinstance(words, list)
            return self.some([str(w) for w in words if w != "-"], body, bound)
        words = [bound.get(str(word), str(word)) for word in tree]
        return words[1] == words[2] if head == "=" else tuple(words) in self.facts

    def some(self, variables: list[str], body: Tree, bound: dict[str, str]) -> bool:
        """``variables`` are names and types in turn."""
        if not variables:
            return self.holds(body, bound)
        name, kind, *rest = variables
        return any(self.some(rest, body, bound | {name: value}) for value in self.objects.get(kind, ()))
