"""What a training run measures: rows in a file, in TensorBoard, and live on the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from repoagent.errors import InputError
from training.files import write_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from torch.utils.tensorboard import SummaryWriter

Kind = Literal["train", "evaluation"]

FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class MetricsLog:
    """Writes the rows of a run to ``folder/metrics.jsonl`` and ``folder/tensorboard``.

    ``resume_at`` is the update of the checkpoint that the run goes on from: rows of later updates are
    of work that was lost and are cut from the file, and hidden in TensorBoard. With None the run
    begins, and all earlier rows are.
    """

    def __init__(self, folder: Path, *, resume_at: int | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        last = -1 if resume_at is None else resume_at
        path = folder / FILE
        if path.exists():
            # An evaluation opens the update after it, so the one at the checkpoint is made again.
            kept = [row for row in _rows(path) if row["update"] < last + (row.get("kind") == "train")]
            write_text(path, "".join(map(_line, kept)))
        self._file = path.open("a", encoding="utf-8")
        self._events = _event_writer(folder / TENSORBOARD, last + 1)

    def write(self, row: Mapping[str, float | int | str], kind: Kind = "train") -> None:
        """Log ``row``, whose ``update`` counts the updates so far; it is on its way to the disk on return.

        Numbers may be of numpy or 0-dimensional tensors. One that is not finite is null in the file,
        since JSON has no such numbers.
        """
        plain = {"kind": kind} | {name: _plain(value) for name, value in row.items()}
        plain["update"] = int(row["update"])
        self._file.write(_line(plain))
        self._file.flush()
        if self._events is not None:
            for name, value in plain.items():
                if name != "update" and not isinstance(value, str):
                    self._events.add_scalar(f"{kind}/{name}", value, plain["update"])

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of the run in ``folder``, in the order they were written; null is read as NaN.

    A last line that a crash cut short is left out. Raises InputError where there are no rows.
    """
    path = folder / FILE
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; name the folder of a training run.")
    if not path.is_file() or not (rows := _rows(path)):
        raise InputError(f"{folder} has no metrics ({FILE}); name the folder of a training run.")
    return [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            row["update"] = int(row["update"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):  # no beginning of a flat object is JSON, so it was cut short
                break
            raise InputError(f"{path}, line {number}, is no row of metrics; remove that line.") from error
        rows.append(row)
    return rows


def _line(row: Mapping[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _plain(value: Any) -> float | int | str:
    if isinstance(value, str):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _event_writer(folder: Path, purge_step: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _say_that_tensorboard_is_missing()
        return None
    return SummaryWriter(str(folder), purge_step=purge_step, flush_secs=10)


@cache
def _say_that_tensorboard_is_missing() -> None:
    print(
        f"TensorBoard is not installed, so only {FILE} is written; pip install 'repoagent[train]' adds it.",
        file=sys.stderr,
    )


class Progress:
    """Shows how far a run is: one live line on a terminal, elsewhere a plain line now and then.

    ``console`` is where it is shown (stderr if not given); ``every`` is the least number of seconds
    between two plain lines. To be used in a ``with`` block, whose end writes the last line.
    """

    def __init__(self, title: str = "training", *, console: Console | None = None, every: float = 10) -> None:
        from rich.console import Console

        self.title, self.every = title, every
        self.console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._began: tuple[float, int] | None = None  # when the first update came, and which it was
        self._printed = -math.inf
        self._line = ""

    def __enter__(self) -> Self:
        if self.console.is_interactive:
            from rich.live import Live

            # What is piped must not end on the terminal, hence the condition.
            self._live = Live(console=self.console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
            self._live.start()
        return self

    def update(self, done: int, total: int, **figures: float | int | str) -> None:
        """``done`` of ``total`` updates have been made; show them with ``figures``, in their order.

        ``success`` is a rate in [0, 1]; the others are shown as they are, under their names.
        """
        now = time.monotonic()
        if self._began is None:
            self._began = now, done
        start, first = self._began
        count = f"update {done} of {total}"
        if done > first:
            count += f" | {_duration((now - start) / (done - first) * (total - done))} left"
        text = " | ".join(_figure(name, value) for name, value in figures.items())
        if self._live is not None:
            self._live.update(_view(self.title, done, total, count, text), refresh=True)
            return
        self._line = f"{self.title}: {count}" + (f" | {text}" if text else "")
        if now - self._printed >= self.every:
            self._print(now)

    def _print(self, now: float) -> None:
        self.console.print(self._line, markup=False, highlight=False, soft_wrap=True)
        self._printed, self._line = now, ""

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._line:
            self._print(time.monotonic())


def _view(title: str, done: int, total: int, count: str, figures: str) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 1))
    head.add_row(Text(title), ProgressBar(total=max(total, 1), completed=done, width=24), Text(count))
    return Group(head, Text(figures))


def _figure(name: str, value: float | int | str) -> str:
    label = name.removesuffix("_mean").replace("_", " ")
    if isinstance(value, str):
        return f"{label} {value}"
    if name == "success":
        return f"{label} {value:.1%}"
    return f"{label} {value:.4g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
