"""Recipes: what a run of the regimen does, in TOML, every key checked before anything begins.

A recipe holds one table per part. What it leaves out has its default; ``--set part.key=value`` changes a
key from the command line. A run keeps the recipe it began with and refuses another (see stages.py).
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from repoagent.errors import InputError
from training.rlft_settings import RLFTSettings
from training.sft_settings import SFTSettings
from training.teacher import TeacherSettings

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """``seed`` is that of everything random; ``threads`` of torch (0: torch decides)."""

    seed: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """The budget of supervised data: ``states`` in all, of which a share ``negatives`` (0 to 1) is off
    the optimal path, by up to ``mistakes`` wrong actions in a row (the paper's: 1)."""

    states: int = 300
    negatives: float = 0.3
    mistakes: int = 1


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the two players begin from: ``base`` is a folder, a hub id, "scratch", or one of "minilm" and
    "encoder": the frozen encoder, as published or as bundled, with a head as the policy, to which no other
    key applies. ``reflector`` is "", to train one on ``base``, or "bundled", the one that comes along.

    The keys after these are those of a model from scratch (random weights, a tokenizer learnt from the
    run's own states); ``policy_width`` and ``policy_layers`` are the policy's, 0 as the reflector's.
    ``lora_rank`` 0 trains all weights. ``quantization`` is "", "8bit" or "4bit".
    """

    base: str = "scratch"
    reflector: str = ""
    arch: str = "llama"
    width: int = 64
    layers: int = 2
    heads: int = 4
    policy_width: int = 0
    policy_layers: int = 0
    window: int = 256
    vocabulary: int = 600
    head: str = "choice-token"
    lora_rank: int = 0
    quantization: str = ""
    bf16: bool = False
    gradient_checkpointing: bool = False
    device: str = ""


@dataclass(frozen=True, slots=True)
class StageSettings:
    """Whether a player takes part: ``enabled`` false is the ablation without it (without its SFT)."""

    enabled: bool = True


Recipe = dict[str, dict[str, Any]]

ASKING = ("concurrency", "retries", "timeout", "price_in", "price_out")
"""Keys of the teacher that do not change what it writes."""

SHARED = ("seed", "lora_rank", "quantization", "bf16", "gradient_checkpointing", "device", "head")
"""Keys of SFT that come from [run] and [model]."""


def _defaults(kind: Any, without: Sequence[str] = ()) -> dict[str, Any]:
    return {
        f.name: f.default if f.default is not MISSING else _zero(f.type)
        for f in fields(kind)
        if f.name not in without
    }


def _zero(annotation: Any) -> Any:
    return {"int": 0, "float": 0.0, "bool": False}.get(str(annotation), "")


def defaults() -> Recipe:
    """Every part with every key at its default; ``benchmark`` takes what its class takes."""
    sft = {"enabled": True} | _defaults(SFTSettings, SHARED)
    return {
        "run": _defaults(RunSettings),
        "benchmark": {"name": ""},
        "tasks": _defaults(TaskSettings),
        "teacher": _defaults(TeacherSettings),
        "model": _defaults(ModelSettings),
        "reflector": sft | {"max_new_tokens": 64},
        "policy": dict(sft),
        "rlft": _defaults(RLFTSettings, ("seed",)),
    }


def load_recipe(source: str | Path | None, changes: Sequence[str] = (), base: Recipe | None = None) -> Recipe:
    """The recipe called ``source`` (a file, or a name in training/recipes), complete and checked.

    ``changes`` are "part.key=value" with the value in TOML (a bare word is a string). Without a
    source it is ``base``, the recipe that a run has begun with.
    """
    recipe = defaults()
    if source is not None:
        _merge(recipe, _read(source), str(source))
    elif base is not None:
        recipe = {part: dict(keys) for part, keys in base.items()}
    else:
        raise InputError(f"name a recipe with --recipe: a file or one of {', '.join(names())}.")
    for change in changes:
        path, equals, text = change.partition("=")
        part, dot, key = path.strip().partition(".")
        if not equals or not dot:
            raise InputError(f"--set {change}: write part.key=value, such as rlft.updates=50.")
        try:
            value = tomllib.loads(f"v = {text.strip()}")["v"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        _merge(recipe, {part: {key: value}}, "--set")
    if not recipe["benchmark"]["name"]:
        raise InputError(f"{source}: [benchmark] needs a name.")
    return recipe


def names() -> list[str]:
    """The recipes that come along."""
    return sorted(file.stem for file in RECIPES.glob("*.toml"))


def differences(old: Recipe, new: Recipe, parts: Sequence[str]) -> list[str]:
    """The keys of ``parts`` in which two recipes differ, as "part.key (old -> new)".

    A key that ``old`` does not know yet had its default; how the teacher is asked changes nothing.
    """
    known = defaults()
    return [
        f"{part}.{key} ({_show(before.get(key))} -> {_show(new[part].get(key))})"
        for part in parts
        if part in old
        for before in [known[part] | old[part]]
        for key in sorted({*before, *new[part]})
        if before.get(key) != new[part].get(key) and not (part == "teacher" and key in ASKING)
    ]


def sft_settings(recipe: Recipe, part: str) -> SFTSettings:
    """The settings of the SFT of a player ("reflector" or "policy")."""
    own = {k: v for k, v in recipe[part].items() if k not in ("enabled", "max_new_tokens")}
    model = {k: recipe["model"][k] for k in SHARED if k != "seed"}
    try:
        return SFTSettings(**own, **model, seed=recipe["run"]["seed"])
    except InputError as error:
        raise InputError(f"[{part}] {error}") from None


def rlft_settings(recipe: Recipe) -> RLFTSettings:
    """The settings of RLFT."""
    return RLFTSettings(**recipe["rlft"], seed=recipe["run"]["seed"])


def teacher_settings(recipe: Recipe) -> TeacherSettings:
    """The settings of the teacher."""
    return TeacherSettings(**recipe["teacher"])


def _read(source: str | Path) -> Mapping[str, Any]:
    path = Path(source)
    if path.suffix != ".toml" and not path.exists():
        path = RECIPES / f"{source}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no recipe {source}: name a .toml file or one of {', '.join(names())}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the recipe {path}: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the recipe {path} is not TOML: {error}.") from None


def _merge(recipe: Recipe, changes: Mapping[str, Any], where: str) -> None:
    for part, keys in changes.items():
        if part not in recipe:
            raise InputError(f"{where}: unknown part '{part}'{_like(part, recipe)}.")
        if not isinstance(keys, Mapping):
            raise InputError(f"{where}: '{part}' is a table; write [{part}] and its keys under it.")
        for key, value in keys.items():
            known = recipe[part]
            if key not in known:
                if part == "benchmark":  # the benchmark's own options; its class checks them
                    known[key] = value
                    continue
                raise InputError(f"{where}: unknown key '{part}.{key}'{_like(key, known)}.")
            known[key] = _typed(value, known[key], f"{where}: {part}.{key}")


def _typed(value: Any, like: Any, where: str) -> Any:
    if isinstance(like, bool) or isinstance(value, bool):
        fits = isinstance(like, bool) and isinstance(value, bool)
    elif isinstance(like, float):
        fits = isinstance(value, int | float)
        value = float(value) if fits else value
    else:
        fits = isinstance(value, type(like))
    if not fits:
        raise InputError(f"{where} is {_show(value)}: it must be a {type(like).__name__}.")
    return value


def _like(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f", did you mean '{close[0]}'?" if close else f"; known are {', '.join(known)}"


def _show(value: Any) -> str:
    return json.dumps(value)


def as_plain(settings: Any) -> dict[str, Any]:
    """A settings object as a part of a recipe."""
    return asdict(settings)
