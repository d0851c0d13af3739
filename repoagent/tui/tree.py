"""RepoTree: the repository as a tree that is read one directory at a time and lit by the walk."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import work
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from repoagent.repo import Entry, Repo, display

PAGE = 200
"""Entries of one directory shown at once."""


@dataclass(slots=True)
class Place:
    """What a node stands for; kind "more" holds the ``rest`` of a long directory."""

    path: str
    kind: str
    rest: Sequence[Entry] = ()


class RepoTree(Tree[Place]):
    """The tree at the left; ``show_walk`` lights a place up."""

    HELP = """\
## Repository

**▸ ▾** folders, **◂** where the walk is, **●** opened, **✗** opened and left, **★** the answer.
**Enter** shows a file or opens a folder, **Space** opens and closes one.
"""
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "repo-tree--directory", "repo-tree--here", "repo-tree--opened", "repo-tree--answer",
        "repo-tree--rejected", "repo-tree--dim",
    }  # fmt: skip

    def __init__(self, repo: Repo, *, id: str | None = None) -> None:
        super().__init__(Text(display(repo.name)), Place("", "dir"), id=id)
        self._repo = repo
        self._places: dict[str, TreeNode[Place]] = {"": self.root}
        self._read: set[str] = set()
        self._more: dict[str, TreeNode[Place]] = {}
        self._reading = asyncio.Lock()
        self._walk = 0
        self.here: str | None = None
        self.opened: set[str] = set()
        self.rejected: set[str] = set()
        """Files that were opened and left for another."""
        self.answer: str | None = None
        self.guide_depth = 2

    def on_mount(self) -> None:
        self.root.expand()

    # -- the walk --------------------------------------------------------------------------

    def start_walk(self) -> None:
        """Put out the lights of the last question."""
        self._walk += 1
        self.here, self.answer, self.opened, self.rejected = "", None, set(), set()
        for path, node in self._places.items():
            if path and node.is_expanded:
                node.collapse()
        self._redraw()

    def stop_walk(self) -> None:
        """Nobody is anywhere any more; what was opened stays lit."""
        self.here = None
        self._redraw()

    def show_here(self, path: str) -> None:
        """The walk is in the directory ``path``."""
        self.here = path
        self._follow(path, expand=True)

    def show_opened(self, path: str) -> None:
        """The walk has opened the file ``path``."""
        self.rejected |= self.opened
        self.opened.add(path)
        self._follow(path)

    def show_answer(self, path: str) -> None:
        """The file ``path`` is the answer."""
        self.answer = path
        self.rejected = self.opened - {path}
        self._follow(path)

    def point_at(self, path: str) -> None:
        """Put the cursor on ``path``."""
        self._follow(path)

    def _redraw(self) -> None:
        # The cache of lines is keyed by the nodes, which do not change with the lights.
        self._clear_line_cache()
        self.refresh()

    def _follow(self, path: str, expand: bool = False) -> None:
        self._reach(path, expand, self._walk)

    @work
    async def _reach(self, path: str, expand: bool, walk: int) -> None:
        async with self._reading:
            if walk != self._walk:
                return
            node = self.root
            parts = path.split("/") if path else []
            for depth in range(len(parts)):
                parent, child = "/".join(parts[:depth]), "/".join(parts[: depth + 1])
                await self._read_directory(parent)
                node.expand()
                found = self._places.get(child) or self._pull(parent, child)
                if found is None:
                    break  # ignored or gone: as near as one gets
                node = found
            if expand and node is self._places.get(path):
                await self._read_directory(path)
                node.expand()
        self._redraw()
        self.call_after_refresh(self._show_node, node)

    def _show_node(self, node: TreeNode[Place]) -> None:
        if node.line >= 0 and not self.has_focus:
            self.move_cursor(node)
            self.scroll_to_node(node, animate=False)

    # -- reading ---------------------------------------------------------------------------

    async def on_tree_node_expanded(self, event: Tree.NodeExpanded[Place]) -> None:
        place = event.node.data
        if place is not None and place.path not in self._read:
            self._read_expanded(place.path)

    def on_tree_node_selected(self, event: Tree.NodeSelected[Place]) -> None:
        place = event.node.data
        if place is not None and place.kind == "more":
            event.stop()
            self._more.pop(place.path, None)
            event.node.remove()
            self._add(self._places[place.path], place.rest)

    @work
    async def _read_expanded(self, path: str) -> None:
        async with self._reading:
            await self._read_directory(path)

    async def _read_directory(self, path: str) -> None:
        if path not in self._read:
            entries = await asyncio.to_thread(self._repo.entries, path)
            self._read.add(path)
            self._add(self._places[path], entries)

    def _add(self, parent: TreeNode[Place], entries: Sequence[Entry]) -> None:
        assert parent.data is not None
        shown, rest = entries[:PAGE], entries[PAGE:]
        for entry in shown:
            if entry.path not in self._places:
                self._add_entry(parent, entry)
        if rest:
            path = parent.data.path
            self._more[path] = parent.add_leaf(_more_label(rest), Place(path, "more", rest))

    def _add_entry(
        self, parent: TreeNode[Place], entry: Entry, before: TreeNode[Place] | None = None
    ) -> TreeNode[Place]:
        place = Place(entry.path, entry.kind)
        is_dir = entry.kind == "dir"
        node = parent.add(Text(_name(entry)), place, before=before, allow_expand=is_dir)
        self._places[entry.path] = node
        return node

    def _pull(self, parent: str, path: str) -> TreeNode[Place] | None:
        """Show an entry that the cap of a long directory keeps back."""
        more = self._more.get(parent)
        if more is None or more.data is None:
            return None
        entry = next((e for e in more.data.rest if e.path == path), None)
        if entry is None:
            return None
        more.data.rest = [e for e in more.data.rest if e is not entry]
        more.set_label(_more_label(more.data.rest))
        return self._add_entry(self._places[parent], entry, before=more)

    # -- looks -----------------------------------------------------------------------------

    def render_label(self, node: TreeNode[Place], base_style: Style, style: Style) -> Text:
        """Marks beside colours: what is lit must show without colours too."""
        place = node.data or Place("", "other")
        look, mark = "", ""
        if place.kind == "more":
            look = "dim"
        elif place.path == self.answer and place.kind != "dir":
            look, mark = "answer", "★ "
        elif place.path in self.rejected:
            look, mark = "rejected", "✗ "
        elif place.path in self.opened:
            look, mark = "opened", "● "
        elif place.kind == "dir":
            look = "directory"
            if place.path == self.here:
                look = "here"
        elif place.kind in ("link", "other"):
            look = "dim"
        name = node.label.copy() if isinstance(node.label, Text) else Text(str(node.label))
        lit = self.get_component_rich_style(f"repo-tree--{look}", partial=True) if look else Style()
        # The cursor's colours prevail only where the keys act on it.
        name.stylize(lit + style if self.has_focus else style + lit)
        if node.allow_expand:
            end = " ◂" if place.path == self.here else ""
            return Text.assemble(("▾ " if node.is_expanded else "▸ ", base_style + _TOGGLE), name, (end, lit))
        return Text.assemble((mark, base_style + lit), name)


_TOGGLE = Style.from_meta({"toggle": True})


def _name(entry: Entry) -> str:
    name = display(entry.name)
    if entry.kind == "dir":
        return name + "/"
    if entry.kind == "link":
        return name + (f" → {display(entry.target) or '.'}" if entry.target is not None else " → outside")
    return name


def _more_label(rest: Sequence[Entry]) -> Text:
    return Text(f"… {len(rest):,} more")
