"""The teacher, against a real server process that fails as it is told."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.taxi.task import DangerousTaxi
from repoagent.environment import Observation, Option
from repoagent.errors import InputError, ModelError
from training.states import State, optimal, perturbed
from training.teacher import (
    CUT,
    LONGEST,
    SYSTEM,
    ChatTeacher,
    TeacherSettings,
    TemplateTeacher,
    clean,
    make_teacher,
    teacher_messages,
)

ROOT = Path(__file__).parent.parent
BACKOFF = 0.01


class Control:
    """The server process as a test sees it."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/v1"

    def script(self, **script: Any) -> None:
        data = json.dumps(script).encode()
        urllib.request.urlopen(f"{self.root}/script", data, timeout=10).close()

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.root}/stats", timeout=10) as reply:
            return dict(json.load(reply))

    def asked(self) -> list[str]:
        """The first lines of the prompts since the last time."""
        return [body["messages"][-1]["content"].splitlines()[0] for body in self.stats()["asked"]]


@pytest.fixture(scope="module")
def process() -> Iterator[Control]:
    command = [sys.executable, "-m", "tests.teacher_server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield Control(int(server.stdout.readline()))
        server.kill()


@pytest.fixture
def server(process: Control) -> Control:
    process.script()
    process.stats()
    return process


def state(number: int, mistake: str = "") -> State:
    options = (Option("open a", "open"), Option(f"open file{number}", "open"))
    return State(Observation(f"Case {number:03}.", "src", (), "", options), (1,), mistake)


def states(n: int) -> list[State]:
    return [state(i) for i in range(n)]


def reflections(n: int) -> list[str]:
    """What the server answers, with its whitespace on one line."""
    return [f"Seen: Question: Case {i:03}." for i in range(n)]


def teacher(server: Control, cache: Path, **changes: Any) -> ChatTeacher:
    settings = {"retries": 3, "timeout": 20.0, "concurrency": 4} | changes
    return ChatTeacher(
        TeacherSettings(kind="openai", base_url=server.url, model="m", **settings), cache, backoff=BACKOFF
    )


FAULTS = {
    "429": "later 0.05", "429 with a date": "date 1", "429 without Retry-After": "429", "500": "500",
    "503": "503", "408": "408", "cut": "cut", "slow": "slow 4", "garbage": "body <html>",
    "half": 'body {"choices": [', "array": "body []", "nothing": "body ", "no choices": "body {}",
    "empty choices": 'body {"choices": []}', "empty": "text ", "blank": "text  \n ", "no content": "null",
    "thoughts alone": "text <think>hm</think>",
}  # fmt: skip
PAID = ("empty", "blank", "no content", "thoughts alone")
"""Answers without text come with usage."""


def test_every_fault_is_tried_again_and_every_answer_arrives_in_order(
    server: Control, tmp_path: Path
) -> None:
    faulty = {f"Case {i:03}": [fault] for i, fault in enumerate(FAULTS.values())}
    server.script(faults=faulty | {"Case 040": ["500", "cut", "later 0.01"]})
    seen: list[tuple[int, int]] = []
    asker = teacher(server, tmp_path / "cache.jsonl", concurrency=16, timeout=2.0)
    found = asker.reflect(states(60), lambda done, total: seen.append((done, total)))
    assert found == reflections(60)
    assert seen == [(i, 60) for i in range(61)]
    retries = len(FAULTS) + 3
    stats = server.stats()
    assert len(stats["asked"]) == asker.cost.requests == 60 + retries
    assert asker.cost.retries == retries
    answers = 60 + len(PAID)
    assert (asker.cost.prompt_tokens, asker.cost.completion_tokens) == (answers * 100, answers * 10)


def test_retry_after_is_honoured(server: Control, tmp_path: Path) -> None:
    server.script(faults={"Case 000": ["later 0.6"], "Case 001": ["date 2"]})
    for number, least in ((0, 0.6), (1, 1.0)):  # a date has whole seconds
        begin = time.monotonic()
        teacher(server, tmp_path / "cache.jsonl").reflect([state(number)])
        assert time.monotonic() - begin >= least
    server.script(faults={"Case 002": ["later 86400"]})
    with pytest.raises(ModelError, match=r"1 of 1 answers are missing .*429 .*slow down"):
        teacher(server, tmp_path / "cache.jsonl").reflect([state(2)])


def test_an_answer_that_drips_for_ever_is_timed_out_as_a_whole(server: Control, tmp_path: Path) -> None:
    server.script(faults={"Case 000": ["drip 20"]})
    asker = teacher(server, tmp_path / "cache.jsonl", timeout=1.0)
    begin = time.monotonic()
    assert asker.reflect(states(1)) == reflections(1)
    assert asker.cost.retries == 1 and time.monotonic() - begin < 15


def test_concurrency_is_reached_and_never_exceeded(server: Control, tmp_path: Path) -> None:
    server.script(gather=6, delay=0.02)
    teacher(server, tmp_path / "cache.jsonl", concurrency=6).reflect(states(40))
    assert server.stats()["peak"] == 6


def test_what_is_cached_is_not_asked_for_again(
    server: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    cache = tmp_path / "folder" / "cache.jsonl"
    first = teacher(server, cache, price_in=2.0, price_out=30.0)
    assert first.reflect(states(9)) == reflections(9)
    assert first.cost.money(first.settings) == pytest.approx(9 * (100 * 2 + 10 * 30) / 1e6)
    assert first.summary() == "m: 9 requests (0 of them again), 0 from the cache, 900 + 90 tokens, 0.0045"
    assert server.stats()["keys"] == ["Bearer sesame"] * 9
    assert json.loads(cache.read_text().splitlines()[0])["usage"] == {
        "prompt_tokens": 100, "completion_tokens": 10,
    }  # fmt: skip
    second = teacher(server, cache)
    assert second.reflect(states(9)) == reflections(9)
    assert server.asked() == []
    assert (second.cost.requests, second.cost.cached) == (0, 9)
    # What the answer depends on is part of the key; what it does not is not.
    for change, asked in (({"temperature": 0.5}, 1), ({"max_tokens": 9}, 1), ({"retries": 0}, 0)):
        teacher(server, cache, **change).reflect(states(1))
        assert len(server.asked()) == asked
    teacher(server, cache).reflect([state(0, mistake="open b")])
    assert len(server.asked()) == 1


def test_equal_states_are_asked_for_once(server: Control, tmp_path: Path) -> None:
    found = teacher(server, tmp_path / "cache.jsonl").reflect([state(1), state(0), state(1), state(1)])
    assert found == [reflections(2)[i] for i in (1, 0, 1, 1)]
    assert sorted(server.asked()) == ["Question: Case 000.", "Question: Case 001."]


CLIENT = """
import sys
from pathlib import Path
from tests.test_teacher import Control, states, teacher
teacher(Control(int(sys.argv[1])), Path(sys.argv[2])).reflect(states(20))
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_goes_on_with_what_is_missing(
    server: Control, tmp_path: Path, end: signal.Signals
) -> None:
    cache = tmp_path / "cache.jsonl"
    server.script(hold_after=11)
    port = server.root.rpartition(":")[2]
    with subprocess.Popen([sys.executable, "-c", CLIENT, port, str(cache)], cwd=ROOT,
                          stderr=subprocess.DEVNULL) as client:  # fmt: skip
        try:
            deadline = time.monotonic() + 30
            while not cache.exists() or cache.read_bytes().count(b"\n") < 11:
                assert client.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            client.send_signal(end)
            assert client.wait(10) != 0
        finally:
            client.kill()
    kept = len(cache.read_text().splitlines())
    assert kept == 11
    server.script()
    server.stats()
    assert teacher(server, cache).reflect(states(20)) == reflections(20)
    assert len(server.asked()) == 9


@pytest.mark.parametrize("torn", [1, 40, -1])
def test_a_torn_line_costs_one_request(server: Control, tmp_path: Path, torn: int) -> None:
    cache = tmp_path / "cache.jsonl"
    teacher(server, cache, concurrency=1).reflect(states(3))
    lines = cache.read_bytes().splitlines(keepends=True)
    cache.write_bytes(b"".join(lines[:2]) + lines[2].rstrip()[:torn])
    server.stats()
    assert teacher(server, cache).reflect(states(3)) == reflections(3)
    assert server.asked() == ["Question: Case 002."]
    assert teacher(server, cache).reflect(states(3)) == reflections(3)
    assert server.asked() == []


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_fails_at_once(server: Control, tmp_path: Path, status: int) -> None:
    server.script(faults={"Case": [str(status)] * 99})
    asker = teacher(server, tmp_path / "cache.jsonl", concurrency=3)
    with pytest.raises(ModelError) as raised:
        asker.reflect(states(30))
    assert "\n" not in str(raised.value)
    assert ("OPENAI_API_KEY" if status == 401 else f"{status} (scripted {status})") in str(raised.value)
    assert asker.cost.retries == 0
    assert len(server.asked()) <= 3


def test_one_state_that_always_fails_leaves_the_others_kept(server: Control, tmp_path: Path) -> None:
    cache = tmp_path / "cache.jsonl"
    server.script(faults={"Case 004": ["500"] * 99})
    asker = teacher(server, cache)
    with pytest.raises(ModelError, match=r"^1 of 12 answers are missing .*500 .*run again[^\n]*$"):
        asker.reflect(states(12))
    assert (asker.cost.requests, asker.cost.retries) == (11 + 4, 3)
    server.script()
    server.stats()
    assert teacher(server, cache).reflect(states(12)) == reflections(12)
    assert server.asked() == ["Question: Case 004."]


def test_a_server_that_is_gone_is_not_asked_for_every_state(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    asker = teacher(Control(port), tmp_path / "cache.jsonl", retries=1)
    with pytest.raises(ModelError, match=r"500 of 500 .*cannot reach the chat model m"):
        asker.reflect(states(500))
    assert asker.cost.requests < 60


def test_a_cache_that_cannot_be_written_is_an_error_of_one_line(server: Control, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cache in (tmp_path / "file" / "cache.jsonl", tmp_path):
        with pytest.raises(InputError, match=r"^cannot use [^\n]*$"):
            teacher(server, cache).reflect(states(1))
    assert server.asked() == []


def test_positive_and_negative_states_of_taxi_are_asked_about_in_one_format() -> None:
    benchmark = DangerousTaxi()
    rng = random.Random(1)
    (task, *_), environment = benchmark.tasks("train"), benchmark.environment("dropoff")
    positive, negative = optimal(environment, task, rng)[0], perturbed(environment, task, rng)
    assert negative
    for asked in (positive, negative):
        system, user = teacher_messages(asked)
        assert system == {"role": "system", "content": SYSTEM}
        assert asked.observation.last_result in user["content"]
        best = asked.observation.options[asked.best[0]].text
        assert f"\nThe right next action is: {best}\nReflection:" in user["content"]
        assert user["content"].count("Reflection:") == 1
        told = f"The last action was a mistake: {asked.mistake}\n"
        assert (told in user["content"]) is bool(asked.mistake)
    for text in TemplateTeacher(benchmark).reflect([positive, negative]):
        assert text and "\n" not in text
    done: list[int] = []
    TemplateTeacher(benchmark).reflect([positive] * 3, lambda n, total: done.append(n))
    assert done == [1, 2, 3]


def test_odd_text_survives(server: Control, tmp_path: Path) -> None:
    odd = State(
        Observation("Case 000.", "caf\udce9", (), "", (Option("open \udce9", "open"),)), (0,), "x\ny \udcff"
    )
    server.script(faults={"Case": ["text \ud800 a\nb \u2028 c"]})
    assert teacher(server, tmp_path / "cache.jsonl").reflect([odd]) == ["? a b c"]
    assert teacher(server, tmp_path / "cache.jsonl").reflect([odd]) == ["? a b c"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("\n Go\n\tnorth. ", "Go north."),
        ("<think>I was told.</think>\nGo.", "Go."),
        ("Reflection: Go.", "Go."),
        ("x" * 5000, "x" * LONGEST + CUT),
        (" \n\u00a0", ""),
    ],
)
def test_an_answer_becomes_one_line(answer: str, text: str) -> None:
    assert clean(answer) == text


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "oracle"}, "teacher.kind"),
        ({"kind": "openai", "model": "m"}, "teacher.base_url"),
        ({"kind": "openai", "base_url": "http://x"}, "teacher.model"),
        ({"kind": "openai", "base_url": "ftp://x", "model": "m"}, "teacher.base_url"),
        ({"concurrency": 0}, "teacher.concurrency"),
        ({"retries": -1}, "teacher.retries"),
        ({"timeout": 0.0}, "teacher.timeout"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        TeacherSettings(**settings)


def test_the_settings_choose_the_teacher(tmp_path: Path) -> None:
    benchmark = DangerousTaxi()
    assert make_teacher(TeacherSettings(), benchmark, tmp_path / "c").name == "template"
    chat = TeacherSettings(kind="openai", base_url="http://127.0.0.1:1/v1", model="some-model")
    assert make_teacher(chat, benchmark, tmp_path / "c").name == "some-model"
    assert not (tmp_path / "c").exists()
