"""`repoagent explore` in a real terminal: its exit codes, and that it goes when told to."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.tui_helpers import make_repo
from training.states import read_states

CTRL_Q = b"\x11"
RANDOM = ("--policy", "random", "--no-reflect")
QUESTION = b"where is the default timeout?\r"


class Terminal:
    """A program in a pseudo-terminal of 100 columns and 30 rows, which keeps what it keeps in ``data``."""

    def __init__(self, *arguments: str, data: Path, cwd: Path | None = None, **variables: str) -> None:
        self.side, other = pty.openpty()
        ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "repoagent", *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            cwd=cwd,
            env=os.environ
            | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1", "REPOAGENT_DATA": str(data)}
            | {"PYTHONPATH": str(Path(__file__).parent.parent)}
            | variables,
        )
        os.close(other)
        self.seen = b""

    def wait_for(self, text: str) -> None:
        self.wait_until(lambda: text.encode() in self.seen)

    def wait_until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.seen[-2000:]
            if select.select([self.side], [], [], 0.1)[0]:
                self.seen += os.read(self.side, 65536)

    def forget(self) -> None:
        """Wait for nothing that has been seen so far."""
        self.seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self.side, keys)

    def exit_code(self, seconds: float = 15) -> int:
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, "does not quit"
            if select.select([self.side], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.side, 65536)
                except OSError:  # the other end is closed
                    return self.process.wait(5)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.side)


def test_a_question_and_out(tmp_path: Path) -> None:
    terminal = Terminal("explore", str(make_repo(tmp_path)), *RANDOM, data=tmp_path / "data")
    try:
        terminal.wait_for("Ready")
        terminal.type(QUESTION)
        terminal.wait_for("Answers")
        terminal.type(CTRL_Q)
        assert terminal.exit_code() == 0
        assert b"Traceback" not in terminal.seen
    finally:
        terminal.close()


def test_no_model(tmp_path: Path) -> None:
    nowhere = ("--policy", "openai:nowhere", "--no-reflect")
    terminal = Terminal("explore", str(make_repo(tmp_path)), *nowhere, data=tmp_path)
    try:
        terminal.wait_for("nowhere")
        terminal.type(CTRL_Q)
        assert terminal.exit_code() == 3
        assert b"Traceback" not in terminal.seen
    finally:
        terminal.close()


def test_quitting_does_not_wait_for_the_model(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the question and never answers
        port = silent.getsockname()[1]
        silence = ("--policy", f"openai:http://127.0.0.1:{port}/v1#silent", "--no-reflect")
        terminal = Terminal("explore", str(make_repo(tmp_path)), *silence, data=tmp_path)
        try:
            terminal.wait_for("Ready")
            terminal.type(QUESTION)
            terminal.wait_for("choosing")
            terminal.type(CTRL_Q)
            assert terminal.exit_code() == 0
            assert b"Traceback" not in terminal.seen
        finally:
            terminal.close()


def moves(data: Path) -> list[dict[str, object]]:
    """The steps of the only question of the only session."""
    (saved,) = (data / "sessions").glob("*.json")
    (asked,) = json.loads(saved.read_text())["asked"]
    return list(asked["moves"])


def test_taken_over_edited_and_reopened(tmp_path: Path) -> None:
    data, shop, edited = tmp_path / "data", make_repo(tmp_path), tmp_path / "edited"
    editor = tmp_path / "vim"
    editor.write_text(f'#!/bin/sh\necho "$@" > "{edited}"\n')
    editor.chmod(0o755)
    terminal = Terminal("explore", str(shop), *RANDOM, data=data, VISUAL=str(editor))
    try:
        terminal.wait_for("Ready")
        terminal.type(QUESTION)
        terminal.wait_for("Answers")
        terminal.forget()
        terminal.type(b"o")
        terminal.wait_for("take instead")
        terminal.type(b"\x1b[D" * 9 + b"\x1b[B\r")  # the step before, the option below
        terminal.wait_until(lambda: moves(data)[0]["proposed"] is not None)
        terminal.type(b"e")
        terminal.wait_until(lambda: edited.exists() and edited.read_text().endswith("\n"))
        terminal.forget()
        terminal.wait_for("Answers")  # drawn anew when the editor is left
        terminal.type(CTRL_Q)
        assert terminal.exit_code() == 0 and b"Traceback" not in terminal.seen
    finally:
        terminal.close()
    line, file = edited.read_text().split(" ", 1)
    assert line[0] == "+" and int(line[1:]) >= 1 and Path(file.strip()).is_relative_to(shop)
    (corrected,) = (data / "corrections").iterdir()
    assert read_states(corrected)
    assert {p.name for p in shop.iterdir()} == {"README.md", "docs", "src", "tests"}

    terminal = Terminal("explore", "--session", "last", *RANDOM, data=data)
    try:
        terminal.wait_for("Answers")
        terminal.type(CTRL_Q)
        assert terminal.exit_code() == 0 and b"Traceback" not in terminal.seen
    finally:
        terminal.close()


def test_bare_in_a_terminal(tmp_path: Path) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text('policy = "random"\nreflect = false\nsessions = false\ntheme = "nord"\n')
    shop = make_repo(tmp_path)
    terminal = Terminal(data=tmp_path / "data", cwd=shop, REPOAGENT_CONFIG=str(settings))
    try:
        terminal.wait_for("random policy")
        terminal.type(QUESTION)
        terminal.wait_for("Answers")
        terminal.type(CTRL_Q)
        assert terminal.exit_code() == 0
        assert not (tmp_path / "data").exists()
    finally:
        terminal.close()
