"""StepLog: what the players do, step by step, as it happens."""

from __future__ import annotations

import math
from collections.abc import Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from repoagent.environment import Observation, Option
from repoagent.repo import display

TOP = 4
"""Options drawn per step."""
BAR = 8
"""Cells of a full bar."""
INTRODUCTION = """\
Ask where something is in this repository.

A small model walks the tree: at each step it writes what it makes of the place and picks one of \
the numbered options, opening files until it names one and its lines.

While it walks, space holds it and o takes over; F1 tells the keys of each pane. Nothing is written \
into the repository, and with local models nothing leaves the machine."""
FLUSH = 0.1
"""Seconds between redraws of a reflection that streams in."""


def printable(text: str) -> str:
    """``text`` with its line breaks kept and every other control character escaped."""
    return "\n".join(display(line) for line in text.split("\n"))


def bar(share: float, cells: int = BAR) -> str:
    """A bar of ``share`` (0 to 1) in eighths of a cell, padded to ``cells``."""
    eighths = round(min(1.0, max(0.0, share)) * cells * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")).ljust(cells)


def place(observation: Observation) -> str:
    """Where a decision is due, in words."""
    if observation.options and observation.options[0].kind == "lines":
        return "which lines?"
    return f"in {display(observation.location)}/" if observation.location else "at the top"


class StepView(Vertical):
    """One step: where, the reflection, the options."""

    class Clicked(Message):
        """Step ``number`` (from 1) was clicked."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, number: int, observation: Observation) -> None:
        super().__init__()
        self.number = number
        self._observation = observation
        where = place(observation)
        self._title = Static(
            Content.assemble((f"Step {number}", "bold $primary"), ("  " + where, "$text 60%")),
            classes="title",
        )
        self._reflection = Static("", classes="reflection", markup=False)
        self._options = Static(Content(""), classes="options")
        self._pieces: list[str] = []
        self._waiting = False

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._reflection
        yield self._options

    def on_mount(self) -> None:
        self._reflection.display = self._options.display = False

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.post_message(self.Clicked(self.number))

    def add_reflection(self, piece: str) -> None:
        """One more piece; drawn with those that follow shortly."""
        self._pieces.append(piece)
        if not self._waiting:
            self._waiting = True
            self.set_timer(FLUSH, self._flush)

    def _flush(self) -> None:
        self._waiting = False
        self.set_reflection("".join(self._pieces))

    def set_reflection(self, text: str) -> None:
        """The reflection so far."""
        self._pieces = [text]
        self._reflection.display = bool(text.strip())
        self._reflection.update(Content(printable(text.strip())))

    def set_distribution(
        self, log_probabilities: Sequence[float], index: int, proposed: int | None = None
    ) -> None:
        """The most probable options; ``proposed`` is the policy's where the user took another."""
        options = self._observation.options
        marked = (index, proposed)
        order = sorted(range(len(options)), key=lambda i: (i not in marked, -log_probabilities[i]))[:TOP]
        order.sort(key=lambda i: -log_probabilities[i])
        rows = [
            option_row(
                options[i], math.exp(log_probabilities[i]), i == index, i == proposed, proposed is not None
            )
            for i in order
        ]
        left = len(options) - len(order)
        if left:
            rows.append(Content.styled(f"   … {left:,} more option{'s' * (left > 1)}", "$text 60%"))
        self._options.update(Content("\n").join(rows))
        self._options.display = True


def option_row(
    option: Option, probability: float, taken: bool, overruled: bool = False, by_hand: bool = False
) -> Content:
    """An option with its probability as a bar; signs beside colours say what was taken, and by whom."""
    style = "bold $text-success" if taken else "$text-error" if overruled else "$text"
    sign = ("◆ " if by_hand else "▸ ") if taken else "✗ " if overruled else "  "
    return Content.assemble(
        (sign, style),
        (f"{probability:4.0%} ", style),
        (bar(probability), "$text-success" if taken else "$text-primary"),
        " ",
        (display(option.text), style),
    )


class StepLog(VerticalScroll):
    """The steps of the current question, the newest kept in view."""

    HELP = """\
## Steps

What the models make of each place, and the options with their probabilities: **▸** taken by the policy,
**◆** taken by you, **✗** what the policy wanted instead.

**Space** or **p** holds the walk and lets it go on, **n** lets it do one action, **b** takes one back,
**o** or a click on a step chooses another option.
"""
    current: StepView | None = None
    _following = True

    def compose(self) -> ComposeResult:
        yield Static(Content(INTRODUCTION), classes="introduction")

    # Not Widget.anchor(): that pushes content shorter than the pane to its bottom and leaves the
    # scroll bar behind.

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        # Only going up ends it: on the way down the content may have grown meanwhile.
        self._following = self.is_vertical_scroll_end or (self._following and new_value >= old_value)

    def watch_virtual_size(self) -> None:
        self._follow()

    def on_resize(self) -> None:
        self._follow()

    def _follow(self) -> None:
        if self._following:
            self.scroll_end(animate=False)

    async def start(self, question: str) -> None:
        """Begin anew with ``question``."""
        self.current = None
        self._following = True
        await self.remove_children()
        await self.mount(Static(Content(f"“{printable(question)}”"), classes="question"))

    async def add_step(self, number: int, observation: Observation) -> None:
        """Step ``number`` has begun."""
        self.current = StepView(number, observation)
        await self.mount(self.current)
