"""Frame: the panes, the status line and looking at files; everything but asking."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping

from textual.app import App, ComposeResult, SuspendNotSupported
from textual.containers import Grid
from textual.content import Content
from textual.theme import Theme
from textual.widgets import Footer, HelpPanel, Static

from repoagent.errors import InputError
from repoagent.repo import DirectoryRepo, Repo, display
from repoagent.tui import editor, keys
from repoagent.tui.box import AnswerList, QuestionBox
from repoagent.tui.preview import Preview
from repoagent.tui.steps import StepLog
from repoagent.tui.tree import RepoTree

WIDE = 110
"""Columns from which tree, steps and preview stand side by side."""
# Okabe and Ito's palette, whose colours are told apart with every kind of colour blindness.
COLOUR_BLIND = Theme(
    name="colour-blind", primary="#56B4E9", secondary="#0072B2", accent="#E69F00", success="#009E73",
    warning="#F0E442", error="#D55E00", dark=True,
)  # fmt: skip


class Frame(App[None]):
    """The panes around one repository."""

    CSS_PATH = "explore.tcss"
    TITLE = "repoagent"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012 (as App types it)
    BINDINGS = keys.bindings()

    def __init__(self, repo: Repo, keymap: Mapping[str, str], clock: Callable[[], float]) -> None:
        super().__init__()
        self.register_theme(COLOUR_BLIND)
        self.repo = repo
        self._keys = keymap
        self._clock = clock
        self._began = 0.0
        self._doing = ""

    def compose(self) -> ComposeResult:
        yield QuestionBox(id="question")
        with Grid(id="body"):
            yield RepoTree(self.repo, id="tree")
            yield StepLog(id="steps")
            yield Preview(self.repo, id="preview")
            yield AnswerList(id="answers", markup=False)
        yield Static(id="status")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        # Kept, because a message from the walker may come when the screen is already gone.
        self.body = self.query_one("#body")
        self.line = self.query_one("#status", Static)
        self.tree_ = self.query_one(RepoTree)
        self.steps = self.query_one(StepLog)
        self.preview = self.query_one(Preview)
        self.choices = self.query_one(AnswerList)
        self.box = self.query_one(QuestionBox)
        self.box.border_title = Content(f"repoagent · {display(self.repo.name)}")
        self.steps.border_title = "Steps"
        self.choices.border_title = "Answers"
        self.tree_.border_title = "Repository"
        self.choices.display = False
        self.set_keymap(self._keys)
        self.set_interval(0.5, self._tick)
        self.box.focus()

    # -- status ----------------------------------------------------------------------------

    def status(self, text: str, kind: str = "") -> None:
        """Show one line; ``kind`` is "", "good" or "error"."""
        self._doing = ""
        self._show_status(text, kind)

    def busy(self, doing: str) -> None:
        """Show what is going on, with the seconds it takes."""
        if not self._doing:
            self._began = self._clock()
        self._doing = doing
        self._tick()

    def tell(self, text: str) -> None:
        """Say something that the status line has no place for."""
        self.notify(display(text), timeout=4, markup=False)

    def _tick(self) -> None:
        if self._doing:
            self._show_status(f"{self._doing} … {self._clock() - self._began:.0f} s", "busy")

    def _show_status(self, text: str, kind: str) -> None:
        self.line.set_classes(kind)
        self.line.update(Content(display(text)), layout=kind == "error")  # only an error may wrap

    def refresh_bindings(self) -> None:
        # When quitting, the screen goes before the last messages are handled.
        if self.screen_stack:
            super().refresh_bindings()

    # -- looking ---------------------------------------------------------------------------

    def show_file(self, path: str, span: tuple[int, int]) -> None:
        self.body.add_class("-file")
        self.preview.show(path, span)
        self.refresh_bindings()

    def action_edit(self) -> None:
        path, line = self.preview.path, self.preview.line
        if not path:
            return
        if not isinstance(self.repo, DirectoryRepo):
            self.status("This repository is an archive; unpack it to edit its files.", "error")
            return
        try:
            with self.suspend():
                editor.edit(posixpath.join(self.repo.root, path), line)
            self.preview.reload()
        except InputError as error:
            self.status(str(error), "error")
        except SuspendNotSupported:
            self.status("This terminal cannot be handed to an editor; c copies path:line.", "error")

    def action_copy(self) -> None:
        if self.preview.path:
            place = f"{self.preview.path}:{self.preview.line}"
            self.copy_to_clipboard(place)
            self.tell(f"Copied {place}")

    def action_ask(self) -> None:
        self.box.begin()

    def action_toggle_trail(self) -> None:
        self.body.toggle_class("-file")

    def action_next_pane(self) -> None:
        self.screen.focus_next()

    def action_help(self) -> None:
        if self.screen.query(HelpPanel):
            self.action_hide_help_panel()
        else:
            self.action_show_help_panel()

    def action_leave(self) -> None:
        self.exit()
