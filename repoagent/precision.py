"""The number format to compute in."""

from __future__ import annotations

import torch


def fast_type() -> torch.dtype:
    """The type to multiply in on this processor: bfloat16 where it is native, else float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if native else torch.float32
