"""`repoagent sessions` in scripts: what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from repoagent import session as sessions
from repoagent.session import Session
from tests.test_cli import environment, one_line
from tests.test_cli import run as plain_run
from tests.test_session import asked
from tests.tui_helpers import QUESTION, make_repo


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPOAGENT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def session(tmp_path: Path, data: Path) -> Session:
    root = make_repo(tmp_path)
    made = sessions.new(str(root))
    made.asked.append(asked(root))
    sessions.save(made)
    return made


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return plain_run("sessions", *arguments, env=environment())


def test_there_are_none(data: Path) -> None:
    result = run()
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert run("show").returncode == 2


def test_list_search_show(session: Session, data: Path) -> None:
    (data / "sessions" / "x.json").write_text("{}")
    listed = run()
    assert listed.returncode == 0 and "x.json is no session" in one_line(listed)
    assert listed.stdout.startswith(session.id) and QUESTION in listed.stdout
    assert run("search", "retries", "timeout").stdout == listed.stdout
    assert run("search", "elsewhere").stdout == ""
    assert run("show").stdout == run("show", session.id[:8]).stdout == sessions.markdown(session)


def test_export_and_delete(session: Session, data: Path, tmp_path: Path) -> None:
    printed = run("export", "--format", "json").stdout
    assert json.loads(printed)["asked"][0]["question"] == QUESTION
    out = tmp_path / "out.json"
    assert run("export", session.id, "--format", "json", "--output", out).returncode == 0
    assert out.read_text() == printed
    refused = run("export", "--output", tmp_path / "no" / "out.md")
    assert refused.returncode == 2 and "cannot write" in one_line(refused)
    assert run("delete", session.id).stdout == f"deleted {session.id}\n"
    reopened = plain_run("explore", "--session", session.id, env=environment())
    assert reopened.returncode == 2 and "no session is called" in one_line(reopened)
    gone = run("delete", session.id)
    assert gone.returncode == 2 and "no session is called" in one_line(gone)
