"""How the terminal interface looks; after a wanted change: pytest FILE --snapshot-update."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from repoagent.errors import ModelError
from repoagent.repo import Repo
from repoagent.tui.app import ExploreApp
from tests.tui_helpers import (
    ROAD,
    Gate,
    Guide,
    answered,
    ask,
    make_app,
    make_repo,
    settled,
    status,
    wait_until,
)

Compare = Callable[..., bool]
SIZES = [(80, 24), (140, 40)]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return make_repo(tmp_path)


def still(app: ExploreApp) -> None:
    """No blinking, so that a picture does not depend on its moment."""
    app.box.cursor_blink = False


@pytest.mark.parametrize("size", SIZES, ids=["narrow", "wide"])
def test_ready(shop: Path, snap_compare: Compare, size: tuple[int, int]) -> None:
    app = make_app(shop)

    async def prepare(pilot: Pilot[None]) -> None:
        still(app)
        await wait_until(lambda: "Ready" in status(app) and len(app.tree_.root.children) == 4)
        await settled(app)

    assert snap_compare(app, terminal_size=size, run_before=prepare)


@pytest.mark.parametrize("size", SIZES, ids=["narrow", "wide"])
def test_answered(shop: Path, snap_compare: Compare, size: tuple[int, int]) -> None:
    app = make_app(shop)

    async def prepare(pilot: Pilot[None]) -> None:
        still(app)
        await wait_until(lambda: "Ready" in status(app))
        await ask(app)
        await answered(app)

    assert snap_compare(app, terminal_size=size, run_before=prepare)


def test_underway(shop: Path, snap_compare: Compare) -> None:
    gate = Gate(at=3)
    app = make_app(shop, Guide(ROAD, gate))

    async def prepare(pilot: Pilot[None]) -> None:
        still(app)
        await wait_until(lambda: "Ready" in status(app))
        await ask(app)
        await wait_until(lambda: "Step 3: choosing" in status(app))
        await settled(app)

    try:
        assert snap_compare(app, terminal_size=(80, 24), run_before=prepare)
    finally:
        gate.open.set()


@pytest.mark.parametrize("key", ["", "o"], ids=["held", "options"])
def test_held(shop: Path, snap_compare: Compare, key: str) -> None:
    gate = Gate()
    app = make_app(shop, Guide(("open docs/guide.md", *ROAD), gate))

    async def prepare(pilot: Pilot[None]) -> None:
        still(app)
        await wait_until(lambda: "Ready" in status(app))
        await ask(app)
        await wait_until(gate.reached.is_set)
        await pilot.press("space")
        gate.open.set()
        await wait_until(lambda: status(app).startswith("Held at step 1"))
        if key:
            await pilot.press(key)
        await settled(app)

    assert snap_compare(app, terminal_size=(80, 24), run_before=prepare)


def test_no_model(shop: Path, snap_compare: Compare) -> None:
    def players() -> None:
        raise ModelError("no checkpoint in ./mine; name a folder that holds one, or `bundled`.")

    app = ExploreApp(Repo.open(shop), players, clock=lambda: 0.0)  # type: ignore[arg-type]

    async def prepare(pilot: Pilot[None]) -> None:
        still(app)
        await wait_until(lambda: "no checkpoint" in status(app))
        await wait_until(lambda: len(app.tree_.root.children) == 4)
        await settled(app)

    assert snap_compare(app, terminal_size=(80, 24), run_before=prepare)
