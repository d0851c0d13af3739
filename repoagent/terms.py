"""What a question says, as terms that can be found in code.

``max_conn``, ``maxConn`` and ``MAX-CONN`` all have the parts max and conn; a term of the question
hits such a part where it begins with the term's root and ends like an inflection of it. Code seldom uses
the words of a question, so a term also brings related words (lint: eslint, ruff), which count by themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

STOPWORDS = frozenset(
    """a about all also am an and any are as at be been between both but by can could did do does
    doing done each for from get gets got had has have having how i if in into is it its itself just
    like make makes me my no not of off on one only or other our out over own same she should so
    some such than that the their them then there these they thing this those through to too up us
    use used uses using very want was we were what when where whether which while who whose why will
    with would you your happen happens happening code file files find found located live lives
    place place piece exactly actually somewhere decide decides determine determines defined define
    come comes go goes look looks work works way ways need needs project repo repository""".split()
)

ABBREVIATIONS = {
    "argument": ("arg",), "asynchronous": ("async",), "attribute": ("attr",),
    "authentication": ("auth",), "authorization": ("auth",), "buffer": ("buf",),
    "character": ("char",), "command": ("cmd",), "configuration": ("config", "conf", "cfg"),
    "configured": ("config", "conf", "cfg"), "configure": ("config", "conf", "cfg"),
    "config": ("conf", "cfg"), "connection": ("conn",), "context": ("ctx",),
    "database": ("db",), "default": ("def",), "dependency": ("dep",), "dependencies": ("dep",),
    "directory": ("dir",), "directories": ("dir",), "document": ("doc",),
    "documentation": ("doc", "docs"), "documented": ("doc", "docs"), "environment": ("env",),
    "error": ("err",), "execute": ("exec",), "expression": ("expr",), "extension": ("ext",),
    "function": ("func", "fn"), "implementation": ("impl",), "information": ("info",),
    "initialize": ("init",), "iterator": ("iter",), "length": ("len",), "library": ("lib",),
    "maximum": ("max",), "memory": ("mem",), "message": ("msg",), "minimum": ("min",),
    "number": ("num",), "object": ("obj",), "option": ("opt",), "package": ("pkg",),
    "parameter": ("param",), "pointer": ("ptr",), "position": ("pos",), "previous": ("prev",),
    "property": ("prop",), "reference": ("ref",), "regular": ("regex",), "request": ("req",),
    "response": ("resp", "res"), "source": ("src",), "specification": ("spec",),
    "string": ("str",), "synchronize": ("sync",), "temporary": ("tmp", "temp"),
    "utilities": ("util",), "value": ("val",), "variable": ("var",), "version": ("ver",),
    "continuous": ("ci",), "terminal": ("term", "tty"), "test": ("spec",), "tests": ("spec",),
}  # fmt: skip

RELATED = 6
"""Related words of a term that are looked for: the scan takes longer with each."""

_WORD = re.compile(r"[^\W_]+", re.UNICODE)
_CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_A-Za-z]+")
_CODE_TOKEN = re.compile(
    r"[A-Za-z_$][\w$]{0,60}(?:[._\-/:]+\w+)+|[a-z]{1,60}[A-Z]\w*|[A-Z]{2,}[A-Z_\d]*|`[^`]+`|\"[^\"]+\"|--?[a-z][\w-]+|\d{3,}"
)
_SUFFIXES = ("izations", "ization", "ations", "ation", "ements", "ement", "ments", "ment", "ings",
             "ing", "ions", "ion", "ers", "ors", "ies", "er", "or", "ed", "es", "ly", "s", "e")  # fmt: skip
_TAILS = frozenset(
    """s es e ed d ing ings er ers r rs or ors ion ions ation ations ment ments able y ies ied
    ize izes ized izer ise ised ization ly al ive ity ting ted ter tion tions ling led ler ning ned ner
    ping ped per ure ures ured uration urations uring urable ization t ts n ns ance ence ant ent""".split()
)
_LETTERS = re.compile(rb"[a-z]*")
_CAPITALS = re.compile(rb"[A-Z]*")


def parts(word: str) -> list[str]:
    """Lower-case parts of an identifier or path: ``HTTPServer_v2`` -> http, server, v, 2."""
    return [p.lower() for w in _WORD.findall(word) for p in (_CAMEL.findall(w) if w.isascii() else [w])]


def root(word: str) -> str:
    """``word`` without its inflection, at least four letters long: connections -> connect."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 4:
            return word[: -len(suffix)]
    return word


@dataclass(frozen=True, slots=True)
class Term:
    """One word of the question: ``variants`` are (byte root, weight), full matches weigh 1; ``related`` are
    the roots of words that code uses for it."""

    word: str
    variants: tuple[tuple[bytes, float], ...]
    code: bool  # part of something that reads like code: CamelCase, snake_case, quoted, a flag
    related: tuple[bytes, ...] = ()


def terms(question: str) -> list[Term]:
    """Distinct terms of ``question`` in order, stop words left out unless nothing else is left."""
    code = {p for token in _CODE_TOKEN.findall(question) for p in parts(token)}
    words = list(dict.fromkeys(parts(question)))
    kept = [
        w
        for w in words
        if w in code or (w not in STOPWORDS and (len(w) > 1 or w.isdigit() or not w.isascii()))
    ]
    asked = {root(word) for word in words}
    found: dict[str, Term] = {}
    for word in kept or words:
        stem = root(word)
        if stem in found:
            continue
        variants = [(stem.encode(), 1.0)]
        variants += [(a.encode(), 0.6) for a in ABBREVIATIONS.get(word, ())]
        known = {stem for stem, _ in variants}
        others = [r for r in thesaurus().get(stem, ()) if r not in asked] if word not in code else []
        related = tuple(r.encode() for r in others if r.encode() not in known)
        found[stem] = Term(word, tuple(dict.fromkeys(variants)), word in code, related)
    return list(found.values())[:24]


@cache
def thesaurus() -> dict[str, tuple[str, ...]]:
    """Roots of words of questions to the roots of words that code uses for them, most certain first."""
    found: dict[str, tuple[str, ...]] = {}
    for line in (Path(__file__).parent / "thesaurus.txt").read_text(encoding="ascii").splitlines():
        word, _, others = line.partition(":")
        found[root(word)] = tuple(dict.fromkeys(root(o) for o in others.split()))[:RELATED]
    return found


def literals(question: str) -> list[bytes]:
    """Code-like tokens of ``question`` as they stand, lower-case, to be found verbatim."""
    tokens = (t.strip('`"').strip("-").lower() for t in _CODE_TOKEN.findall(question))
    return [t.encode("utf-8", "surrogatepass") for t in dict.fromkeys(tokens) if len(t) > 2]


def find_parts(data: bytes, low: bytes, stem: bytes, cap: int) -> list[int]:
    """Offsets at which ``stem`` begins a part of an identifier in ``data`` (``low``: lower-case)."""
    found: list[int] = []
    size, at = len(stem), low.find(stem)
    while at >= 0:
        end = at + size
        first, before = data[at], data[at - 1] if at else 32
        upper = 65 <= first <= 90
        letter_before = 97 <= before <= 122 or 65 <= before <= 90
        if not letter_before or (
            upper and (97 <= before <= 122 or 97 <= data[min(at + 1, len(data) - 1)] <= 122)
        ):
            shouting = upper and size > 1 and 65 <= data[end - 1] <= 90
            match = (_CAPITALS if shouting else _LETTERS).match(data, end)
            tail = match.group() if match else b""
            if not tail or (size > 2 and tail.lower().decode() in _TAILS):
                found.append(at)
                if len(found) >= cap:
                    return found
        at = low.find(stem, end)
    return found
