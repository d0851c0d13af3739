"""The recipes of published models, and one real training step of each stage on tiny models of their kinds."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import steps
from repoagent.cli import app
from repoagent.errors import InputError
from training.players import trains_reflector
from training.recipe import defaults, load_recipe, names, rlft_settings, sft_settings

# Little to compute, nothing left out: short episodes, reflections and batches.
SMALL = [
    "benchmark.horizon=3", "reflector.max_new_tokens=6", "reflector.batch=2", "reflector.accumulation=2",
    "policy.batch=2", "policy.accumulation=2", "rlft.batch=4", "rlft.accumulation=1",
]  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_every_recipe_loads_and_its_settings_are_accepted(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe["benchmark"]["name"] and recipe.keys() == defaults().keys()
    for part in ("reflector", "policy") if trains_reflector(recipe) else ("policy",):
        assert sft_settings(recipe, part).lora_rank == recipe["model"]["lora_rank"]
    settings = rlft_settings(recipe)
    settings.check()
    assert settings.batch * settings.accumulation % settings.group == 0


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("gpt2-xl", 1_557_611_200),
        ("qwen2.5-coder-0.5b", 494_032_768),
        ("qwen2.5-coder-1.5b", 1_543_714_304),
        ("smollm2-360m", 361_821_120),
    ],
)
def test_full_sizes_have_the_published_number_of_parameters(preset: str, published: int) -> None:
    assert steps.parameters(steps.architecture(preset)) == published


def test_the_paper_s_setting_is_in_the_recipe() -> None:
    model = load_recipe("gpt2-xl")["model"]
    assert (model["quantization"], model["lora_rank"]) == ("8bit", 64)
    assert load_recipe("qwen2.5-coder-0.5b")["model"]["quantization"] == "4bit"


def gpt2_lora(width: int, layers: int, rank: int) -> int:
    """LoRA has rank x (inputs + outputs) weights per layer: attention in and out, MLP up and down."""
    return layers * rank * ((width + 3 * width) + 2 * width + (width + 4 * width) * 2)


def qwen_lora(width: int, mlp: int, keys: int, layers: int, rank: int) -> int:
    """Queries and outputs, keys and values, and the three matrices of the MLP."""
    return layers * rank * (2 * 2 * width + 2 * (width + keys) + 3 * (width + mlp))


def test_gpt2_xl_through_the_command(tmp_path: Path) -> None:
    output = tmp_path / "steps.json"
    words = [w for change in SMALL for w in ("--set", change)]
    found = CliRunner().invoke(
        app,
        ["bench", "steps", "--preset", "gpt2-xl", "--scale", "tiny", "--device", "cpu", *words,
         "--out", str(tmp_path / "runs"), "--output", str(output), "--output", str(tmp_path / "steps.md")],
    )  # fmt: skip
    assert found.exit_code == 0, (found.output, found.exception)
    made = json.loads(output.read_text())
    figures = made["presets"]["gpt2-xl"]
    assert made["made"]["settings"]["scale"] == "tiny"
    assert (figures["layers"], figures["width"], figures["lora_rank"]) == (2, 200, 64)
    assert [cost["stage"] for cost in figures["costs"]] == ["reflector", "policy", "rlft"]
    # The tied output layer is not quantized. RLFT computes with three models: the policy, the policy
    # after SFT that the KL term holds it to, and the reflector.
    assert [cost["quantized"] for cost in figures["costs"]] == [2 * 4, 2 * 4, 3 * 2 * 4]
    for cost in figures["costs"]:
        assert cost["trainable"] == gpt2_lora(200, 2, 64)
        assert cost["seconds"] > 0 and cost["peak"] > 100 and cost["tokens"] > 50
    text = (tmp_path / "steps.md").read_text()
    assert "not the published sizes" in text and "8bit, 24 layers" in text and text.count("| RLFT ") == 1


@pytest.mark.parametrize("quantization", ["4bit", ""])
def test_qwen_with_and_without_quantization(tmp_path: Path, quantization: str) -> None:
    preset = "qwen2.5-coder-0.5b"
    changes = [*SMALL, f"model.quantization={quantization}"]
    recipe = steps.settings(preset, tmp_path / "base", "cpu", changes)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    steps.prepare(tmp_path, preset, "tiny", 1)
    costs = [steps.work(tmp_path, stage) for stage in steps.STAGES]
    layers = 7 if quantization else 0
    assert [cost.quantized for cost in costs] == [layers, layers, 3 * layers]
    assert {cost.trainable for cost in costs} == {qwen_lora(112, 608, 16, 1, 16)}


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no architecture for the preset 'taxi-tiny'"):
        steps.measure("taxi-tiny", tmp_path, "cpu")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not empty"):
        steps.measure("gpt2-xl", tmp_path, "cpu", "tiny")
    with pytest.raises(InputError, match="'huge' is unknown: use full or tiny"):
        steps.run([], None, "cpu", "huge", None, "keep", [], [])
    changes = ["--set", "benchmark.horizons=3"]
    found = CliRunner().invoke(
        app, ["bench", "steps", "--preset", "gpt2-xl", "--scale", "tiny", "--device", "cpu", *changes]
    )
    assert isinstance(found.exception, InputError) and "'prepare' failed" in str(found.exception)
