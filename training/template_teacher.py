"""The offline teacher of AutoExplore: reflections by template, grounded in what the state shows.

It needs no network. It is told the best option, as the paper's teacher is told when an action was a
mistake, and says which words of the question that option carries and the last opened file does not.
"""

from __future__ import annotations

import posixpath
import random
from typing import Any

from repoagent.terms import parts, root, terms


def reflection(task: dict[str, Any], decision: dict[str, Any], rng: random.Random) -> str:
    """One or two sentences on ``decision`` of a packed ``task``, naming the best option."""
    best = decision["options"][decision["best"][0]]
    kind, target = best[1], best[2]
    shared = _shared(task["question"], " ".join([target, task["texts"][best[0]]]))
    words = " and ".join(shared[:3]) or "the question"
    folder = posixpath.dirname(target) or "the root"
    name = posixpath.basename(target) or target
    history = decision["history"]
    opened = history[-1].partition(" ")[2] if history and history[-1].startswith("open ") else ""
    if kind == "identify":
        return rng.choice(
            (
                f"{name} deals with {words}: this answers the question.",
                f"The lines of {name} cover {words}, so this is the file.",
            )
        )
    if kind == "lines":
        return f"Among the blocks, the one about {words} answers it."
    away = ""
    if opened:
        shown = posixpath.basename(opened)
        away = rng.choice((f"{shown} only mentions it. ", f"Not in {shown}. "))
    if kind == "open":
        return away + rng.choice(
            (
                f"The question is about {words}; {name} in {folder} looks right.",
                f"Look for {words}: open {name}.",
                f"{name} mentions {words}, so read it first.",
            )
        )
    return away + f"The question is about {words}; go to {posixpath.basename(target) or 'the parent'}."


def _shared(question: str, text: str) -> list[str]:
    seen = {root(p) for p in parts(text)}
    return [t.word for t in terms(question) if root(t.word) in seen]
