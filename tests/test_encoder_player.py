"""The encoder with a trained head: one distribution, gradients of the head alone, and what is saved."""

import copy
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repoagent.errors import InputError
from repoagent.models import load_policy
from training import encoder_player
from training.benchmark import load_benchmark
from training.encoder_player import EncoderPlayer, texts_of
from training.sft_encoder import train_encoder
from training.sft_settings import SFTSettings
from training.states import State, optimal

SAID = "This asks what the code does: look in the source file that implements it."


@pytest.fixture(scope="module")
def player() -> EncoderPlayer:
    torch.set_num_threads(1)
    return EncoderPlayer.new()


@pytest.fixture(scope="module")
def states() -> list[State]:
    """Decisions in a generated tree, some with a file opened before."""
    benchmark = load_benchmark("autoexplore", {"depth": 2})
    environment, rng = benchmark.environment("all"), random.Random(0)
    near = [task for task in benchmark.tasks("train") if benchmark.plays("depth-1", task)][:4]
    found = [s for task in near for s in optimal(environment, task, rng)]
    return [replace(s, reflection=SAID if i % 2 else "") for i, s in enumerate(found)]


def seen(states: list[State]) -> tuple[list, list[str]]:
    return [s.observation for s in states], [s.reflection for s in states]


def test_one_distribution_whatever_is_asked_together(player: EncoderPlayer, states: list[State]) -> None:
    observations, reflections = seen(states)
    rows, hidden = player.evaluate(observations, reflections)
    assert [len(row) for row in rows] == [len(o.options) for o in observations]
    assert hidden.shape[0] == len(rows) and not hidden.requires_grad
    assert all(math.isclose(float(row.detach().exp().sum()), 1, abs_tol=1e-5) for row in rows)
    for row, known in zip(rows, player.distribution(observations, reflections), strict=True):
        assert row.tolist() == pytest.approx(known, abs=1e-6)
    texts_of.cache_clear()
    alone = EncoderPlayer.new()  # has read nothing yet
    for i in (0, len(states) - 1):
        (row,) = alone.distribution(observations[i : i + 1], reflections[i : i + 1])
        assert row == pytest.approx(rows[i].tolist(), abs=2e-3)


def test_scores_are_those_of_the_policy_that_ships(player: EncoderPlayer, states: list[State]) -> None:
    observations, reflections = seen(states)
    ours = player.distribution(observations, reflections)
    theirs = player.policy.distribution(observations, reflections)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=2e-2)  # token vectors are kept in half precision


def test_a_reflection_and_lines_that_were_read_count(player: EncoderPlayer, states: list[State]) -> None:
    state = states[1]  # the file is open
    assert any("\n" in option.evidence for option in state.observation.options)
    without, with_it = (player.distribution([state.observation], [said])[0] for said in ("", SAID))
    assert without != with_it


def test_gradients_reach_the_head_alone(states: list[State]) -> None:
    player = EncoderPlayer.new()
    rows, _ = player.evaluate(*seen(states))
    (-sum(row[0] for row in rows)).backward()
    assert all(p.grad is None for p in player.policy.encoder.parameters())
    assert player.policy.head.weight.weight.grad.abs().sum() > 0
    assert player.policy.head.linear.weight.grad.abs().sum() > 0
    assert len(player.parameters()) == len(list(player.policy.head.parameters()))


def test_a_twin_has_a_head_of_its_own(states: list[State]) -> None:
    player = EncoderPlayer.new()
    before = player.distribution(*seen(states))
    twin = copy.deepcopy(player)
    with torch.no_grad():
        player.policy.head.linear.weight.mul_(2)
    assert twin.distribution(*seen(states)) == before != player.distribution(*seen(states))
    assert twin.policy.encoder is player.policy.encoder and twin.texts is EncoderPlayer.new().texts


def test_little_memory_changes_no_answer(
    player: EncoderPlayer, states: list[State], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = player.distribution(*seen(states))
    monkeypatch.setattr(encoder_player, "TEXT_BYTES", 50_000)
    monkeypatch.setattr(encoder_player, "DECISIONS", 2)
    texts_of.cache_clear()
    small = EncoderPlayer.new()
    for state, row in zip(states, expected, strict=True):
        assert small.distribution([state.observation], [state.reflection])[0] == pytest.approx(row, abs=2e-3)
        assert small.texts.size == sum(v.nbytes for v, _ in small.texts.vectors.values()) <= 50_000
        assert len(small._decisions) <= 2


def test_training_lowers_the_loss_and_what_is_saved_is_what_was_trained(
    states: list[State], tmp_path: Path
) -> None:
    settings = SFTSettings(25, 4, learning_rate=2e-2, label_smoothing=0.05, reflection_noise=0.2)
    model = train_encoder(states, settings, tmp_path / "policy")
    losses = [json.loads(x)["loss"] for x in (tmp_path / "policy/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 25 and sum(losses[-5:]) < 0.8 * sum(losses[:5])

    def right(policy: EncoderPlayer) -> float:
        rows = policy.distribution(*seen(states))
        return sum(math.exp(row[i]) for row, s in zip(rows, states, strict=True) for i in s.best)

    trained = EncoderPlayer.from_folder(model)
    assert right(trained) > right(EncoderPlayer.new())
    trained.save(tmp_path / "again")
    again = EncoderPlayer.from_folder(tmp_path / "again")
    assert again.distribution(*seen(states)) == trained.distribution(*seen(states))
    shipped = load_policy(str(tmp_path / "again"))  # as `repoagent ask --policy` reads it
    assert len(shipped.distribution(*seen(states[:1]))[0]) == len(states[0].observation.options)
    before = (model / "head.safetensors").read_bytes()
    assert train_encoder([], settings, tmp_path / "policy") == model  # done: nothing is trained again
    assert (model / "head.safetensors").read_bytes() == before


def test_nothing_to_train_on(tmp_path: Path, states: list[State]) -> None:
    with pytest.raises(InputError, match="no states"):
        train_encoder([], SFTSettings(1), tmp_path)
    with pytest.raises(InputError, match="no best option"):
        train_encoder([replace(states[0], best=())], SFTSettings(1), tmp_path)
