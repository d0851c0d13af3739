"""Walker: loads the players and plays the episodes, each in a thread of its own.

A thread cannot be interrupted, so a cancelled question is abandoned: its thread sees the flag
at its next event and ends, and nothing that it posts in between is delivered.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from textual.message import Message

from repoagent.answer import Answer, answers
from repoagent.episode import Event, Finished, play
from repoagent.errors import RepoagentError
from repoagent.explore import ExploreConfig, RepoEnvironment, Task
from repoagent.players import Policy, Reflector
from repoagent.repo import Repo, display

Pair = tuple[Policy, Reflector]
Players = Callable[[], Pair]
"""Loads both players; called in a thread."""

TOP = 9
"""Answers shown: one per digit key."""
PATIENCE = 10.0
"""Seconds that a question waits for an abandoned one to leave the model free."""


class Loaded(Message):
    """The players are ready."""

    def __init__(self, policy: str, reflector: str) -> None:
        super().__init__()
        self.policy, self.reflector = policy, reflector


class Happened(Message):
    """An event of the episode ``run``."""

    def __init__(self, run: int, event: Event) -> None:
        super().__init__()
        self.run, self.event = run, event


class Answered(Message):
    """The episode ``run`` is over; ``identified`` if a file was named before the steps ran out."""

    def __init__(self, run: int, answers: list[Answer], steps: int, identified: bool) -> None:
        super().__init__()
        self.run, self.answers, self.steps, self.identified = run, answers, steps, identified


class Failed(Message):
    """The players did not load (``run`` None) or the episode ``run`` broke, with a line why."""

    def __init__(self, run: int | None, reason: str) -> None:
        super().__init__()
        self.run, self.reason = run, reason


class Walker:
    """Answers one question at a time; ``post`` is called from threads."""

    def __init__(
        self, post: Callable[[Message], object], repo: Repo, players: Players, config: ExploreConfig
    ) -> None:
        self._post_message = post
        self._repo, self._load_players, self._config = repo, players, config
        self._loading: Future[Pair] | None = None
        self._thread: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        self._cancelled = threading.Event()
        self.run = 0
        """Number of the current question; what other runs post is stale."""
        self.asking = False

    def load(self) -> Future[Pair]:
        """Load the players, again if it failed before."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = Future()
            self._start(self._load, self._loading)
        return self._loading

    def ask(self, question: str) -> int:
        """Start on ``question``, dropping the one before; returns its run number."""
        self.cancel()
        self.run += 1
        self.asking = True
        self._cancelled = threading.Event()
        arguments = (self.run, question, self._cancelled, self.load(), self._thread)
        self._thread = self._start(self._play, *arguments)
        return self.run

    def cancel(self) -> None:
        """Abandon the current question."""
        self._cancelled.set()
        self.run += 1
        self.asking = False

    @property
    def busy(self) -> bool:
        """Whether any thread still runs, abandoned ones too."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def exit_code(self) -> int:
        """0, or that of the error if the players failed to load."""
        error = self._loading.exception() if self._loading and self._loading.done() else None
        return error.exit_code if isinstance(error, RepoagentError) else int(error is not None)

    def _start(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()
        return thread

    def _post(self, message: Message) -> None:
        try:
            self._post_message(message)
        except RuntimeError:  # the interface has closed its event loop
            self._cancelled.set()

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
        self,
        run: int,
        question: str,
        cancelled: threading.Event,
        loading: Future[Pair],
        previous: threading.Thread | None,
    ) -> None:
        try:
            if previous is not None:
                previous.join(PATIENCE)
            policy, reflector = loading.result()
            if cancelled.is_set():
                return
            environment = RepoEnvironment(self._repo, self._config)
            for event in play(environment, Task(question), policy, reflector):
                if cancelled.is_set():
                    return
                if isinstance(event, Finished):
                    confidence = getattr(policy, "confidence", None)
                    found = answers(environment, event.trajectory, TOP, confidence)
                    steps = len(event.trajectory.steps)
                    self._post(Answered(run, found, steps, environment.identified is not None))
                else:
                    self._post(Happened(run, event))
        except Exception as error:  # shown as a line: a broken step must not end the sitting
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
