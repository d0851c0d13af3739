"""The second reading: the score of a passage, what it changes, and how both are trained."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from repoagent import smollm
from repoagent.environment import Observation, Option, Passage
from repoagent.episode import Finished, play
from repoagent.errors import InputError, ModelError
from repoagent.explore import RepoEnvironment, Task
from repoagent.llama import Cache, SmallLlama
from repoagent.lora import merge_lora
from repoagent.manifest import read_manifest, write_manifest
from repoagent.models import CHECKPOINTS, load_policy
from repoagent.players import NoReflector, Policy
from repoagent.reader import PassageReader, asked, prompt
from repoagent.reading import Blend, Reading, ReadingPolicy
from repoagent.repo import Repo
from training import reading_fit, sft_reader
from training.passages import load_passages, pack_passages
from training.states import observation_from, observation_to
from training.tasks import TeacherTask

LAYERS = 2
PASSAGES = [
    Passage("src/net.py", 3, 5, "def connect(host, timeout=10):\n    return socket(host, timeout)"),
    Passage("docs/log.md", 1, 1, "# Logging"),
    Passage("a/" * 60 + "deep.py", 1, 90, "x = 1\n" * 90),
]
QUESTION = "how long does a connection wait before it gives up?"


@pytest.fixture(scope="module")
def short() -> tuple[SmallLlama, Any]:
    """The first layers of the language model: quick, and as strict a test of the arithmetic."""
    config, weights, tokenizer = smollm.load()
    return SmallLlama({**config, "num_hidden_layers": LAYERS}, weights), tokenizer


# -- the score ---------------------------------------------------------------------------------


def test_the_score_is_the_mean_log_likelihood_plus_a_direction(short) -> None:
    model, tokenizer = short
    direction = torch.linspace(-1, 1, 576)
    reader = PassageReader(model, tokenizer, 3.0, direction)
    found = reader.score(QUESTION, PASSAGES)
    for passage, score in zip(PASSAGES, found, strict=True):
        before, query = prompt(tokenizer, passage), asked(tokenizer, QUESTION)
        total, cache = 0.0, Cache(model.layers)
        with torch.inference_mode():  # one token after the other
            hidden = model.hidden(torch.tensor([before]), torch.ones(1, len(before), dtype=torch.bool), cache)
            for token in query:
                total += float(model.logits(hidden[0, -1]).log_softmax(-1)[token])
                hidden = model.hidden(torch.tensor([[token]]), torch.ones(1, 1, dtype=torch.bool), cache)
        expected = 3.0 * total / len(query) + float(hidden[0, -1] @ direction)
        assert score == pytest.approx(expected, abs=2e-3)


def test_a_prompt_keeps_the_end_of_a_path_and_is_bounded(short) -> None:
    _, tokenizer = short
    shown = tokenizer.decode(prompt(tokenizer, PASSAGES[2]))
    assert shown.count("x = 1") < 90 and "deep.py\n```\nx = 1" in shown
    assert shown.endswith("\n```\nQuestion about this code:")
    assert len(asked(tokenizer, "why " * 500)) == 48


# -- what it changes ---------------------------------------------------------------------------


class Proposal:
    """An encoder of given probabilities, which skims by the length of a text."""

    name = "proposal"

    def __init__(self, *probabilities: float) -> None:
        self.probabilities = probabilities

    def distribution(self, observations, reflections):
        return [[math.log(p) for p in self.probabilities] for _ in observations]

    def skim(self, question, passages):
        return [len(p.text) for p in passages]


class Counted:
    """A reader whose score is the number on the passage; counts what it reads."""

    def __init__(self) -> None:
        self.seen: Counter[Passage] = Counter()

    def score(self, question, passages):
        self.seen.update(passages)
        return [float(p.text) for p in passages]


def option(kind: str, path: str, *texts: str) -> Option:
    passages = [Passage(path, i, i, t) for i, t in enumerate(texts)]
    return Option(f"{kind} {path}", kind, path, read=(lambda: passages) if texts else None)


def reading(proposal: Policy, reader: Counted, **changes: Any) -> ReadingPolicy:
    return ReadingPolicy(proposal, reader, replace(Reading(), **changes))


def see(*options: Option) -> Observation:
    return Observation(QUESTION, "", (), "", options)


def test_the_best_passage_of_a_file_counts_and_what_is_not_read_keeps_its_probability() -> None:
    reader = Counted()
    a, b, c = option("open", "a", "9", "1.0", "3.00"), option("open", "b", "2"), option("open", "c", "7")
    seen = see(a, b, option("go", "d"), c)
    policy = reading(Proposal(0.4, 0.3, 0.2, 0.1), reader, files=2, first=Blend(0.5, 0.8))
    (found,) = policy.distribution([seen], [""])
    # a has 3 (its first passage is skimmed and left), b has 2; c is not among the first two.
    first, second = (math.exp((math.log(p) + 0.5 * s) / 0.8) for p, s in ((0.4, 3), (0.3, 2)))
    expected = (0.7 * first / (first + second), 0.7 * second / (first + second), 0.2, 0.1)
    assert [math.exp(p) for p in found] == pytest.approx(expected)
    assert {(p.path, p.text) for p in reader.seen} == {("a", "1.0"), ("a", "3.00"), ("b", "2")}


def test_a_passage_is_read_once_in_an_episode_and_a_file_once_under_two_names() -> None:
    reader = Counted()
    policy = reading(Proposal(0.5, 0.5), reader)
    policy.distribution([see(option("open", "a", "1"), option("open", "b", "2"))] * 2, ["", ""])
    policy.distribution([see(option("identify", "a", "1"), option("open", "b", "2"))], [""])
    assert set(reader.seen.values()) == {1}
    alone = see(option("identify", "a", "1"), option("open", "a", "1"))
    assert policy.read(alone, [-1.0, -2.0]) is None


def test_the_cache_is_bounded() -> None:
    reader = Counted()
    policy = ReadingPolicy(Proposal(0.5, 0.5), reader, Reading(), cache=2)
    for name in "abc":
        policy.distribution([see(option("open", name, "1"), option("open", name + "x", "2"))], [""])
    assert len(policy._scores) == 2


@pytest.mark.parametrize(
    ("kinds", "weight"),
    [
        (("open", "open"), 1.0),
        (("go", "open", "open"), 1.0),
        (("identify", "open"), 2.0),
        (("lines", "lines"), 3.0),
    ],
)
def test_every_stage_has_a_weight_of_its_own(kinds: tuple[str, ...], weight: float) -> None:
    seen = see(*(option(kind, f"{i}-9", *([] if kind == "go" else [str(i)])) for i, kind in enumerate(kinds)))
    policy = reading(
        Proposal(*[1 / len(kinds)] * len(kinds)),
        Counted(),
        first=Blend(1.0),
        later=Blend(2.0),
        lines=Blend(3.0),
    )
    (found,) = policy.distribution([seen], [""])
    assert found[-1] - found[-2] == pytest.approx(weight)


@pytest.mark.parametrize("options", [(option("go", "d"), option("go", "e")), (option("open", "a", "1"),)])
def test_where_there_is_nothing_to_compare_the_proposal_stands(options: tuple[Option, ...]) -> None:
    reader = Counted()
    proposal = Proposal(*([1 / len(options)] * len(options)))
    (found,) = reading(proposal, reader).distribution([see(*options)], [""])
    assert found == proposal.distribution([0], [""])[0]


def test_what_is_far_below_the_best_is_not_read() -> None:
    reader = Counted()
    seen = see(option("open", "a", "1"), option("open", "b", "2"), option("open", "c", "9"))
    (found,) = reading(Proposal(0.6, 0.39, 0.01), reader, within=1.0).distribution([seen], [""])
    assert {p.path for p in reader.seen} == {"a", "b"}
    assert math.exp(found[2]) == pytest.approx(0.01) and found[1] > found[0] - 1


def test_an_option_without_passages_is_not_read() -> None:
    empty = Option("open e", "open", "e", read=lambda: [])
    seen = see(empty, option("open", "a", "1"), option("open", "b", "3"))
    (found,) = reading(Proposal(0.4, 0.3, 0.3), Counted()).distribution([seen], [""])
    assert found[2] - found[1] == pytest.approx(2.0) and math.exp(found[0]) == pytest.approx(0.4)


def test_an_observation_is_kept_without_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def connect(host, timeout=10):\n    return socket(host, timeout)\n")
    seen = RepoEnvironment(Repo.open(tmp_path)).reset(Task(QUESTION))
    assert any(o.read and "connect" in o.read()[0].text for o in seen.options)
    assert observation_from(json.loads(json.dumps(observation_to(seen)))) == seen


# -- the bundled one ---------------------------------------------------------------------------


def test_the_bundled_policy_reads_before_it_opens(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def connect(host, timeout=10):\n    return socket(host, timeout)\n")
    (tmp_path / "log.py").write_text("def connect_log(line):\n    print(line)\n")
    policy = load_policy()
    assert isinstance(policy, ReadingPolicy) and policy.confidence is not None
    environment = RepoEnvironment(Repo.open(tmp_path))
    *_, last = play(environment, Task("where is the timeout of a connection set?"), policy)
    assert isinstance(last, Finished) and environment.identified == "net.py"
    for step in last.trajectory.steps:
        assert sum(map(math.exp, step.log_probabilities)) == pytest.approx(1, abs=1e-4)


def test_without_the_language_model_the_encoder_answers_alone(monkeypatch) -> None:
    monkeypatch.setattr(smollm, "find", lambda: None)
    assert load_policy().name == load_policy("encoder").name == "minilm-late-interaction"


def test_a_reading_that_cannot_be_is_a_broken_checkpoint(tmp_path: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json", "head.safetensors"):
        (tmp_path / name).write_bytes((CHECKPOINTS / "reader" / name).read_bytes())
    manifest = {k: v for k, v in read_manifest(CHECKPOINTS / "reader").items() if k != "sha256"}
    encoder = load_policy("encoder")
    for change in ({"reading": {"files": 8}}, {"reading": None}, {"format": "passage-reader/0"}):
        write_manifest(tmp_path, **{**manifest, **change})
        with pytest.raises(ModelError, match=r"cannot be loaded|this version reads"):
            ReadingPolicy.from_folder(encoder, tmp_path)


# -- training ----------------------------------------------------------------------------------

REST = "".join(f"\n\ndef other_{i}(host):\n    return host + {i}\n" for i in range(9))
FILES = {
    "src/net.py": '"""Sockets."""\n\n\ndef connect(host, timeout=10):\n    return socket(host, timeout)\n'
    + REST,
    "src/log.py": "def connect_log(line):\n    print(line)\n\n\ndef timeout_log(line):\n    print(line)\n",
    "README.md": "# Thing\n\nConnects with a timeout.\n",
}
TASK = TeacherTask("t-1", "o/thing", "0", "MIT", QUESTION + " timeout", "where", ("src/net.py",), (4, 5))


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trees")
    for path, text in FILES.items():
        target = folder / "o__thing" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    out = folder / "passages.jsonl.gz"
    unseen = replace(TASK, id="t-2", gold=("not/there.py",))
    without = replace(TASK, id="t-3", span=None)
    assert pack_passages([TASK, unseen, without], folder, out) == 1
    return out


def test_passages_are_packed_with_the_answer_first(pack: Path) -> None:
    (row,) = load_passages(pack)
    assert row["right"][0].path == "src/net.py" and "def connect" in row["right"][0].text
    assert {p.path for p in row["wrong"]} == {"src/log.py", "README.md"}
    assert all(p.path == "src/net.py" and p not in row["right"] for p in row["same"])
    with gzip.open(pack, "rt") as file:
        assert json.loads(file.readline())["id"] == "t-1"


def test_wrong_passages_of_high_rank_are_drawn_more_often() -> None:
    ranked = [Passage(str(i), 1, 1, "") for i in range(10)]
    rng = random.Random(0)
    drawn = Counter(p.path for _ in range(2000) for p in sft_reader.draw(ranked, 1, rng))
    assert drawn["0"] / drawn["9"] == pytest.approx(12 / 3, rel=0.35)
    assert len({p.path for p in sft_reader.draw(ranked, 4, rng)}) == 4
    assert len(sft_reader.draw(ranked[:2], 4, rng)) == 2


def test_the_reader_learns_resumes_and_is_read_as_it_was_trained(pack: Path, tmp_path: Path, short) -> None:
    settings = sft_reader.Settings(
        pack=str(pack), epochs=6, batch=2, first_layer=1, bf16=False, learning_rate=2e-3, save_every=1
    )
    (row,) = load_passages(pack)
    before, _ = sft_reader.task_loss(sft_reader.Trainee(settings, LAYERS), row, random.Random(0))
    sft_reader.train(replace(settings, epochs=2), tmp_path / "run", layers=LAYERS)
    assert json.loads((tmp_path / "run" / "state" / "state.json").read_text())["step"] == 1
    trainee = sft_reader.train(settings, tmp_path / "run", layers=LAYERS)
    assert json.loads((tmp_path / "run" / "state" / "state.json").read_text())["step"] == 3
    after, right = sft_reader.task_loss(trainee, row, random.Random(0))
    assert right and float(after.detach()) < float(before.detach())

    folder = tmp_path / "run" / "last"
    passages = [*row["right"], *row["wrong"]]
    with torch.inference_mode():
        expected = trainee.scores(row["question"], passages)
        continued = sft_reader.Trainee(replace(settings, start=str(folder)), LAYERS)
        assert continued.scores(row["question"], passages).tolist() == pytest.approx(
            expected.tolist(), abs=0.02
        )
    with pytest.raises(InputError, match="cannot start from"):
        sft_reader.Trainee(replace(settings, start=str(folder), first_layer=0), LAYERS)
    with pytest.raises(InputError, match="cannot start from"):
        sft_reader.Trainee(replace(settings, start=str(tmp_path)), LAYERS)
    config, weights, tokenizer = smollm.load()
    merge_lora(weights, load_file(folder / "adapter_model.safetensors"), 2.0)
    head = load_file(folder / "head.safetensors")
    model = SmallLlama({**config, "num_hidden_layers": LAYERS}, weights)
    reader = PassageReader(model, tokenizer, float(head["scale"]), head["direction"])
    assert reader.score(row["question"], passages) == pytest.approx(expected.tolist(), abs=0.02)
    assert PassageReader.from_folder(folder).score(row["question"], passages[:1])


def test_the_fit_of_the_reading_recovers_its_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    decisions = []
    for number in range(1500):
        proposed = torch.randn(6, generator=generator).log_softmax(0)
        read = torch.randn(6, generator=generator)
        chances = ((proposed + 0.7 * read) / 0.5).softmax(0)
        best = int(torch.multinomial(chances, 1, generator=generator))
        decisions.append(reading_fit.Decision(f"o/{number % 10}", "first", proposed, read, (best,)))
    found = reading_fit.fit(decisions)
    assert found.weight == pytest.approx(0.7, abs=0.1) and found.temperature == pytest.approx(0.5, abs=0.1)
    report = reading_fit.held_out(decisions)
    assert report["right after"] > report["right before"] and report["nll after"] < report["nll before"]


def test_the_reading_is_fitted_on_episodes_and_kept_with_the_checkpoint(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        for path, text in FILES.items():
            target = tmp_path / "trees" / f"o__{name}" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    tasks = [replace(TASK, id=n, repo=f"o/{n}") for n in ("one", "two", "three")]
    # The same question with another right file: half of the answers are wrong.
    tasks += [replace(t, id=t.id + "x", gold=("README.md",), span=(3, 3)) for t in tasks]
    folder = tmp_path / "reader"
    folder.mkdir()
    for file in (CHECKPOINTS / "reader").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    encoder = load_policy("encoder")
    start = Reading(files=3, within=50.0)
    report = reading_fit.run(
        encoder, NoReflector(), folder, tasks, tmp_path / "trees", lambda line: None, start
    )
    loaded = ReadingPolicy.from_folder(encoder, folder)
    assert loaded.reading.entry() == report["reading"] and loaded.reading.files == 3
    assert loaded.confidence is not None
    assert (
        report["first"]["decisions"] == 6
        and report["later"]["decisions"]
        and report["lines"]["decisions"] == 3
    )
