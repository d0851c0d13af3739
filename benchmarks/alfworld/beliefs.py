"""What a player of ALFWorld knows: the goal as the game words it, and what the game has shown so far.

Everything is read from the texts a player sees. The feedback may be the game's own ("You arrive at desk 1.
On the desk 1, you see a mug 2.") or a history's shorter form ("a mug 2").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from repoagent.errors import InputError

PREPARE = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
"""What is done to an object before it is put down, and where."""

LOOK, PUT = "look", "put"
_VERB = {"hot": "heat"}
_WORDINGS = tuple(
    re.compile(wording)
    for wording in (
        r"(?P<verb>look) at (?P<object>\w+) under the (?P<place>\w+)",
        r"(?P<verb>examine) the (?P<object>\w+) with the (?P<place>\w+)",
        r"(?:find|put) (?P<two>two) (?P<object>\w+)(?: and put them)? in (?P<place>\w+)",
        r"(?P<verb>clean|heat|cool) some (?P<object>\w+) and put it in (?P<place>\w+)",
        r"put a (?P<verb>clean|hot|cool) (?P<object>\w+) in (?P<place>\w+)",
        r"put (?:a|some) (?P<object>\w+) (?:in|on) (?P<place>\w+)",
    )
)
_NAME = re.compile(r"\b([a-z]+ \d+)\b")


@dataclass(frozen=True, slots=True)
class Goal:
    """What the game asks for: ``verb`` is put, look or a key of :data:`PREPARE`; ``place`` is a type of
    receptacle, or of lamp."""

    verb: str
    object: str
    place: str
    count: int = 1


def parse_goal(text: str) -> Goal:
    """The goal in ``text``: a sentence in one of the twelve wordings, or a welcome text that ends with it."""
    sentence = text.rpartition("Your task is to:")[2].strip().rstrip(".").lower()
    for wording in _WORDINGS:
        if match := wording.fullmatch(sentence):
            found = match.groupdict()
            verb = found.get("verb") or PUT
            verb = LOOK if verb == "examine" else _VERB.get(verb, verb)
            return Goal(verb, found["object"], found["place"], 2 if found.get("two") else 1)
    raise InputError(f"'{sentence}' is no goal of ALFWorld that is known here: give one of its six tasks.")


def kind(name: str) -> str:
    """The type of a named thing: "mug 2" is a mug."""
    return name.rpartition(" ")[0]


def number(name: str) -> int:
    """2 for "mug 2"."""
    return int(name.rpartition(" ")[2])


def arguments(command: str) -> list[str]:
    """The names in a command, in order: "take mug 2 from desk 1" has two."""
    return _NAME.findall(command)


@dataclass
class Beliefs:
    """What the texts have shown, up to now."""

    goal: Goal
    places: tuple[str, ...]
    here: str = ""
    held: str = ""
    contents: dict[str, list[str]] = field(default_factory=dict)
    """What is known to lie where, in the game's order."""
    searched: set[str] = field(default_factory=set)
    """Places that were looked into."""
    closed: set[str] = field(default_factory=set)
    """Places that were last seen closed."""
    prepared: dict[str, set[str]] = field(default_factory=dict)
    """Verbs of :data:`PREPARE` that were done to an object and still hold."""

    @classmethod
    def begin(cls, intro: str) -> Beliefs:
        """What the welcome text tells: the places and the goal."""
        room, _, task = intro.partition("Your task is to:")
        return cls(parse_goal(task), tuple(_NAME.findall(room)))

    def learn(self, command: str, feedback: str) -> None:
        """Take in one transition, whoever chose it."""
        names = arguments(command)
        if "nothing happens" in feedback.lower() or not names:
            return
        verb, first, last = command.split()[0], names[0], names[-1]
        if verb == "go":
            self.here = first
        if verb in ("go", "open", "examine"):
            if first in self.places:
                self._look(first, feedback)
        elif verb == "close":
            self.closed.add(first)
        elif verb == "take":
            self.held = first
            self.closed.discard(last)
            self.contents[last] = [o for o in self.contents.get(last, []) if o != first]
        elif verb in ("move", "put"):
            self.held = ""
            self.closed.discard(last)
            self.contents.setdefault(last, []).append(first)
        elif verb in PREPARE:
            undone = {"heat": "cool", "cool": "heat"}.get(verb)
            self.prepared[first] = self.prepared.get(first, set()) - {undone} | {verb}

    def _look(self, place: str, feedback: str) -> None:
        shown = feedback.rpartition("you see")[2]
        if shown.rstrip(" .").endswith("closed"):
            self.closed.add(place)
            return
        self.closed.discard(place)
        self.searched.add(place)
        self.contents[place] = [name for name in _NAME.findall(shown) if name != place]
