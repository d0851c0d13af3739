"""Read a GGUF file: metadata and weights of the quantised models that packages carry.

Written out because the package ``gguf`` takes 20 seconds for a vocabulary of 50,000 words. Knows the three
kinds of tensor that the bundled language model has; the layout is that of
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_F32, _Q4_1, _Q8_0 = 0, 3, 8
_BLOCK = 32
_BYTES = {_F32: 4 * _BLOCK, _Q4_1: 20, _Q8_0: 34}
"""Bytes of ``_BLOCK`` weights of each kind."""


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of the file; a tensor is float32 with the output dimension first.

    Raises ``ValueError`` for what is no such file and ``OSError`` for what cannot be read.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _parse(data)
        except (struct.error, KeyError, RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is broken or of a kind not known: {error!r}") from error


def _parse(data: mmap.mmap) -> tuple[dict[str, Any], dict[str, Tensor]]:
    at = 0

    def take(code: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize("<" + code)
        return value

    def text() -> str:
        nonlocal at
        size = take("Q")
        at += size
        return data[at - size : at].decode("utf-8")

    def texts(count: int) -> list[str]:
        nonlocal at
        found, place = [], at  # a loop of its own: vocabularies are long
        for _ in range(count):
            start = place + 8
            place = start + int.from_bytes(data[place:start], "little")
            found.append(data[start:place].decode("utf-8"))
            if place > len(data):
                raise ValueError("the GGUF file is cut short")
        at = place
        return found

    def value(kind: int) -> Any:
        nonlocal at
        if kind == _STRING:
            return text()
        if kind != _ARRAY:
            return take(_SCALARS[kind])
        inner, count = take("I"), take("Q")
        if inner == _STRING:
            return texts(count)
        if inner == _ARRAY:
            return [value(inner) for _ in range(count)]
        code = f"<{count}{_SCALARS[inner]}"
        at += struct.calcsize(code)
        return list(struct.unpack_from(code, data, at - struct.calcsize(code)))

    if data[:4] != b"GGUF":
        raise ValueError("no GGUF file")
    at = 4
    version, tensors, entries = take("I"), take("Q"), take("Q")
    if version not in (2, 3):
        raise ValueError(f"GGUF version {version} is not known")
    metadata = {text(): value(take("I")) for _ in range(entries)}
    described = []
    for _ in range(tensors):
        name = text()
        shape = [take("Q") for _ in range(take("I"))]
        described.append((name, shape[::-1], take("I"), take("Q")))
    aligned = metadata.get("general.alignment", 32)
    start = -(-at // aligned) * aligned
    return metadata, {
        name: _weights(data, start + offset, shape, kind) for name, shape, kind, offset in described
    }


def _weights(data: mmap.mmap, at: int, shape: list[int], kind: int) -> Tensor:
    blocks = math.prod(shape) // _BLOCK
    if at + blocks * _BYTES[kind] > len(data):
        raise ValueError("the GGUF file is cut short")
    raw = np.frombuffer(data[at : at + blocks * _BYTES[kind]], np.uint8).reshape(blocks, -1)
    if kind == _F32:
        found = raw.view("<f4").astype(np.float32)
    elif kind == _Q8_0:  # a scale and 32 signed bytes
        found = raw[:, 2:].view(np.int8).astype(np.float32)
        found *= raw[:, :2].view("<f2")
    else:  # a scale, the least value, and 32 numbers of four bits: first all low halves, then the high ones
        found = np.empty((blocks, _BLOCK), np.float32)
        found[:, : _BLOCK // 2] = raw[:, 4:] & 15
        found[:, _BLOCK // 2 :] = raw[:, 4:] >> 4
        scale = raw[:, :4].view("<f2").astype(np.float32)
        found *= scale[:, :1]
        found += scale[:, 1:]
    return torch.from_numpy(found).view(shape)
