"""Observation -> the text that a language model reads, within a budget of tokens.

The question comes first and the options last. When the budget is short the history goes first
(oldest action first), then the last result, then reflection and location; never the question and
never an option: options that do not fit into one prompt are split into pages, one prompt each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from repoagent.environment import Observation
from repoagent.errors import ModelError

PROMPT_FORMAT = 1
"""Checkpoints record it; raised whenever the text below changes, for what was trained on it."""

CHOICE = "Choice:"
"""Ends a numbered prompt; the label follows."""

REFLECTION_OPTIONS = 12
OPTION_CHARACTERS = 160
CUT = "…"

Count = Callable[[str], int]
"""Number of tokens of a text, special tokens not counted."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One page of a decision.

    ``options`` are rendered lines, ``indices[i]`` is the number (0-based) of ``options[i]`` in the
    observation and ``labels[i]`` what the model answers to choose it (empty: not numbered).
    """

    state: str
    options: tuple[str, ...]
    indices: tuple[int, ...]
    labels: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.state + "".join(self.options) + (CHOICE if self.labels else "")


def policy_prompt(
    observation: Observation,
    reflection: str = "",
    *,
    count: Count,
    budget: int,
    options: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    numbered: bool = True,
) -> list[Prompt]:
    """The prompts for one decision, each of at most ``budget`` tokens, all with the same state.

    Every option (or every one of ``options``, given by index) is on exactly one page, whole.
    ``labels`` replace the numbers from 1 and limit how many options a page holds. With
    ``numbered=False`` options carry no label, so that their text does not depend on their order.
    Raises :class:`ModelError` if the question with a single option exceeds the budget.
    """
    indices = tuple(range(len(observation.options)) if options is None else options)
    if not indices:
        raise ValueError("a policy prompt needs at least one option")
    allowance = budget
    while True:
        pages = _pages(observation, reflection, indices, labels, numbered, count, allowance)
        # Counts of parts do not add up exactly for every tokenizer: measure, and pack tighter.
        over = max(count(page.text) for page in pages) - budget
        if over <= 0:
            return pages
        allowance -= over


def reflection_prompt(observation: Observation, *, count: Count, budget: int) -> str:
    """What the reflector continues: the observation with at most its first twelve options."""
    question = _question(observation)
    texts = [_cut_characters(_line(o.text)) for o in islice(observation.options, REFLECTION_OPTIONS)]
    allowance = budget
    while True:
        shown = list(texts)
        while True:
            left = len(observation.options) - len(shown)
            more = [f"- and {left} more\n"] if left and shown else []
            ending = "".join(["Options:\n", *(f"- {t}\n" for t in shown), *more] if shown else [])
            ending += "Reflection:"
            room = allowance - count(question) - count(ending)
            if room >= 0 or not shown:
                break
            shown.pop()
        if room < 0:
            raise _too_long("the question", observation.task, budget)
        prompt = question + _context(observation, "", count, room) + ending
        over = count(prompt) - budget
        if over <= 0:
            return prompt
        allowance -= over


def _pages(
    observation: Observation,
    reflection: str,
    indices: tuple[int, ...],
    labels: Sequence[str] | None,
    numbered: bool,
    count: Count,
    budget: int,
) -> list[Prompt]:
    question = _question(observation)
    fixed = count(question) + count("Options:\n") + (count(CHOICE) if numbered else 0)
    lines = [_line(observation.options[i].text) + "\n" for i in indices]
    # A label is counted apart, at its widest: which one an option gets depends on the paging.
    label = 0
    if not numbered:
        lines = ["- " + line for line in lines]
    else:
        names = [str(i + 1) for i in range(len(indices))] if labels is None else labels
        label = max(count(f"{name}. ") for name in names[-9:])
    costs = [label + count(line) for line in lines]
    limit = len(labels) if labels is not None else len(indices)

    longest = max(range(len(costs)), key=costs.__getitem__)
    if costs[longest] > budget - fixed:
        raise _too_long("the question with the option", lines[longest].strip(), budget)
    groups = _fill(costs, budget - fixed, limit)
    if len(groups) > 1:
        # Pages are needed anyway: leave a quarter of each to the state, and fill them evenly.
        context = count(_context(observation, reflection, count, budget // 4))
        space = max(budget - fixed - context, costs[longest])
        groups = _even(costs, space, limit, len(_fill(costs, space, limit)))
    room = budget - fixed - max(sum(costs[i] for i in group) for group in groups)
    state = question + _context(observation, reflection, count, room) + "Options:\n"

    pages = []
    for group in groups:
        names = () if not numbered else tuple(
            str(n + 1) if labels is None else labels[n] for n in range(len(group))
        )  # fmt: skip
        shown = [f"{n}. {lines[i]}" for n, i in zip(names, group, strict=True)] if names else [
            lines[i] for i in group
        ]  # fmt: skip
        pages.append(Prompt(state, tuple(shown), tuple(indices[i] for i in group), names))
    return pages


def _fill(costs: Sequence[int], room: int, limit: int) -> list[range]:
    """Consecutive groups whose costs fit into ``room``, each of at most ``limit`` members."""
    groups, start, used = [], 0, 0
    for i, cost in enumerate(costs):
        if i > start and (used + cost > room or i - start >= limit):
            groups.append(range(start, i))
            start, used = i, 0
        used += cost
    return [*groups, range(start, len(costs))]


def _even(costs: Sequence[int], room: int, limit: int, pages: int) -> list[range]:
    """The groups of :func:`_fill` for the smallest room that needs no more than ``pages``."""
    low, high = max(max(costs), -(-sum(costs) // pages)), room
    while low < high:
        middle = (low + high) // 2
        if len(_fill(costs, middle, limit)) <= pages:
            high = middle
        else:
            low = middle + 1
    return _fill(costs, high, limit)


def _question(observation: Observation) -> str:
    return f"Question: {_line(observation.task)}\n"


def _context(observation: Observation, reflection: str, count: Count, room: int) -> str:
    """Location, history, last result and reflection, what matters less cut first."""
    location = f"Location: {_line(observation.location) or '.'}\n"
    location = _shorten(location, count, room)
    room -= count(location)
    thought = _clean(reflection).strip()
    thought = _shorten(f"Reflection: {thought}\n", count, room) if thought else ""
    room -= count(thought)
    result = _clean(observation.last_result).strip()
    result = _shorten(f"Last result: {result}\n", count, room) if result else ""
    room -= count(result)
    history = ""
    if observation.history:
        actions: list[str] = []
        for action in reversed(observation.history):
            older = "" if len(actions) + 1 == len(observation.history) else f"{CUT}; "
            longer = "; ".join([_line(action), *reversed(actions)])
            if count(f"History: {older}{longer}\n") > room:
                break
            actions.append(_line(action))
            history = f"History: {older}{longer}\n"
    return location + history + result + thought


def _shorten(text: str, count: Count, room: int) -> str:
    """The beginning of ``text`` that fits into ``room`` tokens, marked as cut; "" if too little."""
    if count(text) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[:middle] + CUT + "\n") <= room:
            low = middle
        else:
            high = middle - 1
    # A field's name with next to nothing behind it is worth no tokens.
    kept = text[:low].rstrip()
    return f"{kept}{CUT}\n" if low >= 24 and count(f"{kept}{CUT}\n") <= room else ""


def _line(text: str) -> str:
    return " ".join(_clean(text).split())


def _clean(text: str) -> str:
    """``text`` without lone surrogates (undecodable file names), which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _cut_characters(text: str) -> str:
    return text if len(text) <= OPTION_CHARACTERS else text[:OPTION_CHARACTERS] + CUT


def _too_long(what: str, text: str, budget: int) -> ModelError:
    head = _line(text)[:60]
    return ModelError(
        f"{what} '{head}' does not fit into the model's {budget} tokens: "
        "ask a shorter question or use a model with a longer window"
    )
