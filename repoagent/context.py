"""Text that comes with a question (a diff, a traceback, a log): where it is read, and what of it counts.

What counts is a few names: of files that it mentions, and identifiers that are rare in the repository. The
lexical scan looks for them besides the words of the question. The models go on reading the question, with the
first name behind it: more of them would drown it.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
import select
import stat
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from repoagent.errors import InputError
from repoagent.explore import Task
from repoagent.repo import Repo, decode, display, is_binary
from repoagent.terms import STOPWORDS, parts

LIMIT = 20_000
"""Characters of a context that count."""
NAMES = 8
"""Names taken from a context."""
SILENCE = 0.5
"""Seconds without a byte after which a pipe is taken to have said all."""
PATIENCE = 5.0
"""Seconds after which a pipe is left, whatever may still come."""
_FILES = 3
_CANDIDATES = 40  # identifiers whose files are counted
_BYTES = 4 * LIMIT  # no character takes more

_PATH = re.compile(r"[\w$.~-]{1,80}(?:[/\\][\w$.~-]{1,80}){0,20}\.\w+")
_NAME = re.compile(r"[^\W\d]\w{2,60}")
_CHANGED = re.compile(r"^[+-](?![+-]{2} )(.*)$|^@@ .*? @@(.*)$", re.MULTILINE)
_CHANGES = re.compile(r"^(?:---|\+\+\+) (?:[ab]/)?([^\t\n]+)", re.MULTILINE)
_SYNTAX = frozenset(
    """abstract and args assert async await bool boolean break case catch char class const continue def
    default delete elif else enum except export extends extern false final finally float for foreach
    from func function global goto ifdef ifndef impl implements import include instanceof int interface
    internal isinstance kwargs lambda len let list long match mod module mut namespace new nil none not
    null object override package pass print private protected public pub raise return self short static
    str string struct super switch template this throw throws trait true try tuple type typedef typeof
    undef undefined union unsigned use using var void volatile where while with yield index diff
    git""".split()
)


def names(context: str, repo: Repo) -> list[str]:
    """Up to ``NAMES`` names that ``context`` is about and that ``repo`` has, the most telling first.

    First come files that are mentioned, without their suffix, the most often mentioned before others. Then
    identifiers, by how often they are mentioned and in how few files they are; of a diff only the changed
    lines and the heads of its hunks count.
    """
    context = context[:LIMIT]
    known = {posixpath.basename(entry.path) for entry in repo.files()}
    mentioned = Counter(re.split(r"[/\\]", path)[-1] for path in _PATH.findall(context))
    files = dict.fromkeys(name.partition(".")[0] for name, _ in mentioned.most_common() if name in known)
    first = [name for name in files if _telling(name)][:_FILES]
    changed = "\n".join(m[1] or m[2] or "" for m in _CHANGED.finditer(context)) if _is_diff(context) else ""
    counts = Counter(n for n in _NAME.findall(changed or context) if _telling(n) and n not in first)
    likely = sorted(counts, key=lambda name: (len(parts(name)) < 2, -counts[name]))[:_CANDIDATES]
    worth = {name: math.log1p(counts[name]) * rarity**2 for name, rarity in _rarity(likely, repo).items()}
    return [*first, *sorted(worth, key=lambda name: -worth[name])][:NAMES]


def widened(question: str, found: Sequence[str]) -> Task:
    """``question`` with the names that were ``found`` in its context."""
    quoted = [f"`{name}`" for name in found]
    return Task(" ".join([question, *quoted[:1]]), search=" ".join(quoted[1:]))


def _rarity(candidates: list[str], repo: Repo) -> dict[str, float]:
    """How rare each is among the files of ``repo``; those that are in none are left out."""
    needles = {name: name.encode() for name in candidates}
    frequency = dict.fromkeys(candidates, 0)
    total = 0
    for entry in repo.files() if candidates else ():
        data = repo.read_bytes(entry.path)
        total += 1
        if not is_binary(data):
            for name, needle in needles.items():
                frequency[name] += needle in data
    return {name: math.log1p(total / count) for name, count in frequency.items() if count}


def _telling(name: str) -> bool:
    low = name.lower()
    return len(low) > 2 and low not in STOPWORDS and low not in _SYNTAX


def _is_diff(context: str) -> bool:
    return bool(_CHANGES.search(context)) and re.search(r"^@@ ", context, re.MULTILINE) is not None


def changed_files(context: str, repo: Repo) -> tuple[str, ...]:
    """The files of ``repo`` that ``context`` changes, if it is a diff; none if there are no others.

    The paths of a diff may begin above ``repo``: as few of their first folders are left out as it takes for
    one of them to be there.
    """
    context = context[:LIMIT]
    if not _is_diff(context):
        return ()
    known = {entry.path for entry in repo.files()}
    paths = [path.split("/") for path in dict.fromkeys(_CHANGES.findall(context))]
    for above in range(max(map(len, paths))):
        if found := {"/".join(path[above:]) for path in paths} & known:
            return tuple(sorted(found)) if found != known else ()
    return ()


# -- where it is read --------------------------------------------------------------------------


def read(source: str) -> str:
    """The beginning of the file ``source``, or of standard input to its end where it is "-".

    ``InputError`` if it cannot be read or is no text.
    """
    try:
        if source == "-":
            data = sys.stdin.buffer.read(_BYTES) if sys.stdin else b""
        else:
            with Path(source).open("rb") as file:
                data = file.read(_BYTES)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"cannot read the context {display(source)}: {reason}; name a text file.") from error
    if is_binary(data):
        raise InputError(f"the context {display(source)} is no text; name a text file.")
    return decode(data)[:LIMIT]


def piped() -> str:
    """What has been piped into standard input; empty where nothing has.

    Only a file, or a pipe that can be read or has ended, is looked at: a pipe that was inherited and that
    nobody writes to must not hold up the question, and a file that somebody has begun to read, such as the
    list that a shell loop goes through, is left to them. What is no text counts as nothing.
    """
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or no real file
        return ""
    pipe = stat.S_ISFIFO(mode) and os.name == "posix"  # elsewhere select takes sockets alone
    fresh = stat.S_ISREG(mode) and os.lseek(descriptor, 0, os.SEEK_CUR) == 0
    if not (pipe or fresh):
        return ""
    data = b""
    end = time.monotonic() + PATIENCE
    while len(data) < _BYTES:
        wait = min(SILENCE, end - time.monotonic()) if data else 0.0
        if pipe and (wait < 0 or not select.select([descriptor], [], [], wait)[0]):
            break
        piece = os.read(descriptor, _BYTES - len(data))
        if not piece:
            break
        data += piece
    return "" if is_binary(data) else decode(data)[:LIMIT]
