"""Corrections made in the interface are training data, stored once, and only where that is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from repoagent import corrections
from repoagent.tui.screens import FileScreen, OptionsScreen
from repoagent.tui.walker import Keep
from tests.tui_helpers import ROAD, Guide, answered, ask, choose, make_app, make_repo, screen_text, wait_until
from training.states import read_states

WIDE = (140, 40)
GUIDE, CONFIG = "docs/guide.md", "src/shop/config.py"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPOAGENT_DATA", str(tmp_path / "data"))
    return make_repo(tmp_path)


async def test_the_policys_own_choice_is_no_take_over(shop: Path) -> None:
    app = make_app(shop, keep=Keep(str(shop), corrections=True))
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await answered(app)
        await pilot.press("o")
        await wait_until(lambda: isinstance(app.screen, OptionsScreen))
        await pilot.press("enter")
        await answered(app)
        await wait_until(lambda: not app.walker.busy)
    assert not corrections.location(str(shop)).exists()


async def test_a_take_over_is_training_data_once(shop: Path) -> None:
    policy, keep = Guide((f"open {GUIDE}", *ROAD)), Keep(str(shop), sessions=True, corrections=True)
    app = make_app(shop, policy, keep=keep)
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await ask(app)
        await answered(app)
        await pilot.press("o", "left", "left", "left", "left", "left", "left")
        await choose(app, pilot, f"open {CONFIG}")
        await answered(app)
        await wait_until(lambda: "stored as a correction (2 states)" in screen_text(app))
        await pilot.press("b", "p")
        await answered(app)
        await wait_until(lambda: not app.walker.busy)
    later = make_app(shop, policy, keep=keep, saved=app.sitting.session)
    async with later.run_test(size=WIDE) as pilot:
        await answered(later)
        await pilot.press("b", "p")
        await wait_until(lambda: not later.walker.busy and later.answers)
        assert later.sitting.session.asked[0].moves[0].proposed is not None
    right, wrong = read_states(corrections.location(str(shop)))
    assert right.observation.options[right.best[0]].target == CONFIG and not right.mistake
    assert wrong.observation.options[wrong.best[0]].target == CONFIG
    assert wrong.mistake.startswith(f"open {GUIDE}") and wrong.reflection


async def test_this_was_wrong_it_is_that_file(shop: Path) -> None:
    app = make_app(shop, keep=Keep(str(shop), sessions=True, corrections=True))
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await ask(app)
        await answered(app)
        await pilot.press("w")
        await wait_until(lambda: isinstance(app.screen, FileScreen) and "README.md" in screen_text(app))
        await pilot.press(*"guide", "down", "up", "enter")
        await wait_until(lambda: f"It is {GUIDE}: stored as a correction" in screen_text(app))
        assert app.tree_.answer == GUIDE
        assert app.sitting.current is not None and app.sitting.current.corrected == GUIDE
    states = read_states(corrections.location(str(shop)))
    assert states[0].observation.options[states[0].best[0]].target == GUIDE
    assert [bool(s.mistake) for s in states] == [False, False, True]


async def test_corrections_can_be_off(shop: Path) -> None:
    app = make_app(shop, keep=Keep(str(shop)))
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await ask(app)
        await answered(app)
        await pilot.press("w")
        await wait_until(lambda: "Corrections are off" in screen_text(app))
        assert not isinstance(app.screen, FileScreen)
        await pilot.press("o", "left", "left", "left", "left")
        await choose(app, pilot, f"open {GUIDE}")
        await answered(app)
        await wait_until(lambda: not app.walker.busy)
    assert not corrections.location(str(shop)).parent.exists()
