"""Preview: one file with its syntax highlighted, scrolled to the lines that answer."""

from __future__ import annotations

import asyncio
import posixpath
from typing import ClassVar

from pygments.lexers import find_lexer_class_for_filename  # type: ignore[import-untyped]
from textual import work
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Size
from textual.highlight import highlight
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.style import Style
from textual.visual import Visual

from repoagent.repo import Repo, display

COLUMNS = 400
"""Characters of a line that are shown; minified files have lines of a megabyte."""
HIGHLIGHT_LIMIT = 128 << 10
"""Characters of the longest file that is highlighted; a longer one is shown plain."""
CONTEXT = 3
"""Lines kept in view above the answer."""


class Preview(ScrollView, can_focus=True):
    """A file; only the lines in view are ever rendered."""

    HELP = """\
## File

The answer's lines are marked with **▌**. **↑ ↓** and **PgUp PgDn** scroll, **Enter** opens the file in the
editor at its line, **c** copies path:line.
"""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "app.edit", "Edit", show=False)]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"preview--answer"}

    def __init__(self, repo: Repo, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._repo = repo
        self.path = ""
        self._finished = ""
        self._lines: list[Content] = []
        self._span = (0, 0)
        self._note = "The answer's lines appear here."
        self.border_title = "Preview"

    @property
    def line(self) -> int:
        """The line to go to: the first of those marked, else the first in view."""
        return self._span[0] or round(self.scroll_y) + 1

    def show(self, path: str, span: tuple[int, int] = (0, 0)) -> None:
        """Show the file at ``path`` with the lines ``span`` (1-based, inclusive) marked."""
        self._show(path, span)

    def reload(self) -> None:
        """Read the file anew."""
        self._finished = ""
        self._repo.forget(self.path)
        self._show(self.path, self._span)

    def clear(self) -> None:
        """Show nothing."""
        self.workers.cancel_node(self)
        self._set("", (0, 0), [])

    @work(exclusive=True)
    async def _show(self, path: str, span: tuple[int, int]) -> None:
        if path == self._finished and self._lines:  # not one whose colouring this call has just cancelled
            self._set(path, span, self._lines)
            return
        self._finished = ""
        rows = await asyncio.to_thread(read_rows, self._repo, path)
        self._note = "" if rows else "No text to show: empty, binary or unreadable."
        self._set(path, span, [Content(row) for row in rows])
        coloured = await asyncio.to_thread(coloured_rows, path, rows)
        if coloured is not None:
            self._lines = coloured
            self.refresh()
        self._finished = path

    def _set(self, path: str, span: tuple[int, int], lines: list[Content]) -> None:
        self.path, self._span, self._lines = path, span, lines
        where = f":{span[0]}-{span[1]}" if span[0] else ""
        self.border_title = Content(display(path) + where) if path else "Preview"
        width = max((line.cell_length for line in lines), default=0) + self._gutter
        self.virtual_size = Size(width, len(lines))
        self.scroll_to(0, max(0, span[0] - 1 - CONTEXT), animate=False, force=True)
        self.refresh()

    @property
    def _gutter(self) -> int:
        return len(str(len(self._lines))) + 3

    def render_line(self, y: int) -> Strip:
        x, top = self.scroll_offset
        width, number = self.size.width, top + y + 1
        style = self.visual_style
        if number > len(self._lines):
            note = self._note if not self._lines and y == 0 else ""
            return self._strip(Content.styled(note, "$text 60%"), width, style)
        first, last = self._span
        marked = first <= number <= last
        if marked:
            style += Style.from_styles(self.get_component_styles("preview--answer"))
        digits = len(str(len(self._lines)))
        edge = "▌" if marked else " "
        gutter = Content.assemble(
            (edge, "$primary" if marked else ""), (f"{number:>{digits}}  ", "$text 60%")
        )
        head = self._strip(gutter, self._gutter, style)
        room = max(0, width - self._gutter)
        body = self._strip(self._lines[number - 1], max(room, self.virtual_size.width), style)
        return Strip.join([head, body.crop(x, x + room)])

    def _strip(self, content: Content, width: int, style: Style) -> Strip:
        if not width:
            return Strip([])
        strips = Visual.to_strips(self, content, width, 1, style, apply_selection=False)
        strip = strips[0] if strips else Strip([])
        return strip.adjust_cell_length(width, style.rich_style)


def read_rows(repo: Repo, path: str) -> list[str]:
    """The lines of the file, fit for a terminal."""
    rows = [line[:COLUMNS].expandtabs(4) for line in repo.lines(path)]
    return [row if row.isprintable() else display(row) for row in rows]


def coloured_rows(path: str, rows: list[str]) -> list[Content] | None:
    """``rows`` highlighted by the language that the file's name tells, or None."""
    if not rows or sum(map(len, rows)) > HIGHLIGHT_LIMIT:
        return None
    name = posixpath.basename(display(path))
    lexer = find_lexer_class_for_filename(name, "\n".join(rows[:50]))
    if lexer is None or not lexer.aliases:
        return None
    try:
        lines = list(highlight("\n".join(rows), language=lexer.aliases[0]).split("\n", allow_blank=True))
    except Exception:  # one of 500 lexers trips over one file: it is shown plain
        return None
    return lines + [Content("")] * (len(rows) - len(lines))  # empty lines at the end were dropped
