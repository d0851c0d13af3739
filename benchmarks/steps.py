"""`repoagent bench steps`: seconds and memory of one step of every stage of training, on random weights.

What a step costs does not depend on what the weights are, so that recipes for published models can be
measured, and their whole code path run, where nothing can be downloaded: the model has the published
architecture and random weights. Every stage is the regimen's own (training/stages.py) with the
recipe's settings, in a process of its own: one step to warm up, then the one that is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from benchmarks import table as tables
from repoagent.errors import InputError
from training.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

Scale = Literal["full", "tiny"]
TITLE = "One training step of every recipe"
STAGES = ("reflector", "policy", "rlft")
NAMES = {"reflector": "SFT of the reflector", "policy": "SFT of the policy", "rlft": "RLFT"}
WARM_UP = 1
STATES = 100
"""Supervised states; a few steps need no more, and a step costs the same with any number."""

TINY_LAYERS, TINY_DIVISOR = 2, 8
"""The scale "tiny" has so many layers, and all widths divided by this; heads and vocabulary stay."""

QWEN = {
    "model_type": "qwen2", "vocab_size": 151936, "num_key_value_heads": 2, "rope_theta": 1e6,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2-xl": {
        "model_type": "gpt2", "vocab_size": 50257, "n_layer": 48, "n_embd": 1600, "n_head": 25,
        "n_positions": 1024,
    },
    "qwen2.5-coder-0.5b": QWEN | {
        "num_hidden_layers": 24, "hidden_size": 896, "num_attention_heads": 14, "intermediate_size": 4864,
    },
    "qwen2.5-coder-1.5b": QWEN | {
        "num_hidden_layers": 28, "hidden_size": 1536, "num_attention_heads": 12, "intermediate_size": 8960,
    },
    "smollm2-360m": {
        "model_type": "llama", "vocab_size": 49152, "num_hidden_layers": 32, "hidden_size": 960,
        "num_attention_heads": 15, "num_key_value_heads": 5, "intermediate_size": 2560, "rope_theta": 1e5,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""The published configurations of the recipes' base models."""

DEPTHS, WIDTHS = ("n_layer", "num_hidden_layers"), ("n_embd", "hidden_size", "intermediate_size")


@dataclass(frozen=True, slots=True)
class Cost:
    """One step of one stage.

    ``peak`` is the most memory at any moment of the whole stage, loading, evaluation and saving
    included, in MiB: what torch allocated on the GPU, or the resident memory of the process.
    ``decisions`` are the supervised states of the step, or the actions of its episodes, few since random
    weights soon do something illegal. ``tokens`` are those read and written in the step, padding
    included in SFT. ``quantized`` counts the layers with 8-bit or 4-bit weights that were computed
    with, over all models of the stage.
    """

    stage: str
    seconds: float
    peak: float
    decisions: int
    tokens: float
    trainable: int
    quantized: int


def architecture(preset: str, scale: Scale = "full", layers: int | None = None) -> PretrainedConfig:
    """The configuration of a recipe's base model, smaller where ``scale`` or ``layers`` say so."""
    from transformers import AutoConfig

    if preset not in ARCHITECTURES:
        raise InputError(f"no architecture for the preset '{preset}': use {', '.join(ARCHITECTURES)}.")
    sizes = dict(ARCHITECTURES[preset])
    for key in sizes.keys() & {*DEPTHS, *WIDTHS}:
        if key in DEPTHS:
            sizes[key] = layers or (TINY_LAYERS if scale == "tiny" else sizes[key])
        elif scale == "tiny":
            sizes[key] //= TINY_DIVISOR
    config: PretrainedConfig = AutoConfig.for_model(**sizes)
    return config


def settings(preset: str, folder: Path, device: str, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of ``preset`` for the model in ``folder``, cut down to a warm-up and one step."""
    recipe = load_recipe(preset, changes)
    recipe["tasks"]["states"] = STATES
    recipe["model"] |= {"base": str(folder), "device": device}
    for part in ("reflector", "policy"):
        recipe[part] |= {"steps": WARM_UP + 1, "save_every": 1000}
    recipe["rlft"] |= {"updates": WARM_UP + 1, "save_every": 1000, "evaluate_every": 1000}
    return recipe


def measure(
    preset: str,
    out: Path,
    device: str,
    scale: Scale = "full",
    layers: int | None = None,
    changes: Sequence[str] = (),
    report: Callable[[str], None] = lambda message: None,
) -> list[Cost]:
    """Make the model of ``preset`` in ``out`` and run a step of every stage on ``device``."""
    architecture(preset, scale, layers)  # a wrong name is found before a process is started
    recipe = settings(preset, out / "base", device, changes)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise InputError(f"{out} is not empty; name a new folder.")
    (out / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    report(f"{preset}: random weights")
    _command(out, "prepare", preset, scale, str(layers or ""))
    found = []
    for stage in STAGES:
        _command(out, stage, device)
        cost = Cost(**json.loads((out / f"cost-{stage}.json").read_text(encoding="utf-8")))
        report(f"{preset}, {NAMES[stage]}: {cost.seconds:.2f} s, {cost.peak:.0f} MiB")
        found.append(cost)
    return found


def _command(out: Path, what: str, *arguments: str) -> None:
    # Accelerate takes the GPU where there is one, whatever the recipe says.
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if arguments[0] == "cpu" else {}
    with (out / "log.txt").open("a", encoding="utf-8") as log:
        code = subprocess.run(
            [sys.executable, "-m", "benchmarks.steps", str(out), what, *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"} | hidden,
        ).returncode  # fmt: skip
    if code:
        lines = (out / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise InputError(
            f"'{what}' failed in {out} ({lines[-1] if lines else f'exit code {code}'}); "
            "see log.txt there (give a folder with --out to keep it)."
        )


# -- in a process of its own -----------------------------------------------------------------------


def prepare(out: Path, preset: str, scale: Scale, layers: int | None) -> None:
    """The supervised states and the model of random weights."""
    from training.scratch import make_causal_lm
    from training.stages import Run
    from training.states import read_states

    run = Run(out, _recipe(out))
    for stage in ("tasks", "reflections", "negatives"):
        run.run(stage)
    texts = []
    for state in read_states(out / "reflections.jsonl"):
        seen = state.observation
        options = " ".join(option.text for option in seen.options)
        texts.append("\n".join([seen.task, seen.location, seen.last_result, options, state.reflection]))
    make_causal_lm(out / "base", config=architecture(preset, scale, layers), texts=texts, dtype="bfloat16")


def work(out: Path, stage: str) -> Cost:
    """Run ``stage`` and say what its last step cost."""
    from training.metrics import FILE, read_metrics
    from training.stages import Run

    recipe = _recipe(out)
    with Watch() as watch:
        Run(out, recipe).run(stage)
    if stage == "rlft":
        first, last = [row for row in read_metrics(out / stage) if row["kind"] == "train"]
        seconds = last["seconds"] - first["seconds"]
        decisions = last["env_steps"] - first["env_steps"]
        tokens = sum(last[key] - first[key] for key in ("policy_tokens", "reflector_tokens"))
    else:
        last = json.loads((out / stage / FILE).read_text(encoding="utf-8").splitlines()[-1])
        decisions = recipe[stage]["batch"] * recipe[stage]["accumulation"]
        seconds = decisions / last["examples_per_second"]
        tokens = watch.tokens / last["step"]
    trainable = sum(watch.trainable.values())
    return Cost(stage, seconds, _peak(), decisions, tokens, trainable, len(watch.quantized))


class Watch:
    """What is computed with while a stage runs, seen from outside of it.

    Modules and parameters are counted when a forward pass comes by them, each once.
    """

    def __init__(self) -> None:
        self.read: dict[int, int] = {}
        self.trainable: dict[int, int] = {}
        self.quantized: set[int] = set()

    def __enter__(self) -> Self:
        from torch.nn.modules.module import register_module_forward_pre_hook

        self._hook = register_module_forward_pre_hook(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    @property
    def tokens(self) -> int:
        """Tokens looked up so far; positions have embeddings too, but fewer."""
        return self.read[max(self.read)]

    def _see(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows = getattr(module, "num_embeddings", None)
        if rows is not None:
            self.read[rows] = self.read.get(rows, 0) + inputs[0].numel()
        # LoRA's layers around the quantized ones are of classes of the same names.
        if type(module).__module__.startswith("bitsandbytes"):
            self.quantized.add(id(module))
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                self.trainable[id(parameter)] = parameter.numel()


def _peak() -> float:
    """The most memory so far in MiB: of the GPU where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:  # unlike ru_maxrss, not what the process before the exec had
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(text.partition("VmHWM:")[2].split()[0]) / 1024
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def _recipe(out: Path) -> Recipe:
    recipe: Recipe = json.loads((out / "recipe.json").read_text(encoding="utf-8"))
    return recipe


def _main(folder: str, what: str, *arguments: str) -> None:
    out = Path(folder)
    if what == "prepare":
        preset, scale, layers = arguments
        prepare(out, preset, "tiny" if scale == "tiny" else "full", int(layers) if layers else None)
    else:
        text = json.dumps(asdict(work(out, what)))
        (out / f"cost-{what}.json").write_text(text, encoding="utf-8")


# -- the table -------------------------------------------------------------------------------------


def run(
    presets: Sequence[str],
    out: Path | None,
    device: str | None,
    scale: str,
    layers: int | None,
    quantization: str,
    changes: Sequence[str],
    output: Sequence[Path],
) -> None:
    """Measure every preset, print the table and write it to ``output``."""
    from repoagent.causal import pick_device

    for file in output:
        tables.check_output(file)
    for value, known in ((scale, ("full", "tiny")), (quantization, ("keep", "none"))):
        if value not in known:
            raise InputError(f"'{value}' is unknown: use {' or '.join(known)}.")
    size: Scale = "tiny" if scale == "tiny" else "full"
    chosen = pick_device(device)
    sets = [*changes, *(["model.quantization="] if quantization == "none" else [])]
    found: dict[str, dict[str, Any]] = {}
    for preset in presets or list(ARCHITECTURES):
        with tempfile.TemporaryDirectory() as folder:
            place = (out or Path(folder)) / preset
            costs = measure(
                preset, place, chosen, size, layers, sets, lambda m: print(m, file=sys.stderr, flush=True)
            )
        found[preset] = describe(preset, size, layers, sets) | {"costs": [asdict(c) for c in costs]}
    body = report(found, size, chosen)
    print(body)
    made = tables.provenance({"scale": scale, "device": _device(chosen), "quantization": quantization}, 0)
    for file in output:
        tables.write(file, TITLE, made, body, {"presets": found})


def describe(preset: str, scale: Scale, layers: int | None, changes: Sequence[str]) -> dict[str, Any]:
    """What was measured: the sizes of the model and the settings that its cost depends on."""
    config, recipe = architecture(preset, scale, layers), load_recipe(preset, changes)
    model, rlft = recipe["model"], recipe["rlft"]
    return {
        "base": model["base"], "layers": config.num_hidden_layers, "width": config.hidden_size,
        "parameters": parameters(config), "quantization": model["quantization"],
        "lora_rank": model["lora_rank"], "bf16": model["bf16"],
        "gradient_checkpointing": model["gradient_checkpointing"],
        "sft_states": recipe["policy"]["batch"] * recipe["policy"]["accumulation"],
        "rlft_episodes": rlft["batch"] * rlft["accumulation"],
        "decisions_per_pass": rlft["decisions_per_pass"],
    }  # fmt: skip


def parameters(config: PretrainedConfig) -> int:
    """How many parameters a model of ``config`` has; tied ones count once. Allocates none of them."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


def report(found: Mapping[str, Mapping[str, Any]], scale: Scale, device: str) -> str:
    """The figures in Markdown."""
    sizes, rows = [], []
    for preset, made in found.items():
        quantized = made["quantization"] or "none"
        sizes.append(
            [preset, made["layers"], made["width"], f"{made['parameters']:,}", quantized,
             made["lora_rank"], made["sft_states"], made["rlft_episodes"], made["decisions_per_pass"]]
        )  # fmt: skip
        for cost in made["costs"]:
            layers = f"{quantized}, {cost['quantized']} layers" if cost["quantized"] else "none"
            rows.append(
                [preset, NAMES[cost["stage"]], f"{cost['seconds']:.2f}", f"{cost['peak']:,.0f}",
                 f"{cost['decisions']:,}", f"{cost['tokens']:,.0f}", f"{cost['trainable']:,}", layers]
            )  # fmt: skip
    what = "the published sizes" if scale == "full" else (
        f"**tiny models of the same architectures ({TINY_LAYERS} layers, widths divided by "
        f"{TINY_DIVISOR}), not the published sizes**: the same code path, but no figure for the full models"
    )  # fmt: skip
    memory = "allocated on the GPU" if device.startswith("cuda") else "resident, with Python and torch"
    return "\n\n".join(
        [
            f"Random weights of {what}, on {_device(device)}. Each stage is the regimen's own, in a process "
            f"of its own, after {WARM_UP} step to warm up.",
            tables.markdown(
                ["preset", "layers", "width", "parameters", "quantization", "LoRA rank",
                 "states an SFT step", "episodes an RLFT update", "decisions a pass"], sizes,
            ),
            tables.markdown(
                ["preset", "stage", "s a step", "peak MiB", "decisions", "tokens", "trainable", "quantized"],
                rows,
            ),
            f"Peak: memory {memory}, the most at any moment of the stage, loading, evaluation and saving "
            "included. Decisions: supervised states, or actions of the episodes; random weights soon do "
            "something illegal, so that episodes are shorter than a trained policy's. Tokens: read and "
            "written in the step, padding included in SFT. Quantized: layers that were computed with in 8 "
            "or 4 bits, over all models of the stage (RLFT: policy, reflector and the policy after SFT).\n",
        ]
    )  # fmt: skip


def _device(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device.startswith("cuda") else f"the {device}"


if __name__ == "__main__":
    _main(*sys.argv[1:])
