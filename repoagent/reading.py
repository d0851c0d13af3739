"""ReadingPolicy: the encoder proposes, the language model reads, and both decide.

The encoder scores every option by a few lines of evidence. Of the files that come out first, set A, it then
skims the passages, the language model (:mod:`repoagent.reader`) reads the best of them, and the probability
that the encoder gave to the whole of A is shared out anew:

    pi'(a) = pi(A) softmax_A((log pi(a) + w s(q, a)) / T),   s(q, a) = max over the passages c of a of s(q, c)

Options outside A keep their probability. Blocks of lines are read likewise. Where fewer than two options are
read there is nothing to compare, and pi stands.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from repoagent.confidence import Confidence
from repoagent.encoder import EncoderPolicy
from repoagent.environment import Observation, Option, Passage
from repoagent.errors import ModelError
from repoagent.manifest import read_manifest
from repoagent.reader import PassageReader

Stage = Literal["first", "later", "lines"]
"""Kinds of decisions: among files before any was opened, after one was, and among lines of one."""


@dataclass(frozen=True, slots=True)
class Blend:
    """What the score of a reading counts beside the encoder's: w and T of the equation above."""

    weight: float = 1.0
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """How much is read and what it counts at each stage.

    At most ``files`` are read at a decision, ``passages`` of each, or ``blocks`` where lines are chosen; none
    whose log-probability lies more than ``within`` below the best.
    """

    files: int = 10
    passages: int = 2
    blocks: int = 6
    within: float = 3.0
    first: Blend = Blend()
    later: Blend = Blend()
    lines: Blend = Blend()

    def entry(self) -> dict[str, Any]:
        """What :meth:`parse` reads."""
        return asdict(self)

    @staticmethod
    def parse(entry: Any) -> Reading:
        """From a manifest's entry; ``KeyError``, ``TypeError`` or ``ValueError`` if it is no such thing."""

        def blend(stage: Stage) -> Blend:
            return Blend(float(entry[stage]["weight"]), float(entry[stage]["temperature"]))

        found = Reading(
            files=int(entry["files"]),
            passages=int(entry["passages"]),
            blocks=int(entry["blocks"]),
            within=float(entry["within"]),
            first=blend("first"),
            later=blend("later"),
            lines=blend("lines"),
        )
        blends = (found.first, found.later, found.lines)
        positive = (found.files, found.passages, found.blocks, *(b.temperature for b in blends))
        if min(positive) <= 0 or not all(
            map(math.isfinite, (*positive, found.within, *(b.weight for b in blends)))
        ):
            raise ValueError("its reading holds a number that cannot be")
        return found


class ReadingPolicy:
    """The policy player of two readings; see :class:`repoagent.players.Policy`."""

    def __init__(
        self,
        encoder: EncoderPolicy,
        reader: PassageReader,
        reading: Reading,
        confidence: Confidence | None = None,
        cache: int = 4096,
    ) -> None:
        """``cache``: scores of passages that are kept, for the next steps of an episode."""
        self.encoder, self.reader, self.reading, self.confidence = encoder, reader, reading, confidence
        self.name = f"{encoder.name}+smollm2"
        self._cache = cache
        self._scores: OrderedDict[tuple[str, Passage], float] = OrderedDict()

    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]:
        proposed = self.encoder.distribution(observations, reflections)
        return [self._decide(o, p) for o, p in zip(observations, proposed, strict=True)]

    def _decide(self, observation: Observation, proposed: list[float]) -> list[float]:
        read = self.read(observation, proposed)
        if read is None:
            return proposed
        blend: Blend = getattr(self.reading, stage(observation))
        shared = _log_sum([proposed[i] for i in read])
        scores = {i: (proposed[i] + blend.weight * s) / blend.temperature for i, s in read.items()}
        total = _log_sum(list(scores.values()))
        return [shared + scores[i] - total if i in scores else p for i, p in enumerate(proposed)]

    def read(self, observation: Observation, proposed: Sequence[float]) -> dict[int, float] | None:
        """s(q, a) by index of the options in A, given the encoder's log-probabilities; None if A has not
        two targets."""
        best: dict[str, tuple[float, Option]] = {}  # a file may be offered under two names
        for option, log_probability in zip(observation.options, proposed, strict=True):
            if option.read and log_probability > best.get(option.target, (-math.inf, option))[0]:
                best[option.target] = (log_probability, option)
        count = self.reading.blocks if stage(observation) == "lines" else self.reading.files
        chosen = sorted(best.values(), key=lambda item: -item[0])[:count]
        passages: dict[str, Sequence[Passage]] = {}
        for log_probability, option in chosen:
            if option.read and log_probability >= chosen[0][0] - self.reading.within:
                passages[option.target] = self._skim(observation.task, option.read())
        scores = self._read(observation.task, [p for found in passages.values() for p in found])
        values = {target: max(scores[p] for p in found) for target, found in passages.items() if found}
        if len(values) < 2:
            return None
        return {
            i: values[o.target] for i, o in enumerate(observation.options) if o.read and o.target in values
        }

    def _skim(self, question: str, passages: Sequence[Passage]) -> Sequence[Passage]:
        """The passages that deserve to be read."""
        if len(passages) <= self.reading.passages:
            return passages
        scores = self.encoder.skim(question, passages)
        order = sorted(range(len(passages)), key=lambda i: -scores[i])
        return [passages[i] for i in order[: self.reading.passages]]

    def _read(self, question: str, passages: Sequence[Passage]) -> dict[Passage, float]:
        found = {p: self._scores[question, p] for p in passages if (question, p) in self._scores}
        missing = [p for p in dict.fromkeys(passages) if p not in found]
        for passage, score in zip(missing, self.reader.score(question, missing), strict=True):
            found[passage] = self._scores[question, passage] = score
        while len(self._scores) > self._cache:
            self._scores.popitem(last=False)
        return found

    @staticmethod
    def from_folder(
        encoder: EncoderPolicy, folder: Path, reader: PassageReader | None = None
    ) -> ReadingPolicy:
        """``encoder`` with the reader in ``folder``, which ``reader`` is where it is loaded already;
        ``ModelError`` says what is missing or differs."""
        reader = reader or PassageReader.from_folder(folder)
        try:
            meta = read_manifest(folder)
            entry = meta.get("confidence")
            confidence = Confidence.parse(entry) if entry else None
            return ReadingPolicy(encoder, reader, Reading.parse(meta["reading"]), confidence)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"the reader in {folder} cannot be loaded: what its reading counts is missing or broken "
                f"({error!r}); run: repoagent train bundled reading"
            ) from error


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def stage(observation: Observation) -> Stage:
    """Which kind of decision it is."""
    kinds = {o.kind for o in observation.options}
    return "lines" if "lines" in kinds else "later" if "identify" in kinds else "first"
