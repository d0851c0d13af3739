"""What the game says, word for word as the real engine does with the games of release 2.1.2.

The real engine evaluates a grammar that lies in each game's file; here its sentences are pinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NOTHING_HAPPENS = "Nothing happens."
"""The answer to a command that is not admissible."""

HELP = """Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""

TOGETHER: tuple[tuple[tuple[str, ...], str], ...] = (
    (("isclean", "ishot", "issliced"), "This is a hot and clean sliced {}."),
    (("isclean", "iscool", "issliced"), "This is a cool and clean sliced {}."),
    (("isclean", "issliced"), "This is a clean sliced {}."),
    (("ishot", "issliced"), "This is a hot sliced {}."),
    (("iscool", "issliced"), "This is a cool sliced {}."),
    (("isclean", "ishot"), "This is a hot and clean {}."),
    (("isclean", "iscool"), "This is a cool and clean {}."),
    (("ishot",), "This is a hot {}."),
    (("isclean",), "This is a clean {}."),
    (("iscool",), "This is a cold {}."),
    (("toggleable", "istoggled"), "This {} is on."),
    (("sliceable", "issliced"), "This is a sliced {}."),
)
"""How a thing looks; the first line counts all of whose states hold."""


def listing(names: Iterable[str]) -> str:
    """The ``names``, each with its article: "a mug 2, a cup 1, and a cup 2"; "nothing" without any.

    >>> listing(["egg 1", "mug 1"])
    'a egg 1, and a mug 1'
    """
    return series(f"a {name}" for name in names)


def series(parts: Iterable[str]) -> str:
    """The ``parts`` separated as the game does it."""
    found = list(parts)
    if len(found) < 2:
        return found[0] if found else "nothing"
    return f"{', '.join(found[:-1])}, and {found[-1]}"


def receptacle(name: str, openable: bool, opened: bool, inside: Iterable[str]) -> str:
    """What one sees of a receptacle in front of one; ``inside`` are the names of the things in it."""
    if not openable:
        return f"On the {name}, you see {listing(inside)}."
    if not opened:
        return f"The {name} is closed."
    return f"The {name} is open. In it, you see {listing(inside)}."


def thing(name: str, states: frozenset[str] | set[str]) -> str:
    """What one sees of a thing in one's hand, by its ``states`` and affordances."""
    for wanted, sentence in TOGETHER:
        if states.issuperset(wanted):
            return sentence.format(name)
    return f"There's nothing special about {name}."


def container(name: str, inside: Sequence[str]) -> str:
    """What one sees of a thing that others can lie in."""
    return f"This is a normal {name}. In it, you see {listing(inside)}."


def around(facing: Sequence[str], beside: Sequence[str], room: Sequence[str]) -> str:
    """Looking around: the receptacles one faces and what lies beside them, or in mid-room those of the
    ``room``."""
    if facing:
        return f"You are facing the {series(facing)}. Next to it, you see {listing(beside)}."
    return f"You are in the middle of a room. Looking quickly around you, you see {listing(room)}."


def intro(view: str, sentence: str) -> str:
    """How a game begins."""
    return f"-= Welcome to TextWorld, ALFRED! =-\n\n{view}\n\nYour task is to: {sentence}."
