"""The bundled reflector's own forward pass against transformers'."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from repoagent.environment import Observation, Option
from repoagent.errors import ModelError
from repoagent.llama import Cache, SmallLlama
from repoagent.manifest import write_manifest
from repoagent.prompt import PROMPT_FORMAT
from repoagent.writer import BEGIN, END, WriterReflector
from training.sft_reflector import make_tokenizer


def observation(question: str, result: str = "") -> Observation:
    options = (Option("open src/config.py", "open", "src/config.py"), Option("go docs/", "go", "docs"))
    return Observation(question, "", (), result, options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reflector")
    torch.manual_seed(0)
    tokenizer = make_tokenizer(iter(["Question: where is the port configured? naïve ☃"] * 20), 400)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(BEGIN), eos_token_id=tokenizer.token_to_id(END),
        initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_manifest(folder, format="writer-reflector/1", name="writer", prompt_format=PROMPT_FORMAT)
    return folder, model


def test_the_forward_pass_equals_transformers(checkpoint):
    folder, model = checkpoint
    small = WriterReflector.from_folder(folder).model
    ids = torch.randint(0, 400 - 140, (1, 20))
    with torch.inference_mode():
        expected = model(ids).logits[0]
        cache = Cache(small.layers)
        first = small(ids[:, :15], torch.ones(1, 15, dtype=torch.bool), cache)
        torch.testing.assert_close(first[0], expected[14], atol=1e-4, rtol=1e-4)
        for at in range(15, 20):  # one token at a time, from the cache
            step = small(ids[:, at : at + 1], torch.ones(1, 1, dtype=torch.bool), cache)
            torch.testing.assert_close(step[0], expected[at], atol=1e-4, rtol=1e-4)


def test_grouped_queries_and_any_padding_equal_transformers():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    small = SmallLlama(config.to_dict(), model.state_dict())
    ids = torch.randint(0, 50, (1, 9))
    with torch.inference_mode():
        expected = model(ids).logits[0]
        for left, right in ((0, 0), (3, 0), (0, 3)):
            padded = torch.nn.functional.pad(ids, (left, right))
            mask = torch.nn.functional.pad(torch.ones(1, 9, dtype=torch.bool), (left, right))
            hidden = small.hidden(padded, mask, Cache(small.layers))[0, left : left + 9]
            torch.testing.assert_close(small.logits(hidden), expected, atol=1e-4, rtol=1e-4)


def test_greedy_generation_equals_transformers(checkpoint):
    folder, model = checkpoint
    reflector = WriterReflector.from_folder(folder)
    seen = observation("where is the port configured?")
    ids = torch.tensor([reflector.prompt_ids(seen)])
    generated = model.generate(ids, max_new_tokens=64, do_sample=False)[0, ids.shape[1] :]
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(generated.tolist())
    assert reflector.reflect([seen]) == [expected.strip()]


def test_a_batch_of_mixed_lengths_equals_one_at_a_time_and_the_stream(checkpoint):
    reflector = WriterReflector.from_folder(checkpoint[0])
    seen = [observation("port?"), observation("where is the port configured?", "src: " + "a.py " * 40)]
    together = reflector.reflect(seen)
    assert together == [reflector.reflect([o])[0] for o in seen]
    streamed = ["".join(reflector.stream(o)).strip() for o in seen]
    assert [s.rstrip("�") for s in streamed] == [t.rstrip("�") for t in together]


def test_an_endless_question_is_refused_not_cut(checkpoint):
    reflector = WriterReflector.from_folder(checkpoint[0])
    with pytest.raises(ModelError, match="does not fit"):
        reflector.reflect([observation("port " * 2000)])


def test_a_damaged_checkpoint_says_what_is_wrong(checkpoint, tmp_path):
    folder = checkpoint[0]
    for name in ("config.json", "tokenizer.json", "model.safetensors", "repoagent.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    manifest = json.loads((tmp_path / "repoagent.json").read_text())
    (tmp_path / "repoagent.json").write_text(json.dumps({**manifest, "prompt_format": -1}))
    with pytest.raises(ModelError, match="prompt format -1"):
        WriterReflector.from_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError, match="broken"):
        WriterReflector.from_folder(tmp_path)


def test_the_model_keeps_half_precision_weights_in_single(checkpoint):
    folder, model = checkpoint
    config = json.loads((folder / "config.json").read_text())
    small = SmallLlama(config, {k: v.half() for k, v in model.state_dict().items()})
    assert all(v.dtype == torch.float32 for v in small.state.values())
