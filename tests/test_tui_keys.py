"""The command palette, help, keys and themes of one's own, the clipboard, and the editor's command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from textual.widgets import HelpPanel, Markdown

from repoagent import config
from repoagent.errors import InputError
from repoagent.tui import editor, keys, run
from repoagent.tui.app import ExploreApp
from tests.tui_helpers import answered, ask, make_app, make_repo, screen_text, status, wait_until

WIDE, NARROW = (140, 40), (80, 24)
CONFIG = "src/shop/config.py"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return make_repo(tmp_path)


async def test_every_action_is_in_the_palette(shop: Path) -> None:
    app = make_app(shop)
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await answered(app)
        offered = {command.title for command in app.get_system_commands(app.screen)}
        labels = {c.label for c in keys.COMMANDS if c.name not in ("next_pane", "leave") and app.can(c.name)}
        assert labels < offered and {"Take over", "Copy", "Answer 2", "Theme"} <= offered
        assert "Cancel" not in offered, "only what does something now"
        await pilot.press("ctrl+p", *"Answer 2")
        await wait_until(lambda: "docs/guide.md" in screen_text(app))
        await asyncio.sleep(0.3)
        await pilot.press("enter")
        await wait_until(lambda: app.preview.path == app.answers[1].path)


async def test_names_in_the_palette_are_never_markup(shop: Path) -> None:
    (shop / "[@click=app.quit]timeout.md").write_text("the default timeout is configured here\n")
    app = make_app(shop)
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await answered(app)
        await pilot.press("ctrl+p")
        await wait_until(lambda: "[@click=app.quit]timeout.md" in screen_text(app))


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_help_for_the_focused_pane(shop: Path, size: tuple[int, int]) -> None:
    app = make_app(shop)

    def says(text: str) -> bool:
        pages = app.screen.query("HelpPanel Markdown").results(Markdown)
        return any(text in page.source for page in pages)

    async with app.run_test(size=size) as pilot:
        await pilot.press("f1")
        await wait_until(lambda: says("press **Enter**"))
        for pane, text in (
            (app.tree_, "where the walk is"),
            (app.steps, "lets it go on"),
            (app.preview, "PgUp"),
        ):
            pane.focus()
            await wait_until(lambda text=text: says(text))
        await pilot.press("question_mark")
        await wait_until(lambda: not app.screen.query(HelpPanel))


async def test_keys_of_ones_own(shop: Path) -> None:
    app = make_app(shop, keymap=keys.keymap("ask=a,A back=h"))
    async with app.run_test(size=WIDE) as pilot:
        await wait_until(lambda: "Ready" in status(app))
        app.tree_.focus()
        await pilot.press("slash")
        assert app.focused is app.tree_
        await pilot.press("A")
        assert app.focused is app.box
        await ask(app)
        await answered(app)
        await pilot.press("h")
        await wait_until(lambda: status(app).startswith("Held"))


@pytest.mark.parametrize("text", ["pause", "pause=", "nothing=x", "pause=x,,y"])
def test_no_keys(text: str) -> None:
    with pytest.raises(InputError, match="is no COMMAND=KEY"):
        keys.keymap(text)
    assert keys.keymap(keys.UNSET) == {}


def test_settings_are_checked_before_anything_is_shown(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv(config.VARIABLE, str(file))
    file.write_text('theme = "mauve"\n')
    with pytest.raises(InputError, match=r"theme: there are .*colour-blind"):
        run(str(shop), "random", "none")
    file.write_text('keys = "fly=f"\n')
    with pytest.raises(InputError, match="fly=f"):
        run(str(shop), "random", "none")


def test_no_two_commands_have_the_same_key() -> None:
    every = [key for command in keys.COMMANDS for key in command.keys.split(",")]
    assert len(every) == len(set(every))
    assert all(hasattr(ExploreApp, f"action_{command.name}") for command in keys.COMMANDS)


async def test_copied(shop: Path) -> None:
    app = make_app(shop)
    async with app.run_test(size=WIDE, notifications=True) as pilot:
        await ask(app)
        await answered(app)
        await pilot.press("c")
        assert app.clipboard == f"{CONFIG}:{app.answers[0].start_line}"
        await wait_until(lambda: f"Copied {CONFIG}" in screen_text(app))


async def test_no_editor_where_the_terminal_cannot_be_handed_over(shop: Path) -> None:
    app = make_app(shop)
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await answered(app)
        await pilot.press("enter")
        await wait_until(lambda: "cannot be handed to an editor" in status(app))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("vim", ["vim", "+7", "/x y"]),
        ("/usr/bin/nvim -R", ["/usr/bin/nvim", "-R", "+7", "/x y"]),
        ("nano", ["nano", "+7", "/x y"]),
        ("emacsclient -nw", ["emacsclient", "-nw", "+7", "/x y"]),
        ("code --wait", ["code", "--wait", "--goto", "/x y:7"]),
        ("hx", ["hx", "/x y:7"]),
        ("'/opt/my editor/subl' -w", ["/opt/my editor/subl", "-w", "/x y:7"]),
        ("pycharm", ["pycharm", "--line", "7", "/x y"]),
        ("some-editor", ["some-editor", "/x y"]),
    ],
)
def test_the_editors_command(words: str, expected: list[str]) -> None:
    assert editor.command(words, "/x y", 7) == expected


def test_which_editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert editor.editor({"VISUAL": "code", "EDITOR": "vi"}) == "code"
    assert editor.editor({"VISUAL": " ", "EDITOR": "vi"}) == "vi"
    with pytest.raises(InputError, match="EDITOR is no command"):
        editor.command("vi '", "/x", 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no editor is set"):
        editor.editor({})
    monkeypatch.setenv("VISUAL", "not-there")
    with pytest.raises(InputError, match="cannot start not-there: No such file"):
        editor.edit("/x", 1)
    monkeypatch.setenv("VISUAL", "/bin/false")
    with pytest.raises(InputError, match="/bin/false ended with exit code 1"):
        editor.edit("/x", 1)
