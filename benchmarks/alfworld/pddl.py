"""Reads the PDDL problem of a game as data: objects, facts and the goal. Nothing is ever evaluated.

Only the predicates of ALFRED's domain are known. A broken or hostile text gives a :class:`BrokenGame`
that says what is wrong with it, and absurd sizes are refused before any work is done on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARACTERS = 1_000_000
"""Of a problem; the largest real one has 104,757."""

MAX_OBJECTS = 5_000
"""Declared names; the largest real problem has fewer than 500."""

MAX_DEPTH = 40
"""Nested parentheses; a real problem has fewer than 10."""

SIGNATURES: dict[str, tuple[str, ...]] = {
    "atlocation": ("agent", "location"),
    "receptacleatlocation": ("receptacle", "location"),
    "objectatlocation": ("object", "location"),
    "openable": ("receptacle",),
    "opened": ("receptacle",),
    "inreceptacle": ("object", "receptacle"),
    "isreceptacleobject": ("object",),
    "inreceptacleobject": ("object", "object"),
    "receptacletype": ("receptacle", "rtype"),
    "cancontain": ("rtype", "otype"),
    "objecttype": ("object", "otype"),
    "isclean": ("object",),
    "cleanable": ("object",),
    "ishot": ("object",),
    "heatable": ("object",),
    "iscool": ("object",),
    "coolable": ("object",),
    "pickupable": ("object",),
    "moveable": ("object",),
    "toggleable": ("object",),
    "istoggled": ("object",),
    "sliceable": ("object",),
    "issliced": ("object",),
}
"""What a problem may state about the beginning of a game, and of which types."""

TYPES = frozenset({"agent", "location", "receptacle", "object", "rtype", "otype"})

Tree = str | list["Tree"]
"""A word, or what stands between two parentheses."""


class BrokenGame(ValueError):
    """A game that cannot be played; the message says why, in a few words without a full stop."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in lower case, as the planner that the real engine runs reads it.

    ``types`` gives the type of each declared name, ``facts`` the arguments of each predicate's facts in
    the order of the text, without repetitions.
    """

    types: dict[str, str]
    facts: dict[str, list[tuple[str, ...]]]
    goal: Tree


def parse(text: str) -> Problem:
    """The problem in ``text``; :class:`BrokenGame` if it is none of ALFRED's domain."""
    tree = read(text)
    if not isinstance(tree, list) or tree[:1] != ["define"]:
        raise BrokenGame("the problem is no PDDL definition")
    sections: dict[str, list[Tree]] = {}
    for part in tree[1:]:
        if not isinstance(part, list) or not part or not isinstance(part[0], str):
            raise BrokenGame("a section of the problem has no name")
        if part[0] in sections:
            raise BrokenGame(f"the problem has two sections {part[0][:30]}")
        sections[part[0]] = part[1:]
    if unknown := sections.keys() - {"problem", ":domain", ":objects", ":init", ":goal", ":metric"}:
        raise BrokenGame(f"the problem has an unknown section {min(unknown)[:30]}")
    for name in (":domain", ":objects", ":init", ":goal"):
        if name not in sections:
            raise BrokenGame(f"the problem has no section {name}")
    if sections[":domain"] != ["alfred"]:
        raise BrokenGame("the problem is not of the domain alfred")
    if len(sections[":goal"]) != 1:
        raise BrokenGame("the problem has no single goal")
    types = _declared(sections[":objects"])
    return Problem(types, _facts(sections[":init"], types), sections[":goal"][0])


def read(text: str) -> Tree:
    """The one parenthesised expression that ``text`` is, in lower case and without comments.

    Iterative, so that no depth of nesting can exhaust the stack.
    """
    if len(text) > MAX_CHARACTERS:
        raise BrokenGame(f"the text has {len(text)} characters, more than {MAX_CHARACTERS}")
    text = re.sub(r";[^\n]*", "", text).lower()
    found: list[Tree] = []
    stack = [found]
    for token in re.findall(r"[()]|[^\s()]+", text):
        if token == "(":
            if len(stack) > MAX_DEPTH:
                raise BrokenGame(f"the text nests more than {MAX_DEPTH} parentheses")
            inner: list[Tree] = []
            stack[-1].append(inner)
            stack.append(inner)
        elif token == ")":
            if len(stack) == 1:
                raise BrokenGame("a parenthesis closes that was never opened")
            stack.pop()
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise BrokenGame("a parenthesis is never closed")
    if len(found) != 1:
        raise BrokenGame("the text is not one expression")
    return found[0]


def _declared(section: list[Tree]) -> dict[str, str]:
    """Types by name, from "a b - t c - u"."""
    types: dict[str, str] = {}
    waiting: list[str] = []
    words = iter(section)
    for word in words:
        if not isinstance(word, str):
            raise BrokenGame("an object's declaration has parentheses")
        if word != "-":
            waiting.append(word)
            continue
        kind = next(words, "")
        if not isinstance(kind, str) or kind not in TYPES:
            raise BrokenGame(f"an object has the unknown type '{str(kind)[:30]}'")
        for name in waiting:
            if types.setdefault(name, kind) != kind:
                raise BrokenGame(f"'{name[:40]}' is declared with two types")
        waiting = []
    if waiting:
        raise BrokenGame(f"'{waiting[0][:40]}' is declared without a type")
    if len(types) > MAX_OBJECTS:
        raise BrokenGame(f"it declares {len(types)} objects, more than {MAX_OBJECTS}")
    return types


def _facts(section: list[Tree], types: dict[str, str]) -> dict[str, list[tuple[str, ...]]]:
    facts: dict[str, dict[tuple[str, ...], None]] = {name: {} for name in SIGNATURES}
    for fact in section:
        words = [w for w in fact if isinstance(w, str)] if isinstance(fact, list) else []
        if not words or len(words) != len(fact):
            raise BrokenGame("a fact is no plain list of words")
        name, *arguments = words
        if name not in SIGNATURES:
            raise BrokenGame(f"the fact '{name[:40]}' is unknown")
        if tuple(types.get(a, "") for a in arguments) != SIGNATURES[name]:
            raise BrokenGame(f"a fact '{name}' has wrong or undeclared arguments")
        facts[name][tuple(arguments)] = None
    return {name: list(found) for name, found in facts.items()}
