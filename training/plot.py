"""Learning curves as PNG: of one run, of several, and of groups of runs that differ by seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from repoagent.errors import InputError
from training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Rows = Sequence[Mapping[str, Any]]
Curve: TypeAlias = tuple["NDArray[Any]", "NDArray[Any]"]
Look = dict[str, Any]

DPI = 150
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which the colour-blind can tell apart, without its yellow."""
STYLES = ("-", "--", ":", "-.")

PANELS = ("success", "return_mean", "entropy", "kl", "grad_norm", "steps_per_second")
LABELS = {
    "success": "success rate (%)",
    "return_mean": "mean return per episode",
    "length_mean": "mean length of an episode (steps)",
    "entropy": "policy entropy (nats)",
    "kl": "KL divergence (nats)",
    "loss": "loss",
    "grad_norm": "gradient norm",
    "steps_per_second": "environment steps per second",
    "learning_rate": "learning rate",
    "env_steps": "environment steps",
    "episodes": "episodes",
    "seconds": "time (s)",
    "update": "update",
}
KINDS = ("train", "evaluation")
LOGARITHMIC = {"grad_norm"}


def plot_run(runs: Sequence[Path], out: Path, *, metric: str | None = None, title: str = "") -> None:
    """Draw the learning curves of ``runs`` into the PNG ``out``; lines stand where a stage begins.

    The panels are success rate, return, entropy, KL divergence, gradient norm and speed, as far as the
    rows have them; or ``metric`` alone, a name in the rows, which ``train/`` or ``evaluation/`` may
    precede. Pale lines are the values of the batches, full ones their trailing mean, points are
    evaluations. Colours are stages for one run and runs for several. Raises InputError for a run
    without metrics, a metric that a run lacks, and an ``out`` that is no .png.
    """
    check_png(out)
    read = {name: read_metrics(run) for name, run in zip(_names(runs), runs, strict=True)}
    if metric is None:
        panels = [p for p in PANELS if all(len(_values(rows, p)[0]) for rows in read.values())]
        if not panels:
            raise InputError(f"{runs[0]} has none of {', '.join(PANELS)}; name one of its metrics.")
    else:
        panels = [metric]
        for run, rows in zip(runs, read.values(), strict=True):
            _series(rows, metric, run)
    figure, axes = _figure(len(panels), title or ", ".join(read))
    for panel, ax in zip(panels, axes, strict=True):
        if len(read) == 1:
            for rows in read.values():
                _draw_stages(ax, panel, rows)
        else:
            for look, (name, rows) in zip(_looks(), read.items(), strict=False):
                _draw(ax, panel, rows, _values(rows, panel), look, name)
        _dress(ax, panel)
    _legend(axes[0])
    _save(figure, out)


def plot_comparison(
    groups: Mapping[str, Sequence[Path]],
    out: Path,
    metric: str,
    *,
    x: str = "update",
    title: str = "",
) -> None:
    """Draw ``metric`` over ``x`` for every label: the mean of its runs in a band from least to greatest.

    Runs whose rows lie at other ``x`` are interpolated linearly. A curve covers what all of its runs
    cover, so that its mean is always of all of them. Errors as of ``plot_run``.
    """
    check_png(out)
    figure, (ax,) = _figure(1, title)
    for look, (label, runs) in zip(_looks(), groups.items(), strict=False):
        if not runs:
            raise InputError(f"'{label}' has no runs to draw; name at least one folder.")
        at, values = _band([_series(read_metrics(run), metric, run, x) for run in runs])
        if not len(at):
            raise InputError(f"the runs of '{label}' have no '{metric}' at common '{x}'; train them further.")
        values = values * _scale(metric)
        _draw_line(ax, at, values.mean(0), look, f"{label} (n = {len(values)})")
        ax.fill_between(at, values.min(0), values.max(0), color=look["color"], alpha=0.18, linewidth=0)
    _dress(ax, metric, x)
    _legend(ax)
    _save(figure, out)


def check_png(out: Path) -> None:
    """Raise InputError unless ``out`` is named as a PNG."""
    if out.suffix.lower() != ".png":
        raise InputError(f"{out} is no name of a PNG; curves are drawn as PNG, so let it end in .png.")


# -- numbers -----------------------------------------------------------------------------------


def _values(rows: Rows, metric: str, x: str = "update") -> Curve:
    """``x`` and the finite values of ``metric``, by rising ``x``; of training rows if these have it."""
    kind, _, name = metric.partition("/")
    kinds: tuple[str, ...] = (kind,)
    if kind not in KINDS:
        kinds, name = KINDS, metric
    places = {row["update"]: row[x] for row in rows if x in row}  # evaluations need not know all of them
    for kind in kinds:
        found = [row for row in rows if row["kind"] == kind and name in row and row["update"] in places]
        pairs = [(places[row["update"]], row[name]) for row in found]
        finite = [p for p in pairs if not any(isinstance(v, str) or not math.isfinite(v) for v in p)]
        if finite:
            at, values = np.array(sorted(finite), float).T
            return at, values
    return np.empty(0), np.empty(0)


def _series(rows: Rows, metric: str, run: Path, x: str = "update") -> Curve:
    found = _values(rows, metric, x)
    if not len(found[0]):
        known = sorted({k for row in rows for k, v in row.items() if not isinstance(v, str)} - {"update"})
        raise InputError(f"{run} has no '{metric}' over '{x}'; use one of {', '.join(known)}.")
    return found


def _band(curves: Sequence[Curve]) -> Curve:
    """All ``x`` [n] that every run covers, and the runs' values there [runs, n]."""
    begin, end = max(at[0] for at, _ in curves), min(at[-1] for at, _ in curves)
    grid = np.unique(np.concatenate([at for at, _ in curves]))
    grid = grid[(grid >= begin) & (grid <= end)]
    return grid, np.stack([np.interp(grid, at, values) for at, values in curves])


def _trailing_mean(values: NDArray[Any], window: int) -> NDArray[Any]:
    """The mean of each value and of the up to ``window - 1`` before it."""
    return np.array([values[max(0, i - window) : i].mean() for i in range(1, len(values) + 1)])


def _stretches(rows: Rows) -> list[tuple[str, Rows]]:
    """The training rows in stretches of one stage each."""
    trained = sorted((row for row in rows if row["kind"] == "train"), key=itemgetter("update"))
    return [(stage, list(part)) for stage, part in groupby(trained, lambda row: str(row.get("stage", "")))]


# -- drawing -----------------------------------------------------------------------------------


def _draw_stages(ax: Axes, metric: str, rows: Rows) -> None:
    """One run: a colour for each stage, evaluations as points, a line where a stage begins."""
    stretches = _stretches(rows)
    rated = dict.fromkeys(k.removeprefix("success/") for row in rows for k in row if k.startswith("success/"))
    stages = dict(zip(dict.fromkeys([s for s, _ in stretches] + list(rated)), _looks(), strict=False))
    named = set[str]()
    if not metric.startswith("evaluation/"):
        for i, (stage, part) in enumerate(stretches):
            label = "" if stage in named else f"{stage or 'batches'} (training)"
            named.add(stage)
            _draw(ax, metric, rows, _values(part, metric), stages[stage], label)
            if i:
                ax.axvline(part[0]["update"], color="0.45", linewidth=0.9, linestyle=":", zorder=1)
    if metric == "success":
        points = {f"{stage} (evaluation)": (f"success/{stage}", stages[stage]) for stage in rated}
    elif metric.startswith("train/"):
        points = {}
    else:
        name = metric.removeprefix("evaluation/")
        look = stages.get(name.removeprefix("success/"), {"color": "0.2"})
        points = {"evaluation": (name, look)}
    for label, (name, look) in points.items():
        at, values = _values(rows, f"evaluation/{name}")
        if len(at):
            ax.plot(
                at,
                values * _scale(metric),
                label=label,
                linewidth=0.8,
                marker="o",
                markersize=4.5,
                markeredgecolor="white",
                markeredgewidth=0.6,
                **look,
            )


def _draw(ax: Axes, metric: str, rows: Rows, curve: Curve, look: Look, label: str) -> None:
    """A pale line of the values, and their mean over a fortieth of the run's training rows."""
    at, values = curve
    if not len(at):
        return
    values = values * _scale(metric)
    window = max(1, round(sum(row["kind"] == "train" for row in rows) / 40))
    if window > 1:
        ax.plot(at, values, color=look["color"], alpha=0.25, linewidth=0.7)
    _draw_line(ax, at, _trailing_mean(values, window), look, label)


def _draw_line(ax: Axes, at: NDArray[Any], values: NDArray[Any], look: Look, label: str) -> None:
    """A full line, or a point where there is one value alone."""
    ax.plot(at, values, label=label, linewidth=1.8, marker="o" if len(at) == 1 else "", **look)


def _figure(panels: int, title: str) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, panels)
    rows = math.ceil(panels / columns)
    size = (7.0, 4.3) if panels == 1 else (4.4 * columns, 3.1 * rows + 0.3)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=13)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]


def _dress(ax: Axes, metric: str, x: str = "update") -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    name = metric.removeprefix("train/").removeprefix("evaluation/")
    if name.startswith("success/"):
        label = f"success rate, {name.removeprefix('success/')} (%)"
    else:
        label = LABELS.get(name, name.replace("_", " "))
    ax.set_xlabel(LABELS.get(x, x))
    ax.locator_params("x", integer=True)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.set_ylabel(label)
    if _is_rate(metric):
        ax.set_ylim(-3, 103)
    if name in LOGARITHMIC and ax.dataLim.y1 > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=8, framealpha=0.85, edgecolor="none")


def _is_rate(metric: str) -> bool:
    return "success" in metric.split("/")


def _scale(metric: str) -> float:
    """Rates are drawn as percentages."""
    return 100.0 if _is_rate(metric) else 1.0


def _looks() -> Iterator[Look]:
    """Colours, then the same ones in other line styles, and from the beginning."""
    return cycle({"color": colour, "linestyle": style} for style in STYLES for colour in COLOURS)


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names, or their whole paths if two are alike."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _save(figure: Figure, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Neither a date nor the version of matplotlib: the same metrics give the same bytes.
        figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); use another --out.") from error
