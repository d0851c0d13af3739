"""Several questions in one sitting: followed up, kept, reopened, searched, deleted and exported."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from textual.widgets import OptionList

from repoagent import session as sessions
from repoagent.errors import InputError
from repoagent.session import Session
from repoagent.tui import run
from repoagent.tui.screens import SessionsScreen
from repoagent.tui.steps import StepView
from repoagent.tui.walker import Keep
from tests.test_session import asked
from tests.tui_helpers import (
    QUESTION,
    Guide,
    answered,
    ask,
    make_app,
    make_repo,
    screen_text,
    status,
    wait_until,
)

WIDE = (140, 40)
CONFIG = "src/shop/config.py"
OTHER = "What does the guide say?"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPOAGENT_DATA", str(tmp_path / "data"))
    return make_repo(tmp_path)


@pytest.fixture
def saved(shop: Path) -> Session:
    made = sessions.new(str(shop))
    made.asked += [asked(shop), asked(shop, OTHER)]
    sessions.save(made)
    return made


async def test_a_sitting_is_saved_after_every_answer(shop: Path) -> None:
    app = make_app(shop, keep=Keep(str(shop), sessions=True))
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await answered(app)
        await wait_until(lambda: sessions.load_all()[0])
        await pilot.press("f")
        assert app.focused is app.box and app.box.value == "+ "
        await pilot.press(*"and the guide", "enter")
        await wait_until(lambda: len(app.sitting.session.asked) == 2)
        await answered(app)
        await pilot.press("b")
        await wait_until(lambda: status(app).startswith("Held"))
        await pilot.press("p")
        await answered(app)
        assert len(app.sitting.session.asked) == 2, (
            "another way to the same question takes the old one's place"
        )
        app.sitting.close()
    (session,) = sessions.load_all()[0]
    assert session == app.sitting.session and session.repo == str(shop)
    first, second = session.asked
    assert first.question == first.played == QUESTION and first.answers[0].path == CONFIG
    assert second.question == "and the guide" and second.played == "and the guide `config`"
    assert {p.name for p in shop.iterdir()} == {"README.md", "docs", "src", "tests"}


async def test_nothing_is_kept_where_that_is_off(shop: Path, tmp_path: Path) -> None:
    app = make_app(shop, keep=Keep(str(shop)))
    async with app.run_test(size=WIDE):
        await ask(app)
        await answered(app)
        app.sitting.close()
    assert not (tmp_path / "data").exists()


async def test_reopened_shown_and_walked_again(shop: Path, saved: Session) -> None:
    app = make_app(shop, keep=Keep(str(shop), sessions=True), saved=saved)
    async with app.run_test(size=WIDE) as pilot:
        await answered(app)
        assert app.sitting.session == saved and app.sitting.current == saved.asked[1]
        await pilot.press("left_square_bracket")
        await wait_until(lambda: app.sitting.current == saved.asked[0])
        await answered(app)
        assert len(app.query(StepView)) == 5 and app.tree_.answer == CONFIG
        assert status(app).startswith(f"{CONFIG}:") and "1.5 s · guide policy" in status(app)
        await pilot.press("b")
        await wait_until(lambda: status(app).startswith("Held at step 5"))
        await pilot.press("p")
        await answered(app)
        assert len(app.sitting.session.asked) == 2
        await pilot.press("right_square_bracket")
        await wait_until(lambda: app.sitting.current == saved.asked[1])
        await pilot.press("slash", "up", "up")
        assert app.box.value == QUESTION, "what was asked is in the history"


async def test_a_repository_that_has_changed_is_said(shop: Path, saved: Session) -> None:
    app = make_app(shop, Guide(), saved=saved)
    async with app.run_test(size=WIDE) as pilot:
        await answered(app)
        for path in (shop / "src" / "shop").iterdir():
            path.unlink()
        (shop / "src" / "shop").rmdir()
        app.repo._entries.clear()
        await pilot.press("b")
        await wait_until(lambda: "the repository has changed since" in status(app))


async def test_searched_deleted_and_reopened(shop: Path, saved: Session, tmp_path: Path) -> None:
    elsewhere = sessions.new("/elsewhere")
    sessions.save(elsewhere)
    doomed = sessions.new(str(shop))
    doomed.asked.append(asked(shop, "Which readme?"))
    sessions.save(doomed)
    (tmp_path / "data" / "sessions" / "broken.json").write_text("{")
    app = make_app(shop, keep=Keep(str(shop), sessions=True))
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        app.tree_.focus()
        await pilot.press("s")
        await wait_until(lambda: app.screen.query(OptionList) and "Which readme?" in screen_text(app))
        assert "broken.json is no session" in screen_text(app)
        assert app.screen.query_one(OptionList).option_count == 2, "those of other repositories are not here"
        await pilot.press(*"which", "ctrl+d")
        await wait_until(lambda: app.screen.query_one(OptionList).option_count == 0)
        await pilot.press(*["backspace"] * 5, *"guide", "enter")
        await answered(app)
        assert app.sitting.session == saved and not isinstance(app.screen, SessionsScreen)
    assert {s.id for s in sessions.load_all()[0]} == {saved.id, elsewhere.id}


async def test_questions_of_earlier_sittings_are_in_the_history(shop: Path, saved: Session) -> None:
    app = make_app(shop, keep=Keep(str(shop), sessions=True))
    async with app.run_test(size=WIDE) as pilot:
        await wait_until(lambda: "Ready" in status(app))
        await app.workers.wait_for_complete()
        await pilot.press("up")
        assert app.box.value == OTHER
        await pilot.press("up")
        assert app.box.value == QUESTION


def test_a_session_of_another_repository(shop: Path, saved: Session, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"is of {shop}; leave the repository out"):
        run(str(tmp_path), "random", "none", saved=saved)


async def test_exported(shop: Path, saved: Session, tmp_path: Path) -> None:
    app = make_app(shop, saved=saved)
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await answered(app)
        await pilot.press("x")
        await wait_until(lambda: "Written:" in screen_text(app))
    page = tmp_path / "data" / "exports" / f"{saved.id}.md"
    assert page.read_text() == sessions.markdown(saved)
    assert json.loads(page.with_suffix(".json").read_text())["asked"][1]["question"] == OTHER
    assert stat.S_IMODE(page.stat().st_mode) == 0o600


async def test_a_session_that_cannot_be_written_is_said(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPOAGENT_DATA", str(tmp_path / "file"))
    app = make_app(shop, keep=Keep(str(shop), sessions=True))
    async with app.run_test(size=WIDE, notifications=True):
        await ask(app)
        await answered(app)
        await wait_until(lambda: "cannot write" in screen_text(app))
