"""Whole episodes over trees made to break them."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings

from repoagent.answer import answers, trail
from repoagent.environment import Observation
from repoagent.episode import Acted, Finished, play
from repoagent.explore import PLAIN, ExploreConfig, RepoEnvironment, Task
from repoagent.players import OraclePolicy, Policy, RandomPolicy
from repoagent.repo import Repo, is_binary
from tests.trees import (
    CANARY,
    CONTENTS,
    KINDS,
    QUESTION,
    Node,
    hostile,
    planted,
    snapshot,
    unprivileged,
    watch,
)

FORMS = (ExploreConfig(), PLAIN)


@pytest.fixture(autouse=True, scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One quiet episode first, so that what Python loads once is loaded before the watch begins."""
    root = tmp_path_factory.mktemp("warm")
    for i, data in enumerate(CONTENTS):
        (root / str(i)).write_bytes(data)
    for _ in episodes(root):
        pass


def episodes(root: Path) -> Iterator[str]:
    """Everything that two forms, two players and three seeds bring to light under ``root``."""
    for form in FORMS:
        repo = Repo.open(root)
        texts = [e.path for e in repo.files() if not is_binary(repo.read_bytes(e.path))]
        environment = RepoEnvironment(repo, form)
        task = Task(QUESTION, tuple(texts[-1:]), (1, 1) if texts else None)
        runs: list[tuple[Policy, int]] = [(RandomPolicy(), seed) for seed in (1, 2)]
        for policy, seed in [*runs, (OraclePolicy(environment), 3)]:
            total = 0.0
            for event in play(environment, task, policy, seed=seed, greedy=False):
                if isinstance(event, Acted):
                    total += event.result.reward
                    assert -1 <= event.result.reward <= 1
                    yield from shown(event.result.observation)
                elif isinstance(event, Finished):
                    assert len(event.trajectory.steps) <= form.horizon + 1
                    yield from (repr(answer) for answer in answers(environment, event.trajectory))
                    yield repr(trail(event.trajectory))
            assert -1 <= total <= 1


def shown(observation: Observation) -> Iterator[str]:
    yield observation.last_result
    for option in observation.options:
        assert option.kind in {"go", "open", "identify", "lines", "more"}
        if option.kind not in ("lines", "more"):
            assert not option.target.startswith("/")
            assert ".." not in option.target.split("/")
        assert "\n" not in option.text
        yield option.text
        yield option.evidence


def check(root: Path, limit: float) -> None:
    before = snapshot(root)
    start = time.process_time()
    with watch(root) as problems:
        for text in episodes(root):
            assert CANARY not in text
            text.encode()
    assert time.process_time() - start < limit
    assert problems == []
    assert snapshot(root) == before


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(nodes=hostile)
@example(nodes=[Node(0, f"n{i}".encode(), kind, i) for i, kind in enumerate(KINDS * 3)])
@example(nodes=[])
def test_hostile_trees(nodes: list[Node]) -> None:
    with planted(nodes) as root:
        check(root, 10)


def test_a_directory_of_10_000_entries() -> None:
    nodes = [Node(0, f"n{i}".encode(), kind, i) for i, kind in enumerate(KINDS)]
    with planted(nodes, crowd=10_000) as root:
        check(root, 60)


def test_what_only_others_may_read() -> None:
    kinds = ["closed file", "closed dir", "file", "closed file", "dir", "closed dir", "link"]
    with planted([Node(0, f"n{i}".encode(), kind, i) for i, kind in enumerate(kinds)]) as root:
        unprivileged(lambda: check(root, 10))


def test_the_watch_sees_what_it_must(tmp_path: Path) -> None:
    """The test above cannot pass because the watch is blind."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "in").write_text("x")
    (tmp_path / "out").write_text("x")
    (root / "link").symlink_to("../out")

    def problems(act: object) -> int:
        with watch(root) as found:
            act()  # type: ignore[operator]
        return len(found)

    assert problems(lambda: (root / "in").read_text()) == 0
    assert problems(lambda: os.listdir(root)) == 0
    assert problems(lambda: (root / "link").read_text()) > 0
    assert problems(lambda: (tmp_path / "out").read_text()) > 0
    assert problems(lambda: (root / "in").write_text("y")) > 0
    assert problems(lambda: (root / "new").mkdir()) > 0
    assert problems(lambda: os.utime(root / "in")) > 0
    assert problems(lambda: subprocess.run(["true"], check=True)) > 0
    assert problems(lambda: socket.socket().close()) > 0
    assert problems(lambda: os.system("true")) > 0
    here = os.open(tmp_path, os.O_RDONLY)
    assert problems(lambda: os.close(os.open("out", os.O_RDONLY, dir_fd=here))) > 0
    os.close(here)
