"""The dialogues: another option at a step, the file that is right, the sessions of before."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from repoagent import session as sessions
from repoagent.errors import InputError
from repoagent.repo import Repo, display
from repoagent.session import Session
from repoagent.tui.steps import option_row, place
from repoagent.walk import Decision

FOUND = 200
"""Files listed at once."""


class OptionsScreen(ModalScreen[tuple[int, int] | None]):
    """All options of a step, of which another is chosen: (step from 0, index of the option)."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Close"),
        Binding("left", "turn(-1)", "Earlier step"),
        Binding("right", "turn(1)", "Later step"),
    ]

    def __init__(self, decisions: Sequence[Decision], number: int) -> None:
        super().__init__()
        self._decisions, self._number = decisions, number
        self._order: list[int] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialogue"):
            yield OptionList(markup=False)

    def on_mount(self) -> None:
        frame = self.query_one(".dialogue")
        frame.border_subtitle = "Enter takes it · ← → other step · Esc"
        self._fill()

    def action_turn(self, by: int) -> None:
        if 0 <= self._number + by < len(self._decisions):
            self._number += by
            self._fill()

    def _fill(self) -> None:
        made = self._decisions[self._number]
        where = display(place(made.observation))
        self.query_one(".dialogue").border_title = Content(f"Step {self._number + 1}, {where}: take instead")
        chances, options = made.taken.log_probabilities, made.observation.options
        self._order = sorted(range(len(options)), key=lambda i: -chances[i])
        choices = self.query_one(OptionList)
        choices.clear_options()
        choices.add_options(
            Option(
                option_row(
                    options[i],
                    math.exp(chances[i]),
                    i == made.index,
                    i == made.proposed,
                    made.proposed is not None,
                )
            )
            for i in self._order
        )
        choices.highlighted = self._order.index(made.index)
        choices.focus()

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss((self._number, self._order[event.option_index]))


class Search(ModalScreen[str | None]):
    """Words to type and what they find; an entry is chosen by its id. Subclasses say what there is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Close"),
        Binding("down", "to(1)", show=False),
        Binding("up", "to(-1)", show=False),
    ]
    TITLE_LINE = ""
    HINT = "Type to search · Enter chooses · Esc"

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialogue"):
            yield Input(placeholder="Words that must occur")
            yield OptionList(markup=False)

    def on_mount(self) -> None:
        frame = self.query_one(".dialogue")
        frame.border_title, frame.border_subtitle = self.TITLE_LINE, self.HINT
        self.query_one(Input).focus()
        self._read()

    def read(self) -> None:
        """Read what there is; in a thread."""
        raise NotImplementedError

    def entries(self, words: str) -> Iterable[tuple[str, Content]]:
        """(id, row) of what ``words`` find."""
        raise NotImplementedError

    @work(exclusive=True)
    async def _read(self) -> None:
        await asyncio.to_thread(self.read)
        self.fill()

    @on(Input.Changed)
    def fill(self) -> None:
        """Show what is found."""
        choices = self.query_one(OptionList)
        choices.clear_options()
        choices.add_options(Option(row, id=name) for name, row in self.entries(self.query_one(Input).value))
        choices.highlighted = 0 if choices.option_count else None

    def action_to(self, by: int) -> None:
        choices = self.query_one(OptionList)
        choices.action_cursor_down() if by > 0 else choices.action_cursor_up()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.query_one(OptionList).action_select()

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)


class FileScreen(Search):
    """The file that is right, of all of the repository; those ``first`` at the top."""

    TITLE_LINE = "The answer was wrong: which file is it?"

    def __init__(self, repo: Repo, first: Sequence[str]) -> None:
        super().__init__()
        self._repo, self._paths = repo, list(first)

    def read(self) -> None:
        listed = set(self._paths)
        self._paths += [e.path for e in self._repo.files() if e.path not in listed]

    def entries(self, words: str) -> Iterable[tuple[str, Content]]:
        wanted = words.lower().split()
        found = (p for p in self._paths if all(w in p.lower() for w in wanted))
        return [(path, Content(display(path))) for path, _ in zip(found, range(FOUND), strict=False)]


class SessionsScreen(Search):
    """A session on the repository at ``where``, to go on with."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+d", "delete", "Delete", priority=True)]
    TITLE_LINE = "Sessions"
    HINT = "Type to search · Enter reopens · ^d deletes · Esc"

    def __init__(self, where: str, current: str) -> None:
        super().__init__()
        self._where, self._current = where, current
        self._sessions: list[Session] = []

    def read(self) -> None:
        found, notes = sessions.load_all()
        self._sessions = [s for s in found if s.repo == self._where and s.id != self._current]
        if notes:
            self.app.call_from_thread(self.notify, "\n".join(notes), severity="warning", markup=False)

    def entries(self, words: str) -> Iterable[tuple[str, Content]]:
        found = sessions.search(self._sessions, words)
        return [(s.id, Content(sessions.summary(s))) for s in found]

    def action_delete(self) -> None:
        """Delete the session under the cursor."""
        choices = self.query_one(OptionList)
        if choices.highlighted is None:
            return
        name = choices.get_option_at_index(choices.highlighted).id
        found = next(s for s in self._sessions if s.id == name)
        try:
            sessions.delete(found)
        except InputError as error:
            self.notify(str(error), severity="error", markup=False)
            return
        self._sessions.remove(found)
        self.fill()
