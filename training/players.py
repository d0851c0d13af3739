"""The players of a recipe: what they begin from, how they are taught, and how they are loaded.

``model.base = "minilm"`` is the frozen sentence encoder with a head that is trained, "encoder" the bundled
policy's (its adapter, frozen, and its head to begin with); any other base is a causal language model.
``model.reflector = "bundled"`` is the reflector that comes along, frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repoagent.errors import InputError
from repoagent.players import NoReflector, Reflector
from training.recipe import Recipe, sft_settings
from training.states import State

if TYPE_CHECKING:
    from training.known import TrainablePolicy

ENCODERS = ("minilm", "encoder")
BUNDLED = "bundled"


def check_players(recipe: Recipe) -> None:
    """Raise :class:`InputError` for a combination of players that cannot be."""
    model, reflects = recipe["model"], recipe["reflector"]["enabled"]
    if model["reflector"] not in ("", BUNDLED):
        raise InputError(f'model.reflector is "{model["reflector"]}": it is "bundled", or "" to train one.')
    if model["base"] in ENCODERS and reflects and model["reflector"] != BUNDLED:
        raise InputError(f'model.base "{model["base"]}" writes no reflections: set model.reflector=bundled.')
    if recipe["teacher"]["kind"] == "reflector" and reflects and model["reflector"] != BUNDLED:
        raise InputError('teacher.kind "reflector" needs one that is trained: set model.reflector=bundled.')


def begins_as_text(recipe: Recipe) -> bool:
    """Whether the policy is a causal language model, made from ``model.base``."""
    return bool(recipe["model"]["base"] not in ENCODERS)


def trains_reflector(recipe: Recipe) -> bool:
    """Whether the reflector is one that the recipe trains."""
    return bool(recipe["reflector"]["enabled"] and recipe["model"]["reflector"] != BUNDLED)


def teach_policy(recipe: Recipe, states: Sequence[State], base: Path | str, out: Path) -> Path:
    """SFT of the policy on ``states``; the folder of the trained one."""
    settings, reflect = sft_settings(recipe, "policy"), recipe["reflector"]["enabled"]
    if not begins_as_text(recipe):
        from training.sft_encoder import train_encoder

        return train_encoder(states, settings, out, recipe["model"]["base"], reflect=reflect)
    from training.sft import train_policy

    return train_policy(states, base, settings, out, reflect=reflect)


def new_policy(recipe: Recipe, base: Path | str) -> TrainablePolicy:
    """The policy before any training of the regimen."""
    if not begins_as_text(recipe):
        from training.encoder_player import EncoderPlayer

        return EncoderPlayer.new(recipe["run"]["seed"], recipe["model"]["base"])
    from repoagent.transformer import TransformerPolicy

    model = recipe["model"]
    options = loading(recipe) | {"trainable": True}
    return TransformerPolicy.new(base, head=model["head"], lora_rank=model["lora_rank"], **options)


def load_policy(recipe: Recipe, folder: Path, *, trainable: bool = False) -> TrainablePolicy:
    """The policy that a stage has saved."""
    if not begins_as_text(recipe):
        from training.encoder_player import EncoderPlayer

        return EncoderPlayer.from_folder(folder)
    from repoagent.transformer import TransformerPolicy

    options = loading(recipe) | ({"trainable": True} if trainable else {})
    return TransformerPolicy.from_folder(folder, **options)


def load_reflector(recipe: Recipe, folder: Path) -> Reflector:
    """The frozen reflector, trained into ``folder`` or bundled; or none."""
    if not recipe["reflector"]["enabled"]:
        return NoReflector()
    if not trains_reflector(recipe):
        from repoagent.models import load_reflector as load

        return load("bundled")
    from repoagent.transformer import TransformerReflector

    length = recipe["reflector"]["max_new_tokens"]
    return TransformerReflector.from_folder(folder, max_new_tokens=length, **loading(recipe))


def loading(recipe: Recipe) -> dict[str, Any]:
    """How causal language models are loaded."""
    model = recipe["model"]
    return {
        "device": model["device"] or None,
        "load_in_8bit": model["quantization"] == "8bit",
        "load_in_4bit": model["quantization"] == "4bit",
    }
