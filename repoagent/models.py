"""Find, check and load players by name. Imports nothing heavy until a player is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

from repoagent import smollm, tuned
from repoagent.errors import ModelError
from repoagent.manifest import damage, expanded, read_manifest
from repoagent.players import NoReflector, Policy, RandomPolicy, Reflector
from repoagent.repo import display

if TYPE_CHECKING:
    from repoagent.reader import PassageReader

AUTO = "auto"
"""The policy registered for the repository that is asked, else the bundled one."""
CHECKPOINTS = Path(__file__).parent / "checkpoints"
CHAT = "openai:"
ENCODER_HEAD = "late-interaction"
WRITER_FORMAT = "writer-"
Role = Literal["policy", "reflector"]
_readers: WeakValueDictionary[Path, PassageReader] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that comes along. ``size`` in bytes; ``problem`` is None if it is intact; without an
    ``optional`` one the bundled players still work."""

    name: str
    role: Role
    kind: str
    location: Path
    size: int
    problem: str | None
    optional: bool = False


def load_policy(
    spec: str = "bundled",
    device: str | None = None,
    *,
    load_in_8bit: bool = False,
    load_in_4bit: bool = False,
) -> Policy:
    """The policy that ``spec`` names: "bundled", "encoder" (the bundled one without its second reading),
    "random", a folder, a hub id, or "openai:BASE_URL#MODEL". "auto" is "bundled": see :func:`chosen`.

    Where the language model is not installed "bundled" is "encoder". Raises :class:`ModelError` where the
    policy is missing, broken or of another kind.
    """
    options: dict[str, Any] = {"load_in_8bit": load_in_8bit, "load_in_4bit": load_in_4bit}
    spec = "bundled" if spec == AUTO else spec
    folder = _bundled("policy") if spec in ("bundled", "encoder") else expanded(spec)
    light = (
        spec in ("bundled", "encoder", "random")
        or spec.startswith(CHAT)
        or _entry(folder, "head") == ENCODER_HEAD
    )
    if light:
        _refuse_quantization(spec, options)
    if spec == "random":
        return RandomPolicy()
    if spec.startswith(CHAT):
        from repoagent.chat import ChatPolicy

        return ChatPolicy(spec)
    if light:
        import torch

        from repoagent.encoder import EncoderPolicy
        from repoagent.precision import fast_type

        encoder = EncoderPolicy.from_folder(folder)
        encoder.bf16 = fast_type() is torch.bfloat16
        # A tuned model is the encoder of the bundled one, so it is read on top of as that is.
        if not (spec == "bundled" or _entry(folder, tuned.ENTRY)) or smollm.find() is None:
            return encoder
        from repoagent.reading import ReadingPolicy

        reader = _bundled("reader")
        policy = ReadingPolicy.from_folder(encoder, reader, _readers.get(reader))
        _readers[reader] = policy.reader
        return policy
    from repoagent.transformer import TransformerPolicy

    return TransformerPolicy.from_folder(spec, device, **options)


def load_reflector(
    spec: str = "bundled",
    device: str | None = None,
    *,
    load_in_8bit: bool = False,
    load_in_4bit: bool = False,
) -> Reflector:
    """The reflector that ``spec`` names: "bundled", "none", a folder, a hub id, or
    "openai:BASE_URL#MODEL". Raises :class:`ModelError` where it is missing, broken or of another kind.
    """
    options: dict[str, Any] = {"load_in_8bit": load_in_8bit, "load_in_4bit": load_in_4bit}
    folder = _bundled("reflector") if spec == "bundled" else expanded(spec)
    written = str(_entry(folder, "format")).startswith(WRITER_FORMAT)
    light = spec in ("bundled", "none") or spec.startswith(CHAT) or written
    if light:
        _refuse_quantization(spec, options)
    if spec == "none":
        return NoReflector()
    if spec.startswith(CHAT):
        from repoagent.chat import ChatReflector

        return ChatReflector(spec)
    if light:
        from repoagent.writer import WriterReflector

        return WriterReflector.from_folder(folder)
    if _entry(folder, "head"):
        raise ModelError(f"{spec} is a policy (it has a head), not a reflector: name it with --policy")
    from repoagent.transformer import TransformerReflector

    return TransformerReflector.from_folder(spec, device, **options)


def load_players(policy: str, reflector: str) -> tuple[Policy, Reflector]:
    """Both players; a package that is missing or broken is a :class:`ModelError` too."""
    with importing():
        return load_policy(policy), load_reflector(reflector)


def chosen(spec: str, repos: Sequence[str | os.PathLike[str]]) -> tuple[str, str]:
    """What to load where ``spec`` is named for ``repos``, and a warning, or "".

    "auto" is the model registered for the repository, if only one is asked and it has a usable one.
    """
    if spec != AUTO:
        return spec, ""
    found = tuned.find(repos[0], CHECKPOINTS / "policy") if len(repos) == 1 else None
    if found is None:
        return "bundled", ""
    if found.problem:
        advice = f"run `repoagent train {display(found.root)}` again"
        return "bundled", (
            f"the model tuned for {display(found.root)} cannot be used ({found.problem}), "
            f"so the bundled one answers; {advice}."
        )
    return str(found.folder), ""


@contextmanager
def importing() -> Iterator[None]:
    """Turn a package that is missing or broken into a :class:`ModelError`."""
    try:
        yield
    except (ImportError, OSError) as error:  # OSError: a shared library of torch that does not load
        raise ModelError(
            f"the model cannot be loaded ({error}); `repoagent doctor` says what is missing."
        ) from error


def available() -> list[KnownModel]:
    """The models that come along, checked: the bundled checkpoints and what they are adapters of."""
    return [
        _known("bundled policy", "policy", "LoRA adapter and late-interaction head", CHECKPOINTS / "policy"),
        _known("bundled reader", "policy", "LoRA adapter of the language model", CHECKPOINTS / "reader"),
        _known("bundled reflector", "reflector", "small causal language model", CHECKPOINTS / "reflector"),
        _encoder(),
        language_model(),
    ]


def _bundled(part: Literal["policy", "reader", "reflector"]) -> Path:
    folder = CHECKPOINTS / part
    problem = _problem(folder)
    if problem:
        raise ModelError(
            f"the bundled {part} in {folder} cannot be used ({problem}): install repoagent again "
            f"or name another with --{'reflector' if part == 'reflector' else 'policy'}"
        )
    return folder


def _problem(folder: Path) -> str | None:
    if not folder.is_dir():
        return "it is missing"
    try:
        return damage(folder)
    except (ModelError, OSError) as error:
        return str(error)


def _known(name: str, role: Role, kind: str, folder: Path) -> KnownModel:
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else 0
    return KnownModel(name, role, kind, folder, size, _problem(folder))


def _encoder() -> KnownModel:
    kind = "sentence encoder (all-MiniLM-L6-v2)"
    try:
        from repoagent.encoder import minilm_folder

        return _known("bundled encoder", "policy", kind, minilm_folder())
    except (ModelError, ImportError, OSError) as error:  # the last two: torch is missing or broken
        return KnownModel("bundled encoder", "policy", kind, Path(), 0, str(error))


def language_model() -> KnownModel:
    """The language model under the reader: without it the encoder answers alone."""
    path = smollm.find()
    problem = smollm.damage(path) if path else "not installed, so the encoder decides alone"
    folder, size = (path.parent, path.stat().st_size) if path else (Path(), 0)
    kind = "language model (SmolLM2-135M-Instruct)"
    advice = f"{problem}; run: {smollm.INSTALL}" if problem else None
    return KnownModel("language model", "policy", kind, folder, size, advice, optional=path is None)


def _entry(folder: Path, name: str) -> Any:
    """What the manifest of ``folder`` says; None for a hub id or a folder of somebody else's."""
    return read_manifest(folder).get(name) if folder.is_dir() else None


def _refuse_quantization(spec: str, options: dict[str, bool]) -> None:
    if any(options.values()):
        raise ModelError(f"8-bit and 4-bit loading do not apply to '{spec}': load it without")
