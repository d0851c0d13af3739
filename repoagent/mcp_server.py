"""``repoagent mcp``: answers for other programs, over the Model Context Protocol on stdin and stdout.

Two tools, ``find`` and ``explore``, that read and never write. What they may read is bounded by roots: those
of the command line, else those of the client, else the current directory. The models are loaded at the first
question, and it is thought in a thread, so that the server always answers; who cancels is rid of the question
at once, and the thread ends at its next event.
"""

# No `from __future__ import annotations`: the SDK reads the annotations of the tools, whose names are local.
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import anyio
import anyio.from_thread
import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, ListRoots, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ListRootsResult, TextContent, ToolAnnotations
from pydantic import Field

from repoagent import __version__, show
from repoagent.answer import Answer, Move
from repoagent.assistant import Assistant, Found, Happening, Waiting, Warned
from repoagent.episode import Decided, Observed
from repoagent.errors import InputError, RepoagentError
from repoagent.repo import display

INSTRUCTIONS = """Finds where something is in a repository on this computer: ask in plain words ("where is
the session timeout set?") and get the file and its lines. Small local models walk the tree; nothing is
written and nothing leaves the computer. The score of an answer is the probability that it is right."""

Question = Annotated[str, Field(description="What to find, in plain words.")]
Place = Annotated[
    str,
    Field(
        description="A directory, .zip or .tar.gz within the roots: absolute, or relative to a root. "
        "May be left out where there is one root, which is then asked about."
    ),
]
Top = Annotated[int, Field(ge=1, le=50, description="Answers to return at most.")]
Steps = Annotated[int, Field(ge=1, le=50, description="Actions before the model must have answered.")]


@dataclass(frozen=True)
class Answered:
    """What ``find`` returns; ``repo`` is the real path, to which those of the answers are relative."""

    repo: str
    confident: bool
    answers: list[Answer]


@dataclass(frozen=True)
class Explored(Answered):
    """What ``explore`` returns: the trail too."""

    steps: list[Move]
    policy: str
    reflector: str
    files_read: int
    seconds: float


def serve(roots: Sequence[str], assistant: Assistant, reflect: bool = True) -> None:
    """Speak the protocol until stdin ends. ``InputError`` if one of ``roots`` is no directory."""
    for root in roots:
        if not os.path.isdir(root):
            raise InputError(f"{display(root)} is no directory; name one with --root.")
    if sys.stdin.isatty():
        print("repoagent: this is for programs, which start it themselves; Ctrl-C ends it.", file=sys.stderr)
    server([os.path.realpath(root) for root in roots], assistant, reflect).run("stdio")


def server(given: list[str], assistant: Assistant, reflect: bool) -> "MCPServer[Any]":
    """The server over ``assistant``; ``given`` are the roots of the command line, resolved."""
    made: MCPServer[Any] = MCPServer(
        "repoagent", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING"
    )
    one_at_a_time = anyio.CapacityLimiter(1)
    tool = partial(made.tool, annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))

    async def granted(context: Context) -> list[str] | ListRoots:
        if given:
            return given
        capabilities = context.client_capabilities
        return ListRoots() if capabilities and capabilities.roots else [os.getcwd()]

    Granted = Annotated[list[str] | ListRootsResult, Resolve(granted)]

    async def ask(context: Context, question: str, repo: str, roots: Any, **how: Any) -> Found:
        reporter = _Reporter(context)
        try:
            place = within(repo, _directories(roots))
            work = partial(assistant.ask, question, place, reflect=reflect, watch=reporter, **how)
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=one_at_a_time)
        except RepoagentError as error:
            raise ToolError(str(error)) from error

    @tool(title="Find where something is")
    async def find(
        question: Question, roots: Granted, context: Context, repo: Place = "", top: Top = 5
    ) -> Annotated[CallToolResult, Answered]:
        """Answer a question about a repository with files and lines, best first."""
        found = await ask(context, question, repo, roots, top=top)
        return _result(found, Answered(found.repo, found.confident, list(found.answers)), "")

    @tool(title="Explore a repository")
    async def explore(
        question: Question, roots: Granted, context: Context, repo: Place = "", steps: Steps = 8
    ) -> Annotated[CallToolResult, Explored]:
        """Answer like find, and tell the way there: what was opened at each step, and what else there was."""
        found = await ask(context, question, repo, roots, steps=steps)
        explored = Explored(
            found.repo,
            found.confident,
            list(found.answers),
            list(found.steps),
            found.policy,
            found.reflector,
            found.files_read,
            round(found.seconds, 3),
        )
        moves = (f"  {i}. {show.one_line(move.action)}\n" for i, move in enumerate(found.steps, 1))
        return _result(found, explored, "".join(["Steps:\n", *moves]))

    return made


class _Reporter:
    """Watches an episode from its thread: reports progress, and breaks it off once the client cancels."""

    def __init__(self, context: "Context[Any, Any]") -> None:
        self._context, self._count = context, 0
        self._options: Sequence[str] = ()

    def __call__(self, event: Happening) -> None:
        anyio.from_thread.check_cancelled()
        match event:
            case Waiting(what):
                self._report(what)
            case Warned(text):
                print(show.one_line(f"repoagent: {text}"), file=sys.stderr)
            case Observed(_, observation):
                self._options = [option.text for option in observation.options]
            case Decided(_, index):
                self._report(show.one_line(self._options[index]))

    def _report(self, message: str) -> None:
        self._count += 1
        anyio.from_thread.run(self._context.report_progress, self._count, None, message)


def within(repo: str, roots: Sequence[str]) -> str:
    """The real path of ``repo`` (empty: the only root), which must lie within ``roots``.

    ``InputError`` otherwise, whether or not there is anything: what lies outside is not told.
    """
    if not roots:
        raise InputError("no directory may be read; grant one, or start the server with --root DIR.")
    shown = ", ".join(map(display, roots))
    if not repo and len(roots) > 1:
        raise InputError(f"there are several roots ({shown}); name one as repo.")
    allowed = [_real(root) for root in roots]
    for real in (_real(os.path.join(root, repo)) for root in roots):
        inside = real and any(os.path.commonpath([real, root]) == root for root in allowed)
        if inside and os.path.lexists(real):
            return real
    raise InputError(
        f"{display(repo)} is not within the directories that may be read ({shown}) or does not exist; "
        "name what is, or start the server with --root DIR."
    )


def _real(path: str) -> str:
    """``path`` with all links followed; empty if it is no path."""
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL character
        return ""


def _directories(roots: list[str] | ListRootsResult) -> list[str]:
    if isinstance(roots, list):
        return roots
    return [unquote(urlsplit(str(root.uri)).path) for root in roots.roots]


def _result(found: Found, data: Answered, more: str) -> CallToolResult:
    """``found`` as text to read, with ``more`` below it, and ``data`` as an object."""
    out = io.StringIO()
    if found.answers:
        show.write_answers(out, found.answers, show.why(found))
    if not found.confident:
        out.write("No confident answer.\n" if found.answers else "There is nothing to open.\n")
    out.write(more)
    text = TextContent(type="text", text=out.getvalue())
    return CallToolResult(content=[text], structured_content=_sendable(asdict(data)))


def _sendable(value: Any) -> Any:
    """``value`` with the bytes of file names that are no UTF-8 escaped, as the protocol is UTF-8."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {key: _sendable(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_sendable(inner) for inner in value]
    return value
