"""The terminal interface, driven by keys over real files and the real loop."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from textual.widgets.tree import TreeNode

from repoagent.environment import Observation
from repoagent.errors import InputError, ModelError
from repoagent.explore import ExploreConfig
from repoagent.players import NoReflector, RandomPolicy
from repoagent.repo import Repo
from repoagent.tui import run
from repoagent.tui.app import ExploreApp
from repoagent.tui.preview import Preview, coloured_rows, read_rows
from repoagent.tui.steps import StepView, bar
from repoagent.tui.tree import PAGE, Place
from repoagent.tui.walker import one_line, preload_torch
from tests.tui_helpers import (
    QUESTION,
    ROAD,
    Gate,
    Guide,
    Talker,
    answered,
    ask,
    make_app,
    make_repo,
    screen_text,
    status,
    wait_until,
)  # fmt: skip

WIDE, NARROW = (140, 40), (80, 24)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return make_repo(tmp_path)


def children(node: TreeNode[Place]) -> list[str]:
    return [str(child.label) for child in node.children]


async def shows(app: ExploreApp, *patterns: str) -> None:
    """Wait until every pattern is to be seen."""
    await wait_until(lambda: all(re.search(p, screen_text(app)) for p in patterns))


# -- a question --------------------------------------------------------------------------------


async def test_a_question_is_answered(shop: Path) -> None:
    app = make_app(shop)
    async with app.run_test(size=WIDE):
        await wait_until(lambda: "Ready" in status(app))
        await ask(app)
        await answered(app)
        best = app.answers[0]
        assert best.path == "src/shop/config.py"
        assert best.start_line <= 13 <= best.end_line
        assert status(app).startswith(f"src/shop/config.py:{best.start_line}-{best.end_line} · 5 steps")
        assert app.tree_.answer == "src/shop/config.py"
        assert app.tree_.opened == {"src/shop/config.py"}
        assert len(app.query(StepView)) == 5
        assert app.focused is app.choices
        await shows(app, "★ config.py", r"▌13 +DEFAULT_TIMEOUT = 30.0", r"\[b\]Now\[/b\] at src/shop")


async def test_the_walk_is_lit_as_it_happens(shop: Path) -> None:
    gate = Gate()
    app = make_app(shop, Guide(ROAD, gate))
    async with app.run_test(size=WIDE):
        await ask(app)
        await wait_until(lambda: "Step 1: choosing" in status(app))
        assert app.tree_.here == ""
        await shows(app, "Step 1")
        assert "%" not in screen_text(app)
        gate.open.set()
        await answered(app)
        await shows(app, r"▸ +\d\d% █+.? +identify src/shop/config.py")
        nodes = {str(n.data.path): n for n in app.tree_._tree_nodes.values() if n.data}
        assert nodes["src"].is_expanded and nodes["src/shop"].is_expanded
        assert not nodes["docs"].is_expanded


async def test_reflections_stream_in(shop: Path) -> None:
    gate = Gate()
    app = make_app(shop, reflector=Talker(before_the_end=gate))
    async with app.run_test(size=WIDE):
        await ask(app)
        await shows(app, r"\[b\]Now\[/b\] at the top, \d+")
        assert "options." not in screen_text(app)
        gate.open.set()
        await shows(app, r"options\.")


async def test_several_questions_in_one_sitting(shop: Path) -> None:
    app = make_app(shop)
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await answered(app)
        await pilot.press("slash")
        assert app.focused is app.box
        await ask(app, "And the guide?")
        await answered(app)
        assert QUESTION not in screen_text(app)
        assert "And the guide?" in screen_text(app)
        await pilot.press("slash", "up", "up")
        assert app.box.value == QUESTION
        await pilot.press("down", "down")
        assert app.box.value == ""


async def test_an_answer_leaves_a_question_being_typed_alone(shop: Path) -> None:
    gate = Gate()
    app = make_app(shop, Guide(ROAD, gate))
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await wait_until(gate.reached.is_set)
        app.box.value = ""
        await pilot.press("slash", "q", "slash", "1")
        gate.open.set()
        await answered(app)
        assert app.focused is app.box
        assert app.box.value == "q/1", "keys that act elsewhere are letters here"


async def test_runners_up_are_one_key_away(shop: Path) -> None:
    app = make_app(shop)
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await answered(app)
        second, third = app.answers[1], app.answers[2]
        await pilot.press("2")
        await wait_until(lambda: app.preview.path == second.path)
        await pilot.press("down")
        await wait_until(lambda: app.preview.path == third.path)
        assert app.tree_.answer == app.answers[0].path, "the answer stays marked"
        await pilot.press("9")
        await pilot.click("#answers", offset=(5, 1))
        await wait_until(lambda: app.preview.path == app.answers[0].path)


async def test_a_file_of_the_tree_can_be_read(shop: Path) -> None:
    app = make_app(shop)
    async with app.run_test(size=NARROW) as pilot:
        await wait_until(lambda: "README.md" in children(app.tree_.root))
        app.tree_.focus()
        await pilot.press("end", "enter")
        await wait_until(lambda: app.preview.path == "README.md")
        assert app.preview.display, "on a narrow screen the file takes the place of the steps"
        await pilot.press("t")
        assert not app.preview.display and app.steps.display


# -- what goes wrong ---------------------------------------------------------------------------


async def test_escape_cancels_at_once(shop: Path) -> None:
    gate = Gate()
    app = make_app(shop, Guide(ROAD, gate))
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await wait_until(gate.reached.is_set)
        before = time.monotonic()
        await pilot.press("escape")
        assert time.monotonic() - before < 5, "the step would take 30"
        assert status(app) == "Cancelled." and not app.walker.asking
        gate.open.set()
        await wait_until(lambda: not app.walker.busy)
        assert len(app.query(StepView)) == 1 and not app.answers
        await ask(app)
        await answered(app)


async def test_a_new_question_drops_the_running_one(shop: Path) -> None:
    gate = Gate()
    app = make_app(shop, Guide(ROAD, gate))
    async with app.run_test(size=WIDE):
        await ask(app)
        await wait_until(gate.reached.is_set)
        await ask(app, "Something else?")
        gate.open.set()
        await answered(app)
        assert len(app.query(StepView)) == 5
        assert "Something else?" in screen_text(app) and QUESTION not in screen_text(app)


async def test_models_that_do_not_load_are_a_line_and_tried_again(shop: Path) -> None:
    tries = []

    def players() -> tuple[Guide, Talker]:
        tries.append(1)
        if len(tries) < 3:
            raise ModelError("no checkpoint in x\x1b[31m; name another.\nTraceback: …")
        return Guide(), Talker()

    app = ExploreApp(Repo.open(shop), players)
    async with app.run_test(size=NARROW):
        await wait_until(lambda: "no checkpoint" in status(app))
        assert status(app) == r"no checkpoint in x\x1b[31m; name another."
        assert app.walker.exit_code == 3
        await ask(app)
        await wait_until(lambda: len(tries) == 2 and not app.walker.asking)
        assert "no checkpoint" in status(app)
        await ask(app)
        await answered(app)
        assert app.walker.exit_code == 0


async def test_a_policy_that_breaks_ends_the_question_only(shop: Path) -> None:
    class Broken(RandomPolicy):
        def distribution(
            self, observations: Sequence[Observation], reflections: Sequence[str]
        ) -> list[list[float]]:
            raise RuntimeError("server [gone]\nmore")

    app = make_app(shop, Broken())
    async with app.run_test(size=WIDE) as pilot:
        await ask(app)
        await wait_until(lambda: "RuntimeError: server [gone]" in status(app))
        assert "more" not in status(app) and not app.walker.asking
        await pilot.press("tab", "q")
    assert app.return_code == 0


async def test_an_empty_repository(tmp_path: Path) -> None:
    app = make_app(tmp_path)
    async with app.run_test(size=NARROW):
        await ask(app)
        await wait_until(lambda: "No answer" in status(app))


async def test_steps_run_out(shop: Path) -> None:
    app = make_app(shop, Guide(("go",)), NoReflector(), steps=2)
    async with app.run_test(size=WIDE):
        await ask(app)
        await answered(app)
        assert status(app).startswith("No file named within 2 steps")


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        run(str(tmp_path / "nowhere"), "random", "none", 8)


def test_errors_are_one_line() -> None:
    assert one_line(ModelError("what, why, what to do")) == "what, why, what to do"
    assert one_line(ValueError("a\nb")) == "ValueError: a"
    assert one_line(KeyError()) == "KeyError"


@pytest.mark.parametrize("key", ["q", "ctrl+q"])
async def test_quitting_while_a_step_is_under_way(shop: Path, key: str) -> None:
    gate = Gate()
    app = make_app(shop, Guide(ROAD, gate))
    async with app.run_test(size=NARROW) as pilot:
        await ask(app)
        await wait_until(gate.reached.is_set)
        app.tree_.focus()
        await pilot.press(key)
        await asyncio.wait_for(pilot.app.workers.wait_for_complete(), 5)
    assert app.return_code == 0 and app.walker.busy
    gate.open.set()


# -- never blocked -----------------------------------------------------------------------------


def starved() -> float:
    """Seconds for which this thread could run but got no core, as far as the system tells."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


async def longest_gap(until: Callable[[], object]) -> float:
    """Longest time for which the event loop did not come round, but for what others took."""
    worst, end = 0.0, time.monotonic() + 30
    while not until():
        assert time.monotonic() < end
        before, waited = time.monotonic(), starved()
        await asyncio.sleep(0.01)
        worst = max(worst, time.monotonic() - before - 0.01 - (starved() - waited))
    return worst


def count_up() -> None:
    """Work that keeps the interpreter lock."""
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        sum(range(1000))


@pytest.mark.parametrize("work", [count_up, lambda: time.sleep(0.7)], ids=["computing", "sleeping"])
async def test_a_slow_policy_does_not_block(shop: Path, work: Callable[[], None]) -> None:
    working: list[bool] = []

    def toil() -> None:
        working.append(True)
        work()
        working.append(False)

    app = make_app(shop, Guide(ROAD, toil))
    async with app.run_test(size=WIDE):
        await ask(app)
        gaps = []
        for step in range(5):  # another process may hold the core for some of them
            await wait_until(lambda n=2 * step + 1: len(working) >= n)
            gaps.append(await longest_gap(lambda n=2 * step + 2: len(working) >= n))
        assert min(gaps) < 0.1, gaps


async def test_a_directory_of_ten_thousand_entries(tmp_path: Path) -> None:
    big = tmp_path / "big" / "many"
    big.mkdir(parents=True)
    for number in range(10_000):
        (big / f"f{number:05}.txt").touch()
    (big / "f09999.txt").write_text("the default timeout is configured here\n")
    app = make_app(tmp_path / "big", Guide(("identify many/f09999.txt", "open many/f09999.txt")))
    async with app.run_test(size=WIDE) as pilot:
        await wait_until(lambda: children(app.tree_.root) == ["many/"])
        many = app.tree_.root.children[0]
        many.expand()
        await wait_until(lambda: many.children)
        assert len(many.children) == PAGE + 1 and children(many)[-1] == "… 9,800 more"
        app.tree_.focus()
        await wait_until(lambda: many.children[-1].line > 0)
        app.tree_.move_cursor(many.children[-1])
        await pilot.press("enter")
        assert len(many.children) == 2 * PAGE + 1 and children(many)[-1] == "… 9,600 more"
        await ask(app)
        await answered(app)
        await wait_until(lambda: "★ f09999.txt" in screen_text(app))
        assert children(many)[-2:] == ["f09999.txt", "… 9,599 more"]


def test_preloading_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    preload_torch()


# -- what is shown -----------------------------------------------------------------------------


async def test_names_and_texts_are_never_markup(shop: Path) -> None:
    (shop / "lin\nk").symlink_to("/etc")
    odd = r"tests/[red]odd[b]\tname.txt"
    app = make_app(shop, Guide((f"identify {odd}", f"open {odd}", "go tests")))
    async with app.run_test(size=(200, 40)):
        await ask(app, "[bold]where[/bold] \x1b[31m is odd name?")
        await answered(app)
        shown = screen_text(app)
        assert r"★ [red]odd[b]\tname.txt" in shown
        assert r"lin\nk → outside" in shown
        assert r"[bold]not bold[/bold] \x1b[31mnot red\x07" in shown
        assert "“[bold]where[/bold]  [31m is odd" in shown
        assert "\x1b" not in shown and "\x07" not in shown
        assert status(app).startswith(odd)


async def test_no_color(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = make_app(shop)
    async with app.run_test(size=WIDE):
        await ask(app)
        await answered(app)
        svg = app.export_screenshot().split('<g transform="translate(9, 41)"')[1]
        colours = {m.lower() for m in re.findall(r"#[0-9a-fA-F]{6}", svg)}
        assert colours and all(c[1:3] == c[3:5] == c[5:7] for c in colours)


async def test_preview_of_what_is_no_text(shop: Path) -> None:
    (shop / "blob.bin").write_bytes(b"\0\1\2" * 100)
    app = make_app(shop)
    async with app.run_test(size=WIDE):
        preview = app.query_one(Preview)
        preview.show("blob.bin")
        await wait_until(lambda: "No text to show" in screen_text(app))


async def test_preview_scrolls_to_the_lines(shop: Path) -> None:
    (shop / "long.py").write_text("".join(f"x{n} = {n}\n" for n in range(1, 5001)))
    app = make_app(shop)
    async with app.run_test(size=WIDE):
        app.preview.show("long.py", (3000, 3002))
        await wait_until(lambda: "▌3000  x3000 = 3000" in screen_text(app))
        assert "▌3002" in screen_text(app) and "▌3003" not in screen_text(app)


async def test_preview_of_a_file_that_was_edited(shop: Path) -> None:
    app = make_app(shop)
    async with app.run_test(size=WIDE):
        app.preview.show("README.md")
        await wait_until(lambda: "few" in screen_text(app))
        (shop / "README.md").write_text("# Now empty\n")
        app.preview.reload()
        await wait_until(lambda: "# Now empty" in screen_text(app))


def test_preview_rows(shop: Path) -> None:
    (shop / "wide.min.js").write_text("a" * 1_000_000 + "\n\tb\n")
    rows = read_rows(Repo.open(shop), "wide.min.js")
    assert [len(row) for row in rows] == [400, 5]
    coloured = coloured_rows("x.py", ["def f():", "", "    return 1", ""])
    assert coloured is not None and [line.plain for line in coloured][:3] == ["def f():", "", "    return 1"]
    assert any(line.spans for line in coloured)
    assert coloured_rows("x.unknown", ["words"]) is None


def test_bars() -> None:
    assert bar(1.0) == "█" * 8
    assert bar(0.0) == " " * 8
    assert bar(0.5, 4) == "██  "
    assert bar(1 / 64) == "▏".ljust(8)


def test_the_default_configuration(shop: Path) -> None:
    app = ExploreApp(Repo.open(shop), lambda: (RandomPolicy(), NoReflector()))
    assert app.walker._config == ExploreConfig()
