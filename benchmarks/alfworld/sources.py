"""Where games come from: ALFWorld's own files, or a generator that needs no download."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from benchmarks.alfworld.game import TASK_TYPES, Game, read_game
from repoagent.errors import InputError

if TYPE_CHECKING:
    from training.benchmark import Split

VARIABLE = "ALFWORLD_DATA"
RELEASE = "json_2.1.1"
FOLDERS: Mapping[Split, str] = {"train": "train", "validation": "valid_seen", "test": "valid_unseen"}
GAME_FILE = "game.tw-pddl"
UNSUPPORTED = ("movable", "Sliced")
"""Tasks that ALFWorld's own loader leaves out, by parts of the folder's name."""

KEPT_GAMES = 512
"""Compiled games that stay in memory, some 50 KB each."""


@dataclass(frozen=True, slots=True)
class GameTask:
    """A game to play: its ``name`` in its source, and its kind (one of :data:`TASK_TYPES`)."""

    name: str
    kind: str


class Source(Protocol):
    """Games by split, in a fixed order."""

    def tasks(self, split: Split) -> Sequence[GameTask]:
        """The games of a split, which shares none with another."""
        ...

    def game(self, name: str) -> Game:
        """The game of that name."""
        ...


class OfficialGames:
    """The games below ``root``, in the layout of the release; by default below the folder
    that the variable ALFWORLD_DATA names."""

    def __init__(self, root: Path | None = None) -> None:
        if root is None:
            if not os.environ.get(VARIABLE):
                raise InputError(
                    f"{VARIABLE} is not set: set it to the folder of ALFWorld's games (README.md says how to "
                    "get them), or give benchmark.source=generated."
                )
            root = Path(os.environ[VARIABLE])
        self.root = root / RELEASE
        if not self.root.is_dir():
            raise InputError(
                f"{root} has no folder {RELEASE}: set {VARIABLE} to the folder that ALFWorld's games were "
                "unpacked in."
            )
        self.game = lru_cache(KEPT_GAMES)(self._read)

    def tasks(self, split: Split) -> Sequence[GameTask]:
        return self.listed(FOLDERS[split])

    def listed(self, folder: str) -> list[GameTask]:
        """The games of one of the release's folders; :class:`InputError` if it is missing or empty."""
        base = self.root / folder
        if not base.is_dir():
            raise InputError(f"{base} is missing: download the games again.")
        found = [
            GameTask(f"{folder}/{file.parent.relative_to(base).as_posix()}", kind_of(file.parent))
            for file in sorted(base.glob(f"*/*/{GAME_FILE}"))
            if not any(word in file.relative_to(base).as_posix() for word in UNSUPPORTED)
        ]
        if not found:
            raise InputError(f"{base} holds no game ({GAME_FILE}): download the games again.")
        return found

    def path(self, name: str) -> Path:
        """The file of the game ``name``, a task's name."""
        return self.root / name / GAME_FILE

    def _read(self, name: str) -> Game:
        return read_game(self.path(name))


def kind_of(trial: Path) -> str:
    """The kind of task that a game's folder is of: from its traj_data.json, or where that was not
    downloaded from the name of the folder above it ("pick_heat_then_place_in_recep-Egg-None-Plate-1")."""
    kind = ""
    try:
        data = json.loads((trial / "traj_data.json").read_bytes())
        kind = data.get("task_type", "") if isinstance(data, dict) else ""
    except FileNotFoundError:
        kind = trial.parent.name.partition("-")[0]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {trial / 'traj_data.json'}: download it again.") from error
    return check_kind(kind, str(trial))


def check_kind(kind: object, where: str) -> str:
    """The name in :data:`TASK_TYPES` of ``kind``, which may end with ALFRED's "_in_recep"."""
    short = str(kind).removesuffix("_in_recep")
    if short not in TASK_TYPES:
        raise InputError(
            f"{where}: unknown kind of task '{str(kind)[:60]}'; there are {', '.join(TASK_TYPES)}."
        )
    return short
