"""What a sitting leaves: written whole, read back, searched, exported; and what is damaged is left alone."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from repoagent import session as sessions
from repoagent.answer import answers
from repoagent.episode import Finished
from repoagent.errors import InputError
from repoagent.explore import RepoEnvironment, Task
from repoagent.repo import Repo
from repoagent.session import Asked, Session
from repoagent.walk import Start, Walk
from tests.tui_helpers import QUESTION, Guide, Talker, make_repo


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPOAGENT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def asked(root: Path, question: str = QUESTION) -> Asked:
    environment = RepoEnvironment(Repo.open(root))
    walk = Walk(Task(question))
    finished = list(walk.events(environment, Guide(), Talker()))[-1]
    assert isinstance(finished, Finished)
    return Asked(
        question=question, at=sessions.now(), played=question, search="",
        answers=tuple(answers(environment, finished.trajectory)), moves=sessions.moves(walk.decisions),
        identified=True, seconds=1.5, policy="guide", reflector="talker",
    )  # fmt: skip


@pytest.fixture
def session(tmp_path: Path) -> Session:
    root = make_repo(tmp_path)
    made = sessions.new(str(root))
    made.asked += [asked(root), asked(root, "And what does the `guide` say?")]
    sessions.save(made)
    return made


def test_what_is_written_is_read(session: Session, data: Path) -> None:
    assert sessions.load_all() == ([session], [])
    assert sessions.load(session.id) == sessions.load(session.id[:5]) == sessions.load("last") == session
    file = data / "sessions" / f"{session.id}.json"
    assert [p.name for p in file.parent.iterdir()] == [file.name], "nothing half-written stays"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_way_can_be_walked_again(session: Session, tmp_path: Path) -> None:
    made = sessions.decisions(session.asked[0])
    walk = Walk(session.asked[0].task, Start([d.taken for d in made]))
    list(walk.events(RepoEnvironment(Repo.open(tmp_path / "shop")), Guide(("nothing",))))
    assert sessions.moves(walk.decisions) == session.asked[0].moves


def test_names_that_are_no_utf8(session: Session) -> None:
    session.repo = "/tmp/\udcff"
    sessions.save(session)
    assert sessions.load("last") == session
    assert "\\udcff" in sessions.markdown(session)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "repo": 3, "began": "", "asked": []}',
     '{"format": 1, "repo": "", "began": "", "asked": [{"answers": [], "moves": [{"index": 9, "options": [], '
     '"proposed": null}]}]}', "[" * 100_000],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_session_is_passed_over_and_kept(session: Session, data: Path, text: str) -> None:
    foreign = data / "sessions" / "notes.json"
    foreign.write_text(text)
    found, notes = sessions.load_all()
    assert found == [session]
    assert len(notes) == 1 and "notes.json is no session" in notes[0] and "\n" not in notes[0]
    assert foreign.read_text() == text


def test_search(session: Session) -> None:
    found = [session]
    assert sessions.search(found, "default TIMEOUT") == found
    assert sessions.search(found, "config.py retries") == found, "answers count too"
    assert sessions.search(found, "") == found
    assert not sessions.search(found, "timeout nowhere")


def test_which_session(session: Session) -> None:
    with pytest.raises(InputError, match="no session is called 'x'"):
        sessions.load("x")
    sessions.save(sessions.new(session.repo))
    with pytest.raises(InputError, match="2 sessions begin with"):
        sessions.load(session.id[:2])
    sessions.delete(session)
    assert session not in sessions.load_all()[0]


def test_markdown(session: Session) -> None:
    page = sessions.markdown(session)
    assert "## Where is the default timeout configured?\n" in page
    assert "1. `src/shop/config.py:" in page and "\nDEFAULT_TIMEOUT = 30.0\n" in page
    assert r"what does the \`guide\` say" in page, "what was typed is no markup"
    assert json.loads(sessions.as_json(session))["asked"][0]["question"] == QUESTION


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPOAGENT_DATA", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot write .*REPOAGENT_DATA"):
        sessions.save(sessions.new("/x"))
