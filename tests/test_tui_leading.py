"""Leading the walk by keys: hold, step, back, another option; and corrections that come of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from repoagent import corrections
from repoagent.tui.app import ExploreApp
from repoagent.tui.screens import FileScreen, OptionsScreen
from repoagent.tui.steps import StepView
from repoagent.tui.walker import Keep
from tests.tui_helpers import (
    ROAD,
    Gate,
    Guide,
    answered,
    ask,
    make_app,
    make_repo,
    screen_text,
    status,
    wait_until,
)  # fmt: skip
from training.states import read_states

WIDE, NARROW = (140, 40), (80, 24)
GUIDE, CONFIG = "docs/guide.md", "src/shop/config.py"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPOAGENT_DATA", str(tmp_path / "data"))
    return make_repo(tmp_path)


async def held(app: ExploreApp, step: int) -> None:
    await wait_until(lambda: status(app).startswith(f"Held at step {step}:"))


async def ask_and_hold(app: ExploreApp, pilot: Pilot[None], gate: Gate, key: str = "space") -> None:
    """Ask, and have the first step held; ``gate`` keeps the policy waiting until that is said."""
    await ask(app)
    await wait_until(gate.reached.is_set)
    await pilot.press(key)
    gate.open.set()
    await held(app, 1)


def way(app: ExploreApp) -> list[str]:
    assert app.walker.walk is not None
    return [d.taken.option.text.split(" (")[0] for d in app.walker.walk.decisions]


async def choose(app: ExploreApp, pilot: Pilot[None], text: str) -> None:
    """Choose the option that begins with ``text`` in the dialogue."""
    await wait_until(lambda: isinstance(app.screen, OptionsScreen) and app.screen.query(OptionList))
    options = app.screen.query_one(OptionList)
    index = next(i for i in range(options.option_count) if f" {text}" in str(options.options[i].prompt))
    while options.highlighted != index:
        await pilot.press("down" if (options.highlighted or 0) < index else "up")
    await pilot.press("enter")


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


async def test_a_take_over_is_training_data(shop: Path) -> None:
    app = make_app(shop, Guide((f"open {GUIDE}", *ROAD)), keep=Keep(str(shop), corrections=True))
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await ask(app)
        await answered(app)
        await pilot.press("o", "left", "left", "left", "left", "left", "left")
        await choose(app, pilot, f"open {CONFIG}")
        await answered(app)
        await wait_until(lambda: "stored as a correction (2 states)" in screen_text(app))
        await pilot.press("b", "space")
        await answered(app)
        await wait_until(lambda: not app.walker.busy)
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
