"""What a memory of the history says of files: the meaning of each number, what is hidden, and its file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from repoagent.memory import CORRECTED, FILE, MEMORY_FEATURES, Memory, Note, words

TOLD, NEAREST, GATHERED, OFTEN = range(4)


def note(text: str, *files: str, age: int = 0) -> Note:
    return Note(words(text), files, age)


def of(memory: Memory, question: str, path: str) -> tuple[float, ...]:
    return memory.features(question, [path])[0]


@pytest.fixture
def memory() -> Memory:
    return Memory(
        [
            note("Retry the upload of parcels", "send.py", age=0),
            note("Colour the banner", "look.py", "theme.py", age=1),
            note("Retry a failed login", "login.py", age=2),
            note("Colour the footer", "look.py", age=3),
            note("Explain the colour of banners", "docs/look.md", age=4),
        ]
    )


def test_words_are_roots_of_what_tells_something_each_once() -> None:
    assert words("Where do we upload the uploads of sentParcels?") == words("upload sent parcel")
    assert words("the of a is it") == () == words("")
    assert len(words("colour colours COLOUR")) == 1


def test_the_features_are_named_in_the_order_they_come_in() -> None:
    kinds = ("told", "nearest", "gathered", "often")
    assert (*kinds, *(f"{kind}_document" for kind in kinds)) == MEMORY_FEATURES


def test_told_is_1_for_the_file_whose_notes_fit_best(memory: Memory) -> None:
    question = "retry uploads"
    assert of(memory, question, "send.py")[TOLD] == 1.0
    assert 0 < of(memory, question, "login.py")[TOLD] < 1.0, "it shares the commoner word alone"
    assert of(memory, question, "look.py")[TOLD] == 0.0


def test_a_rare_word_tells_more_than_a_common_one(memory: Memory) -> None:
    question = "retry login colour"
    rare, common = of(memory, question, "login.py"), of(memory, question, "look.py")
    assert rare[TOLD] > common[TOLD] and rare[NEAREST] > common[NEAREST]


def test_nearest_is_greatest_for_the_very_words_of_a_note(memory: Memory) -> None:
    asked = ("colour the footer", "colour the footers and headers", "colour", "retry")
    nearest = [of(memory, question, "look.py")[NEAREST] for question in asked]
    assert nearest[0] > 0.95 and nearest == sorted(nearest, reverse=True) and nearest[-1] == 0


def test_a_note_about_several_files_says_less_of_each() -> None:
    alone, shared = (Memory([note("Colour the banner", *files)]) for files in (("a.py",), ("a.py", "b.py")))
    one, other = (of(m, "banner colour", "a.py")[NEAREST] for m in (alone, shared))
    assert other == pytest.approx(one / math.sqrt(2))


def test_gathered_sums_the_notes_that_fit() -> None:
    notes = [note(f"Cache the {thing} lookup", "cache.py") for thing in ("user", "price", "stock")]
    memory = Memory([*notes, note("Cache the weather lookup", "sky.py")])
    several, one = (of(memory, "cache lookups", p) for p in ("cache.py", "sky.py"))
    assert several[GATHERED] == 1.0 and one[GATHERED] == pytest.approx(1 / 3, rel=0.05)
    assert several[NEAREST] == pytest.approx(one[NEAREST]), "the best single note is as good"


def test_often_says_how_much_is_spoken_of_a_file_whatever_is_asked(memory: Memory) -> None:
    for question in ("retry uploads", "nothing of all this"):
        assert of(memory, question, "look.py")[OFTEN] == 1.0
        assert of(memory, question, "theme.py")[OFTEN] == pytest.approx(math.log1p(1) / math.log1p(2))


@pytest.mark.parametrize("path", ["docs/look.md", "README.rst", "a/doc/x.py", "notes.TXT", "guide.adoc"])
def test_documents_have_numbers_of_their_own(path: str) -> None:
    memory = Memory([note("Colour the banner", path)])
    row = of(memory, "banner", path)
    assert not any(row[:4]) and all(row[4:])


@pytest.mark.parametrize("path", ["look.py", "docstring.py", "mdx/file.go", "documents.c"])
def test_what_only_sounds_like_a_document_is_none(path: str) -> None:
    row = of(Memory([note("Colour the banner", path)]), "banner", path)
    assert all(row[:4]) and not any(row[4:])


def test_all_numbers_lie_between_0_and_1_and_unknown_files_have_none(memory: Memory) -> None:
    paths = ["send.py", "look.py", "theme.py", "login.py", "docs/look.md", "never.py", ""]
    for question in ("retry the colour of banners", "upload", "", "quite something else"):
        rows = memory.features(question, paths)
        assert all(0 <= value <= 1 for row in rows for value in row)
        assert rows[-1] == rows[-2] == (0.0,) * len(MEMORY_FEATURES)


def test_a_memory_of_nothing_knows_nothing() -> None:
    memory = Memory([note("of the", "a.py"), note("Colour the banner")])  # no words; no files
    assert memory.notes == ()
    assert memory.features("colour the banner", ["a.py"]) == [(0.0,) * len(MEMORY_FEATURES)]


# -- what is hidden ----------------------------------------------------------------------------


def test_to_a_question_of_a_day_only_older_notes_are_remembered(memory: Memory) -> None:
    memory.newest = {"colour of banners": 1, "banners and their colour": 3}
    assert of(memory, "colour of banners", "theme.py") == (0.0,) * 8, "of that very commit"
    assert of(memory, "colour of banners", "send.py") == (0.0,) * 8, "of a younger one"
    assert of(memory, "colour of banners", "look.py")[NEAREST] > 0, "of the one about the footer"
    assert of(memory, "banners and their colour", "look.py") == (0.0,) * 8
    assert of(memory, "banners and their colour", "docs/look.md")[4 + NEAREST] > 0


def test_hiding_notes_is_as_if_they_had_never_been(memory: Memory) -> None:
    older = Memory(n for n in memory.notes if n.age > 1)
    paths = sorted({p for n in memory.notes for p in n.files})
    memory.newest = {"retry a colour": 1}
    hidden, never = (m.features("retry a colour", paths) for m in (memory, older))
    for one, other, path in zip(hidden, never, paths, strict=True):
        # How rare a word is may count what came later; which notes speak of a file may not.
        assert one == pytest.approx(other, abs=0.1), path
        assert [bool(v) for v in one] == [bool(v) for v in other], path


def test_each_question_has_its_own_day_in_any_order(memory: Memory) -> None:
    memory.newest = {"retry uploads": 0, "retry logins": 2}
    asked = ["retry uploads", "retry logins", "retry", "retry uploads", "retry"]
    mixed = [of(memory, question, "login.py") for question in asked]
    for question, row in zip(asked, mixed, strict=True):
        alone = Memory(memory.notes)
        alone.newest = dict(memory.newest)
        assert of(alone, question, "login.py") == row
    assert not any(mixed[1]) and any(mixed[0]) and mixed[0] != mixed[2]


def test_what_was_corrected_counts_for_all_questions_but_itself() -> None:
    memory = Memory([note("colour the banner", "theme.py", age=CORRECTED), note("Colour it", "look.py")])
    memory.newest = {"colour the banner": CORRECTED}
    assert not any(of(memory, "colour the banner", "theme.py"))
    assert any(of(memory, "colour the banner", "look.py"))
    assert any(of(memory, "banner", "theme.py"))


def test_answers_are_kept_until_they_are_forgotten(memory: Memory) -> None:
    before = of(memory, "retry uploads", "send.py")
    memory.newest = {"retry uploads": 0}
    assert of(memory, "retry uploads", "send.py") == before
    memory.forget_answers()
    assert not any(of(memory, "retry uploads", "send.py"))


def test_few_answers_are_kept_however_many_are_asked(memory: Memory) -> None:
    first = of(memory, "retry uploads", "send.py")
    for number in range(100):
        memory.features(f"colour of banner {number}", ["look.py"])
    assert len(memory._asked) < 50
    assert of(memory, "retry uploads", "send.py") == first


# -- its file ----------------------------------------------------------------------------------


def test_a_memory_comes_back_as_it_was(memory: Memory, tmp_path: Path) -> None:
    odd = Memory([*memory.notes, note("Grüße übersetzen", "a b/ü.py", "bad\udcff.py", age=CORRECTED)])
    odd.newest = {"retry uploads": 0}
    odd.save(tmp_path)
    again = Memory.load(tmp_path)
    assert again.notes == odd.notes and again.newest == {}, "what is hidden is for training alone"
    assert again.features("übersetzen", ["a b/ü.py"]) == odd.features("übersetzen", ["a b/ü.py"])
    assert (tmp_path / FILE).read_text(encoding="ascii").count("look.py") == 1, "each path stands there once"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"files": []}', '{"files": ["a"], "notes": 3}', '{"files": ["a"], "notes": [[0]]}',
     '{"files": ["a"], "notes": [["old", "w", [0]]]}', '{"files": ["a"], "notes": [[0, "w", [7]]]}',
     '{"files": ["a"], "notes": [[0, "w", ["a"]]]}'],
)  # fmt: skip
def test_a_broken_file_is_an_error_that_loading_expects(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises((ValueError, LookupError, TypeError)):
        Memory.load(tmp_path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Memory.load(tmp_path)


def test_the_file_holds_words_and_no_sentences(memory: Memory, tmp_path: Path) -> None:
    memory.save(tmp_path)
    data = json.loads((tmp_path / FILE).read_text())
    assert data["files"] == sorted(data["files"]) and len(data["notes"]) == len(memory.notes)
    assert "the" not in " ".join(said for _, said, _ in data["notes"]).split()
