"""`repoagent bench speed --training`: rollouts, updates and SFT beside the paper's reference implementation.

Both use the same model on one thread: a random GPT-2 (4 layers, width 256, 4 heads, 1,024 positions, a
vocabulary of up to 8,192, float32) with LoRA of rank 64, reflections of 100 new tokens. Times are seconds of
CPU. As machines differ, ratios are also given after scaling by the time of one forward pass of 512 tokens.
"""

from __future__ import annotations

import json
import random
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.table import check_output, markdown, provenance, write
from benchmarks.taxi.task import DROP_OFF, IN_TAXI, PLACES, encode, legal
from benchmarks.taxi.task import OPTIONS as TAXI_OPTIONS
from repoagent.environment import Observation
from repoagent.errors import InputError
from repoagent.players import NoReflector
from repoagent.transformer import TransformerPolicy, TransformerReflector
from training.benchmark import Benchmark, load_benchmark
from training.known import Asked
from training.rlft import Trainer
from training.rlft_settings import RLFTSettings
from training.scratch import make_causal_lm
from training.sft import SFTSettings, train_policy, train_reflector
from training.states import State, optimal

REFERENCE: dict[str, Any] = {
    "source": "the paper's public code, commit 93bd8c9, measured on one thread of another machine",
    "forward_ms": [98.0, 152.0],
    "figures": {
        "rollout autoexplore, batch 1": 7.5,
        "rollout autoexplore, batch 8": 3.9,
        "rollout autoexplore, reflection, batch 1": 0.60,
        "rollout autoexplore, reflection, batch 8": 0.94,
        "rollout taxi, batch 1": 19.8,
        "rollout taxi, batch 8": 28.7,
        "rollout taxi, reflection, batch 1": 0.72,
        "rollout taxi, reflection, batch 8": 2.00,
        "update autoexplore, batch 1": 1000 / 455,
        "update autoexplore, batch 8": 1000 / 1064,
        "update taxi, batch 1": 1000 / 95,
        "update taxi, batch 8": 1000 / 85,
        "sft policy, batch 1": 1033.0,
        "sft policy, batch 8": 423.0,
        "sft reflector, batch 1": 1128.0,
        "sft reflector, batch 8": 427.0,
    },
}
"""Steps, decisions and tokens per second of CPU; ``forward_ms``: the range of the forward pass there."""

GOALS = {"rollout": 10.0, "update": 3.0}
HORIZON = 15
BATCHES = (1, 8)
DECISIONS = {"autoexplore": 4, "taxi": HORIZON}
"""Decisions per episode in an update of 8 episodes: 32 and 120, as in the reference's measurement."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured. ``batch`` is the number of episodes side by side in our own way of training,
    ``rounds`` how many updates' rollouts of Taxi are played and measured together (in AutoExplore one:
    no state comes twice), ``texts`` the number of files of Python's library that the tokenizer is learnt
    from. ``horizon`` ends rollouts where every state is new, whose speed does not depend on it;
    ``decisions`` bounds those of an episode in an update."""

    width: int = 256
    layers: int = 4
    window: int = 1024
    vocabulary: int = 8192
    lora_rank: int = 64
    new_tokens: int = 100
    batch: int = 64
    rounds: int = 20
    horizon: int = 5
    decisions: int = HORIZON
    sft_states: int = 16
    texts: int = 100
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Figure:
    """``count`` of ``unit`` (steps, decisions, tokens) in ``seconds`` of CPU.

    ``against`` names the reference's figure; ``how`` says what we did otherwise; ``tokens`` is what the
    players read and wrote for it (0: not counted).
    """

    what: str
    how: str
    unit: str
    count: int
    seconds: float
    against: str
    tokens: int = 0

    @property
    def rate(self) -> float:
        return self.count / self.seconds


class ValidPolicy:
    """Pays for the policy's forward passes and then leaves the choice to chance among valid options.

    Taxi: legal actions but the drop-off; AutoExplore: all but ``identify``. So episodes last up to
    the horizon, whatever the random weights prefer.
    """

    def __init__(self, policy: TransformerPolicy) -> None:
        self.policy, self.name = policy, policy.name

    def evaluate(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        _, states = self.policy.evaluate(observations, reflections)
        return [_uniform(o) for o in observations], states


class Apart(str):
    """A text that equals itself alone, so that no memory of equal states finds it again."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


class Anew:
    """A reflector that is asked at every step, with answers that keep all decisions apart."""

    def __init__(self, reflector: Any) -> None:
        self.reflector, self.name = reflector, reflector.name

    def reflect(self, observations: Sequence[Observation]) -> list[str]:
        return [Apart(text) for text in self.reflector.reflect(observations)]


def _uniform(observation: Observation) -> Tensor:
    taxi = observation.options == TAXI_OPTIONS
    allowed = _legal(observation) if taxi else [o.kind != "identify" for o in observation.options]
    if not any(allowed):
        allowed = [True] * len(allowed)
    return torch.where(torch.tensor(allowed), 0.0, float("-inf")).log_softmax(0)


def _legal(observation: Observation) -> list[bool]:
    row, column = (int(part.split()[-1]) for part in observation.location.split(","))
    waiting = observation.last_result.partition("The passenger is at ")[2][:1]
    state = encode(row, column, list(PLACES).index(waiting) if waiting else IN_TAXI, 0)
    return [legal(state, i) and i != DROP_OFF for i in range(len(TAXI_OPTIONS))]


class Bench:
    """The model, made once in ``folder``, and one method per table."""

    def __init__(self, setup: Setup, folder: Path, note: Callable[[str], None]) -> None:
        self.setup, self.folder, self.note = setup, folder, note
        self.figures: list[Figure] = []
        self.number = 0
        library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[: setup.texts]
        self.base = make_causal_lm(
            folder / "base",
            "gpt2",
            width=setup.width,
            layers=setup.layers,
            window=setup.window,
            vocabulary=setup.vocabulary,
            texts=(p.read_text(encoding="utf-8", errors="replace") for p in library),
            seed=setup.seed,
        )

    def benchmark(self, name: str, horizon: int = HORIZON) -> Benchmark:
        return load_benchmark(name, {"horizon": horizon})

    def policy(self) -> TransformerPolicy:
        return TransformerPolicy.new(
            self.base, "cpu", head="choice-token", lora_rank=self.setup.lora_rank, trainable=True
        )

    def reflector(self, frozen: bool = False) -> TransformerReflector:
        """With a new adapter to be trained, or ``frozen``: as RLFT loads it from a checkpoint."""
        reflector = TransformerReflector.new(self.base, "cpu", lora_rank=self.setup.lora_rank)
        if frozen:
            reflector.save(self.folder / "reflector")
            return TransformerReflector.from_folder(
                self.folder / "reflector", "cpu", max_new_tokens=self.setup.new_tokens
            )
        return TransformerReflector(reflector.lm, max_new_tokens=self.setup.new_tokens)

    def trainer(self, name: str, horizon: int, batch: int, reflect: bool, each: bool) -> Trainer:
        """``each``: every state is asked about anew, as often as it is met."""
        self.number += 1
        settings = RLFTSettings(
            batch=batch, group=1, baseline="batch", curriculum=False, seed=self.setup.seed
        )
        reflector = self.reflector(frozen=True) if reflect else NoReflector()
        out = self.folder / f"run-{self.number}"
        trainer = Trainer(settings, self.benchmark(name, horizon), self.policy(), reflector, out)
        if each:
            trainer.reflector = Anew(reflector)
        return trainer

    def forward(self) -> float:
        """Milliseconds of CPU of one forward pass over 512 tokens, all logits; median of nine."""
        length = min(512, self.setup.window)
        model = self.policy().lm.model
        ids = torch.arange(length)[None] % 250 + 10
        times = []
        for _ in range(11):
            with torch.no_grad(), _Clock() as clock:
                model(input_ids=ids)
            times.append(clock.seconds)
        return 1000 * median(times[2:])

    # -- rollouts --------------------------------------------------------------------------------

    def rollouts(self, name: str, reflect: bool) -> None:
        what = f"rollout {name}{', reflection' if reflect else ''}"
        for batch in BATCHES:
            trainer = self.trainer(name, self.setup.horizon, batch, reflect, each=True)
            found = self.play(trainer)
            self.add(what, f"batch {batch}, every state anew", "steps", *found, against=f"batch {batch}")
        again = name == "taxi"  # where states come again, whole episodes of several updates
        horizon, rounds = (self.setup.decisions, self.setup.rounds) if again else (self.setup.horizon, 1)
        trainer = self.trainer(name, horizon, self.setup.batch, reflect, each=False)
        steps, seconds, tokens = 0, 0.0, 0
        for number in range(rounds):
            found = self.play(trainer)
            trainer.update += 1
            steps, seconds, tokens = steps + found[0], seconds + found[1], tokens + found[2]
            if number in (0, rounds - 1):
                span = "update 1" if number == 0 else f"updates 1 to {rounds}"
                how = f"batch {self.setup.batch}, each different state once, {span}"
                self.add(what, how, "steps", steps, seconds, tokens, against="best")

    def play(self, trainer: Trainer) -> tuple[int, float, int]:
        """(environment steps, seconds of CPU, tokens) of the episodes of one update."""
        asked = Asked(ValidPolicy(trainer.policy), None, trainer.settings.decisions_per_pass)
        before = sum(trainer._tokens().values())
        with _Clock() as clock:
            _, totals = trainer._play(asked)
        return int(totals["steps"]), clock.seconds, sum(trainer._tokens().values()) - before

    # -- updates ---------------------------------------------------------------------------------

    def updates(self, name: str) -> None:
        for size, each in [*((b, True) for b in BATCHES), (RLFTSettings().decisions_per_pass, False)]:
            episodes = 8 if each else self.setup.batch
            horizon = min(DECISIONS[name], self.setup.decisions)
            trainer = self.trainer(name, horizon, episodes, reflect=False, each=each)
            trainer.settings = replace(trainer.settings, decisions_per_pass=size)
            asked = Asked(ValidPolicy(trainer.policy), None, size)
            batches, totals = trainer._play(asked)
            before = trainer.policy.tokens
            with _Clock() as clock:
                trainer._learn(asked, batches)
            tokens = trainer.policy.tokens - before
            how = f"{episodes} episodes, batch {size}" + ("" if each else ", equal states merged")
            against = f"batch {size}" if each else "best"
            count = int(totals["steps"])
            self.add(f"update {name}", how, "decisions", count, clock.seconds, tokens, against=against)

    # -- supervised training -----------------------------------------------------------------------

    def sft(self) -> None:
        benchmark = self.benchmark("autoexplore")
        rng = random.Random(self.setup.seed)
        states: list[State] = []
        for task in benchmark.tasks("train"):
            walk = optimal(benchmark.environment(benchmark.stages[-1]), task, rng)
            states += [replace(s, reflection=benchmark.reflection(s)) for s in walk]
        states = rng.sample(states, self.setup.sft_states)
        policy, reflector = self.policy(), self.reflector()
        tokens = {
            "policy": sum(
                len(state) + sum(map(len, options))
                for s in states
                for state, options, _ in policy._pages(s.observation, s.reflection)
            ),
            "reflector": sum(
                len(reflector._prompt(s.observation)) + reflector.lm.count(f" {s.reflection}") + 1
                for s in states
            ),
        }
        for role, train in (("policy", train_policy), ("reflector", train_reflector)):
            for batch in BATCHES:
                turn = len(states) // batch
                settings = SFTSettings(
                    2 * turn, batch, lora_rank=self.setup.lora_rank, save_every=10**6, device="cpu"
                )
                at: dict[int, float] = {}

                def report(step: int, total: int, loss: float, at: dict[int, float] = at) -> None:
                    at[step] = time.process_time()

                train(states, self.base, settings, self.folder / f"{role}-{batch}", report=report)
                # The second turn holds every state once more; the first has warmed up.
                seconds = at[2 * turn] - at[turn]
                how = f"batch {batch}, no gradient checkpointing"
                self.add(f"sft {role}", how, "tokens", tokens[role], seconds, against=f"batch {batch}")

    def add(
        self, what: str, how: str, unit: str, count: int, seconds: float, tokens: int = 0, *, against: str
    ) -> None:
        figure = Figure(what, how, unit, count, seconds, f"{what}, {against}", tokens)
        self.figures.append(figure)
        self.note(f"{what}, {how}: {figure.rate:.2f} {unit} per second of CPU")


class _Clock:
    """Seconds of CPU of this process within a ``with`` block."""

    def __enter__(self) -> _Clock:
        self._started = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._started


def run(setup: Setup, note: Callable[[str], None] = lambda message: None) -> tuple[list[Figure], list[float]]:
    """All figures, and the times of the forward pass (ms) before and after them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(setup, Path(folder), note)
            forward = [bench.forward()]
            for name in ("autoexplore", "taxi"):
                for reflect in (False, True):
                    bench.rollouts(name, reflect)
                bench.updates(name)
            bench.sft()
            forward.append(bench.forward())
    finally:
        torch.set_num_threads(threads)
    return bench.figures, forward


def bench(setup: Setup, figures: Path | None, output: Sequence[Path]) -> None:
    """The command: measure, print the comparison and write it to ``output``."""
    for file in output:
        check_output(file)
    theirs = reference(figures)
    found, forward = run(setup, lambda message: print(message, file=sys.stderr, flush=True))
    print(body := report(found, forward, theirs), end="")
    for file in output:
        made = provenance(asdict(setup), setup.seed)
        write(file, "Speed of training", made, body, as_data(found, forward, theirs, setup))


# -- the comparison --------------------------------------------------------------------------------


def reference(file: Path | None) -> dict[str, Any]:
    """The figures of ``REFERENCE`` or of a file of the same form, measured elsewhere."""
    if file is None:
        return REFERENCE
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        found = {
            "source": str(data["source"]),
            "forward_ms": [float(ms) for ms in data["forward_ms"]],
            "figures": {str(k): float(v) for k, v in data["figures"].items()},
        }
        if not found["forward_ms"] or min(found["forward_ms"]) <= 0 or min(found["figures"].values()) <= 0:
            raise ValueError("times and rates must be above zero")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; name a .json file.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} holds no figures of a reference ({error}); give source, forward_ms and figures."
        ) from error
    return found


def compare(
    figures: Sequence[Figure], forward: Sequence[float], theirs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Every figure with the reference's rate, the ratio as measured and its calibrated range.

    A machine twice as fast as the reference's takes half as long for the forward pass; its ratio is
    halved. ``verdict`` holds the whole range against ``GOALS``.
    """
    ours = median(forward)
    slow, fast = ours / max(theirs["forward_ms"]), ours / min(theirs["forward_ms"])
    rows = []
    for figure in figures:
        row: dict[str, Any] = {**asdict(figure), "rate": figure.rate}
        of = [v for k, v in theirs["figures"].items() if _against(k, figure)]
        if of:
            ratio = figure.rate / max(of)
            row |= {"reference": max(of), "ratio": ratio, "calibrated": [ratio * slow, ratio * fast]}
            goal = GOALS.get(figure.what.partition(" ")[0])
            if goal:
                low, high = row["calibrated"]
                row["goal"] = goal
                row["verdict"] = "met" if low >= goal else "missed" if high < goal else "between"
        rows.append(row)
    return rows


def _against(key: str, figure: Figure) -> bool:
    """Whether the reference's figure ``key`` is what ``figure`` is held to: "best" is the better batch."""
    if figure.against.endswith(", best"):
        return key.rpartition(", batch ")[0] == figure.what
    return key == figure.against


def report(figures: Sequence[Figure], forward: Sequence[float], theirs: Mapping[str, Any]) -> str:
    """The comparison in Markdown."""
    header = [
        "what",
        "ours",
        "count",
        "tokens each",
        "ours per CPU s",
        "reference",
        "ratio",
        "calibrated",
        "goal",
        "verdict",
    ]
    rows = []
    for row in compare(figures, forward, theirs):
        each = f"{row['tokens'] / row['count']:.0f}" if row["tokens"] else ""
        cells = [row["what"], row["how"], f"{row['count']:,} {row['unit']}", each, f"{row['rate']:,.2f}"]
        if "ratio" in row:
            low, high = row["calibrated"]
            cells += [f"{row['reference']:,.2f}", f"{row['ratio']:.1f}", f"{low:.1f} to {high:.1f}"]
        else:
            cells += [""] * 3
        rows.append([*cells, f"{row['goal']:.0f}" if "goal" in row else "", row.get("verdict", "")])
    span = " to ".join(f"{ms:.0f}" for ms in sorted({round(ms) for ms in theirs["forward_ms"]}))
    return f"""{markdown(header, rows)}

A forward pass over 512 tokens takes {forward[0]:.0f} ms of CPU here before and {forward[-1]:.0f} ms after the
measurement, {512_000 / median(forward):,.0f} tokens per second; the reference's took {span} ms. Calibrated
ratios are scaled by both ends of that range. *Tokens each* bounds what can be reached: a step for which the
players must read a hundred tokens takes their time, and only a state that is known already costs nothing.
Reference: {theirs["source"]}.

{NOTES}"""


def as_data(
    figures: Sequence[Figure], forward: Sequence[float], theirs: Mapping[str, Any], setup: Setup
) -> dict[str, Any]:
    """The comparison as JSON can hold it."""
    return {
        "setup": asdict(setup),
        "forward_ms": list(forward),
        "reference": dict(theirs),
        "rows": compare(figures, forward, theirs),
    }


NOTES = """\
- One thread; every figure is seconds of CPU of the whole process. Rollouts and updates go through the trainer
  of `repoagent train rlft`, SFT through that of `repoagent train sft-policy` and `sft-reflector`.
- Rollouts pay for every forward pass of the policy and then take a valid option at random, as in the
  reference's measurement: legal actions but the drop-off in Taxi, all but `identify` in AutoExplore.
- Random weights never end a text: every reflection is generated to its full length, as in the reference.
- *Every state anew*: nothing is remembered, the reference's way. *Each different state once*: equal states of
  an update share the policy's answer, and those of a whole run share the frozen reflector's, which is how
  training runs; in AutoExplore options are shuffled and files left out at every reset, so that hardly any
  state comes twice.
- *Best*: our own batch is held to the better one of the reference's two.
- The observations differ: the reference lists what it shows in its own words, and its tokenizer is another.
"""
