"""Sitting: the session that is under way, written after every answer, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from repoagent import session as sessions
from repoagent import storage
from repoagent.answer import Answer
from repoagent.errors import InputError
from repoagent.session import Asked, Session
from repoagent.walk import Walk


class Sitting:
    """The questions of one sitting, and which of them is shown; ``failed`` is told, in a thread, why one
    could not be written."""

    def __init__(self, where: str, saved: bool, failed: Callable[[str], object]) -> None:
        self.where = where
        self.session = sessions.new(where)
        self.shown = -1
        """Index of the question that is shown; -1 before the first answer."""
        self._saved, self._failed = saved, failed
        self._writer = ThreadPoolExecutor(1)  # one, so that an older state never overwrites a newer one

    @property
    def current(self) -> Asked | None:
        """The question that is shown, where it has been answered."""
        asked = self.session.asked
        return asked[self.shown] if 0 <= self.shown < len(asked) else None

    def asking(self) -> None:
        """A new question is under way."""
        self.shown = len(self.session.asked)

    def answered(
        self,
        question: str,
        walk: Walk,
        answers: list[Answer],
        identified: bool,
        seconds: float,
        names: tuple[str, str],
    ) -> None:
        """The question that is shown has an answer, perhaps another than before."""
        asked = Asked(
            question=question, at=sessions.now(), played=walk.task.question, search=walk.task.search,
            answers=tuple(answers), moves=sessions.moves(walk.decisions), identified=identified,
            seconds=round(seconds, 3), policy=names[0], reflector=names[1],
        )  # fmt: skip
        self.session.asked[self.shown : self.shown + 1] = [asked]
        self._save()

    def corrected(self, path: str) -> None:
        """The file at ``path`` is the right answer to the question that is shown."""
        if self.current is not None:
            self.session.asked[self.shown] = replace(self.current, corrected=path)
            self._save()

    def reopen(self, session: Session) -> None:
        """Go on with ``session``, its last question shown."""
        self.session = session
        self.shown = len(session.asked) - 1

    def move(self, by: int) -> Asked | None:
        """Show the question ``by`` places on; None where there is none."""
        if not 0 <= self.shown + by < len(self.session.asked):
            return None
        self.shown += by
        return self.current

    def context(self) -> str:
        """What a question that follows up on the one shown is about; empty before the first answer."""
        if self.current is None or not self.current.answers:
            return ""
        best = self.current.answers[0]
        return f"{self.current.question}\n{best.path}\n{best.snippet}"

    def export(self) -> Path:
        """Write the session as Markdown and JSON beside each other; the path of the first."""
        page = storage.folder("exports") / f"{self.session.id}.md"
        storage.write(page, sessions.markdown(self.session))
        storage.write(page.with_suffix(".json"), sessions.as_json(self.session))
        return page

    def close(self) -> None:
        """Wait until all is written."""
        self._writer.shutdown()

    def _save(self) -> None:
        if self._saved:
            session = replace(self.session, asked=list(self.session.asked))
            self._writer.submit(self._write, session)

    def _write(self, session: Session) -> None:
        try:
            sessions.save(session)
        except InputError as error:
            self._failed(str(error))
