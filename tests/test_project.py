"""The project as a whole: its layout, its size, what it declares and what it must not contain."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGES = ("repoagent", "training", "benchmarks")
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "AGENTS.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "constraints.txt",
    "docs",
    "pyproject.toml",
    "repoagent",
    "tests",
    "training",
}
MAX_LINES = 500
MAX_MEGABYTES = 60


def tracked(*patterns: str) -> list[Path]:
    """Files in the index that exist, as a commit of this moment would hold them."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    files = [ROOT / name for name in names.split("\0") if name]
    return [f for f in files if f.is_file()]


def requirements(*extras: str) -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = list(project["dependencies"])
    for extra in extras:
        listed += project["optional-dependencies"][extra]
    parsed = map(Requirement, listed)
    return {canonicalize_name(r.name): r for r in parsed}


def test_top_level_layout() -> None:
    assert {f.relative_to(ROOT).parts[0] for f in tracked()} == TOP_LEVEL


def test_no_source_file_is_too_long() -> None:
    lengths = {f.relative_to(ROOT): f.read_text().count("\n") for f in tracked("*.py", "*.tcss")}
    assert lengths
    assert {f: n for f, n in lengths.items() if n > MAX_LINES} == {}


def test_tracked_size() -> None:
    assert sum(f.stat().st_size for f in tracked()) < MAX_MEGABYTES * 1_000_000


def test_no_path_of_a_machine() -> None:
    """Home directories, and the place of this very checkout, belong to one machine."""
    homes = rb"(?<![\w.~*})-])/(?:(?:home|Users)/(?!(?:user|me|you|alice|bob)\b)[a-z][\w.-]*|root)/"
    temporary = Path(tempfile.gettempdir()).resolve()
    elsewhere = ROOT.parent.resolve() not in (temporary, Path("/"))  # these names are no machine's own
    here = re.escape(f"{ROOT.parent}/".encode()) if elsewhere else None
    pattern = re.compile(b"|".join(filter(None, (homes, here))))
    found = {}
    for file in tracked():
        data = file.read_bytes()
        if b"\0" in data[:8192] or file == Path(__file__).resolve():
            continue
        if match := pattern.search(data):
            found[file.relative_to(ROOT)] = match[0]
    assert found == {}


def test_no_pickle_among_the_checkpoints() -> None:
    suffixes = {f.suffix for f in tracked("repoagent/checkpoints")}
    assert not suffixes & {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py"}


def imports(file: Path) -> set[str]:
    """Top-level names that ``file`` imports, whether at its head or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {*PACKAGES, "tests"}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("repoagent", ("train", "mcp")),  # its optional parts say which extra they need
        ("training", ("train",)),
        ("benchmarks", ("train", "alfworld")),
        ("tests", ("train", "mcp", "alfworld", "dev")),
    ],
)
def test_what_is_imported_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    declared = requirements(*extras)
    providers = packages_distributions()
    undeclared = {}
    for file in tracked(f"{folder}/*.py"):
        for name in imports(file):
            distributions = {canonicalize_name(d) for d in providers.get(name, [name])}
            if not distributions & declared.keys():
                undeclared[name] = file.name
    assert undeclared == {}


def test_every_direct_dependency_is_pinned_to_a_version_that_satisfies_it() -> None:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = {canonicalize_name((pin := Requirement(line)).name): pin for line in lines if line}
    wanted = requirements("train", "mcp", "alfworld", "dev")
    assert wanted.keys() <= pins.keys()
    for name, pin in pins.items():
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert name not in wanted or wanted[name].specifier.contains(specifier.version), name


def test_the_version_is_that_of_the_package() -> None:
    import repoagent

    assert re.fullmatch(r"\d+\.\d+\.\d+", repoagent.__version__)


def test_ci_script_is_strict_and_runs_the_make_targets() -> None:
    script = ROOT / ".ci" / "run"
    lines = script.read_text().splitlines()
    assert "set -euo pipefail" in lines
    targets = re.findall(r"^make .*?(\w+)(?: +#.*)?$", script.read_text(), re.MULTILINE)
    assert sorted(targets) == ["check", "test"]
    assert script.stat().st_mode & 0o111


def test_make_explains_a_python_that_is_too_old_or_cannot_make_environments(tmp_path: Path) -> None:
    """With a stand-in for the interpreter that behaves as such a one does."""
    for broken, message in (
        (
            "sys.version_info = (3, 9, 1); sys.version = '3.9.1 (main)'",
            "needs Python 3.11 or newer; this is 3.9.1",
        ),
        ("sys.modules['ensurepip'] = None", "lacks ensurepip or venv"),
    ):
        python = tmp_path / "python3"
        python.write_text(
            f"#!{sys.executable}\nimport sys\n{broken}\n"
            "assert sys.argv[1] == '-c', 'nothing but the check may run'\nexec(sys.argv[2])\n"
        )
        python.chmod(0o755)
        done = subprocess.run(
            ["make", "ask", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "venv").exists()
