"""Reflections that a large language model wrote on states of the training games: ``written.json``.

It saw each state as a player does, the best command and the mistake just made, and wrote what leads to the
command; other states have the template teacher's (:mod:`benchmarks.alfworld.reflection`). A state is
named by a digest, so that nothing of the games stands in the file.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from training.states import observation_to

if TYPE_CHECKING:
    from training.states import State

PATH = Path(__file__).with_name("written.json")


@cache
def written() -> dict[str, str]:
    """The reflections by :func:`digest`."""
    found: dict[str, str] = json.loads(PATH.read_text(encoding="utf-8"))["reflections"]
    return found


def digest(state: State) -> str:
    """Names a state by what the player sees and the mistake that led there."""
    shown = json.dumps([observation_to(state.observation), state.mistake], sort_keys=True)
    return hashlib.sha256(shown.encode()).hexdigest()[:32]
