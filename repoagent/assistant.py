"""ask() and Assistant: the tool as a library, on which the command line and the MCP server stand.

from repoagent import ask

found = ask("where is the port configured?", "path/to/repo")
print(found.answers[0].path, found.answers[0].start_line, found.confident)
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from repoagent import context as contexts
from repoagent import tuned
from repoagent.answer import Answer, Move, answers, trail
from repoagent.episode import Event, Finished, Trajectory, play
from repoagent.errors import InputError
from repoagent.explore import ExploreConfig, RepoEnvironment, Task
from repoagent.models import AUTO, chosen, importing, load_policy, load_reflector
from repoagent.players import Policy, Reflector
from repoagent.repo import Repo

RepoPath = str | os.PathLike[str]
Context = str | Callable[[], str]
"""Text that comes with a question, or what gets it, called once the models are loaded."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What takes a while before the first step of an episode."""

    what: str


@dataclass(frozen=True, slots=True)
class Entered:
    """The repository that is asked next, where there are several."""

    repo: str


@dataclass(frozen=True, slots=True)
class Widened:
    """What the context adds: ``names`` to look for, and files that it changes, which are ``left_out``."""

    names: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that is not as it should be, though there will be an answer."""

    text: str


Happening = Event | Waiting | Entered | Widened | Warned
Watch = Callable[[Happening], object]
"""Told what happens as it happens, in the thread that asks; what it raises breaks the question off."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of ``question`` in ``repo`` (as it was named).

    ``answers``, best first; ``steps``, the way there; ``confident`` whether the first answer can be relied
    on; ``policy`` and ``reflector``, the names of the models; ``files_read`` on the way; ``seconds`` by the
    clock, loading the models included where that was due.
    """

    question: str
    repo: str
    answers: tuple[Answer, ...]
    steps: tuple[Move, ...]
    confident: bool
    policy: str
    reflector: str
    files_read: int
    seconds: float


class Assistant:
    """Answers questions with the models that ``policy`` and ``reflector`` name (see ``repoagent.models``).

    With the policy "auto" each repository is asked with the model registered for it, if there is one.
    Models are loaded at the first question and kept, of the policies the latest. Any number of threads may
    ask; one question is answered at a time.
    """

    def __init__(self, policy: str = AUTO, reflector: str = "bundled") -> None:
        self._names = policy, reflector
        self._policy: tuple[tuple[str, int], Policy] | None = None
        self._reflectors: dict[str, Reflector] = {}
        self._lock = threading.RLock()

    def load(
        self, reflect: bool = True, repos: Sequence[RepoPath] = (), watch: Watch | None = None
    ) -> tuple[Policy, Reflector]:
        """The models for ``repos``, loaded where they are not yet; ``ModelError`` says what is missing or
        broken. A registered model that cannot be used is warned of, and the bundled one stands in."""
        reflector = self._names[1] if reflect else "none"
        with self._lock, importing():
            policy, warning = chosen(self._names[0], repos)
            if warning and watch:
                watch(Warned(warning))
            elif warning:
                warnings.warn(warning, stacklevel=2)
            # A model may be registered anew while this one answers, as in a server.
            key = policy, tuned.stamp(policy) if self._names[0] == AUTO else 0
            if self._policy is None or self._policy[0] != key:
                self._policy = key, load_policy(policy)
            if reflector not in self._reflectors:
                self._reflectors[reflector] = load_reflector(reflector)
            return self._policy[1], self._reflectors[reflector]

    def ask(
        self,
        question: str,
        repo: RepoPath = ".",
        *,
        top: int = 5,
        steps: int = 8,
        reflect: bool = True,
        context: Context = "",
        watch: Watch | None = None,
    ) -> Found:
        """Answer ``question`` about ``repo``, a directory, a ``.zip`` or a ``.tar.gz``.

        At most ``top`` answers, after at most ``steps`` actions. ``context`` is a diff, a traceback or
        another text that the question is about (see ``repoagent.context``); of a diff the files that it
        changes are no answers.

        Raises ``InputError`` for an empty question or a repository that cannot be read, ``ModelError`` for a
        model that is missing or broken.
        """
        options: dict[str, Any] = {"top": top, "steps": steps, "reflect": reflect}
        return self.ask_each(question, [repo], context=context, watch=watch, **options)[0]

    def ask_each(
        self,
        question: str,
        repos: Sequence[RepoPath],
        *,
        top: int = 5,
        steps: int = 8,
        reflect: bool = True,
        context: Context = "",
        watch: Watch | None = None,
    ) -> list[Found]:
        """Ask each of ``repos`` as :meth:`ask` does; none is asked unless all can be opened.

        :func:`merged` makes one list of their answers.
        """
        started = time.perf_counter()
        told, watch = watch, watch or (lambda event: None)
        question = _checked(question, top, steps)
        opened = [(os.fspath(repo), Repo.open(repo)) for repo in repos]
        several = len(opened) > 1
        watch(Waiting("loading the model"))
        policy, reflector = self.load(reflect, repos, told)
        confidence = getattr(policy, "confidence", None)
        text = context if isinstance(context, str) else context()
        found = []
        while opened:  # a repository that was asked is let go, with the files that it keeps in memory
            name, repository = opened.pop(0)
            if several:
                watch(Entered(name))
            with self._lock:
                watch(Waiting("reading the repository"))
                task, config = _widened(question, text, repository, steps, watch)
                environment = RepoEnvironment(repository, config)
                trajectory = Trajectory()
                for event in play(environment, task, policy, reflector):
                    watch(event)
                    if isinstance(event, Finished):
                        trajectory = event.trajectory
                files_read = len(repository.files_read)  # before the snippets of the answers are read
                best = answers(environment, trajectory, top, confidence)
            threshold = confidence.threshold if confidence else 0.0
            one = Found(
                question=question,
                repo=name,
                answers=tuple(best),
                steps=tuple(trail(trajectory)),
                confident=environment.identified is not None and best[0].score >= threshold,
                policy=policy.name,
                reflector=reflector.name,
                files_read=files_read,
                seconds=time.perf_counter() - started,
            )
            found.append(one)
            started = time.perf_counter()
        return found


def _widened(question: str, text: str, repo: Repo, steps: int, watch: Watch) -> tuple[Task, ExploreConfig]:
    """What is played on ``repo`` for ``question`` with the context ``text``."""
    if not text.strip():
        return Task(question), ExploreConfig(horizon=steps)
    names, left_out = contexts.names(text, repo), contexts.changed_files(text, repo)
    watch(Widened(tuple(names), left_out))
    return contexts.widened(question, names), ExploreConfig(horizon=steps, exclude=left_out)


def merged(found: Sequence[Found], top: int) -> list[tuple[Found, Answer]]:
    """The ``top`` answers of several repositories by score, best first, each with where it comes from.

    Scores are comparable, as each is the probability that the answer is right, but they no longer sum to 1.
    """
    pairs = [(one, answer) for one in found for answer in one.answers]
    return sorted(pairs, key=lambda pair: -pair[1].score)[:top]


_kept: dict[tuple[str, str], Assistant] = {}


def ask(
    question: str,
    repo: RepoPath = ".",
    *,
    top: int = 5,
    steps: int = 8,
    reflect: bool = True,
    policy: str = AUTO,
    reflector: str = "bundled",
    context: Context = "",
    watch: Watch | None = None,
) -> Found:
    """Answer ``question`` about ``repo`` (see :meth:`Assistant.ask`).

    The models that ``policy`` and ``reflector`` name stay in memory for later calls; an :class:`Assistant`
    of your own lets go of them when you do.
    """
    names = policy, reflector
    assistant = _kept.setdefault(names, Assistant(*names))
    return assistant.ask(question, repo, top=top, steps=steps, reflect=reflect, context=context, watch=watch)


def _checked(question: str, top: int, steps: int) -> str:
    """``question`` as text that tokenizers take; ``InputError`` where there is nothing to ask."""
    # Bytes that are no UTF-8 arrive as lone surrogates, which tokenizers refuse.
    question = question.encode("utf-8", "replace").decode("utf-8")
    if not question.strip():
        raise InputError('the question is empty; ask something, such as "where is the version set?".')
    for name, value in (("top", top), ("steps", steps)):
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1.")
    return question
