"""What ``ask`` shows: the trail on stderr as it unfolds, then the answer on stdout.

File names, file contents and reflections come from outside. They are printed as plain text,
never as markup, and what could drive a terminal is escaped.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.text import Text

from repoagent.answer import Answer
from repoagent.assistant import Entered, Found, Happening, Waiting, Warned, Widened
from repoagent.episode import Decided, Observed, Reflected, ReflectionToken
from repoagent.repo import display
from repoagent.terms import STOPWORDS, root

if TYPE_CHECKING:
    from repoagent.environment import Observation

SHOWN_OPTIONS = 3
# Control characters but tab and line feed, what reorders text, and halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """``text`` with everything escaped that is not text to a terminal."""
    return _UNSAFE.sub(lambda m: m[0].encode("unicode_escape", "surrogatepass").decode(), text)


class Trail:
    """Writes the events of an episode to ``console`` (stderr), streaming where that is a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._observation: Observation | None = None
        self._waiting: AbstractContextManager[Any] | None = None

    def _wait(self, message: str) -> None:
        """Say what takes so long, until the next event."""
        if self.console.is_terminal and not self.console.quiet:
            self._waiting = self.console.status(Text(message))
            self._waiting.__enter__()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.__exit__(None, None, None)
            self._waiting = None

    def __enter__(self) -> Trail:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop_waiting()

    def show(self, event: Happening) -> None:
        """Write ``event``."""
        self._stop_waiting()
        match event:
            case Waiting(what):
                self._wait(what)
            case Entered(repo):
                self._line(f"{display(repo)}:", "bold")
            case Warned(text):
                self._line(f"repoagent: {text}", "yellow")
            case Widened(names, left_out):
                if names:
                    self._line(f"looking for {', '.join(names)} too", "dim")
                if left_out:
                    files = ", ".join(map(display, left_out))
                    self._line(f"leaving out what the context changes: {files}", "dim")
            case Observed(step, observation):
                self._observation = observation
                self._line(f"{step + 1}. in {display(observation.location) or '.'}", "bold")
            case ReflectionToken(text) if self.console.is_terminal:
                self._line(clean(text.replace("\n", " ")), "italic", end="")
            case Reflected(text) if text:
                self._line("" if self.console.is_terminal else "   " + one_line(text), "italic")
            case Decided(log_probabilities, index) if self._observation:
                ranked = sorted(
                    range(len(log_probabilities)), key=lambda i: (i != index, -log_probabilities[i])
                )
                for i in ranked[:SHOWN_OPTIONS]:
                    mark, style = ("->", "green") if i == index else ("  ", "dim")
                    text = clean(self._observation.options[i].text)
                    self._line(f"   {mark} {math.exp(log_probabilities[i]):4.0%}  {text}", style)

    def _line(self, text: str, style: str, end: str = "\n") -> None:
        # soft_wrap: the terminal wraps, so that pieces of a reflection join up.
        self.console.print(Text(text, style), end=end, soft_wrap=True)


def one_line(text: str) -> str:
    """``text`` safe and on one line."""
    return " ".join(clean(text).split())


def place(answer: Answer) -> str:
    """``path:first-last``; the path alone where the file has no text."""
    name = display(answer.path)
    return f"{name}:{answer.start_line}-{answer.end_line}" if answer.start_line else name


def located(found: Found, answer: Answer) -> Answer:
    """``answer`` with the path as seen from where its repository was named."""
    return replace(answer, path=posixpath.join(found.repo, answer.path))


def why(found: Found) -> str:
    """One sentence composed of what was seen and done; the reflections are in the trail."""
    answer = found.answers[0]
    text = answer.snippet.lower()
    words = dict.fromkeys(w for w in re.findall(r"[^\W_]{3,}", found.question.lower()) if w not in STOPWORDS)
    seen = [w for w in words if root(w) in text]
    mention = f"its lines mention {', '.join(seen)}" if seen else "its lines share no word with the question"
    count = len(found.steps)
    steps = f"{count} step{'s' if count != 1 else ''}"
    return one_line(f"The policy is {answer.score:.0%} sure after {steps}; {mention}.")


def write_answers(
    out: TextIO, found: Sequence[Answer], reason: str, highlight: Callable[[Answer], None] | None = None
) -> None:
    """The answer on ``out`` in plain text; ``highlight`` prints the snippet instead where it is given."""
    first, *others = found
    out.write(place(first) + "\n")
    if first.snippet.strip():
        out.write("\n")
        if highlight:
            out.flush()
            highlight(first)
        else:
            out.write(clean(first.snippet.rstrip("\n")) + "\n")
    out.write(f"\nWhy: {reason}\n")
    if others:
        out.write("Also:\n")
        out.writelines(f"  {place(answer)}  {answer.score:.0%}\n" for answer in others)


def highlighter(out: TextIO) -> Callable[[Answer], None] | None:
    """Prints snippets in colour with line numbers if ``out`` is a terminal."""
    if not out.isatty():
        return None

    def show(answer: Answer) -> None:
        from rich.syntax import Syntax

        code = clean(answer.snippet.rstrip("\n"))
        lexer = Syntax.guess_lexer(display(answer.path), code)
        Console(file=out).print(
            Syntax(code, lexer, theme="ansi_dark", line_numbers=True, start_line=answer.start_line)
        )

    return show


def write_found(
    out: TextIO, found: Sequence[Found], best: Sequence[tuple[Found, Answer]], as_object: bool
) -> None:
    """What ``ask`` prints: ``best``, the merged answers of ``found``; the object ``as_object``."""
    if as_object:
        out.write(json.dumps(as_json(found, best), indent=1) + "\n")
    elif best:
        several = len(found) > 1
        shown = [located(one, answer) if several else answer for one, answer in best]
        write_answers(out, shown, why(best[0][0]), highlighter(out))


def as_json(found: Sequence[Found], best: Sequence[tuple[Found, Answer]]) -> dict[str, Any]:
    """The object of ``ask --json``; answers and steps of several repositories say which they are of."""
    first = found[0]
    several = len(found) > 1
    steps = [(one, move) for one in found for move in one.steps]
    return {
        "question": first.question,
        "repo": [one.repo for one in found] if several else first.repo,
        "answers": [_of(one, several) | asdict(answer) for one, answer in best],
        "steps": [_of(one, several) | asdict(move) for one, move in steps],
        "model": {"policy": first.policy, "reflector": first.reflector},
        "files_read": sum(one.files_read for one in found),
        "seconds": round(sum(one.seconds for one in found), 3),
    }


def _of(found: Found, several: bool) -> dict[str, Any]:
    return {"repo": found.repo} if several else {}
