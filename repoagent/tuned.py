"""Models that ``repoagent train PATH`` made for one repository each: where they lie, and which can be used.

They stand in the user's data folder under a name made of the repository's root, so only a question about that
very root finds them: a folder below it is another tree, with other paths.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repoagent import storage
from repoagent.errors import InputError, ModelError
from repoagent.manifest import MANIFEST, damage, read_manifest
from repoagent.repo import display

ENTRY = "tuned"
"""The key of a manifest that says of which repository and from what the model was made."""


@dataclass(frozen=True, slots=True)
class TunedModel:
    """One registered model; ``problem`` is None if it can be used."""

    root: str
    folder: Path
    entry: dict[str, Any]
    problem: str | None


def root_of(repo: str | os.PathLike[str]) -> str:
    """The name under which a model of ``repo`` is registered: the real path of the folder."""
    return os.path.realpath(os.path.expanduser(repo))


def location(root: str) -> Path:
    """The folder of the model of the repository at ``root``."""
    return storage.folder("models") / storage.named(root)


def find(repo: str | os.PathLike[str], base: Path) -> TunedModel | None:
    """The model registered for ``repo``; None if there is none. ``base`` is the bundled checkpoint."""
    root = root_of(repo)
    folder = location(root)
    return _look(folder, base, root) if os.path.isdir(root) and os.path.isdir(folder) else None


def registered(base: Path) -> list[TunedModel]:
    """All registered models, usable or not, by their roots."""
    try:
        folders = [
            f for f in storage.folder("models").iterdir() if f.suffix not in (".part", ".old") and f.is_dir()
        ]
    except OSError:
        return []
    return sorted((_look(f, base) for f in folders), key=lambda m: m.root)


def forget(repo: str | os.PathLike[str]) -> Path:
    """Remove the model of ``repo``, whose folder need not be there any more; where it lay."""
    folder = location(root_of(repo))
    if not os.path.isdir(folder):
        raise InputError(f"no model is registered for {display(root_of(repo))}; see `repoagent models`.")
    try:
        (folder / MANIFEST).unlink(missing_ok=True)  # whatever comes after, it is no model any more
        shutil.rmtree(folder)
    except OSError as error:
        raise InputError(f"cannot remove {display(str(folder))}: {error.strerror}.") from error
    return folder


def stamp(folder: str) -> int:
    """What changes when a model is registered anew in ``folder``; 0 where there is none."""
    try:
        return (Path(folder) / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def digest(folder: Path) -> dict[str, Any]:
    """What tells one bundled checkpoint from another: the digests of its files."""
    found = read_manifest(folder).get("sha256")
    return found if isinstance(found, dict) else {}


def _look(folder: Path, base: Path, root: str = "") -> TunedModel:
    entry: dict[str, Any] = {}
    try:
        found = read_manifest(folder).get(ENTRY)
        entry = found if isinstance(found, dict) else {}
        problem = damage(folder)
        if not entry:
            problem = f"{MANIFEST} does not say what it was made for"
        elif root and entry.get("root") != root:
            problem = "it was made for another folder"
        elif entry.get("base") != digest(base):
            problem = "it was made from another version of the bundled model"
    except (ModelError, OSError) as error:
        problem = " ".join(str(error).split())
    return TunedModel(root or str(entry.get("root", folder.name)), folder, entry, problem)
