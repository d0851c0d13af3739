"""The bundled policy: its forward pass, its head, its files."""

import math
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from repoagent.encoder import (
    INTERACTIONS,
    EncoderPolicy,
    LateInteractionHead,
    minilm_folder,
    plain,
)
from repoagent.environment import Observation, Option
from repoagent.errors import ModelError
from repoagent.explore import FEATURES
from repoagent.lora import merge_lora
from training import sft_policy


@pytest.fixture(scope="module")
def policy() -> EncoderPolicy:
    torch.manual_seed(0)
    made = EncoderPolicy.base(FEATURES)
    with torch.no_grad():  # a head whose every part matters
        for parameter in made.head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def option(path: str, text: str, kind: str = "open") -> Option:
    rng = random.Random(path)
    features = tuple(rng.random() for _ in FEATURES)
    return Option(f"{kind} {path}", kind, path, f"{path}\n{text}", features)


OPTIONS = (
    option("src/net/proxy.py", "def parse_no_proxy(value):\n    return value.split(',')"),
    option("docs/cooking.md", "Boil the noodles for seven minutes, then drain them."),
    option("src/config.py", "MAX_CONNECTIONS = 100\nKEEPALIVE = 20\nTIMEOUT = 5"),
    option("a", ""),
)


def observation(options: tuple[Option, ...] = OPTIONS) -> Observation:
    return Observation("where is the no_proxy list parsed?", "", (), "", options)


def test_the_forward_pass_equals_transformers(policy: EncoderPolicy) -> None:
    from transformers import BertModel

    reference = BertModel.from_pretrained(minilm_folder()).eval()
    rows = [policy.query_ids("where is the NO_PROXY list parsed into rules?"), policy.query_ids("port")]
    with torch.inference_mode():
        vectors, mask = policy.encode(rows)
        for row, ids in enumerate(rows):
            expected = reference(torch.tensor([ids])).last_hidden_state[0]
            expected = torch.nn.functional.normalize(expected, dim=-1)
            torch.testing.assert_close(vectors[row, : len(ids)], expected, atol=1e-5, rtol=1e-4)
            assert mask[row].sum() == len(ids)


def test_untrained_late_interaction_finds_the_file_that_says_it() -> None:
    base = EncoderPolicy.base(FEATURES)
    (scores,) = base.distribution([observation()], [""])
    assert scores.index(max(scores)) == 0
    assert math.isclose(sum(map(math.exp, scores)), 1.0, abs_tol=1e-5)


def test_options_are_scored_apart_from_one_another(policy: EncoderPolicy) -> None:
    (scores,) = policy.distribution([observation()], ["look at the proxy module"])
    order = [2, 0, 3, 1]
    (permuted,) = policy.distribution(
        [observation(tuple(OPTIONS[i] for i in order))], ["look at the proxy module"]
    )
    assert permuted == pytest.approx([scores[i] for i in order], abs=1e-5)
    # Without one of them the others keep their odds.
    (fewer,) = policy.distribution([observation(OPTIONS[:3])], ["look at the proxy module"])
    assert fewer[0] - fewer[1] == pytest.approx(scores[0] - scores[1], abs=1e-5)


def test_a_batch_and_a_page_change_nothing(policy: EncoderPolicy) -> None:
    many = tuple(option(f"src/file_{i}.py", f"value_{i} = {i}") for i in range(300))
    together = policy.distribution([observation(), observation(many)], ["", "proxy"])
    policy._vectors.clear()
    alone = [
        policy.distribution([observation()], [""])[0],
        policy.distribution([observation(many)], ["proxy"])[0],
    ]
    for a, b in zip(together, alone, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    assert len(together[1]) == 300


def test_a_reflection_moves_the_choice(policy: EncoderPolicy) -> None:
    (without,) = policy.distribution([observation()], [""])
    (with_it,) = policy.distribution([observation()], ["boil the noodles"])
    assert without != pytest.approx(with_it, abs=1e-4)


def test_interactions_by_hand() -> None:
    head = LateInteractionHead(2, ())
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    options = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]])
    mask = torch.tensor([[True, True, False]])  # the last token is padding
    path = torch.tensor([[True, False, False]])
    got = head.interactions(query, query[:1], options, mask, path)[0]
    named = dict(zip(INTERACTIONS, got.tolist(), strict=True))
    assert named["question"] == pytest.approx((1.0 + 0.8) / 2)
    assert named["path"] == pytest.approx((1.0 + 0.0) / 2)
    assert named["body"] == pytest.approx((0.6 + 0.8) / 2)
    assert named["reflection"] == pytest.approx(1.0)
    mean = torch.nn.functional.normalize(torch.tensor([1.6, 0.8]), dim=0)
    assert named["sentence"] == pytest.approx(float(mean @ torch.tensor([0.5, 0.5]) * math.sqrt(2)))


def test_code_is_read_as_words() -> None:
    assert plain("if maxConnections >= DEFAULT_LIMIT: raise HTTPError()") == (
        "if max connections default limit raise http error"
    )


def test_a_trained_adapter_survives_saving_and_loading(tmp_path: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    trained = EncoderPolicy.base(FEATURES)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["query", "key", "value", "dense"])
    inject_adapter_in_model(lora, trained.encoder)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name or name.startswith("head"):
                parameter.add_(torch.randn_like(parameter) * 0.05)
    sft_policy.save(trained, sft_policy.Settings(pack=()), lora, tmp_path / "policy", 1)
    loaded = EncoderPolicy.from_folder(tmp_path / "policy")
    (expected,) = trained.distribution([observation()], ["proxy"])
    (got,) = loaded.distribution([observation()], ["proxy"])
    assert got == pytest.approx(expected, abs=2e-2)  # the adapter is stored in half precision
    (untrained,) = EncoderPolicy.base(FEATURES).distribution([observation()], ["proxy"])
    assert got != pytest.approx(untrained, abs=2e-2)


def test_the_adapter_is_one_that_peft_loads(tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, inject_adapter_in_model
    from transformers import BertModel

    trained = EncoderPolicy.base(FEATURES)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=["query", "key", "value", "dense"])
    inject_adapter_in_model(lora, trained.encoder)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in trained.encoder.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    sft_policy.save(trained, sft_policy.Settings(pack=()), lora, tmp_path, 1)
    reference = PeftModel.from_pretrained(BertModel.from_pretrained(minilm_folder()), tmp_path).eval()
    ids = trained.query_ids("where is the port configured?")
    loaded = EncoderPolicy.from_folder(tmp_path)
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).last_hidden_state
        got, _ = loaded.encode([ids])
    torch.testing.assert_close(got, torch.nn.functional.normalize(expected, dim=-1), atol=1e-4, rtol=1e-3)


def test_lora_is_merged_by_its_equation() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
    before = module[0].weight.detach().clone()
    a, b = torch.randn(1, 3), torch.randn(2, 1)
    state = {"base_model.model.0.lora_A.weight": a, "base_model.model.0.lora_B.weight": b}
    merge_lora(dict(module.named_parameters()), state, 0.5)
    torch.testing.assert_close(module[0].weight, before + 0.5 * b @ a)


def test_a_damaged_checkpoint_says_so(tmp_path: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    made = EncoderPolicy.base(FEATURES)
    lora = LoraConfig(r=1, lora_alpha=2, target_modules=["query"])
    inject_adapter_in_model(lora, made.encoder)
    good = tmp_path / "good"
    sft_policy.save(made, sft_policy.Settings(pack=()), lora, good, 1)
    for name, damage in (
        ("head.safetensors", lambda p: p.write_bytes(b"x")),
        ("adapter_model.safetensors", lambda p: p.unlink()),
        ("head.safetensors", lambda p: save_file({k: v + 1 for k, v in load_file(p).items()}, p)),
        ("repoagent.json", lambda p: p.write_text("{")),
        (
            "repoagent.json",
            lambda p: p.write_text(p.read_text().replace("encoder-policy/1", "encoder-policy/0")),
        ),
    ):
        bad = tmp_path / "bad"
        shutil.copytree(good, bad)
        damage(bad / name)
        with pytest.raises(ModelError) as error:
            EncoderPolicy.from_folder(bad)
        assert "\n" not in str(error.value)
        shutil.rmtree(bad)
    EncoderPolicy.from_folder(good)


def test_another_encoder_than_the_published_one_is_refused(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(minilm_folder() / name, tmp_path / name)
    save_file({"embeddings.word_embeddings.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="sha256"):
        EncoderPolicy.base(FEATURES, tmp_path)


def test_answering_needs_no_transformers() -> None:
    code = "import sys, repoagent.encoder, repoagent.writer; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
