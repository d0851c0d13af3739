"""Which paths a ``.gitignore`` excludes, decided as git does.

All patterns of one file become one regular expression over bytes. Every ``*`` and ``**`` is matched
leftmost in an atomic group, so that no pattern, however hostile, backtracks exponentially
(``*a*a*a*a*b`` hangs a plain translation).
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

_POSIX = {
    b"alpha": string.ascii_letters, b"digit": string.digits, b"alnum": string.ascii_letters + string.digits,
    b"upper": string.ascii_uppercase, b"lower": string.ascii_lowercase, b"xdigit": string.hexdigits,
    b"punct": string.punctuation, b"space": string.whitespace, b"blank": " \t",
    b"cntrl": "".join(map(chr, [*range(32), 127])), b"graph": "".join(map(chr, range(33, 127))),
    b"print": "".join(map(chr, range(32, 127))),
}  # fmt: skip
_NOTHING = b"(?!)"
_SPECIAL = re.compile(rb"[*?\[\\]")


class Ignore:
    """The patterns of one ``.gitignore``; the last one that matches decides."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        rules = [rule for rule in map(_rule, lines) if rule]
        rules.reverse()  # the first alternative that matches is the last pattern of the file
        self._names, self._name_rules = _union([r for r in enumerate(rules) if not r[1][2]])
        self._paths, self._path_rules = _union([r for r in enumerate(rules) if r[1][2]])

    def verdict(self, path: bytes, directory: bool) -> bool | None:
        """True: ``path`` (relative to the file's directory) is ignored; False: it is included
        again; None: no pattern says anything about it. Its parents are the caller's business."""
        subject = path + b"\0" if directory else path
        name = self._names.fullmatch(subject, path.rfind(b"/") + 1) if self._names else None
        whole = self._paths.fullmatch(subject) if self._paths else None
        # lastindex is the alternative that matched: no other group captures.
        found = [self._name_rules[name.lastindex - 1]] if name and name.lastindex else []
        if whole and whole.lastindex:
            found.append(self._path_rules[whole.lastindex - 1])
        return not min(found)[1] if found else None


Rule = tuple[bytes, bool, bool]
"""Regular expression, whether it includes again, whether it sees the whole path or the name."""


def _union(rules: list[tuple[int, Rule]]) -> tuple[re.Pattern[bytes] | None, list[tuple[int, bool]]]:
    if not rules:
        return None, []
    expression = b"|".join(b"(%b)" % rule[0] for _, rule in rules)
    return re.compile(expression, re.DOTALL), [(rank, rule[1]) for rank, rule in rules]


def _rule(line: bytes) -> Rule | None:
    pattern = _trimmed(line.partition(b"\0")[0].removesuffix(b"\r"))
    if not pattern or pattern.startswith(b"#"):
        return None
    negative = pattern.startswith(b"!")
    pattern = pattern[negative:]
    end = b"\0" if pattern.endswith(b"/") else b"\0?"  # marks a directory, see verdict
    pattern = pattern.removesuffix(b"/")
    whole = b"/" in pattern
    pattern = pattern.removeprefix(b"/")
    if not pattern:
        return None
    return _translate(pattern, whole) + end, negative, whole


def _trimmed(line: bytes) -> bytes:
    """``line`` without trailing spaces, but for those after a backslash."""
    kept = line.rstrip(b" ")
    slashes = len(kept) - len(kept.rstrip(b"\\"))
    return kept + b" " if slashes % 2 and len(kept) < len(line) else kept


def _translate(pattern: bytes, whole: bool) -> bytes:
    """``pattern`` as a regular expression; with ``whole``, ``**`` between slashes spans directories.

    ``groups`` are the stretches between ``**``; ``chunks`` those between the ``*`` of a group. The
    leftmost match of a chunk leaves most for the next, so all but the last need no second try.
    """
    special = _SPECIAL.search(pattern)
    at = special.start() if special else len(pattern)
    start = at  # git compares the literal head on its own: ** right after it counts as leading
    groups: list[tuple[bytes, list[bytes]]] = [(b"", [re.escape(pattern[:at])])]
    while at < len(pattern):
        byte = pattern[at : at + 1]
        if byte == b"*":
            stars = at
            while pattern[at : at + 1] == b"*":
                at += 1
            bounded = stars == start or pattern[stars - 1 : stars] == b"/"
            rest = pattern[at:]
            if whole and at - stars > 1 and bounded and (not rest or rest.startswith((b"/", b"\\/"))):
                if rest.startswith(b"/"):
                    at += 1
                    groups.append((b"(?:.*?/)??", [b""]))
                else:
                    groups.append((b".*?", [b""]))
            else:
                groups[-1][1].append(b"")
            continue
        if byte == b"?":
            piece, at = b"[^/\0]", at + 1
        elif byte == b"[":
            piece, at = _set(pattern, at + 1)
        elif byte == b"\\":
            piece, at = re.escape(pattern[at + 1 : at + 2]) or _NOTHING, at + 2
        else:
            piece, at = re.escape(byte), at + 1
        groups[-1][1][-1] += piece
    result = b""
    for number, (gap, chunks) in enumerate(groups):
        last = number == len(groups) - 1
        body = chunks[0]
        for index, chunk in enumerate(chunks[1:], 2):
            # Only the very last chunk is tied to the end and may have to move right.
            body += b"[^/]*" + chunk if last and index == len(chunks) else b"(?>[^/]*?%b)" % chunk
        result += gap + body if last else b"(?>%b%b)" % (gap, body)
    return result


def _set(pattern: bytes, at: int) -> tuple[bytes, int]:
    """The ``[...]`` whose content begins at ``at``, and where the pattern goes on."""
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    members: set[int] = set()
    first, previous = True, 0
    while first or pattern[at : at + 1] != b"]":
        first = False
        if at >= len(pattern):
            return _NOTHING, len(pattern)
        byte = pattern[at]
        if byte == ord("\\"):
            at += 1
            if at >= len(pattern):
                return _NOTHING, len(pattern)
            byte = pattern[at]
            members.add(byte)
        elif byte == ord("-") and previous and pattern[at + 1 : at + 2] not in (b"", b"]"):
            at += 1
            if pattern[at : at + 1] == b"\\":
                at += 1
            if at >= len(pattern):
                return _NOTHING, len(pattern)
            members.update(range(previous, pattern[at] + 1))
            byte = 0
        elif pattern[at : at + 2] == b"[:" and (close := pattern.find(b"]", at + 2)) >= 0:
            if close > at + 2 and pattern[close - 1] == ord(":"):
                name = pattern[at + 2 : close - 1]
                if name not in _POSIX:
                    return _NOTHING, len(pattern)
                members.update(_POSIX[name].encode())
                at, byte = close, 0
            else:
                members.add(byte)  # no ":]": a set that begins with "["
        elif pattern[at : at + 2] == b"[:":
            return _NOTHING, len(pattern)
        else:
            members.add(byte)
        previous = byte
        at += 1
    allowed = (set(range(256)) - members if negated else members) - {ord("/"), 0}
    if not allowed:
        return _NOTHING, at + 1
    return b"[" + b"".join(b"\\x%02x" % b for b in sorted(allowed)) + b"]", at + 1
