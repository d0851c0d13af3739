"""Session: the questions of one sitting on a repository, with the ways and the answers, kept as plain JSON.

One file per session. A file that is damaged or of another kind is passed over with a note, and never changed.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repoagent import storage
from repoagent.answer import Answer
from repoagent.environment import Observation, Option
from repoagent.episode import Taken
from repoagent.errors import InputError
from repoagent.explore import Task
from repoagent.repo import display
from repoagent.walk import Decision

FORMAT = 1
LAST = "last"
"""Stands for the id of the newest session."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One option and the probability that the policy gave it."""

    text: str
    kind: str
    target: str
    probability: float


@dataclass(frozen=True, slots=True)
class Move:
    """One step: ``index`` was taken; ``proposed`` is what the policy chose where the user chose otherwise."""

    location: str
    reflection: str
    index: int
    proposed: int | None
    options: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its way and its answers.

    ``played`` and ``search`` are what the models read and what the scan looked for (more than the question
    where it followed up on another); ``identified`` whether a file was named; ``corrected`` the file that the
    user said is right.
    """

    question: str
    at: str
    played: str
    search: str
    answers: tuple[Answer, ...]
    moves: tuple[Move, ...]
    identified: bool
    seconds: float
    policy: str
    reflector: str
    corrected: str = ""

    @property
    def task(self) -> Task:
        return Task(self.played, search=self.search)


@dataclass(slots=True)
class Session:
    """A sitting on the repository at ``repo``; ``id`` is also the name of its file."""

    id: str
    repo: str
    began: str
    asked: list[Asked] = field(default_factory=list)


def new(repo: str) -> Session:
    """A session that begins now."""
    began = now()
    stamp = re.sub(r"[^0-9]", "", began)[:14]
    return Session(f"{stamp}-{secrets.token_hex(2)}", repo, began)


def now() -> str:
    """The time as sessions write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def moves(decisions: Iterable[Decision]) -> tuple[Move, ...]:
    """The steps of a walk without what only models need."""
    return tuple(
        Move(
            made.observation.location,
            made.taken.reflection,
            made.index,
            made.proposed,
            tuple(
                Offer(o.text, o.kind, o.target, math.exp(p))
                for o, p in zip(made.observation.options, made.taken.log_probabilities, strict=True)
            ),
        )
        for made in decisions
    )


def decisions(asked: Asked) -> list[Decision]:
    """The steps as a walk has them, but for what the models need: enough to show them, and to walk again."""
    found = []
    for move in asked.moves:
        options = tuple(Option(o.text, o.kind, o.target) for o in move.options)
        observation = Observation(asked.played, move.location, (), "", options)
        chances = tuple(math.log(o.probability) if o.probability > 0 else -math.inf for o in move.options)
        found.append(
            Decision(observation, Taken(move.reflection, chances, options[move.index]), move.proposed)
        )
    return found


# -- files -------------------------------------------------------------------------------------


def folder() -> Path:
    """Where the sessions lie."""
    return storage.folder("sessions")


def save(session: Session) -> None:
    """Write ``session`` to its file."""
    storage.write(folder() / f"{session.id}.json", as_json(session))


def as_json(session: Session) -> str:
    """The session as its file has it."""
    return json.dumps({"format": FORMAT, **asdict(session)}, indent=1) + "\n"


def delete(session: Session) -> None:
    """Take the file of ``session`` away."""
    try:
        (folder() / f"{session.id}.json").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot delete session {session.id}: {error.strerror}.") from error


def load_all() -> tuple[list[Session], list[str]]:
    """All sessions, the newest first, and a line for each file that is none."""
    found, notes = [], []
    for path in sorted(folder().glob("*.json"), reverse=True):
        try:
            found.append(read(path))
        except InputError as error:
            notes.append(str(error))
    return found, notes


def load(name: str) -> Session:
    """The session whose id is, or alone begins with, ``name``; the newest for ``last``."""
    found, _ = load_all()
    if name == LAST and found:
        return found[0]
    matching = [s for s in found if s.id == name] or [s for s in found if name and s.id.startswith(name)]
    if len(matching) == 1:
        return matching[0]
    problem = f"{len(matching)} sessions begin with" if matching else "no session is called"
    raise InputError(f"{problem} '{display(name)}'; `repoagent sessions` lists them.")


def read(path: Path) -> Session:
    """The session in the file at ``path``; ``InputError`` if it holds none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"its format is {data['format']}, not {FORMAT}")
        asked = [_asked(entry) for entry in data["asked"]]
        return Session(path.stem, _text(data["repo"]), _text(data["began"]), asked)
    except OSError as error:
        raise InputError(f"cannot read {display(str(path))}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        reason = display(str(error)) or type(error).__name__
        raise InputError(f"{display(str(path))} is no session ({reason}); it is left as it is.") from error


def _asked(data: dict[str, Any]) -> Asked:
    found = tuple(Answer(**answer) for answer in data["answers"])
    for answer in found:
        _text(answer.path), _text(answer.snippet)
        if not all(type(n) is int and n >= 0 for n in (answer.start_line, answer.end_line)):
            raise ValueError("lines that are no numbers")
        float(answer.score)
    return Asked(**data | {"answers": found, "moves": tuple(_move(move) for move in data["moves"])})


def _move(data: dict[str, Any]) -> Move:
    options = tuple(Offer(**option) for option in data["options"])
    for option in options:
        _text(option.text), _text(option.kind), _text(option.target), float(option.probability)
    for index in (data["index"], data["proposed"]):
        if index is not None and not 0 <= index < len(options):
            raise ValueError("a step without the option that it takes")
    return Move(**data | {"options": options})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


# -- looking through them ----------------------------------------------------------------------


def search(sessions: Sequence[Session], words: str) -> list[Session]:
    """Those with a question in which, or in whose answers or repository, all of ``words`` occur."""
    wanted = words.lower().split()
    return [s for s in sessions if any(all(w in text for w in wanted) for text in _texts(s))]


def _texts(session: Session) -> list[str]:
    repo = f"{session.repo} {session.id}".lower()
    if not session.asked:
        return [repo]
    return [
        " ".join([repo, asked.question, *(f"{a.path} {a.snippet}" for a in asked.answers)]).lower()
        for asked in session.asked
    ]


def summary(session: Session) -> str:
    """One line: when, how many questions, the first of them."""
    count = len(session.asked)
    first = display(session.asked[0].question) if count else "nothing was asked"
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"{session.began[:16].replace('T', ' ')}  {first}{more}"


def markdown(session: Session) -> str:
    """The session as a page to read."""
    lines = [f"# {_plain(Path(session.repo).name)}", "", f"`{display(session.repo)}`, {session.began}", ""]
    for asked in session.asked:
        lines += [f"## {_plain(asked.question)}", ""]
        for number, answer in enumerate(asked.answers, 1):
            where = f":{answer.start_line}-{answer.end_line}" if answer.start_line else ""
            lines.append(f"{number}. `{display(answer.path)}{where}` ({answer.score:.0%})")
        if not asked.answers:
            lines.append("No answer.")
        if asked.corrected:
            lines += ["", f"Corrected: it is `{display(asked.corrected)}`."]
        if asked.answers and asked.answers[0].snippet.strip():
            lines += ["", *_fenced(asked.answers[0].snippet)]
        lines += ["", "The way:", ""]
        for number, move in enumerate(asked.moves, 1):
            taken = move.options[move.index]
            who = "chosen by hand" if move.proposed is not None else f"{taken.probability:.0%}"
            lines.append(f"{number}. {_plain(taken.text)} ({who})")
            if move.reflection:
                lines.append(f"   {_plain(move.reflection)}")
        lines.append("")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """``text`` on one line, as Markdown shows it and does not read it."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(display(text.replace("\n", " ")).split()))


def _fenced(text: str) -> list[str]:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *(display(line.expandtabs(4)) for line in text.rstrip("\n").split("\n")), fence]
