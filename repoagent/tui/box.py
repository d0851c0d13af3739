"""QuestionBox and AnswerList: where one asks, and the answers one chooses from."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Input, OptionList

from repoagent.answer import Answer
from repoagent.repo import display
from repoagent.tui.steps import bar


class QuestionBox(Input):
    """The question, with the earlier ones of the sitting on the arrow keys."""

    HELP = """\
## Question

Type what you want to find and press **Enter**. **↑** and **↓** bring earlier questions back.
A question that begins with **+** follows up on the answer shown.
"""
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

    def remember_earlier(self, questions: list[str]) -> None:
        """``questions`` were asked before all that is remembered."""
        older = [q for q in dict.fromkeys(questions) if q not in self._asked]
        self._asked[:0] = older
        self._recalled += len(older)

    def begin(self, text: str = "") -> None:
        """Have a question typed that begins with ``text``; without it the one before can be changed."""
        self.select_on_focus = not text  # what is typed takes the place of what is selected
        if text:
            self.value = text
            self.cursor_position = len(text)
        self.focus()

    def action_recall(self, step: int) -> None:
        self._recalled = min(max(0, self._recalled + step), len(self._asked))
        self.value = [*self._asked, ""][self._recalled]
        self.cursor_position = len(self.value)


class AnswerList(OptionList):
    """The answer and the runners-up; Enter edits, a click only shows."""

    HELP = """\
## Answers

The best first, each with the probability that it is right. **↑ ↓** or **1-9** show one,
**Enter** opens it in the editor at its lines, **w** says that it is another file.
"""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "app.edit", "Edit", show=False)]

    def show(self, answers: list[Answer]) -> None:
        """List ``answers``; the pane is hidden where there are none."""
        self.clear_options()
        self.add_options([_row(n, a) for n, a in enumerate(answers, 1)])
        self.display = bool(answers)


def _row(number: int, answer: Answer) -> Content:
    directory, _, name = display(answer.path).rpartition("/")
    return Content.assemble(
        (f"{number} ", "$text 60%"),
        (bar(answer.score, 4), "$text-primary"),
        (f"{answer.score:4.0%} ", "$text 60%"),
        (name, "bold"),
        lines(answer),
        (f"  {directory}/" if directory else "", "$text 60%"),
    )


def lines(answer: Answer) -> str:
    """``:first-last``; nothing for a file without text."""
    return f":{answer.start_line}-{answer.end_line}" if answer.start_line else ""
