"""`repoagent bench speed`: wall time and memory of the whole `ask` process as a repository grows.

Generated repositories, so that anyone can run it: ``files`` source files of about 4 KB in nested
packages, words drawn by seed from a fixed vocabulary, with the answer to the question in one of
them. Every run is a fresh process; the scan alone is timed in this one.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.table import markdown
from repoagent.repo import Repo
from repoagent.scent import Scent

QUESTION = "where is the maximum number of retries for an upload configured?"
WORDS = """account archive batch buffer cache channel client cluster command config connection cursor
database delay device document driver encoder engine error event export fetch field filter format
frame graph group handle header history image index input instance job journal kernel label layer
limit listener loader lock logger manager matrix message metric module monitor network node object
option output packet page parser path pipeline plugin pointer policy pool port process profile proxy
query queue record region registry render report request response route runner sample schema score
script search section segment server session signal snapshot socket source status storage stream
string style table target task template thread timeout token trace transaction transfer tree upload
user value vector version view volume worker writer zone""".split()


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over the runs of one size; seconds of wall time, peak resident memory in MiB."""

    files: int
    megabytes: float
    scan: float
    ask: float
    beyond_scan: float
    cpu: float
    peak: float
    right: bool


def grow(root: Path, files: int, seed: int) -> str:
    """Write the repository and return the path that holds the answer."""
    rng = random.Random(seed)
    folders = [root / "src" / rng.choice(WORDS) / f"{rng.choice(WORDS)}_{i}" for i in range(files // 20 + 1)]
    answer = rng.randrange(files)
    found = ""
    for number in range(files):
        folder = folders[number % len(folders)]
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for _ in range(24):
            a, b, c = rng.sample(WORDS, 3)
            lines += [f"def {a}_{b}({c}):", f'    """The {b} of a {a}, given its {c}."""', "",
                      f"    {b} = {c}.{a}({rng.randrange(100)})", f"    return {b}", "", ""]  # fmt: skip
        path = folder / f"{rng.choice(WORDS)}_{number}.py"
        if number == answer:
            lines.insert(70, "MAX_UPLOAD_RETRIES = 5  # maximum number of retries for an upload")
            found = path.relative_to(root).as_posix()
        path.write_text("\n".join(lines) + "\n")
    return found


def run(
    sizes: Sequence[int], runs: int, seed: int, progress: Callable[[str], None] = lambda message: None
) -> list[Timing]:
    """Measure ``ask`` with the bundled players on repositories of ``sizes`` files."""
    found = []
    for files in sizes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "repo"
            root.mkdir()
            gold = grow(root, files, seed)
            size = sum(p.stat().st_size for p in root.rglob("*.py")) / 1e6
            scans, asks, cpus, peaks, right = [], [], [], [], True
            for number in range(runs):
                started = time.perf_counter()
                Scent(Repo.open(root), QUESTION)
                scans.append(time.perf_counter() - started)
                wall, cpu, peak, answer = _ask(root)
                asks.append(wall)
                cpus.append(cpu)
                peaks.append(peak)
                right &= answer == gold
                progress(f"{files} files, run {number + 1}: {wall:.1f} s")
            scan, ask = median(scans), median(asks)
            timing = Timing(files, size, scan, ask, ask - scan, median(cpus), max(peaks), right)
            found.append(timing)
    return found


def _ask(root: Path) -> tuple[float, float, float, str]:
    """(wall seconds, CPU seconds, peak MiB, first path) of one process."""
    command = [sys.executable, "-m", "repoagent", "ask", QUESTION, str(root), "--json", "--quiet"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # not wait(): the usage of this child alone
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    peak = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    answers = json.loads(text)["answers"] if text else []
    return wall, usage.ru_utime + usage.ru_stime, peak, answers[0]["path"] if answers else ""


def report(timings: Sequence[Timing]) -> str:
    """The figures in Markdown."""
    header = ["files", "MB", "scan s", "ask s", "ask less scan s", "CPU s", "peak MiB", "right"]
    rows = [
        [f"{t.files:,}", f"{t.megabytes:.1f}", f"{t.scan:.2f}", f"{t.ask:.2f}", f"{t.beyond_scan:.2f}",
         f"{t.cpu:.2f}", f"{t.peak:.0f}", "yes" if t.right else "no"]
        for t in timings
    ]  # fmt: skip
    return markdown(header, rows) + (
        "\n\nMedians over fresh processes of `repoagent ask` with the bundled players, start of Python and "
        "the loading of the models included; peak memory is the greatest seen.\n"
    )


def as_data(timings: Sequence[Timing]) -> dict[str, object]:
    """The figures as JSON can hold them."""
    return {"question": QUESTION, "timings": [asdict(t) for t in timings]}
