"""A small repository, players whose every move is known, and what the tests of the TUI wait for."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import OptionList
from textual.worker import WorkerCancelled

from repoagent.environment import Observation
from repoagent.explore import ExploreConfig
from repoagent.players import Policy, Reflector
from repoagent.repo import Repo
from repoagent.session import Session
from repoagent.tui.app import ExploreApp
from repoagent.tui.screens import OptionsScreen
from repoagent.tui.walker import Keep

QUESTION = "Where is the default timeout configured?"
FILES = {
    "README.md": "# Shop\n\nA shop with *few* goods.\n",
    "docs/guide.md": "# Guide\n\nSet the timeout as you like; the default timeout is fine.\n",
    "src/shop/__init__.py": "",
    "src/shop/client.py": "from .config import DEFAULT_TIMEOUT\n\ndef get(u):\n    return DEFAULT_TIMEOUT\n",
    "src/shop/config.py": '"""Settings."""\n\nimport os\n\nNAME = "shop"\n\n\n'
    "def load():\n    return dict(os.environ)\n\n\n"
    "# The default timeout, in seconds.\nDEFAULT_TIMEOUT = 30.0\nRETRIES = 3\n\n\ndef debug():\n"
    '    return "DEBUG" in os.environ\n',
    "tests/test_client.py": "from shop.client import get\n\n\ndef test_get():\n    assert get('x')\n",
    "tests/[red]odd[b]\tname.txt": "[bold]not bold[/bold] \x1b[31mnot red\x07\n",
}
ROAD = (
    "identify src/shop/config.py", "lines", "go src/", "go shop/", "open src/shop/config.py",
)  # fmt: skip


def make_repo(parent: Path) -> Path:
    """The repository "shop"."""
    root = parent / "shop"
    for name, text in FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


class Guide:
    """Prefers the option that begins with the first possible entry of ``road``."""

    name = "guide"

    def __init__(self, road: Sequence[str] = ROAD, work: Callable[[], object] = lambda: None) -> None:
        self.road, self.work = road, work

    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]:
        self.work()
        found = []
        for observation in observations:
            texts = [option.text for option in observation.options]
            best = next((i for r in self.road for i, t in enumerate(texts) if t.startswith(r)), 0)
            weights = [1 / (2 + i) for i in range(len(texts))]
            weights[best] = 2 * sum(weights)
            total = sum(weights)
            found.append([math.log(w / total) for w in weights])
        return found


class Talker:
    """Says where it is, word by word, in what would be markup."""

    name = "talker"

    def __init__(self, before_the_end: Callable[[], object] = lambda: None) -> None:
        self.before_the_end = before_the_end

    def reflect(self, observations: Sequence[Observation]) -> list[str]:
        return ["".join(self.stream(o)) for o in observations]

    def stream(self, observation: Observation) -> Iterator[str]:
        text = f"[b]Now[/b] at {observation.location or 'the top'}, {len(observation.options)} options."
        *words, last = text.split(" ")
        for word in words:
            yield word + " "
        self.before_the_end()
        yield last


def make_app(
    root: Path,
    policy: Policy | None = None,
    reflector: Reflector | None = None,
    steps: int = 8,
    keep: Keep | None = None,
    saved: Session | None = None,
    keymap: dict[str, str] | None = None,
) -> ExploreApp:
    """The interface with players that are there at once and a clock that stands still."""
    pair = (policy or Guide(), reflector or Talker())
    config = ExploreConfig(horizon=steps)
    more = {"keep": keep, "saved": saved, "keymap": keymap}
    return ExploreApp(Repo.open(root), lambda: pair, config, **more, clock=lambda: 0.0)  # type: ignore[arg-type]


async def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Let the interface run until ``condition`` holds, and then draw.

    Not by ``Pilot.pause``, which waits in vain for widgets that are removed meanwhile.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)


async def ask(app: ExploreApp, question: str = QUESTION) -> None:
    """Put ``question`` into the box and do what Enter does."""
    app.box.focus()
    app.box.value = question
    run = app.walker.run
    await app.box.action_submit()
    await wait_until(lambda: app.walker.run != run)


async def answered(app: ExploreApp) -> None:
    """Wait for the answer and for what it brings into view."""
    await wait_until(lambda: [a.path for a in app.answers[:1]] == [app.preview.path])
    await settled(app)


async def settled(app: ExploreApp) -> None:
    """Wait until nothing changes on the screen any more."""
    shown, same = "", 0
    while same < 4:
        with suppress(WorkerCancelled):  # a preview that a newer one has replaced
            await app.workers.wait_for_complete()
        await asyncio.sleep(0.1)
        before, shown = shown, screen_text(app)
        same = same + 1 if shown == before else 0


def status(app: ExploreApp) -> str:
    """The status line."""
    return str(app.query_one("#status").render())


def screen_text(app: ExploreApp) -> str:
    """What is on the screen, as text."""
    lines = app.screen._compositor.render_strips()
    return "\n".join(line.text for line in lines)


class Gate:
    """Work that stops at its ``at``-th call until it is told to go on."""

    def __init__(self, at: int = 1) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._left = at

    def __call__(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self.reached.set()
            assert self.open.wait(30)


async def held(app: ExploreApp, step: int) -> None:
    """Wait until the walk is held at ``step``."""
    await wait_until(lambda: status(app).startswith(f"Held at step {step}:"))


def way(app: ExploreApp) -> list[str]:
    """What the walk has decided, step by step."""
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
