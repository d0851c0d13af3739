"""The tool's own folder for what it keeps, and how it writes there: whole files, for the user alone."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from pathlib import Path

from repoagent.errors import InputError
from repoagent.repo import display

VARIABLE = "REPOAGENT_DATA"


def folder(name: str) -> Path:
    """The folder ``name`` of the user's data of this tool; ``REPOAGENT_DATA`` may name another place."""
    if named := os.environ.get(VARIABLE):
        return Path(named) / name
    from platformdirs import user_data_dir

    return Path(user_data_dir("repoagent", appauthor=False)) / name


def named(repo: str) -> str:
    """A name for what is kept of the repository at ``repo``, an absolute path."""
    name = re.sub(r"[^\w.-]", "_", posixpath.basename(repo))[:60] or "repository"
    return f"{name}-{hashlib.sha256(repo.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"


def write(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all; ``InputError`` where that is not possible."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _append(part, text, os.O_TRUNC)
        part.replace(path)
    except OSError as error:
        raise _refused(path, error) from error


def append(path: Path, text: str) -> None:
    """Add ``text`` to the file at ``path`` in one piece; ``InputError`` where that is not possible."""
    try:
        _append(path, text, os.O_APPEND)
    except OSError as error:
        raise _refused(path, error) from error


def _append(path: Path, text: str, flag: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def _refused(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {display(str(path))}: {error.strerror}; {VARIABLE} may name another place."
    )
