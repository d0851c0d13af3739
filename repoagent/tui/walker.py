"""Walker: loads the players and walks, each in a thread of its own.

A thread cannot be interrupted, so a cancelled question is abandoned: its thread sees the flag
at its next event and ends, and nothing that it posts in between is delivered.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from textual.message import Message

from repoagent import context as contexts
from repoagent import corrections
from repoagent.answer import Answer, answers
from repoagent.episode import Event, Finished
from repoagent.errors import RepoagentError
from repoagent.explore import ExploreConfig, RepoEnvironment, Task
from repoagent.players import Policy, Reflector
from repoagent.repo import Repo, display
from repoagent.session import now
from repoagent.walk import Decision, Held, Start, Walk

Pair = tuple[Policy, Reflector]
Players = Callable[[], Pair]
"""Loads both players; called in a thread."""

TOP = 9
"""Answers shown: one per digit key."""
PATIENCE = 10.0
"""Seconds that a question waits for an abandoned one to leave the model free."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept of the repository at ``where`` (an absolute path): sessions, corrections."""

    where: str = ""
    sessions: bool = False
    corrections: bool = False


class Loaded(Message):
    """The players are ready."""

    def __init__(self, policy: str, reflector: str) -> None:
        super().__init__()
        self.policy, self.reflector = policy, reflector


class Happened(Message):
    """An event of the walk ``run``."""

    def __init__(self, run: int, event: Event | Held) -> None:
        super().__init__()
        self.run, self.event = run, event


class Answered(Message):
    """The walk ``run`` is over; ``identified`` if a file was named before the steps ran out."""

    def __init__(self, run: int, answers: list[Answer], steps: int, identified: bool) -> None:
        super().__init__()
        self.run, self.answers, self.steps, self.identified = run, answers, steps, identified


class Corrected(Message):
    """Corrections were stored; ``path`` is the file that is right, where that is what was said."""

    def __init__(self, run: int, states: int, path: str = "") -> None:
        super().__init__()
        self.run, self.states, self.path = run, states, path


class Failed(Message):
    """The players did not load (``run`` None) or the walk ``run`` broke, with a line why."""

    def __init__(self, run: int | None, reason: str) -> None:
        super().__init__()
        self.run, self.reason = run, reason


class Walker:
    """Answers one question at a time; ``post`` is called from threads."""

    def __init__(
        self,
        post: Callable[[Message], object],
        repo: Repo,
        players: Players,
        config: ExploreConfig,
        keep: Keep | None = None,
    ) -> None:
        self._post_message = post
        self._repo, self._load_players, self._config = repo, players, config
        self._keep = keep or Keep()
        self._loading: Future[Pair] | None = None
        self._thread: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        self._environment = RepoEnvironment(repo, config)
        self._stored: set[tuple[object, ...]] = set()
        self.walk: Walk | None = None
        """The walk of the current question, also when it is over."""
        self.run = 0
        """Number of the current walk; what others post is stale."""
        self.asking = False

    # -- told by the interface -----------------------------------------------------------------

    def load(self) -> Future[Pair]:
        """Load the players, again if it failed before."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = Future()
            self._start(self._load, self._loading)
        return self._loading

    def ask(self, question: str, context: str = "") -> int:
        """Start on ``question``, dropping the one before; returns the number of the walk."""
        return self._walk(Walk(Task(question)), context)

    def again(self, start: Start) -> int:
        """Walk anew on the current question, from ``start``."""
        assert self.walk is not None
        return self._walk(Walk(self.walk.task, start))

    def adopt(self, task: Task, decisions: Sequence[Decision]) -> None:
        """Take a walk of an earlier sitting for the current one, as if it had just ended."""
        self.cancel()
        self.walk = Walk(task)
        self.walk.decisions.extend(decisions)
        self._new_take_overs(self.walk)  # they were stored then

    def cancel(self) -> None:
        """Abandon the current walk."""
        if self.walk is not None:
            self.walk.call_off()
        self.run += 1
        self.asking = False

    def correct(self, path: str) -> None:
        """Store that the file at ``path`` is the answer to the current question."""
        assert self.walk is not None
        self._thread = self._start(self._correct, self.run, self.walk, path, self._thread)

    @property
    def busy(self) -> bool:
        """Whether any thread still runs, abandoned ones too."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def exit_code(self) -> int:
        """0, or that of the error if the players failed to load."""
        error = self._loading.exception() if self._loading and self._loading.done() else None
        return error.exit_code if isinstance(error, RepoagentError) else int(error is not None)

    # -- in threads ----------------------------------------------------------------------------

    def _walk(self, walk: Walk, context: str = "") -> int:
        self.cancel()
        self.run += 1
        self.asking = True
        self.walk = walk
        self._thread = self._start(self._play, self.run, walk, context, self.load(), self._thread)
        return self.run

    def _start(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()
        return thread

    def _post(self, message: Message) -> None:
        try:
            self._post_message(message)
        except RuntimeError:  # the interface has closed its event loop
            if self.walk is not None:
                self.walk.call_off()

    def _load(self, loading: Future[Pair]) -> None:
        try:
            pair = self._load_players()
        except Exception as error:
            loading.set_exception(error)
            self._post(Failed(None, one_line(error)))
        else:
            loading.set_result(pair)
            self._post(Loaded(pair[0].name, pair[1].name))

    def _play(
        self, run: int, walk: Walk, context: str, loading: Future[Pair], previous: threading.Thread | None
    ) -> None:
        try:
            policy, reflector = loading.result()
            environment = self._free_environment(previous)
            if walk.called_off:
                return
            if context:
                walk.task = contexts.widened(walk.task.question, contexts.names(context, self._repo))
            for event in walk.events(environment, policy, reflector):
                if isinstance(event, Finished):
                    confidence = getattr(policy, "confidence", None)
                    found = answers(environment, event.trajectory, TOP, confidence)
                    steps = len(event.trajectory.steps)
                    self._post(Answered(run, found, steps, environment.identified is not None))
                    self._keep_take_overs(run, walk, environment)
                else:
                    self._post(Happened(run, event))
        except Exception as error:  # shown as a line: a broken step must not end the sitting
            self._post(Failed(run, one_line(error)))

    def _free_environment(self, previous: threading.Thread | None) -> RepoEnvironment:
        """The environment, which has scanned for the question already; another if a thread is stuck in it."""
        if previous is not None:
            previous.join(PATIENCE)
            if previous.is_alive():
                self._environment = RepoEnvironment(self._repo, self._config)
        return self._environment

    def _keep_take_overs(self, run: int, walk: Walk, environment: RepoEnvironment) -> None:
        """Store the steps at which the user took another option than the policy; each once."""
        if not self._keep.corrections:
            return
        stored = 0
        for number in self._new_take_overs(walk):
            states = corrections.taken_over(environment, walk.task, walk.decisions[: number + 1])
            corrections.store(self._keep.where, states, corrections.TAKE_OVER, now())
            stored += len(states)
        if stored:
            self._post(Corrected(run, stored))

    def _new_take_overs(self, walk: Walk) -> list[int]:
        """Steps at which the user took another option, and that are met for the first time."""
        options = [made.taken.option for made in walk.decisions]
        way = [(option.kind, option.target) for option in options]
        keys = {i: (walk.task, *way[: i + 1]) for i, d in enumerate(walk.decisions) if d.proposed is not None}
        found = [number for number, key in keys.items() if key not in self._stored]
        self._stored.update(keys.values())
        return found

    def _correct(self, run: int, walk: Walk, path: str, previous: threading.Thread | None) -> None:
        try:
            environment = self._free_environment(previous)
            states = corrections.answered(environment, walk.task, walk.decisions, path)
            corrections.store(self._keep.where, states, corrections.ANSWER, now())
            self._post(Corrected(run, len(states), path))
        except Exception as error:
            self._post(Failed(run, one_line(error)))


def one_line(error: BaseException) -> str:
    """What a user is told about ``error``."""
    lines = str(error).strip().split("\n")
    text = display(lines[0])
    if isinstance(error, RepoagentError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def preload_torch() -> None:
    """Map PyTorch's largest library without the GIL.

    ``import torch`` does the same under the GIL, which stops the interface for a third of a
    second. Only a matter of comfort: whatever fails here fails properly at the import.
    """
    try:
        found = importlib.util.find_spec("torch")
        if found is None or found.origin is None or os.name != "posix":
            return
        library = Path(found.origin).parent / "lib" / "libtorch_cpu.so"
        dlopen = ctypes.CDLL(None).dlopen  # a foreign function, unlike CDLL(path), drops the GIL
        dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
        if library.is_file():
            dlopen(os.fsencode(library), os.RTLD_NOW | os.RTLD_LOCAL)
    except (ImportError, OSError, AttributeError, ValueError):
        return
