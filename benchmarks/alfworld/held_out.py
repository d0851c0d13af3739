"""The games that nothing may be trained on, by content: ``held_out.json``, from their hashes.

    python -m benchmarks.alfworld.held_out --data DIR

A copy of a test game in a training folder is found whatever its name, see :func:`check_training`.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path

from benchmarks.alfworld.game import Game, read_game
from benchmarks.alfworld.sources import OfficialGames
from repoagent.errors import InputError

PATH = Path(__file__).with_name("held_out.json")
FOLDERS = ("valid_seen", "valid_unseen")


@cache
def held_out() -> dict[str, str]:
    """The folder of the release by :func:`~benchmarks.alfworld.game.game_hash` of the held-out games."""
    found: dict[str, list[str]] = json.loads(PATH.read_text(encoding="utf-8"))
    return {digest: folder for folder, hashes in found.items() for digest in hashes}


def check_training(game: Game) -> Game:
    """``game``; :class:`InputError` if it is a held-out one."""
    if folder := held_out().get(game.hash):
        raise InputError(f"the game {game.name} is one of {folder}: take it out of the training games.")
    return game


def main() -> None:
    """Write the hashes."""
    parser = argparse.ArgumentParser(description="Hash the held-out games of the release.")
    parser.add_argument("--data", type=Path, help="folder of ALFWorld's games (default: ALFWORLD_DATA)")
    try:
        source = OfficialGames(parser.parse_args().data)
        found = {
            folder: sorted(read_game(source.path(task.name)).hash for task in source.listed(folder))
            for folder in FOLDERS
        }
    except InputError as error:
        parser.error(str(error))
    PATH.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
