"""`repoagent explore` in a real terminal: its exit codes, and that it goes when told to."""

from __future__ import annotations

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
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.tui_helpers import make_repo

CTRL_Q = b"\x11"


class Terminal:
    """A program in a pseudo-terminal of 100 columns and 30 rows."""

    def __init__(self, *arguments: str) -> None:
        self.side, other = pty.openpty()
        ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "repoagent", "explore", *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"},
        )
        os.close(other)
        self.seen = b""

    def wait_for(self, text: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while text.encode() not in self.seen:
            assert time.monotonic() < end, self.seen[-2000:]
            if select.select([self.side], [], [], 0.1)[0]:
                self.seen += os.read(self.side, 65536)

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
    terminal = Terminal(str(make_repo(tmp_path)), "--policy", "random", "--no-reflect")
    try:
        terminal.wait_for("Ready")
        terminal.type(b"where is the default timeout?\r")
        terminal.wait_for("Answers")
        terminal.type(CTRL_Q)
        assert terminal.exit_code() == 0
        assert b"Traceback" not in terminal.seen
    finally:
        terminal.close()


def test_no_model(tmp_path: Path) -> None:
    terminal = Terminal(str(make_repo(tmp_path)), "--policy", "openai:nowhere", "--no-reflect")
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
        policy = f"openai:http://127.0.0.1:{port}/v1#silent"
        terminal = Terminal(str(make_repo(tmp_path)), "--policy", policy, "--no-reflect")
        try:
            terminal.wait_for("Ready")
            terminal.type(b"where is the default timeout?\r")
            terminal.wait_for("choosing")
            terminal.type(CTRL_Q)
            assert terminal.exit_code() == 0
            assert b"Traceback" not in terminal.seen
        finally:
            terminal.close()
