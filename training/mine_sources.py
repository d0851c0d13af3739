"""What the files of a repository say about themselves: doc comments, headings, configuration.

Each miner yields candidates: a sentence, the lines it speaks of, and the lines that hold the
sentence itself, to be hidden from the evidence when a model is trained on the question.
"""

from __future__ import annotations

import ast
import posixpath
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from training.phrasing import plain, sentence

SPAN_LIMIT = 60
"""Lines of the longest span; a long class is stood for by its beginning."""


@dataclass(slots=True)
class Candidate:
    """A task to be: ``text`` is what the repository says, ``needles`` the strings as they stand in
    the files, by which further copies are found, ``hide`` the lines (path, first, last) known so far."""

    kind: str
    text: str
    gold: tuple[str, ...]
    span: tuple[int, int] | None
    hide: list[tuple[str, int, int]]
    needles: tuple[str, ...] = ()
    parent: str = ""
    callable: bool = True
    question: str = field(default="")


_SIDE = re.compile(
    r"(?:^|/)(?:tests?|specs?|__tests__|__mocks__|testing|test[-_]?(?:data|utils|suite|helpers|cases|"
    r"support)|"
    r"\w+[-_]tests?|tests?[-_]\w+|t|e2e|fixtures?|mocks?|examples?|samples?|demos?|bench(?:marks?|es)?|"
    r"snapshots?|"
    r"vendor(?:ed)?|third[-_]?party|3rdparty|node_modules|extern(?:al)?|deps|dist|locales?|i18n|l10n|"
    r"translations?|"
    r"po|generated|golden|\.yarn|archive)/"
    r"|(?:^|/)(?:test_[^/]*|[^/]*[._-](?:test|tests|spec|e2e|bench|min|pb|gen)\.[^/]+|conftest\.py|"
    r"[^/]*(?:Tests?|Spec|[_.-][Mm]ock|[_.-][Ss]tub)"
    r"\.\w+|mock_[^/]*|[^/]*(?:pb2|generated|_string)\.\w+)$",
)
_DULL_DOCUMENT = re.compile(
    r"(?:change|history|news|release|whats[-_]?new|upgrad|migrat|authors|contributors|security|conduct|"
    r"_template|adopters)[^/]*$|(?:^|/)(?:release|relnote)s?/|"
    r"[._](?-i:[a-z]{2}|[a-z]{2}[-_][A-Za-z]{2})\.\w+$|(?:^|/)(?-i:[a-z]{2,3}-[A-Z]{2})/",
    re.I,
)
"""Lists of changes and people, forms to fill in, and translations."""


def is_side(path: str) -> bool:
    """Whether ``path`` is a test, an example, vendored or generated: not what questions are about."""
    return bool(_SIDE.search(path))


LANGUAGES = {
    **dict.fromkeys((".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".mts", ".cts"), "js"),
    ".go": "go",
    ".rs": "rust",
    **dict.fromkeys((".java", ".kt", ".kts", ".cs", ".scala"), "java"),
    **dict.fromkeys((".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh"), "c"),
    **dict.fromkeys((".rb", ".rake"), "ruby"),
    ".php": "php",
    **dict.fromkeys((".sh", ".bash", ".zsh"), "shell"),
    ".py": "python",
}
CONFIGS = frozenset(
    (".toml", ".yaml", ".yml", ".ini", ".cfg", ".conf", ".env", ".json5", ".jsonc", ".properties")
)
DOCS = frozenset((".md", ".mdx", ".markdown", ".rst", ".adoc"))

_MODIFIERS = (
    r"(?:(?:public|private|protected|internal|static|final|abstract|synchronized|default|override|virtual|"
    r"async|"
    r"sealed|readonly|open|partial|const|volatile|native|suspend|inline|data|unsafe|new|operator|"
    r"lateinit)\s+)"
)
_DEFINITIONS = {
    "js": r"(?:export\s+)?(?:default\s+)?(?:declare\s+)?(?:const|let|var)\b|\s*(?:export\s+)?(?:default\s+)?"
    r"(?:declare\s+)?(?:abstract\s+)?(?:async\s+)?(?:function\b|class\b|interface\b|type\s+\w|enum\b|namespace\b)|"
    r"\s+(?!(?:if|for|while|switch|catch|return|await)\b)(?:(?:static|async|get|set|public|private|"
    r"protected|readonly)\s+)*\*?[#\w$]+\s*\([^;]*\)?[^;]*\{\s*$|"
    r"\s*[\w$.]+\s*=\s*(?:async\s+)?(?:function|\()|"
    r"\s*[\w$]+\s*:\s*(?:async\s+)?(?:function|\()|\s+(?:readonly\s+)?[\w$]+\??:\s*[\w{(\[|]",
    "go": r"(?:func|type|const|var)\b|\s+[A-Z]\w*\s+[\w.*\[\]]+",
    "rust": r"\s*(?:pub(?:\([^)]*\))?\s+)?(?:default\s+)?(?:(?:async|unsafe|const|"
    r"extern(?:\s+\"C\")?)\s+)*(?:fn|struct|"
    r"enum|trait|type|mod|macro_rules!|const|static|union)\b|\s+(?:pub(?:\([^)]*\))?\s+)?\w+:\s*\S|"
    r"\s+[A-Z]\w+\s*[,({]",
    "java": rf"\s*{_MODIFIERS}*(?:class|interface|enum|record|struct|fun|val|var|object|@interface)\b|"
    rf"\s*{_MODIFIERS}+[\w<>\[\],.? ]+\s*(?:\(|=|;|\{{|$)|\s+[\w<>\[\],.?]+\s+\w+\([^)]*\)?\s*[;{{]?\s*$",
    "c": r"(?!\s*(?:return|if|else|for|while|switch|case|goto|do)\b)(?:\s*(?:struct|enum|class|union|"
    r"typedef|template|"
    r"static|inline|extern|constexpr|virtual|explicit|#\s*define\s+\w+|using)\b|"
    r"\s*[A-Za-z_][\w:<>,*&~ \t]*[ \t*&]+"
    r"[*&]*[\w:~]+\s*\(|[A-Za-z_]\w*\s*\([^;]*$|\s+[A-Za-z_][\w:<>*& ]+\s\*?\w+(?:\[[^\]]*\])?;)",
    "ruby": r"\s*(?:def|class|module|attr_\w+|alias_method|[A-Z][A-Z_]+\s*=)\b",
    "php": r"\s*(?:(?:public|private|protected|static|final|abstract|readonly)\s+)*(?:function|class|"
    r"interface|trait|"
    r"const|enum)\b|\s*(?:public|private|protected|static)\s+[?\w|\\]*\s*\$\w+",
    "shell": r"\s*(?:function\s+[\w:.-]+|[\w:.-]+\s*\(\))|(?:export\s+|readonly\s+)?[A-Z_]+=",
}  # fmt: skip
_DEFINITION = {name: re.compile(pattern) for name, pattern in _DEFINITIONS.items()}
_ATTRIBUTE = re.compile(r"\s*(?:#!?\[|@[A-Za-z]|\[[A-Z]\w*[\](])")
_TAG = re.compile(
    r"\s*(?:[@\\](?!brief|short)\w+|:\w+[^:`]*:(?!`)|(?:Args|Arguments|Parameters|Params|Returns?|Raises|Yields|"
    r"Examples?|"
    r"Usage|Note|See also)\s*:|#+ |-{3,}|={3,}|```|\.\. |>>> )",
    re.I,
)


def candidates(path: str, lines: Sequence[str]) -> Iterator[Candidate]:
    """Everything that can be mined from the file ``path`` by itself."""
    extension = posixpath.splitext(path)[1].lower()
    name = posixpath.basename(path)
    if extension in DOCS:
        if not _DULL_DOCUMENT.search(path) and not is_side(path):
            yield from _headings(path, lines, extension)
    elif is_side(path) or path.endswith((".check.d.ts", ".mock.go")):
        return
    elif extension == ".py":
        yield from _python(path, lines)
    elif language := LANGUAGES.get(extension):
        yield from _comments(path, lines, language)
    elif extension in CONFIGS or name.startswith(".env") or name.endswith("rc"):
        yield from _configuration(path, lines)


def _summary(
    path: str, lines: Sequence[str], block: Sequence[tuple[int, str]], kind: str, span: tuple[int, int] | None
) -> Candidate | None:
    """A candidate from a comment: ``block`` holds (line number, text without comment markers)."""
    taken: list[tuple[int, str]] = []
    for number, text in block:
        bare = re.sub(r"</?(?:summary|remarks|p|para)/?>", "", text).strip()
        if not bare and not taken:
            continue
        if not bare or _TAG.match(bare):
            break
        taken.append((number, bare))
    if not taken:
        return None
    said = sentence(plain(" ".join(t for _, t in taken)))
    needles = tuple(t for _, t in taken if len(t) >= 20)
    return Candidate(kind, said, (path,), span, [(path, taken[0][0], taken[-1][0])], needles)


# -- Python ------------------------------------------------------------------------------------


def _python(path: str, lines: Sequence[str]) -> Iterator[Candidate]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is None:
            continue
        doc = node.body[0]
        if isinstance(node, ast.Module):
            span = None
        else:
            if doc.lineno == node.lineno or node.name.startswith("__"):
                continue
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            span = (first, min(node.end_lineno or node.lineno, first + SPAN_LIMIT - 1))
        block = []
        for number in range(doc.lineno, (doc.end_lineno or doc.lineno) + 1):
            text = lines[number - 1].strip()
            if number == doc.lineno:
                text = re.sub(r"^[rRuUbB]{0,2}(?:\"\"\"|'''|\"|')", "", text)
            if number == doc.end_lineno:
                text = re.sub(r"(?:\"\"\"|'''|\"|')$", "", text)
            block.append((number, text))
        found = _summary(path, lines, block, "mined-doc", span)
        if found:
            found.callable = not isinstance(node, ast.ClassDef)
            yield found


# -- other languages ---------------------------------------------------------------------------


def _comments(path: str, lines: Sequence[str], language: str) -> Iterator[Candidate]:
    """Comment blocks that stand directly above a definition."""
    marker = "#" if language in ("ruby", "shell") else "//"
    number = 0
    while number < len(lines):
        text = lines[number].strip()
        start, block = number, list[tuple[int, str]]()
        if text.startswith("/*") and marker == "//":
            while number < len(lines):
                part = lines[number].strip()
                block.append((number + 1, _bare(part)))
                number += 1
                if "*/" in part:
                    break
        elif text.startswith(marker) and not text.startswith(("#!", "//!")):
            while number < len(lines) and lines[number].strip().startswith(marker):
                block.append((number + 1, lines[number].strip().lstrip("/#!").strip()))
                number += 1
        if number == start:
            number += 1
            continue
        at = number
        while at < len(lines) and at < number + 6 and _ATTRIBUTE.match(lines[at]):
            at += 1
        if at >= len(lines) or not _DEFINITION[language].match(lines[at]):
            continue
        span = (at + 1, _block_end(lines, at) + 1)
        if language in ("go", "ruby", "c", "shell", "rust"):
            block = _without_name(block, lines[at])
        found = _summary(path, lines, block, "mined-doc", span)
        if found:
            found.callable = "(" in lines[at]
            yield found


def _bare(text: str) -> str:
    text = re.sub(r"^/\*[*!]*|\**\*/$", "", text).strip()
    return re.sub(r"^\*+ ?", "", text).strip()


def _without_name(block: list[tuple[int, str]], definition: str) -> list[tuple[int, str]]:
    """Go says "NewClient returns a client": the name would give the line away."""
    first = next((i for i, (_, t) in enumerate(block) if t), None)
    if first is None:
        return block
    number, text = block[first]
    name = re.match(r"(?:The |A |An )?([\w.:]+)(?:\(\))?\s*(?:-+|:|,|is\b|are\b)?\s*", text)
    if name and len(name[1]) > 1 and re.search(rf"\b{re.escape(name[1].split('.')[-1])}\b", definition):
        block[first] = (number, text[name.end() :])
    return block


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _block_end(lines: Sequence[str], start: int) -> int:
    """Last line (from 0) of the definition that begins at ``start``, told by indentation."""
    indent, last = _indent(lines[start]), start
    opened = lines[start].rstrip().endswith(("{", "(", "[", ","))
    for at in range(start + 1, min(len(lines), start + SPAN_LIMIT)):
        line = lines[at]
        bare = line.strip()
        if not bare:
            if not opened and last == start:
                break
            continue
        if _indent(line) > indent:
            last = at
            continue
        if bare.startswith(("}", ")", "]")) or bare in ("end", "done", "fi"):
            last = at
            if not bare.endswith(("{", "(")):
                break
        elif bare.startswith("{") and at - start <= 8:
            opened = True
            last = at
        elif last == start and at - start <= 3 and not lines[start].rstrip().endswith((";", "}", ",")):
            if _indent(line) != indent or "(" not in bare:  # C puts the return type on a line of its own
                break
            last = at
        else:
            break
    return last


# -- documentation -----------------------------------------------------------------------------

_DULL = re.compile(
    r"^(?:installation|install|usage|license|contributing|contributors|credits|acknowledge?ments?|"
    r"changelog|"
    r"table of contents|contents|example\w*|overview|introduction|notes?|see also|references?|links|faq|"
    r"requirements|prerequisites|getting started|quick ?start|features|methods|properties|arguments|"
    r"parameters|"
    r"options|returns?|syntax|description|support|summary|background|resources|todo|api|v?\d[\d.\-\w ]*|"
    r"step \d.*|synopsis|see|authors?|copyright|title|index|inherited|files|sponsors|backers|status|"
    r"output|input)\W*$",
    re.I,
)


def _headings(path: str, lines: Sequence[str], extension: str) -> Iterator[Candidate]:
    found = list(_rst_titles(lines) if extension == ".rst" else _markdown_titles(lines))
    above: list[tuple[int, str, int, int]] = []
    for index, (level, title, first, last) in enumerate(found):
        while above and above[-1][0] >= level:
            above.pop()
        parent = above[-1] if above else None
        above.append((level, title, first, last))
        end = next((f - 1 for lv, _, f, _ in found[index + 1 :] if lv <= level), len(lines))
        words = len(title.split())
        if _DULL.match(title) or (words < 3 and not parent) or end - last < 3 or title.count(".") > 1:
            continue
        if parent and _DULL.match(parent[1]):
            parent = None
            if words < 3:
                continue
        hide = [(path, first, last)]
        if parent:
            hide.append((path, parent[2], parent[3]))
        span = (first, min(end, first + SPAN_LIMIT - 1))
        needles = (title,) if words >= 3 else ()
        yield Candidate("mined-heading", title, (path,), span, hide, needles, parent[1] if parent else "")


def _title(text: str) -> str:
    text = re.sub(r"\s*\{#[^}]*\}\s*$|\s+#+\s*$|^\d+[.)]\s+", "", text)
    text = plain(re.sub(r"[^\x00-\x7f]+", " ", text))
    return text.strip(" :.-")


def _markdown_titles(lines: Sequence[str]) -> Iterator[tuple[int, str, int, int]]:
    fence = ""
    for at, line in enumerate(lines):
        bare = line.strip()
        if match := re.match(r"(```+|~~~+)", bare):
            fence = "" if fence and bare.startswith(fence) else fence or match[1]
            continue
        if fence:
            continue
        if match := re.match(r"(#{1,5}|={1,5}) +(\S.*)$", line):
            yield len(match[1]), _title(match[2]), at + 1, at + 1
        elif (
            at
            and re.match(r"(?:={4,}|-{4,})$", bare)
            and lines[at - 1].strip()
            and not lines[at - 1].startswith(("|", "-"))
        ):
            yield (1 if bare[0] == "=" else 2), _title(lines[at - 1]), at, at + 1


def _rst_titles(lines: Sequence[str]) -> Iterator[tuple[int, str, int, int]]:
    levels: list[str] = []
    for at in range(1, len(lines)):
        bare, title = lines[at].rstrip(), lines[at - 1].strip()
        if not re.match(r"([=\-~^\"'#*+`.:])\1{2,}$", bare) or not title or len(bare) < len(title) - 1:
            continue
        if re.match(r"[=\-~^\"'#*+`.:]{3,}", title) or lines[at - 1].startswith(" "):
            continue
        over = at >= 2 and lines[at - 2].rstrip() == bare
        style = bare[0] * (2 if over else 1)
        if style not in levels:
            levels.append(style)
        yield levels.index(style) + 1, _title(title), at - over, at + 1


# -- configuration -----------------------------------------------------------------------------

_KEY = re.compile(r"\s*(?:- )?\"?[A-Za-z_][\w.\-]*\"?\s*(?:=|:)(?!=|//)|\s*\[[^\]]+\]\s*$|\s*- \S")


def _configuration(path: str, lines: Sequence[str]) -> Iterator[Candidate]:
    at = 0
    while at < len(lines):
        block: list[tuple[int, str]] = []
        while at < len(lines) and (match := re.match(r"\s*(#+|//+|;+)(?!!)\s?(.*)$", lines[at])):
            block.append((at + 1, match[2].strip()))
            at += 1
        if not block:
            at += 1
            continue
        if at < len(lines) and _KEY.match(lines[at]):
            # Of several paragraphs the last one is about the key.
            blank = max((i for i, (_, t) in enumerate(block) if not t), default=-1)
            block = block[blank + 1 :]
            if any(re.match(r"[\w.-]+\s*[:=]", t) for _, t in block):
                continue  # a key that is commented out
            if found := _summary(path, lines, block, "mined-config", (at + 1, _block_end(lines, at) + 1)):
                yield found
