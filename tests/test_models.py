import math
import subprocess
import sys

import pytest

from repoagent import models, smollm
from repoagent.environment import Observation, Option
from repoagent.errors import ModelError
from repoagent.explore import FEATURES
from repoagent.manifest import damage, write_manifest
from repoagent.models import available, load_policy, load_reflector
from repoagent.players import NoReflector, Policy, RandomPolicy, Reflector
from tests.tiny import make_tiny_causal_lm

VIEW = Observation("Where?", "", (), "", (Option("open a.py", "open"), Option("open b.py", "open")))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_causal_lm(tmp_path_factory.mktemp("tiny") / "tiny")


def test_importing_it_is_light():
    code = (
        "import sys, repoagent.models as m; m.load_policy('random'); m.load_reflector('none');"
        "sys.exit(bool({'torch', 'transformers', 'openai', 'peft'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_simplest_players():
    assert isinstance(load_policy("random"), RandomPolicy)
    assert isinstance(load_reflector("none"), NoReflector)


def test_a_folder_of_a_causal_lm(tiny):
    policy, reflector = load_policy(str(tiny), "cpu"), load_reflector(str(tiny), "cpu")
    assert isinstance(policy, Policy) and isinstance(reflector, Reflector)
    (row,) = policy.distribution([VIEW], reflector.reflect([VIEW]))
    assert math.isclose(sum(map(math.exp, row)), 1, rel_tol=1e-5)


def test_an_encoder_checkpoint_in_a_folder(tmp_path):
    from repoagent.encoder import EncoderPolicy

    folder = tmp_path / "encoder"
    config = {"lora_alpha": 1, "r": 1}
    EncoderPolicy.base(FEATURES).save(folder, adapter={}, adapter_config=config, card="", meta={})
    assert isinstance(load_policy(str(folder)), EncoderPolicy)
    with pytest.raises(ModelError, match="is a policy"):
        load_reflector(str(folder))
    with pytest.raises(ModelError, match="8-bit and 4-bit loading do not apply"):
        load_policy(str(folder), load_in_8bit=True)


def test_a_writer_checkpoint_in_a_folder_goes_to_its_own_loader(tmp_path):
    write_manifest(tmp_path, format="writer-reflector/1")
    with pytest.raises(ModelError, match=r"the reflector in .* is broken: no safetensors weights"):
        load_reflector(str(tmp_path))


def test_chat_models_by_spec():
    spec = "openai:http://127.0.0.1:9/v1#some-model"
    assert load_policy(spec).name == load_reflector(spec).name == "some-model"
    with pytest.raises(ModelError, match="do not apply"):
        load_policy(spec, load_in_4bit=True)
    with pytest.raises(ModelError, match="write openai:BASE_URL#MODEL"):
        load_reflector("openai:localhost")


def test_bundled_models_that_are_missing_or_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "CHECKPOINTS", tmp_path)
    with pytest.raises(
        ModelError, match=r"the bundled policy in .* cannot be used \(it is missing\)"
    ) as error:
        load_policy()
    assert error.value.exit_code == 3
    (tmp_path / "reflector").mkdir()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "reflector" / "model.safetensors").write_bytes(pointer)
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        load_reflector()
    policy, reader, reflector, encoder, language_model = available()
    assert policy.problem == "it is missing" and policy.size == 0
    assert reflector.problem == "model.safetensors is not a whole safetensors file"
    assert reflector.size == len(pointer) and reflector.location == tmp_path / "reflector"
    assert encoder.problem is None and encoder.size > 40_000_000
    assert reader.problem == "it is missing" and language_model.problem is None
    monkeypatch.setattr(smollm, "find", lambda: None)
    *_, language_model = available()
    assert language_model.optional and "the encoder decides alone; run: pip" in (language_model.problem or "")


@pytest.mark.parametrize("role", ["policy", "reflector"])
def test_what_comes_along_loads(role):
    known = next(m for m in available() if m.name == f"bundled {role}")
    assert known.problem is None
    player = load_policy() if role == "policy" else load_reflector()
    assert isinstance(player, Policy if role == "policy" else Reflector)


@pytest.mark.parametrize("load", [load_policy, load_reflector])
def test_a_folder_that_does_not_exist(load, tmp_path):
    with pytest.raises(ModelError, match="no model folder at"):
        load(str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match="no model folder at"):
        load("~nobody-of-this-name/model")


def test_a_changed_byte_is_noticed(tiny, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    write_manifest(tmp_path)
    assert damage(tmp_path) is None
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    assert damage(tmp_path) == "model.safetensors differs from the digest in repoagent.json"
    (tmp_path / "repoagent.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_reflector(str(tmp_path))
