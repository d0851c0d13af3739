"""How sure an answer is: the signs of an episode by hand, the fit, and what is written and read."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path

import pytest

from repoagent.answer import rescaled
from repoagent.confidence import SIGNS, Confidence, calibration_error, logistic, signs
from repoagent.encoder import EncoderPolicy
from repoagent.environment import Observation, Option, StepResult
from repoagent.episode import Step, Trajectory
from repoagent.errors import ModelError
from repoagent.manifest import read_manifest, write_manifest
from repoagent.models import CHECKPOINTS
from repoagent.players import NoReflector
from training import confidence_fit
from training.confidence_fit import Outcome
from training.tasks import TeacherTask


def step(chosen: int, *options: tuple[str, str, float]) -> Step:
    shown = tuple(Option(f"{kind} {target}", kind, target) for kind, target, _ in options)
    seen = Observation("q", "", (), "", shown)
    result = StepResult(seen, 0.0, False, False, {})
    return Step(seen, "", tuple(math.log(p) for *_, p in options), chosen, result)


WALK = Trajectory(
    [
        step(2, ("go", "src", 0.5), ("open", "b.py", 0.1), ("open", "a.py", 0.3), ("identify", "a.py", 0.1)),
        step(0, ("identify", "a.py", 0.8), ("open", "b.py", 0.2)),
        step(0, ("lines", "1-9", 0.25), ("lines", "10-19", 0.75)),
    ]
)


def test_signs_by_hand() -> None:
    found = dict(zip(SIGNS, signs(WALK) or (), strict=True))
    # Of the files offered first, a.py has 0.4 and b.py 0.1.
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2)) / math.log(2)
    expected = {
        "share": math.log(0.8 / 0.2), "margin": math.log(4), "entropy": entropy,
        "named": math.log(0.8 / 0.2), "lines": math.log(0.25), "steps": 3 / 8,
    }  # fmt: skip
    assert found == pytest.approx(expected)


def test_an_episode_that_names_no_file_has_no_confidence() -> None:
    assert signs(Trajectory(WALK.steps[:1])) is None and signs(Trajectory()) is None
    assert Confidence(0.0, (0.0,) * len(SIGNS), 0.2)(Trajectory()) is None


def test_extreme_probabilities_stay_finite() -> None:
    certain = Trajectory([step(0, ("identify", "a.py", 1.0))])
    assert all(math.isfinite(x) for x in signs(certain) or (math.nan,))
    assert logistic(-1000) == 0 and logistic(1000) == 1 and logistic(0) == 0.5


def test_the_other_answers_share_what_the_first_leaves() -> None:
    ranking = [("a", 0.9), ("b", 0.06), ("c", 0.02)]
    assert rescaled(ranking, None) == ranking and rescaled([], 0.5) == []
    found = dict(rescaled(ranking, 0.5))
    assert found == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.1})
    low = dict(rescaled(ranking, 0.2))
    assert low["b"] == 0.2 and sum(low.values()) <= 1  # never above the first
    assert dict(rescaled([("a", 1.0), ("b", 0.0)], 0.4)) == {"a": 0.4, "b": 0.0}


def test_the_fit_recovers_the_probabilities_and_is_calibrated_elsewhere() -> None:
    rng = random.Random(0)
    true = Confidence(-0.5, (1.0, 0.0, -1.0, 0.5, 0.0, 0.0), 0.2)
    outcomes = []
    for number in range(4000):
        values = tuple(rng.gauss(0, 1) for _ in SIGNS)
        outcomes.append(Outcome(f"o/{number % 10}", values, rng.random() < true.of(values)))
    found = confidence_fit.fit(outcomes, penalty=0.0)
    assert found.bias == pytest.approx(true.bias, abs=0.15)
    assert found.weights == pytest.approx(true.weights, abs=0.15)
    held = confidence_fit.held_out(outcomes)
    assert len(held) == len(outcomes) and calibration_error(held) < 0.05


def test_calibration_error_by_hand() -> None:
    assert calibration_error([]) == 0
    assert calibration_error([(0.95, True), (0.95, False), (0.15, False)]) == pytest.approx(
        (2 * 0.45 + 0.15) / 3
    )


def test_it_is_fitted_on_whole_episodes_and_kept_with_the_checkpoint(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        folder = tmp_path / "trees" / f"o__{name}"
        folder.mkdir(parents=True)
        (folder / "net.py").write_text("def connect(timeout=10):\n    return timeout\n")
        (folder / "log.py").write_text("def log(line):\n    print(line)\n")
    questions = [
        TeacherTask(f"{n}-{i}", f"o/{n}", "0", "MIT", "connect timeout", "where", (gold,), (1, 2))
        for n in ("one", "two", "three")
        for i, gold in enumerate(("net.py", "log.py"))
    ]
    checkpoint = tmp_path / "policy"
    shutil.copytree(CHECKPOINTS / "policy", checkpoint)
    policy = EncoderPolicy.from_folder(checkpoint)
    figures = confidence_fit.run(
        policy, NoReflector(), checkpoint, questions, tmp_path / "trees", lambda message: None
    )
    # It names net.py each time, which is right for one of the two questions about each repository.
    assert figures["episodes"] == 6 and figures["right"] == 0.5
    loaded = EncoderPolicy.from_folder(checkpoint)
    assert loaded.confidence is not None and loaded.confidence.threshold == confidence_fit.THRESHOLD
    assert json.loads(json.dumps(loaded.confidence.entry())) == loaded.confidence.entry()


def test_a_broken_entry_is_a_broken_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "policy"
    shutil.copytree(CHECKPOINTS / "policy", checkpoint)
    manifest = {k: v for k, v in read_manifest(checkpoint).items() if k != "sha256"}
    write_manifest(checkpoint, **{**manifest, "confidence": {"bias": 0.0, "weights": {}, "threshold": 0.1}})
    with pytest.raises(ModelError, match="cannot be loaded"):
        EncoderPolicy.from_folder(checkpoint)
