import json
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from repoagent.chat import (
    CHOOSE,
    REFLECT,
    ChatPolicy,
    ChatReflector,
    count,
    from_logprobs,
    parse_number,
    without_thoughts,
)
from repoagent.environment import Observation, Option
from repoagent.errors import ModelError
from repoagent.prompt import policy_prompt, reflection_prompt
from tests.chat_server import LocalModel, completion, serving
from tests.tiny import make_tiny_causal_lm


def view(options: int, task: str = "Where is the port configured?") -> Observation:
    return Observation(task, "", (), "", tuple(Option(f"open file{i}.py", "open") for i in range(options)))


PORT, TESTS = view(3), view(4, task="Where are the tests?")
THOUGHT = "The port is in settings."


def policy_messages(observation):
    (page,) = policy_prompt(observation, count=count, budget=6000)
    return [{"role": "system", "content": CHOOSE}, {"role": "user", "content": page.text}]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A tiny chat model that has learnt three replies by heart."""
    folder = make_tiny_causal_lm(tmp_path_factory.mktemp("chat") / "tiny", "llama", window=4096)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    thought = reflection_prompt(PORT, count=count, budget=6000)
    lessons = [
        (policy_messages(PORT), "2"),
        (policy_messages(TESTS), "4"),
        ([{"role": "system", "content": REFLECT}, {"role": "user", "content": thought}], THOUGHT),
    ]
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        loss = torch.zeros(())
        for messages, reply in lessons:
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            before = tokenizer(prompt)["input_ids"]
            target = [*tokenizer(reply)["input_ids"], tokenizer.eos_token_id]
            logits = model(torch.tensor([before + target])).logits[0, len(before) - 1 : -1]
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            break
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def transformers_serve(taught):
    """`transformers serve` as a process of its own; yields the spec of the model it serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(taught)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "the server does not start"
                time.sleep(0.3)
        yield f"openai:http://127.0.0.1:{port}/v1#{taught}"
    finally:
        process.terminate()
        process.wait(20)


def test_the_whole_way_through_transformers_serve(transformers_serve):
    policy = ChatPolicy(transformers_serve)
    port, tests = policy.distribution([PORT, TESTS], ["", ""])
    assert [math.exp(p) for p in port] == pytest.approx([0.05, 0.9, 0.05])
    assert [math.exp(p) for p in tests] == pytest.approx([0.1 / 3] * 3 + [0.9])
    reflector = ChatReflector(transformers_serve)
    pieces = list(reflector.stream(PORT))
    assert "".join(pieces) == THOUGHT and len(pieces) > 2
    assert reflector.reflect([PORT, PORT]) == [THOUGHT, THOUGHT]


def test_a_model_that_the_server_does_not_have(transformers_serve):
    url = transformers_serve.partition("#")[0]
    with pytest.raises(
        ModelError, match=r"the chat model /no/model at http.* answered 4\d\d \(.+\)"
    ) as error:
        ChatPolicy(f"{url}#/no/model").distribution([PORT], [""])
    assert "\n" not in str(error.value)


def test_probabilities_are_the_models_own_where_the_server_gives_them(taught):
    local = LocalModel(taught)
    with serving(local) as url:
        (row,) = ChatPolicy(f"openai:{url}#tiny").distribution([PORT], [""])
    assert local.requests[0]["top_logprobs"] == 20 and len(local.requests) == 1
    with torch.inference_mode():
        scores = local.next(local.prompt(policy_messages(PORT))).exp()
    own = [float(scores[local.tokenizer(str(i))["input_ids"][0]]) for i in (1, 2, 3)]
    found = [math.exp(p) for p in row]
    assert found.index(max(found)) == 1 and sum(found) == pytest.approx(1)
    assert found[1] == pytest.approx(own[1], abs=0.02) and found[1] != 0.9


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"file(\d+)\.py", text)]


def test_many_options_are_paged_and_the_winners_meet():
    rounds = []

    def largest(body):
        text = body["messages"][-1]["content"]
        shown = numbers(text)
        rounds.append(len(shown))
        return completion(str(shown.index(max(shown)) + 1))

    with serving(largest) as url:
        (row,) = ChatPolicy(f"openai:{url}#m").distribution([view(1050)], [""])
    assert len(rounds) == 12 and max(rounds) <= 100 and rounds[-1] == 11
    assert max(range(1050), key=row.__getitem__) == 1049 and math.exp(row[1049]) == pytest.approx(0.81)
    assert sum(map(math.exp, row)) == pytest.approx(1) and len(row) == 1050


def test_options_too_long_to_share_a_page_come_to_an_end():
    long = Observation("Where?", "", (), "", tuple(Option("x" * 15_000, "open") for _ in range(3)))
    with serving(lambda body: completion("1")) as url:
        (row,) = ChatPolicy(f"openai:{url}#m").distribution([long], [""])
    assert [math.exp(p) for p in row] == pytest.approx([1 / 3] * 3)


def test_a_batch_is_asked_concurrently():
    together = threading.Barrier(4, timeout=20)

    def answer(body):
        together.wait()  # broken, and with it the server's answers, unless four requests are open
        return completion("1")

    with serving(answer) as url:
        rows = ChatPolicy(f"openai:{url}#m", workers=4).distribution([PORT] * 4, [""] * 4)
    assert len(rows) == 4 and all(math.exp(row[0]) == pytest.approx(0.9) for row in rows)


def test_an_unparsable_reply_is_asked_again_then_counts_as_no_preference():
    asked = []

    def answer(body):
        asked.append(body["messages"][-1]["content"])
        return completion("I cannot say." if "second" in body["model"] and len(asked) % 2 else said)

    said = "3"
    with serving(answer) as url:
        (row,) = ChatPolicy(f"openai:{url}#second").distribution([PORT], [""])
        assert math.exp(row[2]) == pytest.approx(0.9) and len(asked) == 2
        assert "Reply with one number from 1 to 3" in asked[1]
        said = "no idea"
        (row,) = ChatPolicy(f"openai:{url}#never").distribution([PORT], [""])
        assert [math.exp(p) for p in row] == pytest.approx([1 / 3] * 3) and len(asked) == 4


def test_a_single_option_needs_no_server():
    assert ChatPolicy("openai:http://127.0.0.1:9/v1#m").distribution([view(1)], [""]) == [[0.0]]


def test_a_server_that_refuses_parameters():
    refused = []

    def answer(body):
        for name in ("logprobs", "max_tokens"):
            if name in body:
                refused.append(name)
                return 400, json.dumps({"error": {"message": f"Unsupported parameter: {name}"}}).encode()
        return completion("2")

    with serving(answer) as url:
        policy = ChatPolicy(f"openai:{url}#m")
        for _ in range(2):
            (row,) = policy.distribution([PORT], [""])
            assert math.exp(row[1]) == pytest.approx(0.9)
    assert refused == ["logprobs", "max_tokens"]  # found out once


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((500, b'{"error": {"message": "out of\\nmemory"}}'), r"answered 500 \(out of memory\)"),
        ((400, b'{"error": {"message": "prompt is too long"}}'), r"answered 400 \(prompt is too long\)"),
        ((401, b'{"error": {"message": "no"}}'), "wants another key: set OPENAI_API_KEY"),
        ((200, b"<html>hello</html>"), "sent what is no chat completion"),
        ((200, b'{"choices": []}'), "sent what is no chat completion"),
        ((200, b'{"choices": [{"message": null}]}'), "sent what is no chat completion"),
        ((200, b"[1, 2]"), "sent what is no chat completion"),
    ],
)
def test_what_goes_wrong_is_one_line(reply, message):
    with serving(lambda body: reply) as url:
        with pytest.raises(ModelError, match=message) as error:
            ChatPolicy(f"openai:{url}#m", retries=0).distribution([PORT], [""])
        assert "\n" not in str(error.value) and error.value.exit_code == 3


def test_an_error_is_retried():
    replies = iter([(500, b"{}"), completion("2")])
    with serving(lambda body: next(replies)) as url:
        (row,) = ChatPolicy(f"openai:{url}#m", retries=1).distribution([PORT], [""])
    assert math.exp(row[1]) == pytest.approx(0.9)


def test_the_reflectors_server_fails():
    with serving(lambda body: (500, b"{}")) as url, pytest.raises(ModelError, match="answered 500"):
        ChatReflector(f"openai:{url}#m", retries=0).reflect([PORT, PORT])


def test_server_gone_and_server_that_hangs():
    with serving(lambda body: completion("1")) as url:
        pass
    with pytest.raises(ModelError, match=r"cannot reach the chat model m at http.*: start the server"):
        ChatPolicy(f"openai:{url}#m", retries=0).distribution([PORT], [""])
    with pytest.raises(ModelError, match="cannot reach"):
        list(ChatReflector(f"openai:{url}#m", retries=0).stream(PORT))
    done = threading.Event()
    with serving(lambda body: done.wait(20) and completion("1")) as url:
        with pytest.raises(ModelError, match="did not answer in time"):
            ChatPolicy(f"openai:{url}#m", retries=0, timeout=0.3).distribution([PORT], [""])
        done.set()


@pytest.mark.parametrize("spec", ["openai:", "openai:http://h/v1", "openai:#m", "openai:ftp://h#m"])
def test_a_spec_that_names_no_model(spec):
    with pytest.raises(ModelError, match="write openai:BASE_URL#MODEL"):
        ChatPolicy(spec)


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("3", 3),
        (" 3.\n", 3),
        ("**2**", 2),
        ("2. open file1.py, because 1 and 3 are wrong", 2),
        ("The best option is 4", 4),
        ("<think>1 or 2? 1.</think>\n2", 2),
        ("<think>1 or 2", None),
        ("either 1 or 2", None),
        ("0", None),
        ("17", None),
        ("v2 file3.py", None),
        ("", None),
        (None, None),
        ("9" * 5000, None),
    ],
)
def test_parse_number(reply, number):
    assert parse_number(reply, 5) == number


def step(token, chance, **others):
    top = [SimpleNamespace(token=t.strip("_"), logprob=math.log(p)) for t, p in others.items()]
    top.append(SimpleNamespace(token=token, logprob=math.log(chance)))
    return SimpleNamespace(token=token, logprob=math.log(chance), top_logprobs=top)


def reply(*steps):
    return SimpleNamespace(logprobs=SimpleNamespace(content=list(steps)))


def test_logprobs_of_whole_numbers():
    chances = from_logprobs(reply(step("2", 0.6, _1=0.3, The=0.1)), 3)
    assert chances == pytest.approx([0.3, 0.6, 0.0])
    chances = from_logprobs(reply(step(" ", 1.0), step("12", 0.7, _1=0.2)), 20)
    assert chances[11] == pytest.approx(0.7) and chances[0] == pytest.approx(0.2) and sum(chances) < 0.91


def test_logprobs_of_numbers_split_into_digits():
    chances = from_logprobs(reply(step("1", 0.8, _3=0.2), step("2", 0.5, _4=0.3, end=0.2)), 14)
    assert chances[11] == pytest.approx(0.4) and chances[13] == pytest.approx(0.24)
    assert chances[0] == pytest.approx(0.16) and chances[2] == pytest.approx(0.2)
    assert sum(chances) == pytest.approx(1)


def test_logprobs_that_say_nothing():
    assert from_logprobs(SimpleNamespace(logprobs=None), 3) is None
    assert from_logprobs(reply(), 3) is None
    assert from_logprobs(reply(step("The", 0.9, _1=0.1)), 3) is None
    assert from_logprobs(reply(step("7", 0.9, _1=0.1)), 3) is None


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["Look ", "here."], "Look here."),
        (["<th", "ink>hm", "</thi", "nk>\n", "Look."], "Look."),
        (["<", "b>"], "<b>"),
        (["<think>", "no end"], ""),
        (["<th"], "<th"),
        ([], ""),
    ],
)
def test_thoughts_are_left_out(pieces, text):
    assert "".join(without_thoughts(iter(pieces))) == text
