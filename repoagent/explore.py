"""RepoEnvironment: AutoExplore over a Repo, in the paper's plain form and in the full form.

Plain form: ``go`` / ``open`` / ``identify`` (the paper's cd / cat / id) for every entry of the
current directory. Full form: also ``open`` for files that the lexical scan ranks high wherever
they are, hints behind every option, ``identify`` for opened files only, and, after ``identify``,
one more numbered choice among the file's blocks, which gives the lines. In both forms the evidence
of ``identify`` for a file that was opened holds the lines that were shown, and in the plain one that
of ``go`` for a folder that was visited what it listed: without hints they are all there is to remember.
"""

from __future__ import annotations

import math
import posixpath
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from repoagent.environment import Observation, Option, Passage, StepResult
from repoagent.repo import Entry, Repo, display
from repoagent.scent import FILE_FEATURES, Block, Scent
from repoagent.terms import parts

STATE_FEATURES = (
    "is_go", "is_up", "is_open", "is_identify", "is_lines", "is_more", "is_hit", "is_last_opened",
    "opened_before", "steps_used", "directory_best", "directory_share", "block_score",
    "block_reciprocal_rank", "block_definition", "block_position", "block_length", "visited",
)  # fmt: skip
FEATURES = FILE_FEATURES + STATE_FEATURES
"""Names of ``Option.features``; zero where one does not apply to the option's kind."""
PASSAGES = 8
"""Blocks of a file that ``Option.read`` gives, best first."""
_PATH_COVERAGE = FILE_FEATURES.index("path_coverage")


@dataclass(frozen=True, slots=True)
class Task:
    """A question; ``gold`` (right files, canonical first) and ``span`` (lines in ``gold[0]``)
    where they are known; ``search``: what the lexical scan looks for besides."""

    question: str
    gold: tuple[str, ...] = ()
    span: tuple[int, int] | None = None
    id: str = ""
    search: str = ""


@dataclass(frozen=True, slots=True)
class ExploreConfig:
    """Which form of AutoExplore is played. ``horizon``: actions before the episode is cut;
    ``hits``: files offered by the scan; ``page``: directory entries offered at once (0: all);
    ``leave_out``: share of unrelated files hidden at reset; ``exclude``: paths never shown."""

    search: bool = True
    hints: bool = True
    lines: bool = True
    horizon: int = 8
    hits: int = 32
    page: int = 40
    leave_out: float = 0.0
    shuffle: bool = False
    exclude: tuple[str, ...] = ()


PLAIN = ExploreConfig(search=False, hints=False, lines=False, horizon=15, page=0, leave_out=0.5, shuffle=True)
"""The paper's AutoExplore."""


class RepoEnvironment:
    """AutoExplore over ``repo``.

    Rewards: each action but the last costs 1/(2 horizon); the last of an episode with a right
    ``identify`` gives 1 (0.75 if the lines chosen after it miss the span); a wrong one, or running
    out of steps, makes the sum over the episode -1. Without gold files every reward is 0.
    """

    def __init__(self, repo: Repo, config: ExploreConfig | None = None) -> None:
        self.repo = repo
        self.config = config or ExploreConfig()
        self._scented: tuple[str, frozenset[str]] | None = None

    # -- the contract ----------------------------------------------------------------------

    def reset(self, task: Task, seed: int | None = None) -> Observation:
        self.task = task
        self._random = random.Random(seed)
        self.location, self.opened = "", list[str]()
        self.identified: str | None = None
        self.chosen: tuple[int, int] | None = None
        self._history: list[str] = []
        self._shown: dict[str, list[str]] = {}
        self._listed: dict[str, str] = {}
        self._page = 0
        self._steps = 0
        self._done = False
        self._hidden = frozenset(self.config.exclude) | self._leave_out()
        sought = f"{task.question} {task.search}".rstrip()
        key = (sought, self._hidden)
        if key != self._scented:  # another episode on the same question needs no new scan
            search = self.config.search or self.config.hints
            self.scent = Scent(self.repo, sought, exclude=tuple(self._hidden), search=search)
            self._scented = key
            self._read_passages: dict[str, list[Passage]] = {}
        self._hits = [h.path for h in self.scent.hits(self.config.hits)] if self.config.search else []
        return self._observe(self._listing())

    def step(self, index: int) -> StepResult:
        if self._done:
            raise RuntimeError("the episode has ended; call reset")
        if not 0 <= index < len(self.observation.options):
            raise IndexError(f"no option {index}; there are {len(self.observation.options)}")
        option = self.observation.options[index]
        self._steps += 1
        self._history.append(f"{option.kind} {display(option.target)}".strip())
        terminated, result = False, ""
        match option.kind:
            case "go":
                self.location, self._page = option.target, 0
                result = self._listing()
            case "more":
                self._page += 1
                result = self._listing()
            case "open":
                self.opened.append(option.target)
                result = self._read(option.target)
            case "identify":
                self.identified = option.target
                self._blocks = self.scent.blocks(option.target) if self.config.lines else []
                terminated = not self._blocks
                result = f"Identified {display(option.target)}."
            case "lines":
                self.chosen = _span(option.target)
                terminated = True
                result = f"Lines {option.target}."
        truncated = not terminated and self.identified is None and self._steps >= self.config.horizon
        self._done = terminated or truncated
        reward = self._reward(terminated, truncated)
        observation = self._observe(result)
        return StepResult(observation, reward, terminated, truncated, {"success": self._right()})

    def oracle(self) -> list[int]:
        """Indices of the options on a shortest way to the gold file (open it, then identify it)."""
        options = self.observation.options
        gold = self.task.gold
        if self.identified is not None:
            span = self.task.span
            if span is None or self.identified != gold[0]:
                return []
            return [i for i, o in enumerate(options) if overlap(_span(o.target), span)]
        for kind, wanted in (("identify", set(gold) & set(self.opened)), ("open", set(gold))):
            found = [i for i, o in enumerate(options) if o.kind == kind and o.target in wanted]
            if found:
                return found
        down = [
            i
            for i, o in enumerate(options)
            if o.kind == "go" and any(g.startswith(o.target + "/") for g in gold)
            and len(o.target) > len(self.location)
        ]  # fmt: skip
        if down:
            return down
        here = self.location + "/" if self.location else ""
        if any(g.startswith(here) for g in gold):
            return [i for i, o in enumerate(options) if o.kind == "more"]
        return [i for i, o in enumerate(options) if o.kind == "go" and len(o.target) < len(self.location)]

    # -- options ---------------------------------------------------------------------------

    def _observe(self, result: str) -> Observation:
        options = [] if self._done else self._options()
        if self.config.shuffle:
            self._random.shuffle(options)
        self.observation = Observation(
            self.task.question, self.location, tuple(self._history), result, tuple(options)
        )
        return self.observation

    def _options(self) -> list[Option]:
        if self.identified is not None:
            return [self._block_option(r, b) for r, b in enumerate(self._blocks)]
        entries = [e for e in self.repo.entries(self.location) if e.path not in self._hidden]
        if not self.config.search:
            return self._plain_options(entries)
        identify = [self._file_option("identify", p) for p in reversed(self.opened)]
        if identify and self._steps + 1 >= self.config.horizon:
            return identify  # the last action must be an answer
        options = identify
        options += [self._file_option("open", p) for p in self._hits if p not in self.opened]
        if self.location:
            options.append(self._go_option("..", posixpath.dirname(self.location)))
        listed = set(self._hits) | set(self.opened)
        here = []
        for entry in entries:
            target = _destination(entry)
            if target is not None and target[1] not in listed:
                here.append((entry.name, *target))
        page = self.config.page
        more = []
        if page and len(here) > page:
            # Hints first, so that what matters of a huge directory is on its first page. After the
            # last page comes the first again.
            here.sort(key=lambda item: -self._promise(item[1], item[2]))
            start = page * (self._page % math.ceil(len(here) / page))
            left = len(here)
            here = here[start : start + page]
            text = f"more: {left - len(here)} entries not shown"
            more = [Option(text, "more", "", "", self._state(is_more=1))]
        options += [
            self._go_option(name, path) if kind == "go" else self._file_option("open", path)
            for name, kind, path in here
        ]
        return options + more

    def _promise(self, kind: str, path: str) -> float:
        if not self.config.hints:
            return 0.0
        if kind == "go":
            return self.scent.directory(path)[0]
        return self.scent.features(path)[_PATH_COVERAGE] if self.scent.knows(path) else 0.0

    def _plain_options(self, entries: Sequence[Entry]) -> list[Option]:
        options = []
        if self.location:
            options.append(self._go_option("..", posixpath.dirname(self.location)))
        for entry in entries:
            target = _destination(entry)
            if target is None:
                continue
            kind, path = target
            if kind == "go":
                options.append(self._go_option(entry.name, path))
                continue
            if path not in self.opened:
                options.append(self._file_option("open", path))
            options.append(self._file_option("identify", path))
        return options

    def _file_option(self, kind: str, path: str) -> Option:
        text = f"{kind} {display(path)}"
        if not self.config.hints:
            read = self._shown.get(path, []) if kind == "identify" else []
            evidence = "\n".join([_path_words(path), *read])
            return Option(text, kind, path, evidence, self._file_state(kind, path))
        windows = self.scent.hit(path).windows if self.scent.knows(path) else []
        shown = windows[: 3 if kind == "identify" else 2]
        if shown and shown[0].score:
            line, words = self.scent.best_line(path, shown[0])
            text += f" (line {line}: {display(words)})"
        evidence = "\n".join([_path_words(path), *(w.text for w in shown)])
        return Option(text, kind, path, evidence, self._file_state(kind, path), partial(self._passages, path))

    def _passages(self, path: str) -> list[Passage]:
        if path not in self._read_passages:
            blocks = self.scent.blocks(path, PASSAGES)
            self._read_passages[path] = [Passage(display(path), b.start, b.end, b.text) for b in blocks]
        return self._read_passages[path]

    def _file_state(self, kind: str, path: str) -> tuple[float, ...]:
        file = self.scent.features(path) if self.scent.knows(path) and self.config.hints else None
        return self._state(
            file,
            is_open=float(kind == "open"),
            is_identify=float(kind == "identify"),
            is_hit=float(path in self._hits),
            is_last_opened=float(bool(self.opened) and self.opened[-1] == path),
        )

    def _go_option(self, name: str, path: str) -> Option:
        best, count = self.scent.directory(path) if self.config.hints else (0.0, 0)
        up, seen = name == "..", path in self._listed
        text = f"go {display(name)}" + ("" if up else "/")
        if count and not up:
            text += f" ({count} promising files)"
        state = self._state(
            is_go=float(not up), is_up=float(up), directory_best=best,
            directory_share=count / max(1, len(self._hits)), visited=float(seen and not up),
        )  # fmt: skip
        evidence = [] if up else [_path_words(path)]
        if seen and not up and not self.config.hints:
            evidence.append(self._listed[path])
        return Option(text, "go", path, "\n".join(evidence), state)

    def _block_option(self, rank: int, block: Block) -> Option:
        lines = block.text.split("\n")
        head = next((x.strip() for x in lines if x.strip()), "")
        state = self._state(
            is_lines=1.0, block_score=block.score, block_reciprocal_rank=1 / (1 + rank),
            block_definition=float(block.definition), block_position=block.position,
            block_length=(block.end - block.start + 1) / 24,
        )  # fmt: skip
        target = f"{block.start}-{block.end}"
        passage = Passage(display(self.identified or ""), block.start, block.end, block.text)
        text = f"lines {target}: {display(head[:100])}"
        return Option(text, "lines", target, block.text, state, partial(list, (passage,)))

    def _state(self, file: tuple[float, ...] | None = None, **values: float) -> tuple[float, ...]:
        values["opened_before"] = min(len(self.opened), 5) / 5
        values["steps_used"] = self._steps / self.config.horizon
        head = file or (0.0,) * len(FILE_FEATURES)
        return head + tuple(values.get(name, 0.0) for name in STATE_FEATURES)

    # -- what actions show -----------------------------------------------------------------

    def _listing(self) -> str:
        entries = [e for e in self.repo.entries(self.location) if e.path not in self._hidden]
        names = []
        for entry in entries[:60]:
            name = display(entry.name)
            if entry.kind == "link":
                inside = entry.target is not None
                name += f" -> {display(entry.target or '.')}" if inside else " (link leads outside)"
            names.append(name + {"dir": "/", "other": " (no regular file)"}.get(entry.kind, ""))
        if len(entries) > 60:
            names.append(f"and {len(entries) - 60} more")
        self._listed[self.location] = "  ".join(names)
        return f"{display(self.location) or '.'}: {self._listed[self.location] or 'empty'}"

    def _read(self, path: str) -> str:
        lines = self.repo.lines(path)
        if not lines:
            return f"{display(path)}: no text to show"
        parts = [f"{display(path)}, {len(lines)} lines"]
        windows = self.scent.windows(path, 3)
        self._shown[path] = [window.text for window in windows]
        for window in sorted(windows, key=lambda w: w.start):
            rows = window.text.split("\n")
            parts += [f"{window.start + i}: {row}" for i, row in enumerate(rows)]
        return "\n".join(parts)

    # -- reward ----------------------------------------------------------------------------

    def _right(self) -> bool:
        return self.identified is not None and self.identified in self.task.gold

    def _reward(self, terminated: bool, truncated: bool) -> float:
        if not self.task.gold:
            return 0.0
        # Actions after the first cost 1/(2 horizon) each, so the return of a success is positive.
        spent = 0.5 * self._steps / self.config.horizon
        if truncated or (terminated and not self._right()):
            return -1.0 + spent - 0.5 / self.config.horizon
        if terminated:
            missed = (
                self.chosen is not None
                and self.task.span is not None
                and self.identified == self.task.gold[0]
                and not overlap(self.chosen, self.task.span)
            )
            return 0.75 if missed else 1.0
        return -0.5 / self.config.horizon

    def _leave_out(self) -> frozenset[str]:
        if not self.config.leave_out:
            return frozenset()
        keep = set(self.task.gold)
        return frozenset(
            e.path
            for e in self.repo.files()
            if e.path not in keep and self._random.random() < self.config.leave_out
        )


def overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two inclusive line ranges share a line."""
    return a[0] <= b[1] and b[0] <= a[1]


def _span(target: str) -> tuple[int, int]:
    first, last = target.split("-")
    return int(first), int(last)


def _destination(entry: Entry) -> tuple[str, str] | None:
    """(action, path) that ``entry`` leads to; None for what cannot be visited."""
    if entry.kind == "dir":
        return "go", entry.path
    if entry.kind == "file":
        return "open", entry.path
    return None  # a link is a second name of a place that the tree lists already, or leads outside


def _path_words(path: str) -> str:
    """``path`` as words that a model pre-trained on prose has seen."""
    return display(path) + " " + " ".join(parts(path)) if path else ""
