"""A small repository with a history, made of words: enough tasks to tune a model on in seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

AREAS = {
    "billing": ("invoice", "discount", "currency", "refund", "ledger"),
    "search": ("query", "ranking", "synonym", "snippet", "facet"),
    "accounts": ("password", "session", "avatar", "invitation", "profile"),
    "delivery": ("parcel", "courier", "warehouse", "pallet", "label"),
    "reports": ("chart", "spreadsheet", "average", "quarter", "footnote"),
    "messages": ("newsletter", "recipient", "attachment", "signature", "mailbox"),
}
JARGON = {
    "billing": ("dunning", "accrual"), "search": ("stemming", "trigram"), "accounts": ("captcha", "oauth"),
    "delivery": ("tarpaulin", "forklift"), "reports": ("pivot", "median"), "messages": ("bounce", "digest"),
}  # fmt: skip
"""Words that every module holds; only the history tells which of them they belong to."""
GLOSSARY = ", ".join(["records", *(word for pair in JARGON.values() for word in pair)])
VERBS = ("collect", "validate", "archive", "compare", "merge")
ENDS = ("before the nightly batch starts", "for every selected customer", "without touching older entries",
        "while the cache is still warm", "as the auditors asked")  # fmt: skip
GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "A",
       "GIT_AUTHOR_EMAIL": "a@b.c", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@b.c"}  # fmt: skip


def git(root: Path, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, text=True, input=stdin,
        env=os.environ | GIT,
    )  # fmt: skip
    return done.stdout


def source(area: str, words: tuple[str, ...]) -> str:
    lines = [f"import {area}_store as store", "", f"# {GLOSSARY}", ""]
    for verb, word, end in zip(VERBS, words, ENDS, strict=True):
        lines += [f"def {verb}_{word}({word}_items):", f'    """{verb.capitalize()} the {word} {end}."""',
                  f"    kept = [store.{verb}({word}) for {word} in {word}_items]",
                  "    return kept", ""]  # fmt: skip
    return "\n".join(lines)


def make_repository(root: Path, *, history: bool = True) -> Path:
    """Six modules with documented functions and, with ``history``, sixty commits that say what they do."""
    files = {f"shop/{area}.py": source(area, words) for area, words in AREAS.items()}
    files["README.md"] = "# Shop\n\nA shop.\n"
    stream = [_commit(0, "First version of everything that a shop has", files)]
    for turn in range(2):
        for at in range(5):
            for area in AREAS:
                files[f"shop/{area}.py"] += f"\n\n{VERBS[at].upper()}_LIMIT_{turn} = {turn + at}\n"
                said = f"{VERBS[at].capitalize()} {JARGON[area][turn]} records up to a limit"
                changed = {f"shop/{area}.py": files[f"shop/{area}.py"]}
                stream.append(_commit(len(stream), said, changed))
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if history:  # by one process: sixty would take a minute on a slow machine
        git(root, "init", "-q", "-b", "main")
        git(root, "fast-import", "--quiet", stdin="".join(stream))
        git(root, "reset", "-q", "--hard", "main")
    return root


def _commit(number: int, said: str, files: dict[str, str]) -> str:
    author = f"committer A <a@b.c> {1_700_000_000 + 3600 * number} +0000"
    parts = [f"commit refs/heads/main\n{author}\ndata {len(said)}\n{said}\n"]
    parts += [f"M 100644 inline {name}\ndata {len(text)}\n{text}\n" for name, text in files.items()]
    return "".join(parts)


def run(data: Path, *arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """``repoagent`` in a process of its own, with ``data`` as the user's data."""
    more: dict[str, Any] = {
        "REPOAGENT_DATA": str(data),
        "REPOAGENT_CONFIG": os.devnull,
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "repoagent", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, env=os.environ | more,
    )  # fmt: skip
