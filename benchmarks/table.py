"""Tables of figures that say how they were made: command line, settings, machine and commit."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repoagent import __version__
from repoagent.errors import InputError


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, columns padded so that it reads well as plain text too."""
    cells = [[str(c).replace("|", "\\|").replace("\n", " ") for c in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def provenance(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """All that is needed to make the figures again, and where they were made."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": seed,
        "settings": dict(settings),
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "python": platform.python_version(),
            "torch": _version("torch"),
        },
        "repoagent": __version__,
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def head(title: str, made: Mapping[str, Any]) -> str:
    """The head of a result file in Markdown."""
    machine = made["machine"]
    settings = ", ".join(f"{k} {v}" for k, v in made["settings"].items())
    return "\n".join(
        [
            f"# {title}",
            "",
            f"- Command: `{made['command']}`",
            f"- Seed: {made['seed']}",
            f"- Settings: {settings}",
            f"- Machine: {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
            f"torch {machine['torch']}",
            f"- repoagent {made['repoagent']}, commit {made['commit']}, {made['date']}",
            "",
        ]
    )


def check_output(path: Path) -> None:
    """Raise ``InputError`` now rather than after hours of work if ``path`` cannot be written."""
    if path.suffix not in (".md", ".json"):
        raise InputError(f"cannot write {path}: unknown kind of file; name it .md or .json.")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a directory; name a file.")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: {path.parent} is no directory; create it first.")


def write(path: Path, title: str, made: Mapping[str, Any], body: str, data: Mapping[str, Any]) -> None:
    """Write ``body`` under its head (.md), or ``data`` with it (.json)."""
    if path.suffix == ".json":
        text = json.dumps({"title": title, "made": made, **data}, separators=(",", ":"))
    else:
        text = head(title, made) + "\n" + body
    try:
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another file.") from error


def _cpu() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of this checkout, marked where it was changed since; "unknown" outside one."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        # Only what is tracked here: a package installed under someone's repository is not that commit.
        if not git("ls-files", Path(__file__).name):
            return "unknown"
        return commit + (" (with uncommitted changes)" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
