"""The reader of GGUF files, on files written here byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from repoagent import gguf


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def file(tensors: dict[str, tuple[list[int], int, bytes]], version: int = 3) -> bytes:
    """A GGUF file with one entry of metadata of every sort; shapes are given output dimension first."""
    entries = {
        "name": (8, text("ü")),
        "flag": (7, struct.pack("<?", True)),
        "layers": (4, struct.pack("<I", 30)),
        "theta": (6, struct.pack("<f", 0.5)),
        "words": (9, struct.pack("<IQ", 8, 2) + text("a") + text("bc")),
        "kinds": (9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)),
    }
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    for key, (kind, value) in entries.items():
        out += text(key) + struct.pack("<I", kind) + value
    at, data = 0, b""
    for name, (shape, kind, raw) in tensors.items():
        out += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        out += struct.pack("<IQ", kind, at)
        raw += b"\0" * (-len(raw) % 32)
        at, data = at + len(raw), data + raw
    return out + b"\0" * (-len(out) % 32) + data


def test_metadata_and_every_kind_of_tensor(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(2, 32)).astype("<f4")
    scales = rng.normal(size=(2, 2)).astype("<f2")
    bytes_ = rng.integers(-127, 128, (2, 32)).astype(np.int8)
    nibbles = rng.integers(0, 16, (2, 32))
    eight = b"".join(scales[i, :1].tobytes() + bytes_[i].tobytes() for i in range(2))
    four = b"".join(
        scales[i].tobytes() + (nibbles[i, :16] | nibbles[i, 16:] << 4).astype(np.uint8).tobytes()
        for i in range(2)
    )
    path = tmp_path / "model.gguf"
    path.write_bytes(
        file({"a": ([2, 32], 0, plain.tobytes()), "b": ([64], 8, eight), "c": ([1, 64], 3, four)})
    )
    metadata, tensors = gguf.read(path)
    assert metadata == {
        "name": "ü", "flag": True, "layers": 30, "theta": 0.5, "words": ["a", "bc"], "kinds": [1, -2, 3]
    }  # fmt: skip
    torch.testing.assert_close(tensors["a"], torch.from_numpy(plain))
    wide = scales.astype(np.float32)
    expected = torch.from_numpy(bytes_ * wide[:, :1]).flatten()
    torch.testing.assert_close(tensors["b"], expected)
    expected = torch.from_numpy(nibbles * wide[:, :1] + wide[:, 1:]).float().reshape(1, 64)
    torch.testing.assert_close(tensors["c"], expected)


@pytest.mark.parametrize(
    "broken",
    [
        b"PK\3\4 an archive of something else",
        file({}, version=1),
        file({"a": ([32], 14, bytes(18))}),  # a kind of tensor that is not known
        file({"a": ([32], 0, bytes(128))})[:-40],
        file({"a": ([32], 0, bytes(128))})[:60],
    ],
    ids=["archive", "version", "kind", "tensor cut", "metadata cut"],
)
def test_what_is_no_such_file_is_a_value_error(broken: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"GGUF|broken"):
        gguf.read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        gguf.read(tmp_path / "model.gguf")
