"""Policy and reflector on any Hugging Face causal LM, with or without a LoRA adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from repoagent.causal import BATCH_TOKENS, CausalLM, batches, check_manifest, one_line, pad
from repoagent.environment import Observation
from repoagent.errors import ModelError
from repoagent.heads import ChoiceTokenHead, PointerHead, block_sparse, find_labels
from repoagent.prompt import PROMPT_FORMAT, Prompt, policy_prompt, reflection_prompt

HEADS = (ChoiceTokenHead.kind, PointerHead.kind)
MASK_CELLS = 2**27
"""Cells of one batch's block-sparse mask at most (128 MB)."""

KNOWN_PROMPTS = 4096
Page = tuple[list[int], list[list[int]], int]
"""Tokens of a prompt (numbered: whole; else of the state and of each option) and its options' number."""


class TransformerPolicy:
    """Scores the options with ``head`` on the hidden states of a causal LM.

    Options that do not fit into the window are scored in several prompts, with one softmax over
    all of them.
    """

    def __init__(self, lm: CausalLM, head: ChoiceTokenHead | PointerHead, name: str = "") -> None:
        self.lm = lm
        self.head = head.to(lm.device)
        self.name = name or lm.name
        self.tokens = 0
        """Tokens processed so far: what playing and training cost, whatever the machine."""
        self._known: dict[tuple[Observation, str], list[Page]] = {}

    @staticmethod
    def from_folder(
        source: str | Path, device: str | None = None, *, head: str | None = None, **options: Any
    ) -> TransformerPolicy:
        """Load what :meth:`save` wrote, or any causal LM (folder, adapter folder or hub id).

        A model that was not trained here plays with its own choice tokens. ``head``, if given, must
        be the one that the checkpoint was trained with; ``options`` are those of :meth:`CausalLM.load`.
        """
        lm = CausalLM.load(source, device, **options)
        manifest = check_manifest(lm.folder, "policy", PROMPT_FORMAT)
        trained = manifest.get("head", ChoiceTokenHead.kind)
        if trained not in HEADS or head not in (None, trained):
            raise ModelError(
                f"{source} has head {trained}, expected {head or ' or '.join(HEADS)}: "
                "use another checkpoint or train one with that head"
            )
        if trained == ChoiceTokenHead.kind:
            labels = find_labels(lm.tokenizer)
            if manifest.get("labels", list(labels)) != list(labels):
                raise ModelError(
                    f"{source} was trained with other choice labels than its tokenizer now gives: "
                    "restore the tokenizer or train it again"
                )
            return TransformerPolicy(lm, ChoiceTokenHead(labels))
        return TransformerPolicy(lm, _load_pointer(lm))

    @staticmethod
    def new(
        source: str | Path, device: str | None = None, *, head: str, lora_rank: int = 0, **options: Any
    ) -> TransformerPolicy:
        """A policy to be trained: ``source`` with an untrained ``head`` and, optionally, LoRA."""
        if head not in HEADS:
            raise ModelError(f"unknown head '{head}': use {' or '.join(HEADS)}")
        lm = CausalLM.load(source, device, **options)
        if lora_rank:
            lm.add_lora(lora_rank)
        if head == PointerHead.kind:
            return TransformerPolicy(lm, PointerHead(lm.width))
        return TransformerPolicy(lm, ChoiceTokenHead(find_labels(lm.tokenizer)))

    def save(self, folder: str | Path) -> None:
        """Write a folder that :meth:`from_folder` reads."""
        entries: dict[str, Any] = {"prompt_format": PROMPT_FORMAT, "head": self.head.kind}
        if isinstance(self.head, ChoiceTokenHead):
            entries["labels"] = self.head.labels
        self.lm.save(Path(folder), "policy", entries, self.head)

    def parameters(self) -> list[Tensor]:
        """What is trained: the model's (or its adapter's) and the head's parameters."""
        both = [*self.lm.model.parameters(), *self.head.parameters()]
        return [p for p in both if p.requires_grad]

    def prompts(self, observation: Observation, reflection: str = "") -> list[Prompt]:
        """The pages that one decision is made from."""
        labels = self.head.labels if isinstance(self.head, ChoiceTokenHead) else None
        return policy_prompt(
            observation,
            reflection,
            count=self.lm.count,
            budget=self.lm.window - len(self.lm.prefix),
            labels=labels,
            numbered=labels is not None,
        )

    def log_probabilities(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[Tensor]:
        """Log-probabilities (options,) of each observation, with gradients for training."""
        return self.evaluate(observations, reflections)[0]

    def evaluate(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        """Log-probabilities (options,) of each observation, and the hidden state that a critic reads.

        The second is (observations, width): the last token's of the first page.
        """
        pages = [
            (number, page)
            for number, (observation, reflection) in enumerate(zip(observations, reflections, strict=True))
            for page in self._pages(observation, reflection)
        ]
        self.tokens += sum(len(state) + sum(map(len, options)) for _, (state, options, _) in pages)
        numbered = isinstance(self.head, ChoiceTokenHead)
        scored = (self._choice_scores if numbered else self._pointer_scores)([p for _, p in pages])
        logits: list[list[Tensor]] = [[] for _ in observations]
        states: list[Tensor] = []
        for (number, _), (score, state) in zip(pages, scored, strict=True):
            if not logits[number]:
                states.append(state.float())
            logits[number].append(score)  # pages come in the options' order
        return [torch.cat(parts).log_softmax(0) for parts in logits], torch.stack(states)

    def _pages(self, observation: Observation, reflection: str) -> list[Page]:
        """The tokens of every page; kept, since training meets the same decision many times."""
        key = (observation, reflection)
        pages = self._known.get(key)
        if pages is None:
            pages = []
            for prompt in self.prompts(observation, reflection):
                if prompt.labels:
                    pages.append((self.lm.start(prompt.text), [], len(prompt.options)))
                else:
                    options = [self.lm.encode(option) for option in prompt.options]
                    pages.append((self.lm.start(prompt.state), options, len(options)))
            if len(self._known) >= KNOWN_PROMPTS:
                self._known.pop(next(iter(self._known)))
            self._known[key] = pages
        return pages

    def distribution(
        self, observations: Sequence[Observation], reflections: Sequence[str]
    ) -> list[list[float]]:
        training = self.lm.model.training
        self.lm.model.eval()
        try:
            with torch.no_grad():
                return [row.tolist() for row in self.log_probabilities(observations, reflections)]
        finally:
            self.lm.model.train(training)

    def _choice_scores(self, pages: Sequence[Page]) -> list[tuple[Tensor, Tensor]]:
        head = cast(ChoiceTokenHead, self.head)
        scores: list[tuple[Tensor, Tensor]] = [(torch.empty(0),) * 2] * len(pages)
        for batch in batches(range(len(pages)), lambda i: len(pages[i][0])):
            ids, mask, positions = (t.to(self.lm.device) for t in pad([pages[i][0] for i in batch], "right"))
            hidden = self.lm.backbone(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
            last = hidden[torch.arange(len(batch)), mask.sum(1) - 1]
            counts = [pages[i][2] for i in batch]
            for i, score, state in zip(batch, head(last, self.lm.lm_head, counts), last, strict=True):
                scores[i] = score, state
        return scores

    def _pointer_scores(self, pages: Sequence[Page]) -> list[tuple[Tensor, Tensor]]:
        head = cast(PointerHead, self.head)
        lengths = [len(state) + sum(map(len, options)) for state, options, _ in pages]
        scores: list[tuple[Tensor, Tensor]] = [(torch.empty(0),) * 2] * len(pages)
        budget = min(BATCH_TOKENS, MASK_CELLS // max(lengths))
        for batch in batches(range(len(pages)), lambda i: lengths[i], budget):
            ids, positions, mask, ends = block_sparse([pages[i][:2] for i in batch], 0)
            hidden = self.lm.backbone(
                input_ids=ids.to(self.lm.device),
                attention_mask=mask.to(self.lm.device),
                position_ids=positions.to(self.lm.device),
                use_cache=False,
            ).last_hidden_state
            for row, i in enumerate(batch):
                state, *options = ends[row]
                scores[i] = head(hidden[row, state], hidden[row, options]), hidden[row, state]
        return scores


class TransformerReflector:
    """Writes reflections with a causal LM; greedy, and so deterministic, unless ``temperature`` > 0."""

    def __init__(
        self,
        lm: CausalLM,
        name: str = "",
        *,
        max_new_tokens: int = 128,
        one_line: bool = False,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.lm = lm
        self.name = name or lm.name
        self.max_new_tokens = min(max_new_tokens, lm.window // 2)
        self.one_line = one_line
        self.temperature = temperature
        self.tokens = 0
        """Tokens read and written so far."""
        self._generator = torch.Generator().manual_seed(seed)

    @staticmethod
    def from_folder(
        source: str | Path, device: str | None = None, *, max_new_tokens: int = 128, **options: Any
    ) -> TransformerReflector:
        """Load what :meth:`save` wrote, or any causal LM (folder, adapter folder or hub id).

        A model that was not trained here need not end its text, so it is stopped after one line.
        """
        lm = CausalLM.load(source, device, **options)
        manifest = check_manifest(lm.folder, "reflector", PROMPT_FORMAT)
        return TransformerReflector(lm, max_new_tokens=max_new_tokens, one_line=not manifest)

    @staticmethod
    def new(
        source: str | Path, device: str | None = None, *, lora_rank: int = 0, **options: Any
    ) -> TransformerReflector:
        """A reflector to be trained: ``source`` and, optionally, LoRA."""
        lm = CausalLM.load(source, device, **options)
        if lora_rank:
            lm.add_lora(lora_rank)
        return TransformerReflector(lm)

    def save(self, folder: str | Path) -> None:
        """Write a folder that :meth:`from_folder` reads."""
        self.lm.save(Path(folder), "reflector", {"prompt_format": PROMPT_FORMAT})

    def parameters(self) -> list[Tensor]:
        """What is trained: the model's or its adapter's parameters."""
        return [p for p in self.lm.model.parameters() if p.requires_grad]

    def reflect(self, observations: Sequence[Observation]) -> list[str]:
        texts = [""] * len(observations)
        rows = [self._prompt(observation) for observation in observations]
        for batch in batches(range(len(rows)), lambda i: len(rows[i]) + self.max_new_tokens):
            *_, written = self._generate([rows[i] for i in batch])
            for i, tokens in zip(batch, written, strict=True):
                texts[i] = self._text(tokens)
        return [text.strip().rstrip("\ufffd") for text in texts]

    def stream(self, observation: Observation) -> Iterator[str]:
        shown = ""
        for (tokens,) in self._generate([self._prompt(observation)]):
            text = self._text(tokens)
            # A character of several tokens shows as U+FFFD until its last one is there.
            if len(text) > len(shown) and not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text

    def log_likelihood(self, observations: Sequence[Observation], reflections: Sequence[str]) -> list[Tensor]:
        """Sum of log-probabilities of each reflection with its end token, with gradients."""
        end = self.lm.tokenizer.eos_token_id
        prompts = [self._prompt(observation) for observation in observations]
        targets = [
            self.lm.encode(f" {' '.join(text.split())}")[: self.max_new_tokens]
            + ([end] if end is not None else [])
            for text in reflections
        ]
        rows = [p + t for p, t in zip(prompts, targets, strict=True)]
        sums: list[Tensor] = [torch.empty(0)] * len(rows)
        for batch in batches(range(len(rows)), lambda i: len(rows[i])):
            ids, mask, positions = (t.to(self.lm.device) for t in pad([rows[i] for i in batch], "right"))
            hidden = self.lm.backbone(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state
            for row, i in enumerate(batch):
                # The vector before a token predicts it.
                span = slice(len(prompts[i]) - 1, len(rows[i]) - 1)
                logits = self.lm.lm_head(hidden[row, span]).float()
                wanted = torch.tensor(targets[i], device=logits.device)
                sums[i] = logits.log_softmax(-1).gather(1, wanted[:, None]).sum()
        return sums

    def _prompt(self, observation: Observation) -> list[int]:
        budget = self.lm.window - self.max_new_tokens - len(self.lm.prefix) - 1
        return self.lm.start(reflection_prompt(observation, count=self.lm.count, budget=budget))

    def _generate(self, prompts: list[list[int]]) -> Iterator[list[list[int]]]:
        """The tokens written so far, after every step. A caller that stops iterating stops the model."""
        ids, mask, positions = (t.to(self.lm.device) for t in pad(prompts, "left"))
        written: list[list[int]] = [[] for _ in prompts]
        rows = list(range(len(prompts)))  # those that are still being written
        self.tokens += int(mask.sum())
        cache: Any = None
        for step in range(self.max_new_tokens):
            with torch.inference_mode():
                out = self.lm.backbone(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                )
                cache = out.past_key_values
                tokens = self._pick(self.lm.lm_head(out.last_hidden_state[:, -1]).float().cpu())
            self.tokens += len(rows) if step else 0
            going = []
            for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                if token not in self.lm.ends:
                    written[row].append(token)
                    if not (self.one_line and "\n" in self._decoded(written[row])):
                        going.append(place)
            yield written
            if not going:
                break
            if len(going) < len(rows):
                kept = torch.tensor(going, device=ids.device)
                cache.reorder_cache(kept)
                mask, positions = mask[kept], positions[kept]
                rows, tokens = [rows[i] for i in going], [tokens[i] for i in going]
            ids = torch.tensor(tokens, device=ids.device)[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            positions = positions[:, -1:] + 1

    def _decoded(self, tokens: list[int]) -> str:
        return str(self.lm.tokenizer.decode(tokens, skip_special_tokens=True)).lstrip()

    def _text(self, tokens: list[int]) -> str:
        text = self._decoded(tokens)
        return text.partition("\n")[0] if self.one_line else text

    def _pick(self, logits: Tensor) -> list[int]:
        if not self.temperature:
            return cast(list[int], logits.argmax(-1).tolist())
        chances = (logits / self.temperature).softmax(-1)
        return cast(list[int], torch.multinomial(chances, 1, generator=self._generator)[:, 0].tolist())


def _load_pointer(lm: CausalLM) -> PointerHead:
    from safetensors.torch import load_file

    path = lm.folder / "head.safetensors"
    try:
        state = load_file(path)
        head = PointerHead(lm.width, rank=state["query.weight"].shape[0])
        head.load_state_dict(state)
    except Exception as error:  # missing, cut, or of another width
        raise ModelError(
            f"{path} does not fit a model of width {lm.width} ({one_line(error)}): restore the checkpoint"
        ) from error
    return head
