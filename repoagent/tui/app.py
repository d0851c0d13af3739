"""ExploreApp: the interface around a Walker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from textual import on, work
from textual.app import SystemCommand
from textual.markup import escape
from textual.screen import Screen
from textual.widgets import Input, OptionList, Tree

from repoagent import session as sessions
from repoagent.answer import Answer
from repoagent.environment import Option
from repoagent.episode import Acted, Decided, Observed, Reflected, ReflectionToken
from repoagent.errors import InputError
from repoagent.explore import ExploreConfig
from repoagent.repo import Repo, display
from repoagent.session import Session
from repoagent.tui import keys
from repoagent.tui.box import lines
from repoagent.tui.frame import WIDE, Frame
from repoagent.tui.screens import FileScreen, OptionsScreen, SessionsScreen
from repoagent.tui.sitting import Sitting
from repoagent.tui.steps import StepView
from repoagent.tui.tree import Place
from repoagent.tui.walker import Answered, Corrected, Failed, Happened, Keep, Loaded, Players, Walker
from repoagent.walk import Held, Start


class ExploreApp(Frame):
    """Ask questions about one repository and watch them being answered."""

    def __init__(
        self,
        repo: Repo,
        players: Players,
        config: ExploreConfig | None = None,
        *,
        keep: Keep | None = None,
        saved: Session | None = None,
        keymap: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(repo, keymap or {}, clock)
        self.keep = keep or Keep()
        self.walker = Walker(self.post_message, repo, players, config or ExploreConfig(), self.keep)
        self.sitting = Sitting(self.keep.where, self.keep.sessions, self._not_written)
        self.answers: list[Answer] = []
        self._saved = saved
        self._names = ("", "")
        self._question = ""
        self._asked_at = 0.0
        self._choose_when_held = False

    async def on_ready(self) -> None:
        self.busy("Loading the models")
        self.walker.load()
        if self._saved is not None:
            await self._reopen(self._saved)
        if self.keep.sessions:
            self._recall()

    @work
    async def _recall(self) -> None:
        """Have the questions of earlier sittings on the arrow keys."""
        found, _ = await asyncio.to_thread(sessions.load_all)
        here = [s for s in reversed(found) if s.repo == self.keep.where]
        self.box.remember_earlier([asked.question for session in here for asked in session.asked])

    def _not_written(self, reason: str) -> None:
        self.call_from_thread(self.notify, reason, severity="error", markup=False)

    # -- asking ----------------------------------------------------------------------------

    @on(Input.Submitted, "#question")
    async def _submitted(self, event: Input.Submitted) -> None:
        typed = event.value.strip()
        question = typed.removeprefix("+").strip()
        if not question:
            return
        context = self.sitting.context() if typed.startswith("+") else ""
        self.box.remember(typed)
        self.sitting.asking()
        await self._restart(question)
        self.walker.ask(question, context)
        self.steps.focus()  # where the keys hold the walk and lead it
        self.refresh_bindings()

    async def _restart(self, question: str) -> None:
        """Clear the panes for a walk on ``question``."""
        self.walker.cancel()
        self._question = question
        self._choose_when_held = False
        self.answers = []
        self.choices.show([])
        self.preview.clear()
        self.body.remove_class("-file")
        self.tree_.start_walk()
        await self.steps.start(question)
        self.status("")
        self.busy("Reading the repository" if self._names[0] else "Loading the models")
        self._asked_at = self._clock()

    async def _again(self, start: Start) -> None:
        """Walk anew on the question shown, from ``start``."""
        await self._restart(self._question)
        self.walker.again(start)
        self.steps.focus()
        self.refresh_bindings()

    def _is_current(self, run: int) -> bool:
        # When quitting, the screen goes before the last messages of the walker are handled.
        return run == self.walker.run and bool(self.screen_stack)

    @on(Loaded)
    def _loaded(self, event: Loaded) -> None:
        self._names = event.policy, event.reflector
        if self.walker.asking:
            self.busy("Reading the repository")
        elif self.sitting.current is None:
            self.status(f"Ready · {self._models(*self._names)}")

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
        if not self._is_current(event.run) or self.walker.walk is None:
            return
        walk, step = self.walker.walk, self.steps.current
        match event.event:
            case Observed(number, observation):
                await self.steps.add_step(number + 1, observation)
                self.tree_.show_here(observation.location)
                self.busy(f"Step {number + 1}: reflecting")
            case ReflectionToken(text) if step is not None:
                step.add_reflection(text)
            case Reflected(text) if step is not None:
                step.set_reflection(text)
                self.busy(self._doing.replace("reflecting", "choosing"))
            case Decided(log_probabilities, index) if step is not None:
                step.set_distribution(log_probabilities, index, walk.decisions[step.number - 1].proposed)
            case Held():
                what = walk.decisions[-1].taken.option.text
                self.status(f"Held at step {len(walk.decisions)}: {what}")
                self.refresh_bindings()
                if self._choose_when_held:
                    self._choose(len(walk.decisions) - 1)
            case Acted(option, _):
                self._light(option)
                self.refresh_bindings()

    def _light(self, option: Option) -> None:
        if option.kind == "open":
            self.tree_.show_opened(option.target)
            self.preview.show(option.target)
        elif option.kind == "identify":
            self.tree_.show_answer(option.target)

    @on(Answered)
    def _answered(self, event: Answered) -> None:
        if not self._is_current(event.run) or self.walker.walk is None:
            return
        seconds = self._clock() - self._asked_at
        self.walker.asking = False
        self.sitting.answered(
            self._question, self.walker.walk, event.answers, event.identified, seconds, self._names
        )
        self._show_answers(event.answers, event.steps, event.identified, seconds, self._names)
        if self._choose_when_held:  # the last action was under way already
            self._choose(len(self.walker.walk.decisions) - 1)

    def _show_answers(
        self, answers: Sequence[Answer], steps: int, identified: bool, seconds: float, names: tuple[str, str]
    ) -> None:
        self.tree_.stop_walk()
        self.answers = list(answers)
        self.choices.show(self.answers)
        self.refresh_bindings()
        if not self.answers:
            self.status("No answer: there is no file to be seen in this repository.", "error")
            return
        best = self.answers[0]
        self.choices.highlighted = 0
        self.tree_.show_answer(best.path)
        took, models = f"{steps} step{'s' * (steps != 1)}", self._models(*names)
        if identified:
            self.status(f"{best.path}{lines(best)} · {took}, {seconds:.1f} s · {models}", "good")
        else:
            self.status(f"No file named within {took}; these came closest · {models}", "error")
        if self.steps.has_focus:
            self.choices.focus()  # unless the user has gone elsewhere, such as to the next question

    @staticmethod
    def _models(policy: str, reflector: str) -> str:
        return f"{policy} policy · " + (
            "no reflections" if reflector == "none" else f"{reflector} reflections"
        )

    # -- leading the walk ------------------------------------------------------------------

    def action_cancel(self) -> None:
        self.walker.cancel()
        self.tree_.stop_walk()
        self.status("Cancelled.")
        self.refresh_bindings()
        self.box.focus()

    def action_pause(self) -> None:
        walk = self.walker.walk
        if walk is None or not self.walker.asking:
            return
        if walk.held:
            self.busy(f"Step {len(walk.decisions)}: going on")
            walk.go_on()
        else:
            walk.hold()
            self.busy(f"Step {len(walk.decisions) + 1}: to be held")
        self.refresh_bindings()

    def action_step(self) -> None:
        if self.walker.asking and self.walker.walk is not None and self.walker.walk.waiting:
            self.busy(f"Step {len(self.walker.walk.decisions)}: going on")
            self.walker.walk.step()

    async def action_back(self) -> None:
        walk = self.walker.walk
        if walk is not None and walk.decisions:
            await self._again(walk.back(max(0, len(walk.decisions) - 1 - walk.waiting)))

    def action_take_over(self) -> None:
        walk = self.walker.walk
        if walk is None:
            return
        if self.walker.asking and not walk.waiting:
            self._choose_when_held = True
            walk.hold()
        elif walk.decisions:
            self._choose(len(walk.decisions) - 1)

    @on(StepView.Clicked)
    def _step_clicked(self, event: StepView.Clicked) -> None:
        walk = self.walker.walk
        if (
            walk is not None
            and (walk.waiting or not self.walker.asking)
            and event.number <= len(walk.decisions)
        ):
            self._choose(event.number - 1)

    def _choose(self, number: int) -> None:
        self._choose_when_held = False
        walk = self.walker.walk
        assert walk is not None

        async def take(chosen: tuple[int, int] | None) -> None:
            if chosen is not None and walk is self.walker.walk:
                await self._again(walk.instead(*chosen))

        self.push_screen(OptionsScreen(walk.decisions, number), take)

    def action_wrong(self) -> None:
        if not self.answers or self.walker.asking:
            return
        if not self.keep.corrections:
            self.tell("Corrections are off; `repoagent config set corrections true` has them stored.")
            return
        answer = self.answers[0].path
        first = dict.fromkeys([self.preview.path, *(a.path for a in self.answers)])
        paths = [path for path in first if path and path != answer]

        def correct(path: str | None) -> None:
            if path is not None:
                self.walker.correct(path)

        self.push_screen(FileScreen(self.repo, paths), correct)

    @on(Corrected)
    def _corrected(self, event: Corrected) -> None:
        if not self._is_current(event.run):
            return
        if event.path:
            self.sitting.corrected(event.path)
            self.tree_.show_answer(event.path)
        what = f"It is {event.path}" if event.path else "Your choice"
        self.tell(f"{what}: stored as a correction ({event.states} states).")

    # -- sessions --------------------------------------------------------------------------

    def action_follow_up(self) -> None:
        self.box.begin("+ ")

    def action_sessions(self) -> None:
        async def reopen(name: str | None) -> None:
            if name is not None:
                try:
                    session = await asyncio.to_thread(sessions.load, name)
                except InputError as error:
                    self.status(str(error), "error")
                else:
                    await self._reopen(session)

        self.push_screen(SessionsScreen(self.keep.where, self.sitting.session.id), reopen)

    async def _reopen(self, session: Session) -> None:
        self.sitting.reopen(session)
        for asked in session.asked:
            self.box.remember(asked.question)
        await self._show_asked()

    async def _show_asked(self) -> None:
        """Show the question of the session that is to be shown, as if it had just been answered."""
        asked = self.sitting.current
        if asked is None:
            return
        await self._restart(asked.question)
        made = sessions.decisions(asked)
        self.walker.adopt(asked.task, made)
        for number, decision in enumerate(made, 1):
            await self.steps.add_step(number, decision.observation)
            step = self.steps.current
            assert step is not None
            step.set_reflection(decision.taken.reflection)
            step.set_distribution(decision.taken.log_probabilities, decision.index, decision.proposed)
            self._light(decision.taken.option)
        names = asked.policy, asked.reflector
        self._show_answers(asked.answers, len(made), asked.identified, asked.seconds, names)
        self.choices.focus()
        if asked.corrected:
            self.tree_.show_answer(asked.corrected)

    async def action_earlier(self) -> None:
        if self.sitting.move(-1) is not None:
            await self._show_asked()

    async def action_later(self) -> None:
        if self.sitting.move(1) is not None:
            await self._show_asked()

    def action_export(self) -> None:
        try:
            page = self.sitting.export()
        except InputError as error:
            self.status(str(error), "error")
        else:
            self.tell(f"Written: {page} and .json beside it.")

    # -- looking ---------------------------------------------------------------------------

    @on(OptionList.OptionHighlighted, "#answers")
    @on(OptionList.OptionSelected, "#answers")
    def _answer_shown(self, event: OptionList.OptionMessage) -> None:
        if event.option_index < len(self.answers):
            self._show_answer(event.option_index)

    def _show_answer(self, index: int) -> None:
        answer = self.answers[index]
        self.show_file(answer.path, (answer.start_line, answer.end_line))
        self.tree_.point_at(answer.path)

    @on(Tree.NodeSelected)
    def _file_selected(self, event: Tree.NodeSelected[Place]) -> None:
        place = event.node.data
        if place is not None and place.kind == "file":
            span = next(((a.start_line, a.end_line) for a in self.answers if a.path == place.path), (0, 0))
            self.show_file(place.path, span)

    def action_pick(self, index: int) -> None:
        if index < len(self.answers):
            self.choices.focus()
            if self.choices.highlighted == index:  # another file may be in the preview
                self._show_answer(index)
            self.choices.highlighted = index

    # -- what can be done now --------------------------------------------------------------

    def can(self, action: str) -> bool:
        """Whether ``action`` would do something now."""
        walk, asking = self.walker.walk, self.walker.asking
        match action:
            case "cancel" | "pause":
                return asking
            case "step":
                return asking and walk is not None and walk.waiting
            case "back":
                return walk is not None and bool(walk.decisions)
            case "take_over":
                return walk is not None and bool(walk.decisions or asking)
            case "wrong":
                return bool(self.answers) and not asking
            case "sessions":
                return not asking
            case "pick":
                return bool(self.answers)
            case "edit" | "copy":
                return bool(self.preview.path)
            case "follow_up":
                return bool(self.sitting.context())
            case "earlier":
                return self.sitting.shown > 0
            case "later":
                return self.sitting.shown + 1 < len(self.sitting.session.asked)
            case "export":
                return bool(self.sitting.session.asked)
            case "toggle_trail":
                return self.size.width < WIDE
        return True

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that do nothing now are left out of the footer, and letters while they are typed."""
        command = keys.BY_NAME.get(action)
        if (action == "pick" or (command and not command.everywhere)) and self.focused is self.box:
            return False
        return self.can(action)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The command palette: every action that does something now."""
        for command in keys.COMMANDS:
            if command.name not in ("leave", "next_pane") and self.can(command.name):
                key = self._keys.get(command.name) or command.display or command.keys
                act = getattr(self, f"action_{command.name}")
                yield SystemCommand(command.label, f"{command.does} ({key})", act)
        for index, answer in enumerate(self.answers):
            path = escape(display(answer.path))  # the palette reads markup, which can carry actions
            yield SystemCommand(f"Answer {index + 1}", path, partial(self.action_pick, index))
        yield SystemCommand("Theme", "Change the colours", self.action_change_theme)
