"""The comparison of the engines: its parts on generated games, and the real engine where it is installed.

The whole comparison is a command, ``python -m benchmarks.alfworld.parity``; here a few games, more with
ALFWORLD_PARITY=GAMES.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.alfworld.engine import Engine
from benchmarks.alfworld.generate import draft
from benchmarks.alfworld.parity import (
    NONSENSE,
    Comparison,
    Generated,
    Official,
    body,
    compare,
    parity,
    sample,
    speed,
    wander,
)  # fmt: skip
from benchmarks.alfworld.real import RealEngine, package_texts
from repoagent.errors import InputError

INSTALLED = all(importlib.util.find_spec(name) for name in ("textworld", "alfworld", "fast_downward"))
REAL = pytest.mark.skipif(not INSTALLED, reason="the extra alfworld is not installed")
GAMES = int(os.environ.get("ALFWORLD_PARITY", "3"))
ROOT = Path(__file__).parent.parent


class Liar(Engine):
    """An engine that is wrong in one thing."""

    def __init__(self, game, wrong: str) -> None:
        self.wrong = wrong
        super().__init__(game)

    def reset(self) -> str:
        return super().reset() + ("!" if self.wrong == "introduction" else "")

    def commands(self) -> tuple[str, ...]:
        found = super().commands()
        return found[:-1] if self.wrong == "commands" else found

    def step(self, command: str) -> str:
        said = super().step(command)
        if self.wrong == "won":
            self.won = True
        return said.replace("You arrive", "You come") if self.wrong == "feedback" else said


@pytest.mark.parametrize("wrong", ["introduction", "commands", "feedback", "won", ""])
def test_every_difference_is_found(wrong: str) -> None:
    game = draft("generated/train/pick_clean_then_place/0").game("g")
    found = Comparison()
    compare(found, "g", game, Engine(game), Liar(game, wrong), 60, random.Random(1))
    assert found.games == 1
    if wrong:
        assert found.differing >= 1 and "ours" in found.differences[0] and found.steps < 60
    else:
        assert (found.differing, found.steps) == (0, 60) and len(found.verbs) > 6


def test_the_walk_follows_the_guide_and_strays_from_it() -> None:
    game = draft("generated/train/pick_heat_then_place/1").game("g")
    commands = []
    for seed in range(5):
        engine, rng, guide = Engine(game), random.Random(seed), list(game.walkthrough)
        for _ in range(60):
            commands.append(wander(rng, engine.commands(), guide))
            engine.step(commands[-1])
        assert not guide
    assert any(c.startswith("heat") for c in commands) and set(commands) & set(NONSENSE)
    assert {c.split()[0] for c in commands} >= {"go", "open", "close", "take", "move", "examine", "look"}


def test_a_sample_is_of_all_splits_and_repeatable() -> None:
    suite = Generated()
    names = sample(suite, 30, 4)
    assert names == sample(suite, 30, 4) != sample(suite, 30, 5)
    assert {name.split("/")[1] for name in names} == {"train", "validation", "test"}
    assert len(set(names)) == 30
    assert len(set(sample(suite, 1000, 0))) == 1000  # more than the held-out splits have


def test_speed_and_figures() -> None:
    fast = speed(Generated(), 0, games=3, steps=100)
    assert fast.steps == 300 and fast.steps_per_second > 1000 and fast.games_per_second > 1
    figures = {"steps": 1, "steps_per_second": 1234.5, "games": 1, "games_per_second": 2.0}
    data = {"comparison": None, "walkthroughs": {"games": 7, "won": 6}, "speed": figures, "real": ""}
    text = body(data)
    assert "6 of 7" in text and "1,234" in text
    found = {
        "games": 2,
        "steps": 30,
        "won": 1,
        "verbs": {"go": 30},
        "differing": 1,
        "differences": ["x: ours 1"],
    }
    text = body(data | {"comparison": found, "real": "version 1"})
    assert "- x: ours 1" in text and "version 1" in text


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "ALFWORLD_DATA"}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.alfworld.parity", *arguments],
        cwd=ROOT, env=clean | environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--games", "0"], "ALFWORLD_DATA is not set"),
        (["--games", "-1"], "at least 0"),
        (["--games", "9", "--steps", "5"], "at least as many"),
        (["--output", "x.txt"], "name it .md or .json"),
    ],
)
def test_wrong_usage_gives_one_line(arguments: list[str], why: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2 and why in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(INSTALLED, reason="the extra alfworld is installed")
def test_without_the_extra_it_says_what_to_install() -> None:
    with pytest.raises(InputError, match=r"pip install 'repoagent\[alfworld\]'"):
        RealEngine()
    with pytest.raises(InputError, match=r"pip install 'repoagent\[alfworld\]'"):
        package_texts()


@pytest.mark.parametrize(
    ("name", "games", "steps", "walks"),
    [("alfworld-parity", 500, 20_000, 4027), ("alfworld-parity-generated", 100, 5_000, 1474)],
)
def test_the_committed_comparison_found_no_difference(name: str, games: int, steps: int, walks: int) -> None:
    results = ROOT / "benchmarks" / "results"
    if not (results / f"{name}.json").exists():
        pytest.skip(f"{name}.json is not there yet; CONTRIBUTING.md has the command")
    data = json.loads((results / f"{name}.json").read_text())
    found = data["comparison"]
    assert found["games"] >= games and found["steps"] >= steps and found["differing"] == 0
    assert {"take", "move", "open", "clean", "heat", "cool", "use", "slice", "examine"} <= set(found["verbs"])
    assert data["walkthroughs"] == {"games": walks, "won": walks}
    assert data["speed"]["steps_per_second"] > 5_000
    assert body(data) in (results / f"{name}.md").read_text()


@REAL
def test_generated_games_are_the_same_in_the_real_engine() -> None:
    arguments = list(sys.argv)
    found = parity(Generated(), GAMES, 40 * GAMES, 7, lambda message: None)
    assert found.steps == 40 * GAMES and found.differences == []
    assert sys.argv == arguments  # the translator of the real engine overwrites it


@REAL
@pytest.mark.skipif("ALFWORLD_DATA" not in os.environ, reason="ALFWORLD_DATA is not set")
def test_released_games_are_the_same_in_the_real_engine() -> None:
    found = parity(Official(), GAMES, 40 * GAMES, 8, lambda message: None)
    assert found.steps == 40 * GAMES and found.differences == []
