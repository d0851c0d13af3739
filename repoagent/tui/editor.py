"""``$VISUAL`` or ``$EDITOR`` at a line: the one process that the tool starts, and only when told to."""

from __future__ import annotations

import os
import posixpath
import shlex
import shutil
import subprocess
from collections.abc import Mapping

from repoagent.errors import InputError
from repoagent.repo import display

FALLBACKS = ("nano", "vi")
_PLUS = "ed emacs emacsclient gvim joe kak kate mg micro nano ne nvi nvim pico vi view vim".split()
_GOTO = "code code-insiders codium cursor vscodium windsurf".split()
_COLON = "helix hx mate subl zed zeditor".split()
_LINE = "clion goland idea phpstorm pycharm rubymine webstorm".split()


def editor(environment: Mapping[str, str]) -> str:
    """The editor's command; ``InputError`` if none is set and none is there."""
    for variable in ("VISUAL", "EDITOR"):
        if environment.get(variable, "").strip():
            return environment[variable]
    for name in FALLBACKS:
        if shutil.which(name):
            return name
    raise InputError("no editor is set; set EDITOR, such as EDITOR=vim.")


def command(editor: str, file: str, line: int) -> list[str]:
    """``editor`` with what it takes to open ``file`` at ``line``; just the file where that is not known."""
    try:
        words = shlex.split(editor)
    except ValueError as error:
        raise InputError(f"EDITOR is no command ({error}): {display(editor)}.") from error
    name = posixpath.basename(words[0]).removesuffix(".exe")
    if name in _PLUS:
        return [*words, f"+{line}", file]
    if name in _GOTO:
        return [*words, "--goto", f"{file}:{line}"]
    if name in _COLON:
        return [*words, f"{file}:{line}"]
    if name in _LINE:
        return [*words, "--line", str(line), file]
    return [*words, file]


def edit(file: str, line: int) -> None:
    """Open ``file`` at ``line`` and wait until the editor is left; ``InputError`` if it cannot be started."""
    words = command(editor(os.environ), file, max(1, line))
    try:
        code = subprocess.call(words)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot start {display(words[0])}: {reason}; set EDITOR to another.") from error
    if code:
        raise InputError(f"{display(words[0])} ended with exit code {code}.")
