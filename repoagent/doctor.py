"""``repoagent doctor`` and ``repoagent models``: what is here, whether it works, and what to do if not."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, TextIO

from repoagent import __version__
from repoagent.errors import ModelError
from repoagent.models import KnownModel
from repoagent.repo import display
from repoagent.tuned import TunedModel


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``ok`` is None where it is optional and absent; ``advice`` says what to do."""

    what: str
    state: str
    ok: bool | None = True
    advice: str = ""

    def __str__(self) -> str:
        mark = {True: "ok", None: "--", False: "!!"}[self.ok]
        return f"{mark}  {self.what:<22} {self.state}" + (f"; {self.advice}" if self.advice else "")


def examine(out: TextIO) -> int:
    """Write what is installed, the device and the bundled models; 3 if a model cannot be used, else 0."""
    code = 0
    sections: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("Installed", installed),
        ("Device", device),
        ("Models", bundled),
    ]
    for title, look in sections:
        out.write(f"{title}\n")
        for finding in look():
            out.write(f"  {finding}\n")
            out.flush()
            if finding.ok is False:
                code = 3
    out.write("Everything that `ask` needs is here.\n" if code == 0 else "See the lines marked !! above.\n")
    return code


def installed() -> Iterator[Finding]:
    """Python, this package and what it requires, extras included."""
    yield Finding("repoagent", __version__)
    yield Finding("python", platform.python_version())
    for requirement in _requirements():
        name, extra = requirement
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            if extra:
                yield Finding(name, "not installed", None, f"only for `pip install 'repoagent[{extra}]'`")
            else:
                yield Finding(name, "missing", False, f"run: pip install {name}")


def _requirements() -> Iterator[tuple[str, str]]:
    """(package, extra that wants it) of this installation; extra "dev" left out."""
    try:
        wanted = requires("repoagent") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        wanted = ["torch", "tokenizers", "safetensors", "typer", "rich"]
    for line in wanted:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if name and not (extra and extra[1] == "dev"):
            yield name[0], extra[1] if extra else ""


def device() -> Iterator[Finding]:
    """Where the models run."""
    try:
        import torch
    except Exception as error:  # a broken installation fails in ways of its own
        yield Finding(
            "torch", f"cannot be imported ({_line(error)})", False, "run: pip install --force-reinstall torch"
        )
        return
    yield Finding("cpu", f"{torch.get_num_threads()} threads of {platform.machine()}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / 2**30
            yield Finding(f"cuda:{i}", f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB")
    else:
        yield Finding("cuda", "none", None)
    if torch.backends.mps.is_available():
        yield Finding("mps", "available")


def bundled() -> Iterator[Finding]:
    """Whether the bundled players load, which checks that they are whole."""
    from repoagent.models import language_model, load_policy, load_reflector

    yield _known(language_model())
    yield _loads("bundled policy", load_policy)
    yield _loads("bundled reflector", load_reflector)


def _loads(what: str, load: Callable[[str], Any]) -> Finding:
    started = time.perf_counter()
    try:
        player = load("bundled")
    except ModelError as error:
        return Finding(what, _line(error), False)
    except (ImportError, OSError) as error:
        return Finding(what, f"cannot be loaded ({_line(error)})", False, "install repoagent again")
    return Finding(what, f"{player.name}, intact, loaded in {time.perf_counter() - started:.1f} s")


FORMS = {
    "bundled": "the checkpoint that comes along (default)",
    "FOLDER": "a checkpoint folder, such as training writes",
    "OWNER/NAME": "a causal language model of the Hugging Face hub",
    "openai:BASE_URL#MODEL": "a chat model behind an OpenAI-compatible server",
}
"""What --policy and --reflector accept alike."""


def list_models(out: TextIO) -> int:
    """Write the models at hand and what the options accept; 3 if a bundled model is not whole."""
    from repoagent import tuned
    from repoagent.models import CHECKPOINTS, available

    known = available()
    out.write("Models that come along\n")
    for model in known:
        out.write(f"  {_known(model)}\n      {model.kind}\n")
    own_models = tuned.registered(CHECKPOINTS / "policy")
    if own_models:
        out.write("Models tuned for a repository (`repoagent train PATH`; --forget PATH removes one)\n")
    for tuned_model in own_models:
        out.write(f"  {_tuned(tuned_model)}\n")
    for option, own in (
        (
            "--policy",
            {
                "auto": "the model tuned for the repository, else bundled (default of ask, explore and mcp)",
                "encoder": "the bundled one without its second reading: faster, less often right",
                "random": "every option is as likely as every other",
            },
        ),
        ("--reflector", {"none": "no reflections, as with --no-reflect"}),
    ):
        out.write(f"{option}\n")
        out.writelines(f"  {name:<22} {meaning}\n" for name, meaning in (FORMS | own).items())
    return 3 if any(model.problem and not model.optional for model in known) else 0


def _tuned(model: TunedModel) -> Finding:
    after, before = (model.entry.get(name) for name in ("after", "before"))
    state = f"in {display(str(model.folder))}"
    if isinstance(after, dict) and isinstance(before, dict):
        state = f"acc@1 {after.get('value')}, bundled {before.get('value')}, {state}"
    if model.problem:
        return Finding(display(model.root), f"cannot be used ({model.problem})", None)
    return Finding(display(model.root), state)


def _known(model: KnownModel) -> Finding:
    state = model.problem or f"{model.size / 2**20:.1f} MiB in {display(str(model.location))}"
    return Finding(model.name, state, None if model.problem and model.optional else not model.problem)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
