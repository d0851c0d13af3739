import itertools
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import save_file

from repoagent.causal import batches
from repoagent.environment import Observation, Option
from repoagent.errors import ModelError
from repoagent.heads import PointerHead
from repoagent.manifest import damage, read_manifest
from repoagent.transformer import TransformerPolicy, TransformerReflector
from tests.tiny import make_tiny_causal_lm

HEADS = ["choice-token", "pointer"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {arch: make_tiny_causal_lm(root / arch, arch) for arch in ("gpt2", "llama", "qwen2")}


def view(options: int, history: int = 0, task: str = "Where is the port configured?") -> Observation:
    return Observation(
        task,
        "src",
        tuple(f"go d{i}" for i in range(history)),
        "a.py b.py",
        tuple(Option(f"open {'very/' * (i % 4)}file{i}.py", "open") for i in range(options)),
    )


def stirred(policy: TransformerPolicy) -> TransformerPolicy:
    """``policy`` with a head that is not uniform, as after training."""
    torch.manual_seed(1)
    for parameter in policy.head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return policy


def new(folder, head, **options) -> TransformerPolicy:
    return stirred(TransformerPolicy.new(folder, "cpu", head=head, **options))


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_mixed_lengths_equals_one_at_a_time(models, arch, head):
    policy = new(models[arch], head)
    views = [view(3), view(9, history=8), view(1), view(5, history=2)]
    reflections = ["", "The tests are not it; look at settings.", "", "Hm."]
    together = policy.distribution(views, reflections)
    assert [len(row) for row in together] == [3, 9, 1, 5]
    for observation, reflection, row in zip(views, reflections, together, strict=True):
        assert math.isclose(sum(map(math.exp, row)), 1.0, rel_tol=1e-5)
        assert policy.distribution([observation], [reflection])[0] == pytest.approx(row, abs=1e-5)
    assert len(set(together[1])) > 1


@pytest.mark.parametrize("head", HEADS)
def test_one_softmax_over_all_pages(models, head):
    policy = new(models["gpt2"], head)
    many = view(400)
    pages = policy.prompts(many)
    assert len(pages) > 3
    (row,) = policy.distribution([many], [""])
    assert len(row) == 400 and math.isclose(sum(map(math.exp, row)), 1.0, rel_tol=1e-4)


def test_pointer_scores_do_not_depend_on_pages_or_order(models):
    policy = new(models["llama"], "pointer")
    observation = view(30)
    (row,) = policy.distribution([observation], ["Hm."])
    order = list(range(29, -1, -1))
    turned = Observation(
        observation.task, "src", (), observation.last_result, tuple(observation.options[i] for i in order)
    )
    assert len(policy.prompts(observation)) == 1
    assert policy.distribution([turned], ["Hm."])[0] == pytest.approx([row[i] for i in order], abs=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_saved_and_loaded_it_plays_the_same(models, tmp_path, head, lora_rank):
    policy = new(models["llama"], head, lora_rank=lora_rank)
    for parameter in policy.lm.model.parameters():  # also moves LoRA's zero matrices
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    before = policy.distribution([view(7)], ["Hm."])
    policy.save(tmp_path / "saved")
    again = TransformerPolicy.from_folder(tmp_path / "saved", "cpu")
    assert again.distribution([view(7)], ["Hm."])[0] == pytest.approx(before[0], abs=1e-6)
    assert again.name == "saved" and damage(tmp_path / "saved") is None
    assert (tmp_path / "saved" / "adapter_config.json").exists() == bool(lora_rank)
    assert not [p for p in (tmp_path / "saved").iterdir() if p.suffix in (".bin", ".pt", ".py", ".pkl")]


@pytest.mark.parametrize("head", HEADS)
def test_gradients_reach_adapter_and_head_and_learning_works(models, head):
    torch.manual_seed(0)
    policy = TransformerPolicy.new(models["gpt2"], "cpu", head=head, lora_rank=8)
    observation = view(4)
    (before,) = policy.distribution([observation], [""])
    optimizer = torch.optim.Adam(policy.parameters(), 0.01)
    for _ in range(25):
        optimizer.zero_grad()
        (row,) = policy.log_probabilities([observation], [""])
        (-row[2]).backward()
        optimizer.step()
    (after,) = policy.distribution([observation], [""])
    # The frozen output rows of a random model bound what choice tokens can reach.
    assert after[2] == max(after) and after[2] > before[2] + 0.4
    learnt = [p for n, p in policy.lm.model.named_parameters() if "lora_A" in n]
    assert len(learnt) == 8 and all(p.grad is not None and p.grad.abs().sum() > 0 for p in learnt)


def test_special_tokens_in_files_are_plain_text(models):
    policy = new(models["gpt2"], "choice-token")
    end = policy.lm.tokenizer.eos_token_id
    (page,) = policy.prompts(view(2, task="<|end|><|assistant|>1"))
    assert end not in policy.lm.start(page.text)
    assert policy.lm.tokenizer.decode(policy.lm.start(page.text)) == page.text


def test_a_window_too_short_for_one_option(models):
    policy = new(models["gpt2"], "pointer", max_window=40)
    long = Observation("Where?", "", (), "", (Option("open " + "x/" * 200, "open"),))
    with pytest.raises(ModelError, match="does not fit into the model's 40 tokens"):
        policy.distribution([long], [""])


# -- the reflector -------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
def test_reflections_in_a_batch_streamed_and_alone_are_the_same(models, arch):
    reflector = TransformerReflector.new(models[arch], "cpu")
    reflector.max_new_tokens = 24
    views = [view(3), view(30, history=9), view(1, history=1)]
    together = reflector.reflect(views)
    assert all(together)
    assert together == [reflector.reflect([v])[0] for v in views]
    assert together == ["".join(reflector.stream(v)).strip() for v in views]


def test_greedy_generation_is_what_transformers_generates(models):
    reflector = TransformerReflector.new(models["llama"], "cpu")
    reflector.max_new_tokens = 16
    ids = torch.tensor([reflector._prompt(view(3))])
    expected = reflector.lm.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False
    )
    text = reflector.lm.tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
    assert reflector.reflect([view(3)]) == [text.strip().rstrip("\ufffd")]


def test_a_trained_reflector_ends_by_itself_and_survives_the_disk(models, tmp_path):
    torch.manual_seed(0)
    reflector = TransformerReflector.new(models["llama"], "cpu")
    views = [view(3), view(3, task="Where are the tests?")]
    wanted = ["The port is in settings.", "Go to tests/ at once, they are there."]
    optimizer = torch.optim.Adam(reflector.parameters(), 0.01)
    for _ in range(120):
        optimizer.zero_grad()
        loss = -torch.stack(reflector.log_likelihood(views, wanted)).mean()
        loss.backward()
        optimizer.step()
        if loss < 0.1:
            break
    assert reflector.reflect(views) == wanted
    reflector.save(tmp_path / "saved")
    again = TransformerReflector.from_folder(tmp_path / "saved", "cpu")
    assert not again.one_line and again.reflect(views) == wanted


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
def test_texts_that_end_leave_the_batch_and_the_others_go_on_as_if_alone(models, arch):
    lm = TransformerReflector.new(models[arch], "cpu").lm
    views = [view(2), view(9, history=8), view(4, task="Who writes the log?"), view(1)]

    reflector = TransformerReflector(lm, max_new_tokens=6)
    prompts = [reflector._prompt(v) for v in views]
    end = next(iter(lm.ends))
    stops = [2, 6, 1, 4]  # the step at which each of the texts ends

    def logits(rows: list[int]) -> list[torch.Tensor]:
        """What the model gives for ``rows`` at every step, while their texts end where they are told to."""
        going, seen = list(rows), []

        def pick(found: torch.Tensor) -> list[int]:
            assert len(found) == len(going)
            seen.append(dict(zip(going, found, strict=True)))
            step = len(seen)
            tokens = [end if step == stops[row] else 50 + row + step for row in going]
            going[:] = [row for row in going if step < stops[row]]
            return tokens

        reflector._pick = pick
        *_, tokens = reflector._generate([prompts[row] for row in rows])
        assert [len(t) for t in tokens] == [stops[row] - 1 for row in rows]
        return seen

    together = logits([0, 1, 2, 3])
    assert [len(step) for step in together] == [4, 3, 2, 2, 1, 1]
    for row in range(4):
        for step, alone in enumerate(logits([row])):
            assert torch.allclose(together[step][row], alone[row], atol=1e-4)


def test_a_frozen_adapter_is_merged_and_says_the_same(models, tmp_path):
    policy = new(models["gpt2"], "pointer", lora_rank=2)
    for name, parameter in policy.lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    seen, said = [view(3), view(7)], ["", "Look at the tests."]
    before = policy.distribution(seen, said)
    policy.save(tmp_path / "saved")
    frozen = TransformerPolicy.from_folder(tmp_path / "saved", "cpu")
    trainable = TransformerPolicy.from_folder(tmp_path / "saved", "cpu", trainable=True)
    lora = [any("lora" in n for n, _ in p.lm.model.named_modules()) for p in (frozen, trainable)]
    assert lora == [False, True]
    for row, exact, merged in zip(
        before, trainable.distribution(seen, said), frozen.distribution(seen, said), strict=True
    ):
        assert exact == row and merged == pytest.approx(row, abs=1e-5)


def test_batches_hold_rows_of_similar_lengths():
    rows = [[0] * n for n in (3, 100, 40, 99, 76, 5, 74, 38, 4, 31, 1)]
    found = list(batches(rows, len, budget=300))
    assert sorted(map(len, itertools.chain(*found))) == sorted(map(len, rows))
    for batch in found:
        longest = max(map(len, batch))
        assert longest * len(batch) <= 300 and min(map(len, batch)) >= 0.75 * longest
    assert [len(r) for r in found[0]] == [100, 99, 76]


def test_a_foreign_model_is_stopped_after_one_line(models):
    reflector = TransformerReflector.from_folder(models["gpt2"], "cpu", max_new_tokens=40)
    assert "\n" not in reflector.reflect([view(3)])[0]
    newline = reflector.lm.encode("\n")[-1]
    said = iter([100, newline, 101, 102])
    reflector._pick = lambda logits: [next(said)]
    *_, tokens = reflector._generate([reflector._prompt(view(3))])
    assert tokens == [[100, newline]]


def test_a_stream_that_is_not_read_on_stops_the_model(models):
    reflector = TransformerReflector.from_folder(models["gpt2"], "cpu")
    calls = []
    reflector.lm.backbone.register_forward_hook(lambda *_: calls.append(1))
    stream = reflector.stream(view(2))
    next(stream)
    stream.close()
    assert len(calls) < 5


def test_sampling_is_repeatable_by_seed(models):
    lm = TransformerReflector.new(models["gpt2"], "cpu").lm

    def sample(seed: int) -> list[str]:
        return TransformerReflector(lm, temperature=2.0, seed=seed, max_new_tokens=12).reflect([view(2)])

    assert sample(1) == sample(1) != sample(2)


# -- what cannot be loaded says so ---------------------------------------------------------


def saved(models, tmp_path, head="pointer"):
    folder = tmp_path / "saved"
    new(models["gpt2"], head).save(folder)
    return folder


def change(folder, **entries):
    manifest = read_manifest(folder)
    (folder / "repoagent.json").write_text(json.dumps({**manifest, **entries}))


def test_prompt_format_head_role_and_labels_must_match(models, tmp_path):
    folder = saved(models, tmp_path)
    with pytest.raises(ModelError, match="has head pointer, expected choice-token"):
        TransformerPolicy.from_folder(folder, "cpu", head="choice-token")
    with pytest.raises(ModelError, match="has role policy, expected reflector"):
        TransformerReflector.from_folder(folder, "cpu")
    change(folder, prompt_format=0)
    with pytest.raises(ModelError, match="has prompt format 0, expected 1"):
        TransformerPolicy.from_folder(folder, "cpu")
    change(folder, prompt_format=1, head="choice-token", labels=["A", "B"])
    with pytest.raises(ModelError, match="other choice labels"):
        TransformerPolicy.from_folder(folder, "cpu")


def test_a_head_of_another_width(models, tmp_path):
    folder = saved(models, tmp_path)
    save_file(PointerHead(48).state_dict(), folder / "head.safetensors")
    with pytest.raises(ModelError, match="does not fit a model of width 32"):
        TransformerPolicy.from_folder(folder, "cpu")
    assert damage(folder) == "head.safetensors differs from the digest in repoagent.json"


def test_damaged_missing_and_pickled_weights(models, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(models["gpt2"], folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:5000])
    assert damage(folder) == "model.safetensors is not a whole safetensors file"
    with pytest.raises(ModelError, match="cannot load a causal language model"):
        TransformerPolicy.from_folder(folder, "cpu")
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    assert damage(folder) == "no safetensors weights"
    with pytest.raises(ModelError, match="cannot load a causal language model") as error:
        TransformerPolicy.from_folder(folder, "cpu")
    assert "\n" not in str(error.value)


def test_weights_that_lack_a_tensor_are_refused(models, tmp_path):
    from safetensors.torch import load_file

    folder = tmp_path / "m"
    shutil.copytree(models["gpt2"], folder)
    state = load_file(folder / "model.safetensors")
    state.pop(next(k for k in state if "mlp.c_fc.weight" in k))
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"the weights lack .*mlp\.c_fc\.weight"):
        TransformerPolicy.from_folder(folder, "cpu")


def test_code_in_a_model_folder_is_not_run(models, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(models["gpt2"], folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError, match="cannot load a causal language model"):
        TransformerPolicy.from_folder(folder, "cpu")
    assert not (tmp_path / "ran").exists()


def test_an_adapter_without_its_base_model(models, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(models["gpt2"], base)
    TransformerPolicy.new(base, "cpu", head="pointer", lora_rank=2).save(tmp_path / "adapter")
    shutil.rmtree(base)
    with pytest.raises(ModelError, match=r"the base model '.*base' of the adapter .* is missing"):
        TransformerPolicy.from_folder(tmp_path / "adapter", "cpu")


def test_no_such_folder_device_or_gpu(models, tmp_path):
    with pytest.raises(ModelError, match="no model folder at"):
        TransformerPolicy.from_folder(tmp_path / "nothing", "cpu")
    with pytest.raises(ModelError, match="unknown device 'tpu'"):
        TransformerPolicy.from_folder(models["gpt2"], "tpu")
    with pytest.raises(ModelError, match="exclude one another"):
        TransformerPolicy.from_folder(models["gpt2"], "cpu", load_in_8bit=True, load_in_4bit=True)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="'cuda' is not available"):
            TransformerPolicy.from_folder(models["gpt2"], "cuda", load_in_4bit=True)


def test_a_hub_id_is_read_from_the_cache_and_otherwise_explained(models, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0" * 40
    snapshot = tmp_path / "models--owner--tiny" / "snapshots" / commit
    shutil.copytree(models["gpt2"], snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    policy = new("owner/tiny", "pointer", lora_rank=2)
    assert policy.lm.folder == snapshot and policy.name == "owner/tiny"
    before = policy.distribution([view(3)], [""])
    policy.save(tmp_path / "adapter")  # names the hub id, not the cache folder of this machine
    assert str(tmp_path) not in (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert read_manifest(tmp_path / "adapter")["base_model"] == "owner/tiny"
    assert TransformerPolicy.from_folder(tmp_path / "adapter", "cpu").distribution([view(3)], [""]) == before
    with pytest.raises(ModelError, match="cannot get owner/other from the hub") as error:
        TransformerPolicy.from_folder("owner/other", "cpu")
    assert "\n" not in str(error.value)
