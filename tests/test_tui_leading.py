"""Leading the walk by keys: hold, step, back, another option."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from repoagent.tui.app import ExploreApp
from repoagent.tui.steps import StepView
from tests.tui_helpers import (
    ROAD,
    Gate,
    Guide,
    answered,
    ask,
    choose,
    held,
    make_app,
    make_repo,
    screen_text,
    status,
    wait_until,
    way,
)

WIDE, NARROW = (140, 40), (80, 24)
GUIDE, CONFIG = "docs/guide.md", "src/shop/config.py"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return make_repo(tmp_path)


async def ask_and_hold(app: ExploreApp, pilot: Pilot[None], gate: Gate, key: str = "space") -> None:
    """Ask, and have the first step held; ``gate`` keeps the policy waiting until that is said."""
    await ask(app)
    await wait_until(gate.reached.is_set)
    await pilot.press(key)
    gate.open.set()
    await held(app, 1)


@pytest.mark.parametrize("key", ["space", "p"])
async def test_hold_step_and_go_on(shop: Path, key: str) -> None:
    gate = Gate()
    app = make_app(shop, Guide(ROAD, gate))
    async with app.run_test(size=NARROW) as pilot:
        await ask_and_hold(app, pilot, gate, key)
        assert status(app) == "Held at step 1: go src/ (3 promising files)"
        assert len(app.query(StepView)) == 1 and app.tree_.here == "", "nothing is done while it is held"
        await pilot.press("n")
        await held(app, 2)
        assert app.tree_.here == "src" and len(app.query(StepView)) == 2
        await pilot.press(key)
        await answered(app)
        assert len(way(app)) == 5 and app.answers[0].path == CONFIG
        assert app.focused is app.choices


async def test_escape_ends_a_walk_that_is_held(shop: Path) -> None:
    gate = Gate()
    app = make_app(shop, Guide(ROAD, gate))
    async with app.run_test(size=NARROW) as pilot:
        await ask_and_hold(app, pilot, gate)
        await pilot.press("escape")
        assert status(app) == "Cancelled."
        await wait_until(lambda: not app.walker.busy)


async def test_back_and_back_again(shop: Path) -> None:
    app = make_app(shop)
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await answered(app)
        await pilot.press("b")
        await held(app, 5)
        assert not app.answers and not app.choices.display
        await pilot.press("b")
        await held(app, 4)
        await pilot.press("b", "space")
        await answered(app)
        assert len(way(app)) == 5 and len(app.query(StepView)) == 5


async def test_take_over_while_it_runs(shop: Path) -> None:
    gate = Gate()
    app = make_app(shop, Guide(ROAD, gate))
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await wait_until(gate.reached.is_set)
        await pilot.press("o")
        gate.open.set()
        await choose(app, pilot, f"open {GUIDE}")
        await answered(app)
        assert way(app)[:2] == [f"open {GUIDE}", "go src/"], "the agent goes on from there"
        assert app.tree_.rejected == {GUIDE}
        app.steps.scroll_home(animate=False)
        await wait_until(lambda: f"open {GUIDE}" in screen_text(app) and "◆ " in screen_text(app))
        shown = screen_text(app)
        assert "✗ " in shown and "✗ guide.md" in shown and "★ config.py" in shown


async def test_take_over_an_earlier_step_when_it_is_over(shop: Path) -> None:
    app = make_app(shop)
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await answered(app)
        await pilot.press("o")
        await wait_until(lambda: "Step 5, which lines?" in screen_text(app))
        await pilot.press("left", "left", "left", "left", "left")
        assert "Step 1, at the top" in screen_text(app)
        await pilot.press("escape")
        assert way(app)[0] == "go src/" and app.answers
        app.steps.scroll_home(animate=False)
        await wait_until(lambda: "Step 1" in screen_text(app))
        await pilot.click(app.query(StepView).first())
        await choose(app, pilot, f"open {GUIDE}")
        await answered(app)
        assert way(app)[0] == f"open {GUIDE}"


async def test_keys_that_do_nothing_do_no_harm(shop: Path) -> None:
    app = make_app(shop)
    async with app.run_test(size=NARROW) as pilot:
        await wait_until(lambda: "Ready" in status(app))
        app.tree_.focus()
        await pilot.press(*"pnbowecfxst[]9", "escape")
        for action in ("pause", "step", "take_over", "wrong", "edit", "copy", "follow_up"):
            getattr(app, f"action_{action}")()
        await app.action_back()
        assert app.query(Input) and not app.walker.asking
