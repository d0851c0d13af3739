import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from repoagent.errors import ModelError
from repoagent.heads import ChoiceTokenHead, PointerHead, block_sparse, find_labels
from tests.tiny import make_tiny_causal_lm


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen2"])
def model(request, tmp_path_factory):
    folder = make_tiny_causal_lm(tmp_path_factory.mktemp(request.param), request.param)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_labels_are_single_tokens_in_context(model):
    _, tokenizer = model
    labels = find_labels(tokenizer)
    assert len(set(labels.values())) == len(labels)
    prompt = tokenizer("1. open a.py\nChoice:")["input_ids"]
    for label, token in labels.items():
        assert tokenizer(f"1. open a.py\nChoice: {label}")["input_ids"] == [*prompt, token]


def test_numbers_where_they_are_tokens_else_letters(tmp_path):
    numbered = AutoTokenizer.from_pretrained(make_tiny_causal_lm(tmp_path / "g", "gpt2"))
    assert list(find_labels(numbered)) == [str(i) for i in range(1, 257)]
    assert list(find_labels(numbered, 5)) == ["1", "2", "3", "4", "5"]
    split = AutoTokenizer.from_pretrained(make_tiny_causal_lm(tmp_path / "q", "qwen2"))
    assert len(find_labels(split)) >= 26 and not any(label.isdigit() for label in find_labels(split))


def test_a_tokenizer_of_bytes_alone_is_refused(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_causal_lm(tmp_path, vocabulary=260))
    with pytest.raises(ModelError, match="no label is a single token"):
        find_labels(tokenizer)


def test_choice_logits_are_the_models_own(model):
    causal, tokenizer = model
    labels = find_labels(tokenizer)
    ids = tokenizer("Question: Where?\nChoice:", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = causal(ids).logits[0, -1]
        last = causal.base_model(ids).last_hidden_state[:, -1]
        (scores,) = ChoiceTokenHead(labels)(last, causal.get_output_embeddings(), [7])
    torch.testing.assert_close(scores, expected[list(labels.values())[:7]])


def hidden(causal, prompts):
    ids, positions, mask, ends = block_sparse(prompts, 0)
    with torch.no_grad():
        states = causal.base_model(input_ids=ids, attention_mask=mask, position_ids=positions)
    return [[states.last_hidden_state[row, i] for i in last] for row, last in enumerate(ends)]


def test_each_option_sees_exactly_the_state_and_itself(model):
    causal, _ = model
    state, options = [11, 12, 13, 14], [[21, 22], [31, 32, 33], [41]]
    ((_, *found),) = hidden(causal, [(state, options)])
    for option, vector in zip(options, found, strict=True):
        with torch.no_grad():
            plain = causal.base_model(torch.tensor([state + option])).last_hidden_state[0, -1]
        torch.testing.assert_close(vector, plain, atol=1e-5, rtol=1e-5)


def test_order_company_and_padding_change_nothing(model):
    causal, _ = model
    torch.manual_seed(0)
    head = PointerHead(causal.config.hidden_size)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state, options = [11, 12, 13, 14], [[21, 22], [31, 32, 33], [41], [51, 52, 53, 54]]
    order = [2, 0, 3, 1]
    (first, *vectors), (_, *turned), (_, *alone) = hidden(
        causal, [(state, options), (state, [options[i] for i in order]), (state, options[:1])]
    )
    scores = head(first, torch.stack(vectors))
    assert scores.std() > 0.01  # a thousand times what may differ below
    torch.testing.assert_close(head(first, torch.stack(turned)), scores[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(head(first, torch.stack(alone)), scores[:1], atol=1e-5, rtol=0)


def test_a_new_pointer_head_is_uniform_and_learns():
    torch.manual_seed(0)
    head, state, options = PointerHead(16), torch.randn(16), torch.randn(5, 16)
    assert head(state, options).tolist() == [0.0] * 5
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    for _ in range(50):
        optimizer.zero_grad()
        loss = -head(state, options).log_softmax(0)[3]
        loss.backward()
        optimizer.step()
    assert head(state, options).argmax() == 3 and loss < 0.1
