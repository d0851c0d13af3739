"""Every action of the interface with its keys: for the footer, the command palette and remapping."""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import Binding, BindingType

from repoagent.errors import InputError
from repoagent.repo import display

UNSET = "none"
"""The setting ``keys`` where nothing is remapped."""


@dataclass(frozen=True, slots=True)
class Command:
    """An action by its name, with its keys, what the footer calls it, and what it does in a sentence."""

    name: str
    keys: str
    label: str
    does: str
    shown: bool = True
    display: str | None = None
    everywhere: bool = False
    """Whether its keys also act while a question is typed."""


COMMANDS = (
    Command("cancel", "escape", "Cancel", "Abandon the question at once", everywhere=True, display="Esc"),
    Command("pause", "space,p", "Pause", "Hold the walk before it acts, or let it go on", True, "␣"),
    Command("step", "n", "Step", "Let a walk that is held do one action"),
    Command("back", "b", "Back", "Take the last step back and decide it anew"),
    Command("take_over", "o", "Take over", "Choose another option yourself; the agent goes on from there"),
    Command("ask", "slash", "Ask", "Type a question", display="/"),
    Command("follow_up", "f", "Follow up", "Ask something more about the answer shown"),
    Command("edit", "e", "Edit", "Open the file at its line in $EDITOR"),
    Command("copy", "c", "Copy", "Copy path:line of the file shown"),
    Command("wrong", "w", "Wrong", "Say that the answer was wrong, and which file it is"),
    Command("toggle_trail", "t", "Steps", "Show the steps or the file, where there is room for one"),
    Command("help", "f1,question_mark", "Help", "Show or hide the help for this pane", True, "F1", True),
    Command("sessions", "s", "Sessions", "Reopen or search what was asked here before"),
    Command("earlier", "left_square_bracket", "Earlier", "Show the question before", False, "["),
    Command("later", "right_square_bracket", "Later", "Show the question after", False, "]"),
    Command("export", "x", "Export", "Write this session as Markdown and JSON", False),
    Command("next_pane", "tab", "Next pane", "Go on to the next pane", False, "Tab", True),
    Command("leave", "q", "Quit", "Leave", False),
    Command("quit", "ctrl+q", "Quit", "Leave, also while a question is typed", True, "^q", True),
)  # fmt: skip
FIRST = ("next_pane", "quit")
"""Commands whose keys no pane takes for itself."""
BY_NAME = {command.name: command for command in COMMANDS}


def bindings() -> list[BindingType]:
    """The bindings of the application."""
    return [
        *(
            Binding(c.keys, c.name, c.label, c.shown, c.display, c.name in FIRST, c.does, c.name)
            for c in COMMANDS
        ),
        Binding("1", "pick(0)", "Runners-up", key_display="1-9", tooltip="Show the runner-up of that number"),
        *(Binding(str(n), f"pick({n - 1})", show=False) for n in range(2, 10)),
    ]  # fmt: skip


def keymap(text: str) -> dict[str, str]:
    """The setting ``keys``, such as ``pause=p back=left,h``, by command; ``InputError`` if it is none."""
    found: dict[str, str] = {}
    for part in text.split() if text != UNSET else []:
        name, _, keys = part.partition("=")
        if name not in BY_NAME or not all(keys.split(",")):
            raise InputError(
                f"keys: '{display(part)}' is no COMMAND=KEY[,KEY]; commands are {', '.join(BY_NAME)}."
            )
        found[name] = keys
    return found
