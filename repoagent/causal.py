"""A Hugging Face causal LM with its tokenizer: found, checked, loaded, batched and saved.

Weights are read from safetensors alone and no code of a model folder is ever run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from repoagent.errors import ModelError
from repoagent.manifest import MANIFEST, expanded, read_manifest, write_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Says on import that an optional kernel for CPUs is missing, whether or not 4-bit weights are used.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

MAX_WINDOW = 4096
"""Tokens of a prompt at most, however long the model's window is; more costs time, not accuracy."""

BATCH_TOKENS = 16_384
MAX_PADDING = 0.25
"""A row of a batch is at most this share shorter than the longest: the rest would be computed for nothing."""
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]

T = TypeVar("T")


def pick_device(device: str | None = None) -> str:
    """``device``, checked; by default the GPU where there is one."""
    if device is None:
        mps = torch.backends.mps.is_available()
        return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    kind = device.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there:
        raise ModelError(f"unknown device '{device}': use cpu, cuda or mps")
    if not there[kind]:
        raise ModelError(f"device '{device}' is not available on this machine: use --device cpu")
    return device


def locate(source: str | Path) -> Path:
    """The local folder of ``source``, which is a folder or a hub id (then downloaded if need be)."""
    folder = expanded(source)
    if folder.is_dir():
        return folder
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(source)):
        raise ModelError(f"no model folder at {source}: give a folder or a hub id such as owner/name")
    from huggingface_hub import snapshot_download

    def snapshot(**options: Any) -> Path:
        return Path(snapshot_download(str(source), allow_patterns=HUB_FILES, **options))

    try:
        try:
            cached = snapshot(local_files_only=True)
            if any(cached.glob("*.safetensors")):
                return cached
        except OSError:
            pass
        return snapshot()
    except Exception as error:  # the hub's client raises its own, httpx's and OSError
        raise ModelError(f"cannot get {source} from the hub: {one_line(error)}") from error


@dataclass(slots=True)
class CausalLM:
    """``model`` is a ``PreTrainedModel`` or, with a LoRA adapter, a ``PeftModel`` around one."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    window: int
    folder: Path
    source: str
    base: str
    prefix: list[int]

    @staticmethod
    def load(
        source: str | Path,
        device: str | None = None,
        *,
        load_in_8bit: bool = False,
        load_in_4bit: bool = False,
        dtype: str | None = None,
        max_window: int = MAX_WINDOW,
        trainable: bool = False,
    ) -> CausalLM:
        """Load a model folder, a LoRA adapter folder (with its base model), or a hub id of either."""
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        folder, device = locate(source), pick_device(device)
        adapter = (folder / "adapter_config.json").is_file()
        # What a saved checkpoint names as its base: the hub id where there is one, not its cache folder.
        name = str(folder.resolve()) if expanded(source).is_dir() else str(source)
        base, base_folder = _base_of(folder) if adapter else (name, folder)
        options = _quantization(device, load_in_8bit, load_in_4bit)
        options["dtype"] = getattr(torch, dtype) if dtype else _default_dtype(device)
        disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                base_folder,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="sdpa",  # takes the 4D mask of block-sparse attention
                output_loading_info=True,
                **options,
            )
            model, report = loaded
            model.name_or_path = base  # peft records it
            for module in model.modules():
                # 4-bit weights on a CPU would be packed for inference, and then have no gradients.
                if hasattr(module, "support_avx512bf16_for_cpu"):
                    module.support_avx512bf16_for_cpu = False
            has_tokenizer = (folder / "tokenizer_config.json").is_file()
            tokenizer = AutoTokenizer.from_pretrained(
                folder if has_tokenizer else base_folder, trust_remote_code=False
            )
            missing = sorted(report["missing_keys"])
            if missing:
                raise ValueError(f"the weights lack {missing[0]} and {len(missing) - 1} more")
            window = min(_window(model), max_window)
            if "quantization_config" not in options:
                model = model.to(device)
            if adapter:
                model = _with_adapter(model, folder, trainable)
                if not trainable and not getattr(cast(Any, model).get_base_model(), "is_quantized", False):
                    model = cast(Any, model).merge_and_unload()  # one matrix product a layer instead of three
        except ModelError:
            raise
        except Exception as error:  # transformers, tokenizers, safetensors and peft raise dozens of kinds
            raise ModelError(
                f"cannot load a causal language model from {source}: {one_line(error)} "
                "(needed: config, tokenizer and safetensors weights, no code of its own)"
            ) from error
        model.eval()
        return CausalLM(model, tokenizer, window, folder, name, base, _prefix(tokenizer))

    def add_lora(self, rank: int, dropout: float = 0.0) -> None:
        """Freeze the model and put a new LoRA adapter on all its linear layers."""
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

        model = cast("PreTrainedModel", self.model)
        if getattr(model, "is_quantized", False):
            model = prepare_model_for_kbit_training(model)  # type: ignore[no-untyped-call]
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            base_model_name_or_path=self.base,
        )
        self.model = get_peft_model(model, config)
        self.model.eval()

    # -- parts -----------------------------------------------------------------------------

    @property
    def _plain(self) -> PreTrainedModel:
        # LoRA layers sit inside the base model, so its own parts serve with and without an adapter.
        model = cast(Any, self.model)
        inner: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
        return inner

    @property
    def backbone(self) -> nn.Module:
        return self._plain.base_model

    @property
    def lm_head(self) -> nn.Module:
        head: nn.Module = self._plain.get_output_embeddings()  # type: ignore[no-untyped-call]
        return head

    @property
    def width(self) -> int:
        return int(self._plain.config.get_text_config().hidden_size)

    @property
    def name(self) -> str:
        """The folder's name, or the hub id."""
        path = Path(self.source)
        return path.name if path.is_absolute() else self.source

    @property
    def device(self) -> torch.device:
        return self._plain.device

    @property
    def ends(self) -> set[int]:
        """Tokens that end a text."""
        configured = getattr(self._plain.generation_config, "eos_token_id", None)
        several = configured if isinstance(configured, list) else [configured]
        return {int(t) for t in [*several, self.tokenizer.eos_token_id] if t is not None}

    # -- text ------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Tokens of ``text`` without special tokens; those spelt out in it are read as plain text,
        so that a file cannot end the prompt."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return cast(list[int], ids["input_ids"])

    def count(self, text: str) -> int:
        return len(self.encode(text))

    def start(self, text: str) -> list[int]:
        """Tokens of a prompt, with what the tokenizer puts before a text."""
        return self.prefix + self.encode(text)

    # -- files -----------------------------------------------------------------------------

    def save(self, folder: Path, role: str, entries: dict[str, Any], head: nn.Module | None = None) -> None:
        """Write model or adapter, tokenizer, head, model card and manifest."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # until it is written again the save is unfinished
        adapted = hasattr(self.model, "get_base_model")
        options = {"save_embedding_layers": False} if adapted else {}
        cast(Any, self.model).save_pretrained(folder, **options)
        self.tokenizer.save_pretrained(folder)
        if head is not None and head.state_dict():
            weights = {k: v.detach().cpu().contiguous() for k, v in head.state_dict().items()}
            save_file(weights, folder / "head.safetensors")
        card = folder / "README.md"
        what = f"A repoagent {role}: {'LoRA adapter on' if adapted else 'model from'} `{self.base}`."
        card.write_text(f"---\nlibrary_name: {'peft' if adapted else 'transformers'}\n---\n\n{what}\n")
        write_manifest(folder, role=role, base_model=self.base, max_window=self.window, **entries)


def batches(items: Iterable[T], length: Callable[[T], int], budget: int = BATCH_TOKENS) -> Iterator[list[T]]:
    """``items``, longest first, in batches of similar lengths and at most ``budget`` tokens (or one item)."""
    batch: list[T] = []
    for item in sorted(items, key=length, reverse=True):
        if batch:
            longest = length(batch[0])
            if longest * (len(batch) + 1) > budget or length(item) < (1 - MAX_PADDING) * longest:
                yield batch
                batch = []
        batch.append(item)
    if batch:
        yield batch


def pad(rows: Sequence[Sequence[int]], side: str, filler: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Input ids, attention mask and positions of ``rows``, padded on ``side`` ("left" or "right")."""
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), filler)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(length - len(row), None) if side == "left" else slice(0, len(row))
        ids[i, place] = torch.tensor(row)
        mask[i, place] = 1
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def check_manifest(folder: Path, role: str, prompt_format: int) -> dict[str, Any]:
    """The manifest of ``folder``, which must be for ``role`` and for this version's prompts."""
    manifest = read_manifest(folder)
    for name, expected in (("role", role), ("prompt_format", prompt_format)):
        if name in manifest and manifest[name] != expected:
            raise ModelError(
                f"{folder} has {name.replace('_', ' ')} {manifest[name]}, expected {expected}: "
                "use another checkpoint or train this one again"
            )
    return manifest


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:300].rstrip(".:") if lines else type(error).__name__


def _base_of(adapter: Path) -> tuple[str, Path]:
    """Name and folder of the model that ``adapter`` was trained on."""
    from peft import PeftConfig

    if not (adapter / "adapter_model.safetensors").is_file():
        raise ModelError(f"{adapter} has no adapter_model.safetensors: save the adapter in safetensors")
    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{adapter}/adapter_config.json cannot be read: {one_line(error)}") from error
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA":
        raise ModelError(f"{adapter} is a {config.peft_type} adapter: only LoRA adapters are supported")
    base = config.base_model_name_or_path or ""
    try:
        return base, locate(base)
    except ModelError as error:
        raise ModelError(f"the base model '{base}' of the adapter {adapter} is missing: {error}") from error


def _with_adapter(model: Any, folder: Path, trainable: bool) -> nn.Module:
    from peft import PeftModel, prepare_model_for_kbit_training

    if trainable and getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model)  # type: ignore[no-untyped-call]
    return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def _quantization(device: str, eight: bool, four: bool) -> dict[str, Any]:
    if not eight and not four:
        return {}
    if eight and four:
        raise ModelError("8-bit and 4-bit loading exclude one another: choose one")
    if not device.startswith(("cuda", "cpu")):
        raise ModelError(f"no 8-bit and 4-bit loading on {device}: use cuda or cpu, or load without")
    try:
        import bitsandbytes  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
    except Exception as error:  # also fails on a mismatch with the CUDA libraries
        raise ModelError(
            f"8-bit and 4-bit loading need bitsandbytes ({one_line(error)}): pip install bitsandbytes"
        ) from error
    from transformers import BitsAndBytesConfig

    kind: Any = BitsAndBytesConfig
    if eight:
        config = kind(load_in_8bit=True)
    else:
        config = kind(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=_default_dtype(device),
        )
    return {"quantization_config": config, "device_map": {"": device}}


def _default_dtype(device: str) -> torch.dtype:
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float16 if device.startswith("mps") else torch.float32


def _window(model: PreTrainedModel) -> int:
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or MAX_WINDOW)


def _prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What ``tokenizer`` puts before a text (a begin token, or nothing)."""
    plain = cast(list[int], tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = cast(list[int], tokenizer("a")["input_ids"])
    starts = (n for n in range(len(whole)) if whole[n : n + len(plain)] == plain)
    return whole[: next(starts, 0)]
