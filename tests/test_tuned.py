"""The models registered for repositories: found for their root alone, and never used where broken."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from repoagent import storage, tuned
from repoagent.errors import InputError
from repoagent.manifest import MANIFEST, read_manifest, write_manifest

WEIGHTS = (2).to_bytes(8, "little") + b"{}"
"""A whole safetensors file that holds no tensor."""


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(storage.VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "base", name="bundled")


def checkpoint(folder: Path, **entries: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "head.safetensors").write_bytes(WEIGHTS)
    write_manifest(folder, **entries)
    return folder


def register(root: Path, base: Path, **changed: Any) -> Path:
    """A model as training registers it, with ``changed`` entries."""
    root.mkdir(exist_ok=True)
    name = tuned.root_of(root)
    entry = {"root": name, "base": tuned.digest(base), "seed": 3} | changed
    return checkpoint(tuned.location(name), tuned=entry)


def test_a_model_is_found_for_its_root_however_that_is_named(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "shop"
    folder = register(root, base)
    (root / "below").mkdir()
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (root, str(root), tmp_path / "link", ".", "below/..", "~/shop", f"{root}/"):
        found = tuned.find(name, base)
        assert found is not None and found.problem is None, name
        assert (found.root, found.folder, found.entry["seed"]) == (str(root.resolve()), folder, 3)
    for name in ("below", tmp_path, tmp_path / "nowhere", tmp_path / "base"):
        assert tuned.find(name, base) is None


def test_two_roots_of_one_name_have_models_of_their_own(tmp_path: Path, base: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        register(tmp_path / place / "shop", base, seed=len(place))
    assert len({m.folder for m in tuned.registered(base)}) == 2
    assert [m.root for m in tuned.registered(base)] == sorted(
        str((tmp_path / p / "shop").resolve()) for p in ("one", "two")
    )


def test_a_model_of_a_root_that_is_gone_is_listed_and_not_found(tmp_path: Path, base: Path) -> None:
    root = tmp_path / "shop"
    register(root, base)
    root.rmdir()
    assert tuned.find(root, base) is None
    assert [m.root for m in tuned.registered(base)] == [str(root)]
    (tmp_path / "shop").write_text("now a file")
    assert tuned.find(root, base) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[1]", "not a JSON object"),
        ("{}", "does not say what it was made for"),
        ('{"tuned": []}', "does not say what it was made for"),
        ('{"tuned": {"root": "/elsewhere"}}', "made for another folder"),
        ('{"tuned": {"root": ROOT, "base": {"head.safetensors": "0"}}}', "another version"),
        ('{"tuned": {"root": ROOT}}', "another version"),
        ('{"tuned": {"root": ROOT, "base": BASE}, "sha256": 3}', "holds no digests"),
        ('{"tuned": {"root": ROOT, "base": BASE}, "sha256": {"memory.json": "0"}}', "memory.json is missing"),
        ('{"tuned": {"root": ROOT, "base": BASE}, "sha256": {"head.safetensors": "0"}}', "differs"),
    ],
)
def test_a_broken_manifest_is_said_in_one_line(tmp_path: Path, base: Path, text: str, said: str) -> None:
    root = tmp_path / "shop"
    folder = register(root, base)
    text = text.replace("ROOT", json.dumps(str(root.resolve()))).replace(
        "BASE", json.dumps(tuned.digest(base))
    )
    (folder / MANIFEST).write_text(text)
    found = tuned.find(root, base)
    assert found is not None and found.problem is not None
    assert said in found.problem and "\n" not in found.problem
    assert found.root == str(root.resolve()), "it is this folder that has to be trained on again"


def test_broken_weights_are_found_out(tmp_path: Path, base: Path) -> None:
    folder = register(tmp_path / "shop", base)
    weights = folder / "head.safetensors"
    for content, said in ((WEIGHTS + b"x", "not a whole"), (b"", "not a whole")):
        weights.write_bytes(content)
        found = tuned.find(tmp_path / "shop", base)
        assert found is not None and found.problem is not None and said in found.problem
    weights.unlink()
    (found,) = tuned.registered(base)
    assert found.problem == "no safetensors weights"


def test_a_model_without_manifest_is_no_model(tmp_path: Path, base: Path) -> None:
    folder = register(tmp_path / "shop", base)
    (folder / MANIFEST).unlink()
    (found,) = tuned.registered(base)
    assert found.root == folder.name and found.problem is not None and found.entry == {}


def test_an_update_of_the_bundled_model_is_noticed(tmp_path: Path, base: Path) -> None:
    register(tmp_path / "shop", base)
    (base / "adapter.safetensors").write_bytes(WEIGHTS)
    write_manifest(base, name="bundled, the next version")
    found = tuned.find(tmp_path / "shop", base)
    assert found is not None and found.problem is not None and "another version" in found.problem


def test_half_written_models_and_files_are_not_listed(tmp_path: Path, base: Path) -> None:
    assert tuned.registered(base) == [], "no folder of models yet"
    folder = register(tmp_path / "shop.old", base)
    for ending in (".part", ".old"):
        folder.with_name(folder.name + ending).mkdir()
    (folder.parent / "note.txt").write_text("a file")
    assert [m.folder for m in tuned.registered(base)] == [folder]


def test_forgetting_removes_the_model_alone(tmp_path: Path, base: Path) -> None:
    one, other = (register(tmp_path / name, base) for name in ("shop", "shop2"))
    assert tuned.forget(tmp_path / "shop") == one
    assert not one.exists() and other.is_dir() and (tmp_path / "shop").is_dir()
    with pytest.raises(InputError, match="no model is registered for") as failed:
        tuned.forget(tmp_path / "shop")
    assert "\n" not in str(failed.value)


def test_a_model_can_be_forgotten_when_its_root_is_gone_or_it_is_broken(tmp_path: Path, base: Path) -> None:
    folder = register(tmp_path / "shop", base)
    (folder / MANIFEST).write_text("{")
    (tmp_path / "shop").rmdir()
    assert tuned.forget(tmp_path / "shop") == folder and not folder.exists()


def test_data_that_is_no_folder_means_no_models(tmp_path: Path, base: Path, data: Path) -> None:
    (tmp_path / "shop").mkdir()
    data.write_text("a file where the folder would be")
    assert tuned.find(tmp_path / "shop", base) is None and tuned.registered(base) == []


def test_a_root_that_is_no_utf_8_is_written_and_read(tmp_path: Path, base: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sh\xffop"))
    folder = register(root, base)
    (folder / MANIFEST).read_text(encoding="utf-8")
    assert read_manifest(folder)["tuned"]["root"] == str(root.resolve())
    found = tuned.find(root, base)
    assert found is not None and found.problem is None
