"""The tool as a library: what ask() returns, that models stay, threads, errors, and what importing costs."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import repoagent
from repoagent import Answer, Assistant, Found, InputError, ModelError, Move, ask
from repoagent.assistant import Waiting
from repoagent.episode import Decided, Finished, Observed
from repoagent.models import CHECKPOINTS, load_policy

RANDOM = ("random", "none")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shop")
    files = {
        "shop/session.py": "# sessions\n" * 8 + "SESSION_TIMEOUT = 1800  # seconds until a login expires\n",
        "shop/cart.py": "def total(items):\n    return sum(item.price for item in items)\n",
        "README.md": "# Shop\n\nSells things.\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_ask_finds_file_and_lines(root: Path) -> None:
    found = ask("Where is the timeout of a login session set?", root, top=2, policy="encoder")
    assert isinstance(found, Found) and found.repo == str(root)
    first, *others = found.answers
    assert isinstance(first, Answer) and first.path == "shop/session.py"
    assert first.start_line <= 9 <= first.end_line and "SESSION_TIMEOUT" in first.snippet
    assert len(others) <= 1
    assert found.steps and all(isinstance(move, Move) for move in found.steps)
    assert found.steps[-1].action in [choice.text for choice in found.steps[-1].options]
    assert found.policy != "random" and found.reflector != "none"
    assert found.files_read >= 1 and found.seconds > 0
    with pytest.raises(FrozenInstanceError):
        found.confident = True  # type: ignore[misc]


def test_models_are_loaded_once_and_only_those_that_are_asked_for() -> None:
    assistant = Assistant("encoder", "bundled")
    policy, silent = assistant.load(reflect=False)
    assert silent.name == "none"
    again, reflector = assistant.load()
    assert again is policy and reflector.name != "none"
    assert assistant.load() == (policy, reflector)


def test_ask_keeps_the_models_for_later_calls(root: Path) -> None:
    ask("total?", root, policy="encoder", reflector="none")
    (kept,) = (a for names, a in repoagent.assistant._kept.items() if names == ("encoder", "none"))
    before = kept.load()
    ask("price?", root, policy="encoder", reflector="none")
    assert kept.load() == before


def test_without_reflection_nothing_is_reflected(root: Path) -> None:
    found = Assistant("random", "bundled").ask("total?", root, reflect=False)
    assert found.reflector == "none" and {move.reflection for move in found.steps} == {""}


def test_several_threads_may_ask_at_once(root: Path) -> None:
    assistant = Assistant("encoder", "none")
    questions = ["Where is the session timeout?", "Where is the total of a cart?"] * 3
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda question: assistant.ask(question, root), questions))
    assert [f.question for f in found] == questions
    assert [f.answers[0].path for f in found] == ["shop/session.py", "shop/cart.py"] * 3


def test_watching(root: Path) -> None:
    seen: list[object] = []
    threads = set()

    def watch(event: object) -> None:
        seen.append(event)
        threads.add(threading.get_ident())

    found = Assistant(*RANDOM).ask("total?", root, watch=watch)
    kinds = [type(event) for event in seen]
    assert kinds[:3] == [Waiting, Waiting, Observed] and kinds[-1] is Finished
    assert kinds.count(Decided) == len(found.steps)
    assert threads == {threading.get_ident()}


def test_what_a_watcher_raises_breaks_the_question_off_and_nothing_else(root: Path) -> None:
    class Enough(Exception):
        pass

    def watch(event: object) -> None:
        if isinstance(event, Decided):
            raise Enough

    assistant = Assistant(*RANDOM)
    with pytest.raises(Enough):
        assistant.ask("total?", root, watch=watch)
    with ThreadPoolExecutor(1) as pool:  # another thread: the lock is free again
        assert pool.submit(assistant.ask, "total?", root, steps=40).result(timeout=30).answers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": " \n"}, "question is empty"),
        ({"repo": "nowhere"}, "nowhere does not exist"),
        ({"top": 0}, "top is 0"),
        ({"steps": -1}, "steps is -1"),
    ],
)
def test_what_cannot_be_asked_is_said_before_a_model_is_loaded(
    root: Path, arguments: dict[str, object], message: str
) -> None:
    asked = {"question": "total?", "repo": root, "policy": "nothing/of/the/kind"} | arguments
    with pytest.raises(InputError, match=message):
        ask(**asked)  # type: ignore[arg-type]


def test_a_broken_model_is_an_error_each_time_and_recovers(root: Path, tmp_path: Path) -> None:
    assistant = Assistant(str(tmp_path / "policy"), "none")
    for _ in range(2):
        with pytest.raises(ModelError):
            assistant.ask("total?", root)
    (tmp_path / "policy").symlink_to(CHECKPOINTS / "policy")
    assert assistant.ask("total?", root).policy == load_policy("encoder").name


def test_nothing_to_open_is_not_confident(tmp_path: Path) -> None:
    found = ask("total?", tmp_path, policy="random", reflector="none")
    assert (found.answers, found.confident) == ((), False)


def test_importing_the_package_is_cheap_and_the_names_come_when_asked_for() -> None:
    probe = (
        "import sys, repoagent\n"
        "assert {m for m in sys.modules if m.startswith('repoagent')} == {'repoagent'}\n"
        "from repoagent import *\n"
        "assert ask.__module__ == Found.__module__ == 'repoagent.assistant'\n"
        "assert not {'torch', 'transformers', 'textual', 'rich', 'typer'} & set(sys.modules)\n"
        "try: repoagent.nonsense\n"
        "except AttributeError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "module 'repoagent' has no attribute 'nonsense'\n"
    assert set(repoagent.__all__) >= {"ask", "Assistant", "Found"}
