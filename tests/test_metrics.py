"""Rows of metrics: what is written is read, here and in TensorBoard, across a crash and on a terminal."""

from __future__ import annotations

import io
import math
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from repoagent.errors import InputError
from training.metrics import MetricsLog, Progress, read_metrics


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def log(folder: Path, updates: range, resume_at: int | None, factor: float = 1.0) -> None:
    with MetricsLog(folder, resume_at=resume_at) as metrics:
        for update in updates:
            metrics.write({"update": update, "stage": "pickup", "loss": factor * update})


def test_rows_are_read_as_they_were_written_and_tensorboard_has_them_too(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "run", resume_at=None) as metrics:
        metrics.write({"update": 1, "stage": "pickup", "kl": 0.25, "episodes": 8})
        metrics.write({"update": 1, "stage": "pickup", "success/pickup": 0.5}, "evaluation")
        assert len(read_metrics(tmp_path / "run")) == 2  # before it is closed
    assert read_metrics(tmp_path / "run") == [
        {"kind": "train", "update": 1, "stage": "pickup", "kl": 0.25, "episodes": 8},
        {"kind": "evaluation", "update": 1, "stage": "pickup", "success/pickup": 0.5},
    ]
    assert scalars(tmp_path / "run") == {
        "train/kl": [(1, 0.25)],
        "train/episodes": [(1, 8.0)],
        "evaluation/success/pickup": [(1, 0.5)],
    }


def test_numbers_of_numpy_and_torch_and_those_that_are_not_finite(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, resume_at=None) as metrics:
        metrics.write({"update": np.int64(3), "a": np.float32(0.5), "b": torch.tensor(2.0), "c": math.inf})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"kind": "train", "update": 3, "a": 0.5, "b": 2.0, "c": null}\n'
    assert math.isnan(read_metrics(tmp_path)[0]["c"])


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    log(tmp_path, range(1, 8), None)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "update": 8, "lo')
    assert [row["update"] for row in read_metrics(tmp_path)] == list(range(1, 8))

    log(tmp_path, range(5, 7), resume_at=4, factor=10)
    rows = [(row["update"], row["loss"]) for row in read_metrics(tmp_path)]
    assert rows == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50), (6, 60)]
    assert scalars(tmp_path)["train/loss"] == rows
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_a_run_that_begins_anew_keeps_no_rows(tmp_path: Path) -> None:
    log(tmp_path, range(4), None)
    log(tmp_path, range(2), None, factor=5)
    assert [row["loss"] for row in read_metrics(tmp_path)] == [0, 5]
    assert scalars(tmp_path)["train/loss"] == [(0, 0), (1, 5)]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_metrics(tmp_path / "none")
    with pytest.raises(InputError, match="has no metrics"):
        read_metrics(tmp_path)
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"kind": "train"')
    with pytest.raises(InputError, match="has no metrics"):
        read_metrics(tmp_path)
    file.write_text('{"kind": "train", "update": 1}\nnonsense\n{"kind": "train", "update": 2}\n')
    with pytest.raises(InputError, match="line 2, is no row"):
        read_metrics(tmp_path)
    with pytest.raises(InputError, match="line 2, is no row"):
        MetricsLog(tmp_path, resume_at=1)
    assert file.read_text().count("\n") == 3  # nothing was lost


def test_without_tensorboard_the_file_is_written_and_that_is_said_once(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from pathlib import Path\nfrom training.metrics import MetricsLog\n"
        "for name in 'ab':\n"
        "    with MetricsLog(Path(sys.argv[1], name), resume_at=None) as log: log.write({'update': 1})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("TensorBoard is not installed") == 1
    assert done.stderr.count("\n") == 1
    assert [read_metrics(tmp_path / name)[0]["update"] for name in "ab"] == [1, 1]
    assert not (tmp_path / "a" / "tensorboard").exists()


def test_progress_writes_few_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with Progress("rlft", console=Console(file=out, width=40)) as progress:
        for update in range(1, 101):
            progress.update(update, 100, stage="pickup", success=update / 200, return_mean=-0.25)
    first, last = out.getvalue().splitlines()
    assert first == "rlft: update 1 of 100 | stage pickup | success 0.5% | return -0.25"
    assert last == "rlft: update 100 of 100 | 0:00:00 left | stage pickup | success 50.0% | return -0.25"


def test_progress_estimates_the_time_left_from_the_updates_since_the_start() -> None:
    out = io.StringIO()
    with Progress(console=Console(file=out), every=0) as progress:
        progress.update(50, 1050)  # a run resumed at 50
        time.sleep(0.1)
        progress.update(51, 1050)
    hours, minutes, seconds = out.getvalue().split("| ")[1].removesuffix(" left\n").split(":")
    assert 99 <= int(hours) * 3600 + int(minutes) * 60 + int(seconds) < 1000


def test_progress_is_one_live_display_on_a_terminal_and_leaves_stdout_alone() -> None:
    program = (
        "from training.metrics import Progress\n"
        "with Progress('rlft') as progress:\n"
        "    for n in range(1, 31): progress.update(n, 30, stage='pickup', steps_per_second=812.5)\n"
        "    print('a result')\n"
    )
    terminal, end = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=end,
        text=True,
        check=True,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"},
    )
    shown = b""
    while select.select([terminal], [], [], 0.2)[0]:
        shown += os.read(terminal, 65536)
    os.close(end)
    os.close(terminal)
    assert done.stdout == "a result\n"
    text = shown.decode()
    assert text.count("\x1b[1A") >= 29  # the cursor goes up and the two lines are written over
    assert "update 30 of 30" in text
    assert "stage pickup | steps per second 812.5" in text
    assert "a result" not in text
