"""repoagent.json: what a checkpoint folder is, and whether it is whole. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from repoagent.errors import ModelError

MANIFEST = "repoagent.json"


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` expanded; ``~nobody`` stays as it is, where ``Path.expanduser`` raises."""
    return Path(os.path.expanduser(path))


def write_manifest(folder: Path, **entries: Any) -> None:
    """Write ``entries`` with a digest of every file that is learnt; the last file of a finished save."""
    learnt = [*folder.glob("*.safetensors"), *folder.glob("memory.json")]
    files = {p.name: _sha256(p) for p in sorted(learnt)}
    text = json.dumps({**entries, "sha256": files}, indent=2, ensure_ascii=False)
    # A lone surrogate, of a path that is no UTF-8, becomes its escape in JSON.
    (folder / MANIFEST).write_bytes(f"{text}\n".encode("utf-8", "backslashreplace"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The entries; empty for a folder that this project did not write."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}): restore the checkpoint folder") from None
    if not isinstance(manifest, dict):
        raise ModelError(f"{path} is not a JSON object: restore the checkpoint folder")
    return manifest


def damage(folder: Path) -> str | None:
    """What is wrong with the weights of ``folder``; None if nothing is."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        return "no safetensors weights"
    for path in weights:
        if not _whole(path):
            return f"{path.name} is not a whole safetensors file"
    digests = read_manifest(folder).get("sha256", {})
    if not isinstance(digests, dict):
        return f"{MANIFEST} holds no digests"
    for name, digest in digests.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _sha256(folder / name) != digest:
            return f"{name} differs from the digest in {MANIFEST}"
    return None


def _whole(path: Path) -> bool:
    """Whether the header of a safetensors file can be read and its tensors end where the file ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            return False  # also an unresolved Git LFS pointer
        try:
            header = json.loads(file.read(length))
            ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
    return bool(8 + length + max(ends, default=0) == size)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
