"""Defaults of one's own: what the file may say, who wins, and how the command changes it."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from repoagent import cli, config
from repoagent.errors import InputError
from tests.test_cli import environment, one_line
from tests.test_cli import run as plain_run


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file of this test, not there yet; in-process and for :func:`run`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(config.VARIABLE, raising=False)
    return config.location()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    for i in range(9):
        (root / f"port{i}.py").write_text("port = 80\n")
    return root


def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return plain_run(*arguments, env=environment(**({config.VARIABLE: ""} | more)))


def asked(root: Path, *more: object, **env: str) -> dict[str, Any]:
    result = run("ask", "port?", root, "--json", "--quiet", *more, **env)
    assert result.returncode in (0, 1), result.stderr
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def test_without_a_file_everything_is_default(file: Path) -> None:
    assert config.load() == {} and config.defaults("ask") == {}
    result = run("config")
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and lines[0] == f"{file} (not there)"
    assert [line.split() for line in lines[1:]] == [
        [key, json.dumps(value).strip('"'), "default"] for key, value in config.DEFAULTS.items()
    ]


def test_the_defaults_are_those_of_the_options(file: Path) -> None:
    from typer.main import get_command

    group: Any = get_command(cli.app)
    for name, keys in config.COMMANDS.items():
        options = {p.name: p.default for p in group.commands[name].params}
        assert {key: options[key] for key in keys} == {key: config.DEFAULTS[key] for key in keys}


def test_the_file_counts_and_options_win(file: Path, root: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('policy = "random"\nreflector = "none"\ntop = 2\nsteps = 60\n')
    data = asked(root)
    assert data["model"] == {"policy": "random", "reflector": "none"} and len(data["answers"]) == 2
    assert len(asked(root, "--top", 3)["answers"]) == 3
    assert "[default: random]" in " ".join(run("ask", "--help").stdout.split())
    file.write_text('policy = "random"\nreflect = false\n')
    assert asked(root)["model"]["reflector"] == "none"
    assert asked(root, "--reflect", "--reflector", "bundled")["model"]["reflector"] != "none"


def test_the_environment_names_another(file: Path, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('policy = "random"\nreflect = false\ntop = 1\nsteps = 60\n')
    assert len(asked(root, REPOAGENT_CONFIG=str(other))["answers"]) == 1
    assert asked(root, "--policy", "random", "--no-reflect", REPOAGENT_CONFIG=os.devnull)["answers"]
    missing = run("ask", "port?", root, REPOAGENT_CONFIG=str(tmp_path / "none.toml"))
    assert missing.returncode == 2 and "does not exist" in one_line(missing)


def test_set_and_unset_keep_the_rest(file: Path) -> None:
    assert run("config", "set", "steps", "12").returncode == 0
    assert file.read_text() == "steps = 12\n"
    file.write_text('# mine\nsteps = 12  # patient\n\n"top" = 3\npolicy = "encoder" # fast')
    for words in (("steps", "9"), ("top", "4"), ("reflect", "false"), ("policy", 'a "b" \\ é#c')):
        assert run("config", "set", *words).returncode == 0
    assert file.read_text() == (
        '# mine\nsteps = 9  # patient\n\ntop = 4\npolicy = "a \\"b\\" \\\\ é#c" # fast\nreflect = false\n'
    )
    shown = run("config").stdout.splitlines()
    assert shown[0] == str(file) and shown[3].split() == ["steps", "9", "set", "there"]
    for key in ("policy", "reflect", "steps", "steps"):
        assert run("config", "unset", key).returncode == 0
    assert file.read_text() == "# mine\n\ntop = 4\n"
    assert not list(file.parent.glob("*.part"))


def test_what_cannot_be_edited_line_by_line_is_written_anew(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('# gone\npolicy = """\nenco\\\nder"""\ntop = 3\n')
    result = run("config", "set", "policy", "random")
    assert result.returncode == 0 and "its comments are gone" in one_line(result)
    assert tomllib.loads(file.read_text()) == {"policy": "random", "top": 3}


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "dotfile").write_text("top = 3\n")
    file.symlink_to(tmp_path / "dotfile")
    config.change("top", 4)
    assert file.is_symlink() and (tmp_path / "dotfile").read_text() == "top = 4\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stesp = 3", "stesp is no setting"),
        ("[ask]\nsteps = 3", "ask is no setting"),
        ('steps = "3"', "steps must be a whole number of at least 1"),
        ("steps = true", "steps must be a whole number of at least 1"),
        ("top = 0", "top must be a whole number"),
        ("top = 2024-01-01", "top must be a whole number"),
        ("reflect = 1", "reflect must be true or false"),
        ('policy = ""', "policy must be a text"),
        ("policy = bundled", "is no TOML"),
        ("a = " + "[" * 5000, "is no TOML"),
    ],
)
def test_a_wrong_file_is_refused(file: Path, text: str, message: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        config.load()
    with pytest.raises(InputError, match=message):
        config.defaults("ask")
    assert config.defaults("models") == {}


def test_a_wrong_file_is_one_line_and_exit_2_where_it_counts(file: Path, root: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("policy = bundled")
    for arguments in (("ask", "port?", root), ("explore", root), ("config",)):
        result = run(*arguments)
        assert (result.returncode, result.stdout) == (2, "") and "is no TOML" in one_line(result)
    assert run("--help").returncode == 0


def test_bytes_and_folders_in_its_place(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"policy = '\xff'\n")
    assert "no UTF-8" in one_line(run("config"))
    file.unlink()
    file.mkdir()
    assert "cannot read" in one_line(run("config"))


@pytest.mark.parametrize(
    "words",
    [
        ("set", "nonsense", "1"),
        ("set", "steps", "0"),
        ("set", "steps", "many"),
        ("set", "reflect", "yes"),
        ("set", "policy", " "),
        ("set", "policy", "a\nb"),
        ("set", "steps"),
        ("unset", "nonsense"),
        ("nonsense",),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(file: Path, words: tuple[str, ...]) -> None:
    result = run("config", *words)
    assert (result.returncode, result.stdout) == (2, "") and one_line(result)
    assert not file.exists()


def test_an_unknown_key_can_be_taken_out(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("stesp = 3\ntop = 2\n")
    assert run("config", "unset", "stesp").returncode == 0
    assert file.read_text() == "top = 2\n"


def test_where_it_cannot_be_written(file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("config", "set", "top", "3", REPOAGENT_CONFIG=str(tmp_path / "file" / "config.toml"))
    assert result.returncode == 2 and one_line(result)
