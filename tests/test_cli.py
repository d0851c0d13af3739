"""The command line as its users run it: one process per run, streams and exit codes checked."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

# Steps enough that a random walk opens a file, and so can name one, but once in ten million runs.
RANDOM = ("--policy", "random", "--no-reflect", "--steps", "40")
ESCAPE = "\x1b"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "repoagent", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    mine = {"REPOAGENT_CONFIG": os.devnull}  # whatever defaults the user of this machine has set
    return plain | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"} | mine | more


def run(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    defaults: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, "env": environment()}
    return subprocess.run(command(*arguments), **(defaults | more))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trees") / "acme__server"
    files = {
        "README.md": "# Server\n\nRun it.\n",
        "server/config.py": "# settings\n" * 10 + "DEFAULT_PORT = 8080  # port the server listens on\n",
        "server/[bold]main[/bold].py": "def main():\n    listen()\n",
        "tests/test_config.py": "def test_port():\n    assert True\n",
        "evil.txt": "port \x1b]0;owned\x07 \x1b[31mred\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(scope="module")
def big_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough files to be scanned for a while."""
    root = tmp_path_factory.mktemp("big")
    for i in range(20_000):
        (root / f"file{i}.py").write_text("port = 80  # the port of the server\n" * 20)
    return root


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The only line on stderr, a message for the user."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("repoagent: "), result.stderr
    return lines[0]


# -- starting up -------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ask", "--help"], []])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    probe = (
        f"import sys; sys.argv[1:] = {arguments!r}\n"
        "from repoagent.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "print(sorted(m for m in sys.modules if m in "
        "('torch', 'transformers', 'textual', 'rich', 'numpy', 'openai', 'pygments')), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    assert result.stderr.strip() == "[]"
    assert "repoagent" in result.stdout


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_are_fast(flag: str) -> None:
    # CPU seconds rather than the clock: other work on the machine must not fail the test.
    def cpu() -> float:
        before = os.times()
        run(flag)
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    assert min(cpu() for _ in range(3)) < 0.5


def test_bare_command_prints_help() -> None:
    result = run()
    assert (result.returncode, result.stderr) == (0, "")
    for name in ("ask", "explore", "eval", "bench", "models", "doctor", "train"):
        assert re.search(rf"^  {name} ", result.stdout, re.MULTILINE)


# -- ask ---------------------------------------------------------------------------------------


def test_answer_alone_on_stdout_and_trail_on_stderr(repo: Path) -> None:
    result = run("ask", "Where is the port configured?", repo, *RANDOM)
    assert result.returncode == 0
    first, *rest = result.stdout.splitlines()
    assert re.fullmatch(r"[^:]+:\d+-\d+", first)
    assert (repo / first.rpartition(":")[0]).is_file()
    assert any(line.startswith("Why: ") for line in rest)
    assert "1. in ." in result.stderr and "-> " in result.stderr
    assert "1. in ." not in result.stdout
    assert ESCAPE not in result.stdout + result.stderr


def test_quiet_shows_nothing_on_stderr(repo: Path) -> None:
    result = run("ask", "Where is the port configured?", repo, *RANDOM, "--quiet")
    assert result.returncode == 0 and result.stdout and result.stderr == ""


def test_json_is_one_object_to_the_letter(repo: Path) -> None:
    result = run("ask", "Where is the port configured?", repo, *RANDOM, "--json", "--top", 3, "--steps", 4)
    data = json.loads(result.stdout)
    assert list(data) == ["question", "repo", "answers", "steps", "model", "files_read", "seconds"]
    assert data["question"] == "Where is the port configured?" and data["repo"] == str(repo)
    assert 1 <= len(data["answers"]) <= 3
    for answer in data["answers"]:
        assert list(answer) == ["path", "start_line", "end_line", "score", "snippet"]
        lines = (repo / answer["path"]).read_text().split("\n")
        assert answer["snippet"] == "\n".join(lines[answer["start_line"] - 1 : answer["end_line"]])
        assert 0 <= answer["score"] <= 1
    assert 1 <= len(data["steps"]) <= 5  # the last may be the choice of the lines
    for step in data["steps"]:
        assert list(step) == ["location", "reflection", "action", "probability", "options"]
        assert step["reflection"] == ""
        assert step["action"] in [option["text"] for option in step["options"]]
        assert sum(option["probability"] for option in step["options"]) == pytest.approx(1)
    assert data["model"] == {"policy": "random", "reflector": "none"}
    opened = {s["action"].split()[1] for s in data["steps"] if s["action"].startswith("open ")}
    assert data["files_read"] == len(opened)
    assert data["seconds"] > 0


def test_the_repository_defaults_to_here(repo: Path) -> None:
    result = run("ask", "port?", *RANDOM, "--json", "--quiet", cwd=repo / "server")
    # A random walk sees the second file only if it goes into its folder.
    found = {a["path"] for a in json.loads(result.stdout)["answers"]}
    assert "config.py" in found and found <= {"config.py", "[bold]main[/bold].py"}


def test_archives_answer_like_the_directory(repo: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in repo.rglob("*"):
            archive.write(path, path.relative_to(repo))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(repo, ".")
    for archive_name in ("a.zip", "a.tar.gz"):
        result = run("ask", "port?", tmp_path / archive_name, *RANDOM, "--json", "--quiet")
        assert result.returncode == 0
        assert all((repo / answer["path"]).is_file() for answer in json.loads(result.stdout)["answers"])


def test_odd_names_and_contents_are_printed_as_text(tmp_path: Path) -> None:
    for name in (b"caf\xe9 port.txt", b"new\nline port.txt", b"\x1b[31mport.txt", b"[red]port[bold].txt"):
        (tmp_path / os.fsdecode(name)).write_text("port \x1b]0;owned\x07 \x1b[31mred [/nope]\n")
    for encoding in ("utf-8", "ascii"):
        result = run("ask", "port?", tmp_path, *RANDOM, env=environment(PYTHONIOENCODING=encoding))
        assert result.returncode == 0, result.stderr
        assert ESCAPE not in result.stdout + result.stderr
        assert "\\x1b]0;owned" in result.stdout
        assert "[red]port[bold].txt" in result.stdout + result.stderr
        assert "\\udce9" in result.stdout + result.stderr
    data = json.loads(run("ask", "port?", tmp_path, *RANDOM, "--json", "--quiet").stdout)
    assert {os.fsencode(a["path"]) for a in data["answers"]} == set(os.listdir(os.fsencode(tmp_path)))


def test_a_question_that_is_no_utf8(repo: Path) -> None:
    arguments = [os.fsencode(c) for c in command("ask", "QUESTION", repo, *RANDOM, "--json", "--quiet")]
    arguments[arguments.index(b"QUESTION")] = b"where is the caf\xe9 port?"
    result = subprocess.run(arguments, capture_output=True, env=environment())
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["question"] == "where is the caf? port?"


def on_a_terminal(*arguments: object, **more: str) -> tuple[str, int]:
    """What the command shows where stdout and stderr are a terminal, and its exit code."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command(*arguments), stdin=slave, stdout=slave, stderr=slave, env=environment(**more)
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # the end of a pseudo-terminal
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    return shown.decode(), process.wait()


def test_colour_on_a_terminal_and_none_with_no_color(repo: Path) -> None:
    shown, code = on_a_terminal("ask", "DEFAULT_PORT?", repo, *RANDOM)
    assert code == 0
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)
    shown, code = on_a_terminal("ask", "DEFAULT_PORT?", repo, *RANDOM, NO_COLOR="1")
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]m", shown)
    assert "]0;owned\x07" not in shown


# -- exit codes --------------------------------------------------------------------------------


def test_nothing_to_open_is_no_confident_answer(tmp_path: Path) -> None:
    result = run("ask", "port?", tmp_path, *RANDOM)
    assert (result.returncode, result.stdout) == (1, "")
    assert "no confident answer" in one_line(result)
    result = run("ask", "port?", tmp_path, *RANDOM, "--json", "--quiet")
    assert result.returncode == 1 and result.stderr == ""
    assert json.loads(result.stdout)["answers"] == []


def test_an_answer_below_the_threshold_is_printed_all_the_same(repo: Path) -> None:
    probe = (
        "import sys\nfrom repoagent.confidence import Confidence\n"
        "from repoagent.players import RandomPolicy\n"
        "RandomPolicy.confidence = Confidence(0.0, (0.0,) * 6, 1.1)\n"
        f"sys.argv[1:] = ['ask', 'port?', {str(repo)!r}, '--policy', 'random', '--no-reflect']\n"
        "from repoagent.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment())
    assert result.returncode == 1
    assert re.match(r"[^:]+:\d+-\d+\n", result.stdout)
    assert result.stderr.splitlines()[-1].startswith("repoagent: no confident answer")


def test_steps_that_do_not_suffice_to_name_a_file_are_no_confident_answer(repo: Path) -> None:
    result = run("ask", "port?", repo, *RANDOM, "--steps", "1")
    assert result.returncode == 1
    assert "no confident answer" in result.stderr


def test_an_unexpected_error_is_one_line_and_no_answer(repo: Path) -> None:
    probe = (
        "import sys; from repoagent.players import RandomPolicy\n"
        "def distribution(*_): raise MemoryError('out of\\nmemory')\n"
        "RandomPolicy.distribution = distribution\n"
        f"sys.argv[1:] = ['ask', 'port?', {str(repo)!r}, '--policy', 'random', '--no-reflect', '--quiet']\n"
        "from repoagent.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment())
    assert (result.returncode, result.stdout) == (70, "")
    assert "unexpected MemoryError: out of memory" in one_line(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask"], "QUESTION"),
        (["ask", "port?", "/nonexistent"], "/nonexistent does not exist"),
        (["ask", "port?", __file__], "no zip or tar archive"),
        (["ask", "  "], "question is empty"),
        (["ask", "port?", "--top", "0"], "--top"),
        (["ask", "port?", "--steps", "many"], "--steps"),
        (["ask", "port?", "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["explore", "/nonexistent"], "/nonexistent does not exist"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in one_line(result)


def test_explore_without_a_terminal_says_so(repo: Path) -> None:
    result = run("explore", repo, stdin=subprocess.DEVNULL)
    assert result.returncode == 2
    assert "needs a terminal" in one_line(result)


@pytest.mark.parametrize("option", ["--policy", "--reflector"])
def test_a_model_that_is_not_there_is_exit_3(repo: Path, tmp_path: Path, option: str) -> None:
    players = {"--policy": "random", "--reflector": "none"} | {option: str(tmp_path / "nothing")}
    result = run("ask", "port?", repo, *(word for pair in players.items() for word in pair))
    assert (result.returncode, result.stdout) == (3, "")
    assert "nothing" in one_line(result)


def test_a_closed_pipe_ends_quietly(repo: Path) -> None:
    process = subprocess.Popen(
        command("ask", "port?", repo, *RANDOM, "--quiet", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""


def interrupted(arguments: list[str], delay: float) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of a run that gets a SIGINT ``delay`` seconds after Python's own start."""
    probe = (
        f"import sys; sys.argv[1:] = {arguments!r}\n"
        "print('up', flush=True)\n"
        "from repoagent.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", probe], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout and process.stdout.readline() == b"up\n"
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


@pytest.mark.parametrize("delay", [0.03, 0.06, 0.1, 0.2, 0.4, 0.8])
def test_an_interrupt_at_any_time_is_exit_130_without_a_traceback(big_repo: Path, delay: float) -> None:
    arguments = ["ask", "Where is the port of the server?", str(big_repo), *RANDOM, "--quiet"]
    assert interrupted(arguments, delay) == (130, b"", b"")


@pytest.mark.parametrize("delay", [0.5, 0.7, 0.9])
def test_an_interrupt_is_not_lost_in_the_import_of_torch(delay: float) -> None:
    code, _, error = interrupted(["doctor"], delay)
    assert (code, error) == (130, b"")


# -- doctor and models -------------------------------------------------------------------------


def test_doctor_reports_packages_device_and_models() -> None:
    result = run("doctor")
    for word in ("repoagent", "torch", "typer", "cpu", "bundled policy", "bundled reflector"):
        assert word in result.stdout
    assert "Traceback" not in result.stderr
    assert result.returncode == (3 if "!!" in result.stdout else 0)


def test_models_lists_what_the_flags_accept() -> None:
    result = run("models")
    for word in ("--policy", "--reflector", "bundled", "random", "none", "openai:BASE_URL#MODEL"):
        assert word in result.stdout
    assert result.returncode in (0, 3)


@pytest.mark.parametrize(
    "arguments", [["models"], ["doctor"], ["ask", "port?", ".", "--no-reflect", "--policy", "bundled"]]
)
def test_without_torch_it_is_exit_3_and_no_traceback(arguments: list[str]) -> None:
    probe = (
        f"import sys; sys.modules['torch'] = None; sys.argv[1:] = {arguments!r}\n"
        "from repoagent.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment())
    assert result.returncode == 3, result.stderr
    assert "torch" in result.stdout + result.stderr and "Traceback" not in result.stderr
