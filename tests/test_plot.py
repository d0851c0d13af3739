"""Learning curves: real pictures of real rows, decoded again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray
from typer.testing import CliRunner

from repoagent.errors import InputError
from training.cli import app
from training.metrics import MetricsLog
from training.plot import COLOURS, plot_comparison, plot_run

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(name: str, seed: int = 0, updates: int = 60, speed: float = 15.0) -> Path:
        random = np.random.default_rng(seed)
        with MetricsLog(tmp_path / name, resume_at=None) as log:
            for update in range(1, updates + 1):
                stage = "pickup" if update <= 30 else "delivery"
                success = 1 - np.exp(-((update - 1) % 30 + 1) / speed)
                row = {"update": update, "stage": stage, "env_steps": 400 * update}
                noise = random.normal(size=5)
                row |= {"success": np.clip(success + noise[0] / 20, 0, 1), "return_mean": success + noise[1]}
                row |= {"entropy": 2 - update / 60, "kl": abs(noise[2]) / 100, "grad_norm": np.exp(noise[3])}
                log.write(row | {"steps_per_second": 900 + noise[4]})
                if update % 10 == 0:
                    rates = {"success/pickup": success, "success/delivery": success / 2}
                    log.write({"update": update, "stage": stage, **rates, "illegal": 0.1}, "evaluation")
        return tmp_path / name

    return make


def pixels(picture: Path | BytesIO) -> NDArray[np.uint8]:
    """Red, green and blue, [height, width, 3]."""
    return (imread(picture)[..., :3] * 255).round().astype(np.uint8)


def colours(picture: Path) -> set[str]:
    """The colours of the palette, but black, that occur in ``picture``."""
    found = pixels(picture)
    return {c for c in COLOURS[:6] if (found == list(bytes.fromhex(c[1:]))).all(-1).any()}


def test_one_run_is_six_panels_in_the_colours_of_its_stages(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "new" / "curves.png"
    plot_run([make_run("run")], out)
    height, width, _ = imread(out).shape
    assert width == 3 * 660
    assert 900 < height < 1100
    assert colours(out) == set(COLOURS[:2])


def test_the_same_metrics_give_the_same_bytes_and_others_another_picture(
    make_run: MakeRun, tmp_path: Path
) -> None:
    pictures = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.png"
        plot_run([make_run(name, seed)], out, metric="return_mean", title="the same")
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]
    first, third = (pixels(BytesIO(p)) for p in (pictures[0], pictures[2]))
    assert first.shape == third.shape
    assert 0.001 < (first != third).any(-1).mean() < 0.3
    assert not any(chunk in pictures[0] for chunk in (b"tEXt", b"iTXt", b"tIME"))


def test_a_line_stands_where_a_stage_begins(make_run: MakeRun, tmp_path: Path) -> None:
    """Which a run that ends before has not; the colours of the second stage go with it."""
    whole, part = tmp_path / "whole.png", tmp_path / "part.png"
    plot_run([make_run("long")], whole, metric="entropy")
    plot_run([make_run("short", updates=29)], part, metric="entropy")
    grey = [(abs(pixels(f).astype(int) - 115) < 25).all(-1).sum(0).max() for f in (whole, part)]
    assert grey[0] > 100 > grey[1]  # in one column
    assert colours(part) == {COLOURS[0]}


@pytest.mark.parametrize("metric", ["success", "train/return_mean", "evaluation/illegal", "success/delivery"])
def test_one_metric_is_one_panel(make_run: MakeRun, tmp_path: Path, metric: str) -> None:
    out = tmp_path / "m.png"
    plot_run([make_run("run")], out, metric=metric)
    assert imread(out).shape == (645, 1050, 4)
    drawn = colours(out) or (pixels(out)[100:500, 200:] == 51).all(-1).sum() > 100  # evaluations' own grey
    assert drawn


def test_several_runs_have_a_colour_each(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "runs.png"
    plot_run([make_run(f"seed{i}", i) for i in range(3)], out)
    assert colours(out) == set(COLOURS[:3])


def test_a_comparison_draws_a_mean_and_a_band_for_each_label(make_run: MakeRun, tmp_path: Path) -> None:
    slow = [make_run(f"slow{i}", i, speed=20 + 8 * i) for i in range(3)]
    groups = {"whole": [make_run("fast", speed=6)], "no reflection": slow}
    banded, single = tmp_path / "banded.png", tmp_path / "single.png"
    plot_comparison(groups, banded, "success/delivery", x="env_steps", title="Taxi")
    plot_comparison(groups | {"no reflection": slow[1:2]}, single, "success/delivery", x="env_steps")
    assert colours(banded) == colours(single) == set(COLOURS[:2])
    pale = np.array([0xD5, 0x5E, 0x00]) * 0.18 + 255 * 0.82
    areas = [(abs(pixels(f) - pale) < 2).all(-1).sum() for f in (banded, single)]
    assert areas[0] > 3000 > areas[1]


@pytest.mark.filterwarnings("error")
def test_runs_too_short_or_idle_to_show_anything_are_drawn_all_the_same(tmp_path: Path) -> None:
    """One row, no stage, gradients of nothing, numbers that are none; and twice the same name."""
    rows = {
        "one/x": [{"update": 0}],
        "two/x": [{"update": i, "stage": "ab"[i], "kl": np.nan} for i in (0, 1)],
    }
    for name, of_run in rows.items():
        with MetricsLog(tmp_path / name, resume_at=None) as log:
            for row in of_run:
                log.write(row | {"success": 0.0, "grad_norm": 0.0})
    runs, out = [tmp_path / name for name in rows], tmp_path / "x.png"
    for some in (runs[:1], runs[1:], runs):
        plot_run(some, out)
        assert imread(out).shape[1] == 2 * 660
    plot_comparison({"a": runs[:1], "b": runs}, out, "success")
    assert colours(out) == set(COLOURS[:2])


def test_what_cannot_be_drawn_is_said(make_run: MakeRun, tmp_path: Path) -> None:
    run, out = make_run("run"), tmp_path / "x.png"
    with pytest.raises(InputError, match="no 'hue' over 'update'; use one of entropy, env_steps"):
        plot_run([run], out, metric="hue")
    with pytest.raises(InputError, match=r"end in \.png"):
        plot_comparison({"a": [run]}, tmp_path / "x.svg", "entropy")
    with pytest.raises(InputError, match="'a' has no runs"):
        plot_comparison({"a": []}, out, "entropy")
    with MetricsLog(tmp_path / "later", resume_at=None) as log:
        log.write({"update": 100, "entropy": 1.0})
    with pytest.raises(InputError, match="at common 'update'"):
        plot_comparison({"a": [run, tmp_path / "later"]}, out, "entropy")
    with MetricsLog(tmp_path / "other", resume_at=None) as log:
        log.write({"update": 1, "accuracy": 1.0})
    with pytest.raises(InputError, match="none of success"):
        plot_run([tmp_path / "other"], out)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        plot_run([run], tmp_path / "file" / "x.png")
    assert not out.exists()


def test_the_command_draws_into_the_run_or_where_it_is_told(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run")
    done = CliRunner().invoke(app, ["plot", str(run)])
    assert (done.exit_code, done.stdout) == (0, f"{run / 'curves.png'}\n")
    out = tmp_path / "kl.png"
    done = CliRunner().invoke(app, ["plot", str(run), "--metric", "kl", "--out", str(out)])
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    assert imread(run / "curves.png").shape != imread(out).shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "gone does not exist"),
        (["."], "has no metrics"),
        ([".", "--out", "curves.pdf"], "end in .png"),
    ],
)
def test_errors_of_the_command_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from repoagent.cli import main; main()", "train", "plot", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
