"""The encoder as a policy that the regimen can train: MiniLM stays as it is, its head learns.

The score of an option is that of :class:`repoagent.encoder.EncoderPolicy`. As the encoder is frozen, a
text's token vectors never change: each is read once and kept, and a decision that was seen before costs
a few small products, which makes both SFT and RLFT quick on a CPU.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from repoagent.encoder import EncoderPolicy
from repoagent.environment import Observation, Option
from repoagent.explore import FEATURES
from repoagent.models import CHECKPOINTS
from training.known import Key

TEXT_BYTES = 1 << 30
"""Token vectors kept, in half precision."""

DECISIONS = 10_000
"""Decisions kept; of 30 options with 20 tokens of question one takes 12 kB."""

BATCH = 32
PAGE = 256
"""Texts encoded, and options compared with a question, at once."""

NO_ADAPTER = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
CARD = """\
# A policy of repoagent: all-MiniLM-L6-v2 with a trained head

MiniLM's weights are those published, the late-interaction head was trained by `repoagent train` on the
paper's plain form of AutoExplore.
"""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the head reads of one decision: the question's token vectors (tokens, width), what
    ``LateInteractionHead.matches`` gives, and the options' features (options, features)."""

    question: Tensor
    found: Tensor
    others: Tensor
    features: Tensor


@dataclass(slots=True)
class Texts:
    """Token vectors (tokens, width) of texts, the latest used last, with the number of tokens of the
    first line; ``size`` in bytes."""

    vectors: OrderedDict[tuple[str, bool], tuple[Tensor, int]] = field(default_factory=OrderedDict)
    size: int = 0


@cache
def texts_of(adapter: str) -> Texts:
    """What was read with the adapter of this digest: players that differ in the head alone share it."""
    return Texts()


class EncoderPlayer:
    """A :class:`training.known.TrainablePolicy` of which the head alone has gradients.

    ``adapter`` and its configuration are what a checkpoint adds to MiniLM; they are frozen as well.
    ``tokens`` counts those that the encoder has read. It multiplies in single precision: a text that is
    read again, beside others, has the same vectors but for rounding (log-probabilities within 0.002).
    """

    def __init__(
        self,
        policy: EncoderPolicy,
        adapter: dict[str, Tensor] | None = None,
        adapter_config: dict[str, Any] | None = None,
    ) -> None:
        self.policy, self.name = policy.eval(), policy.name
        self.policy.encoder.requires_grad_(False)
        self.adapter, self.adapter_config = adapter or {}, adapter_config or NO_ADAPTER
        self.tokens = 0
        described = save(self.adapter) + json.dumps(self.adapter_config, sort_keys=True).encode()
        self.texts = texts_of(hashlib.sha256(described).hexdigest())
        self._decisions: OrderedDict[Key, Decision] = OrderedDict()

    @staticmethod
    def new(seed: int = 0, base: str = "minilm") -> EncoderPlayer:
        """MiniLM as it is published, with a head that knows late interaction alone; or, with ``base``
        "encoder", adapter and head of the bundled policy, which was taught the form with search."""
        if base == "encoder":
            return EncoderPlayer.from_folder(CHECKPOINTS / "policy")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the first layer of the head's MLP is drawn
            return EncoderPlayer(EncoderPolicy.base(FEATURES))

    @staticmethod
    def from_folder(folder: str | Path) -> EncoderPlayer:
        """A checkpoint of :meth:`save`, or of the bundled policy; ``ModelError`` where it is broken."""
        policy = EncoderPolicy.from_folder(folder)
        config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        return EncoderPlayer(policy, load_file(Path(folder) / "adapter_model.safetensors"), config)

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint that :func:`repoagent.models.load_policy` reads too."""
        self.policy.save(
            Path(folder),
            adapter=self.adapter,
            adapter_config=self.adapter_config,
            card=CARD,
            meta={"name": self.name},
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> EncoderPlayer:
        """A twin with a head of its own; the frozen encoder and what it has read are shared."""
        twin = copy.copy(self)
        twin.policy = copy.copy(self.policy)
        twin.policy._modules = dict(self.policy._modules)
        twin.policy.head = copy.deepcopy(self.policy.head, memo)
        twin.policy.memory_weight = self.policy.memory_weight.detach().clone()
        return twin

    # -- the player ------------------------------------------------------------------------------

    def parameters(self) -> list[Tensor]:
        own = list(self.policy.head.parameters())
        return own if self.policy.memory is None else [*own, self.policy.memory_weight]

    def evaluate(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        """Log-probabilities (options,) of each with gradients, and states (observations, width).

        A state holds the greatest and the mean of every input of the head over the options, and the
        question's mean vector. It has no gradient: a critic leaves the policy as it is.
        """
        decisions = self._read(list(zip(observations, reflections, strict=True)))
        head = self.policy.head
        inputs = [(head.weighed(d.question, d.found, d.others), d.features) for d in decisions]
        scores = head(torch.cat([i for i, _ in inputs]), torch.cat([f for _, f in inputs]))
        remembered = [self.policy.remembered(o.task, o.options) for o in observations]
        if self.policy.memory is not None:
            scores = scores + torch.cat([torch.as_tensor(r) for r in remembered])
        parts = (scores / self.policy.temperature).split([len(f) for _, f in inputs])
        hidden = []
        for decision, pair in zip(decisions, inputs, strict=True):
            x = torch.cat(pair, -1).detach()
            hidden.append(torch.cat([x.amax(0), x.mean(0), decision.question.mean(0)]))
        return [part.log_softmax(0) for part in parts], torch.stack(hidden)

    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]:
        with torch.no_grad():
            return [row.tolist() for row in self.evaluate(observations, reflections)[0]]

    # -- what is kept ----------------------------------------------------------------------------

    @torch.no_grad()
    def _read(self, keys: Sequence[Key]) -> list[Decision]:
        """The decisions of ``keys``; what is new is encoded, the oldest beyond the limits is dropped."""
        found = {key: self._decisions.pop(key) for key in dict.fromkeys(keys) if key in self._decisions}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        self._encode(missing)
        for key in missing:
            found[key] = self._decision(*key)
        self._decisions |= found
        while len(self._decisions) > DECISIONS:
            self._decisions.popitem(last=False)
        while self.texts.size > TEXT_BYTES:
            vectors, _ = self.texts.vectors.popitem(last=False)[1]
            self.texts.size -= vectors.nbytes
        return [found[key] for key in keys]

    def _encode(self, keys: Sequence[Key]) -> None:
        """Read the texts of ``keys`` that are not known, in batches of like length."""
        texts, new = self.texts.vectors, dict[tuple[str, bool], tuple[list[int], int]]()
        for observation, reflection in keys:
            for text in filter(None, (observation.task, reflection)):
                if (name := (text, False)) not in texts and name not in new:
                    new[name] = self.policy.query_ids(text), 0
            for option in observation.options:
                name = (option.evidence, True)
                if name in texts:
                    texts.move_to_end(name)
                elif name not in new:
                    new[name] = self.policy.option_ids(option)
        names = sorted(new, key=lambda name: len(new[name][0]))
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            vectors, _ = self.policy.encode([new[name][0] for name in batch])
            for name, vector in zip(batch, vectors, strict=True):
                ids, first = new[name]
                kept = vector[: len(ids)].half()
                texts[name] = kept, first
                self.texts.size += kept.nbytes
                self.tokens += len(ids)

    def _decision(self, observation: Observation, reflection: str) -> Decision:
        texts = self.texts.vectors
        question = texts[observation.task, False][0].float()
        said = texts[reflection, False][0].float() if reflection else None
        pages = [
            self.policy.head.matches(question, said, *self._padded(observation.options[i : i + PAGE]))
            for i in range(0, len(observation.options), PAGE)
        ]
        return Decision(
            question,
            torch.cat([found for found, _ in pages], 1),
            torch.cat([others for _, others in pages]),
            torch.tensor([o.features for o in observation.options]),
        )

    def _padded(self, options: Sequence[Option]) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors (options, length, width), mask and mask of the first line (options, length)."""
        known = [self.texts.vectors[option.evidence, True] for option in options]
        length = max(len(vectors) for vectors, _ in known)
        at = torch.arange(length)
        return (
            torch.stack([F.pad(vectors.float(), (0, 0, 0, length - len(vectors))) for vectors, _ in known]),
            at < torch.tensor([[len(vectors)] for vectors, _ in known]),
            at < torch.tensor([[first] for _, first in known]),
        )
