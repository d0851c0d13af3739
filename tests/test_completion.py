"""Shell completion: the script, in a real bash, and what it asks the command."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import environment, one_line, run

BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("ex", {"explore"}),
        ("bench ta", {"taxi"}),
        ("ask --ref", {"--reflector"}),
        ("completion ", {"bash", "zsh", "fish"}),
        ("ask question READ", set()),
    ],
)
def test_bash_completes(tmp_path: Path, typed: str, completed: set[str]) -> None:
    shim = tmp_path / "repoagent"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m repoagent "$@"\n')
    shim.chmod(0o755)
    words = ["repoagent", *typed.split(" ")]
    script = (
        'source <(repoagent completion bash)\ncomplete -p repoagent >&2\nCOMP_WORDS=("$@")\n'
        'COMP_CWORD=$(($# - 1))\n_repoagent_completion repoagent\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    assert BASH
    result = subprocess.run(
        [BASH, "--norc", "-c", script, "bash", *words],
        capture_output=True, text=True, timeout=60,
        env=environment(PATH=f"{tmp_path}:/usr/bin:/bin", PYTHONPATH=str(Path(__file__).parent.parent)),
    )  # fmt: skip
    assert result.returncode == 0
    # Where nothing is offered bash's own completion of file names comes in.
    assert result.stderr == "complete -o default -F _repoagent_completion repoagent\n"
    offered = set(result.stdout.split())
    assert completed <= offered and all(word.startswith(words[-1]) for word in offered)
    assert completed or not offered


@pytest.mark.parametrize(("shell", "mark"), [("zsh", "#compdef repoagent"), ("fish", "complete --command")])
def test_the_other_shells_get_theirs(shell: str, mark: str) -> None:
    result = run("completion", shell)
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.startswith(mark)
    asked = {"_REPOAGENT_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "repoagent expl"}
    offered = run(env=environment(**asked, _TYPER_COMPLETE_FISH_ACTION="get-args"))
    assert "explore" in offered.stdout and offered.returncode == 0


def test_another_shell_is_one_line_and_exit_2() -> None:
    result = run("completion", "tcsh")
    assert (result.returncode, result.stdout) == (2, "") and "tcsh" in one_line(result)
