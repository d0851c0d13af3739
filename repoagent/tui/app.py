"""ExploreApp: the interface around a Walker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid
from textual.content import Content
from textual.widgets import Footer, Input, OptionList, Static, Tree
from textual.widgets.option_list import Option

from repoagent.answer import Answer
from repoagent.episode import Acted, Decided, Observed, Reflected, ReflectionToken
from repoagent.explore import ExploreConfig
from repoagent.repo import Repo, display
from repoagent.tui.preview import Preview
from repoagent.tui.steps import StepLog, bar
from repoagent.tui.tree import Place, RepoTree
from repoagent.tui.walker import Answered, Failed, Happened, Loaded, Players, Walker

WIDE = 110
"""Columns from which tree, steps and preview stand side by side."""


class QuestionBox(Input):
    """The question, with the earlier ones of the sitting on the arrow keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "recall(-1)", "Earlier question", show=False),
        Binding("down", "recall(1)", "Later question", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(placeholder="Where is … ?  Ask and press Enter.", id=id)
        self._asked: list[str] = []
        self._recalled = 0

    def validate_value(self, value: str) -> str:
        """Nothing pasted may reach the terminal as a control sequence."""
        return "".join(c if c.isprintable() else " " for c in value)

    def remember(self, question: str) -> None:
        """``question`` has been asked."""
        if question in self._asked:
            self._asked.remove(question)
        self._asked.append(question)
        self._recalled = len(self._asked)

    def action_recall(self, step: int) -> None:
        self._recalled = min(max(0, self._recalled + step), len(self._asked))
        self.value = [*self._asked, ""][self._recalled]
        self.cursor_position = len(self.value)


class ExploreApp(App[None]):
    """Ask questions about one repository and watch them being answered."""

    CSS_PATH = "explore.tcss"
    TITLE = "repoagent"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012 (as App types it)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel"),
        Binding("slash", "ask", "Ask", key_display="/"),
        Binding("1", "pick(0)", "Runners-up", key_display="1-9"),
        *(Binding(str(n), f"pick({n - 1})", show=False) for n in range(2, 10)),
        Binding("t", "toggle_trail", "Steps/file"),
        Binding("tab", "focus_next", "Next pane", priority=True, key_display="Tab"),
        Binding("q", "quit", show=False),
        Binding("ctrl+q", "quit", "Quit", priority=True, key_display="^q"),
    ]

    def __init__(
        self,
        repo: Repo,
        players: Players,
        config: ExploreConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.repo = repo
        self.walker = Walker(self.post_message, repo, players, config or ExploreConfig())
        self.answers: list[Answer] = []
        self._names = ""
        self._question = ""
        self._clock = clock
        self._began = 0.0
        self._doing = ""

    def compose(self) -> ComposeResult:
        yield QuestionBox(id="question")
        with Grid(id="body"):
            yield RepoTree(self.repo, id="tree")
            yield StepLog(id="steps")
            yield Preview(self.repo, id="preview")
            yield OptionList(id="answers", markup=False)
        yield Static(id="status")
        yield Footer()

    def on_mount(self) -> None:
        # Kept, because a message from the walker may come when the screen is already gone.
        self.body = self.query_one("#body")
        self.line = self.query_one("#status", Static)
        self.tree_ = self.query_one(RepoTree)
        self.steps = self.query_one(StepLog)
        self.preview = self.query_one(Preview)
        self.choices = self.query_one(OptionList)
        self.box = self.query_one(QuestionBox)
        self.box.border_title = Content(f"repoagent · {display(self.repo.name)}")
        self.steps.border_title = "Steps"
        self.choices.border_title = "Answers"
        self.tree_.border_title = "Repository"
        self.choices.display = False
        self.set_interval(0.5, self._tick)
        self.busy("Loading the models")
        self.walker.load()
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

    def _tick(self) -> None:
        if self._doing:
            self._show_status(f"{self._doing} … {self._clock() - self._began:.0f} s", "busy")

    def _show_status(self, text: str, kind: str) -> None:
        self.line.set_classes(kind)
        self.line.update(Content(display(text)), layout=kind == "error")  # only an error may wrap

    # -- asking ----------------------------------------------------------------------------

    @on(Input.Submitted)
    async def _submitted(self, event: Input.Submitted) -> None:
        question = event.value.strip()
        if not question:
            return
        self._question = question
        self.box.remember(question)
        self.answers = []
        self.choices.display = False
        self.choices.clear_options()
        self.preview.clear()
        self.body.remove_class("-file")
        self.tree_.start_walk()
        await self.steps.start(question)
        self.status("")
        self.busy("Reading the repository" if self._names else "Loading the models")
        self.walker.ask(question)
        self.refresh_bindings()

    def action_cancel(self) -> None:
        self.walker.cancel()
        self.tree_.stop_walk()
        self.status("Cancelled.")
        self.refresh_bindings()
        self.box.focus()

    def _is_current(self, run: int) -> bool:
        # When quitting, the screen goes before the last messages of the walker are handled.
        return run == self.walker.run and bool(self.screen_stack)

    @on(Loaded)
    def _loaded(self, event: Loaded) -> None:
        self._names = f"{event.policy} policy · " + (
            "no reflections" if event.reflector == "none" else f"{event.reflector} reflections"
        )
        if self.walker.asking:
            self.busy("Reading the repository")
        else:
            self.status(f"Ready · {self._names}")

    @on(Failed)
    def _failed(self, event: Failed) -> None:
        if not self.screen_stack or (event.run is None and self.walker.asking):
            return  # the question that waits for the models fails with the same line
        if event.run is None or self._is_current(event.run):
            self.walker.cancel()
            self.tree_.stop_walk()
            self.status(event.reason, "error")
            self.refresh_bindings()

    @on(Happened)
    async def _happened(self, event: Happened) -> None:
        if not self._is_current(event.run):
            return
        match event.event:
            case Observed(step, observation):
                await self.steps.add_step(step + 1, observation)
                self.tree_.show_here(observation.location)
                self.busy(f"Step {step + 1}: reflecting")
            case ReflectionToken(text) if self.steps.current is not None:
                self.steps.current.add_reflection(text)
            case Reflected(text) if self.steps.current is not None:
                self.steps.current.set_reflection(text)
                self.busy(self._doing.replace("reflecting", "choosing"))
            case Decided(log_probabilities, index) if self.steps.current is not None:
                self.steps.current.set_distribution(log_probabilities, index)
            case Acted(option, _) if option.kind == "open":
                self.tree_.show_opened(option.target)
                self.preview.show(option.target)
            case Acted(option, _) if option.kind == "identify":
                self.tree_.show_answer(option.target)

    @on(Answered)
    def _answered(self, event: Answered) -> None:
        if not self._is_current(event.run):
            return
        seconds = self._clock() - self._began
        self.walker.asking = False
        self.refresh_bindings()
        self.tree_.stop_walk()
        self.answers = event.answers
        if not event.answers:
            self.status("No answer: there is no file to be seen in this repository.", "error")
            return
        self.choices.add_options([Option(_answer_row(n, a)) for n, a in enumerate(event.answers, 1)])
        self.choices.display = True
        self.choices.highlighted = 0
        self.tree_.show_answer(event.answers[0].path)
        steps = f"{event.steps} step{'s' * (event.steps != 1)}"
        if event.identified:
            best = event.answers[0]
            lines = f":{best.start_line}-{best.end_line}" if best.start_line else ""
            self.status(f"{best.path}{lines} · {steps}, {seconds:.1f} s · {self._names}", "good")
        else:
            self.status(f"No file named within {steps}; these came closest · {self._names}", "error")
        if self.box.has_focus and self.box.value.strip() == self._question:
            self.choices.focus()  # unless the next question is being typed

    # -- looking ---------------------------------------------------------------------------

    @on(OptionList.OptionHighlighted)
    @on(OptionList.OptionSelected)
    def _answer_shown(self, event: OptionList.OptionMessage) -> None:
        if event.option_index < len(self.answers):
            answer = self.answers[event.option_index]
            self._show_file(answer.path, (answer.start_line, answer.end_line))
            self.tree_.point_at(answer.path)

    @on(Tree.NodeSelected)
    def _file_selected(self, event: Tree.NodeSelected[Place]) -> None:
        place = event.node.data
        if place is not None and place.kind == "file":
            span = next(((a.start_line, a.end_line) for a in self.answers if a.path == place.path), (0, 0))
            self._show_file(place.path, span)

    def _show_file(self, path: str, span: tuple[int, int]) -> None:
        self.body.add_class("-file")
        self.preview.show(path, span)

    def action_pick(self, index: int) -> None:
        if index < len(self.answers):
            self.choices.focus()
            if self.choices.highlighted == index:  # another file may be in the preview
                self._show_file(
                    self.answers[index].path,
                    (self.answers[index].start_line, self.answers[index].end_line),
                )
            self.choices.highlighted = index

    def action_ask(self) -> None:
        self.box.focus()

    def action_toggle_trail(self) -> None:
        self.body.toggle_class("-file")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that do nothing now are left out of the footer."""
        if action == "cancel":
            return self.walker.asking
        if action == "ask":
            return not self.box.has_focus
        if action == "pick":
            return bool(self.answers)
        if action == "toggle_trail":
            return self.size.width < WIDE
        return True


def _answer_row(number: int, answer: Answer) -> Content:
    directory, _, name = display(answer.path).rpartition("/")
    lines = f":{answer.start_line}-{answer.end_line}" if answer.start_line else ""
    return Content.assemble(
        (f"{number} ", "$text 60%"),
        (bar(answer.score, 4), "$text-primary"),
        (f"{answer.score:4.0%} ", "$text 60%"),
        (name, "bold"),
        lines,
        (f"  {directory}/" if directory else "", "$text 60%"),
    )
