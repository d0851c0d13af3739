"""BM25: tokens, scores against the formula, ranking, and the lines it answers with."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from benchmarks.autoexplore.baselines import (
    BASELINES,
    BM25,
    CHUNK,
    K1,
    OVERLAP,
    B,
    ChunkBM25,
    ChunkEmbeddings,
    KeywordSearch,
    chunks,
    tokens,
)
from repoagent.repo import Repo


def tree(folder: Path, files: dict[str, str]) -> Repo:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Repo.open(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("maxConnections = 5", ["max", "connections", "maxconnections", "5"]),
        ("retry_after", ["retry", "after", "retry_after"]),
        ("plain Words", ["plain", "words"]),
        ("HTTPServer", ["http", "server", "httpserver"]),
        ("größe", ["größe"]),
        ("--", []),
    ],
)
def test_tokens_are_identifiers_and_their_parts(text: str, expected: list[str]) -> None:
    assert sorted(set(tokens(text))) == sorted(set(expected))


def test_scores_follow_the_okapi_formula(tmp_path: Path) -> None:
    index = BM25(tree(tmp_path, {"a": "apple apple pear", "b": "apple plum plum plum plum", "c": "plum"}))
    ranked = dict(index.rank("apple pear"))

    def term(frequency: int, documents: int, length: int) -> float:
        idf = math.log(1 + (3 - documents + 0.5) / (documents + 0.5))
        return idf * frequency * (K1 + 1) / (frequency + K1 * (1 - B + B * length / 3))

    assert ranked == pytest.approx({"a": term(2, 2, 3) + term(1, 1, 3), "b": term(1, 2, 5)})


def test_rare_words_outweigh_common_ones_and_paths_do_not_count(tmp_path: Path) -> None:
    files = {f"common{i}.py": "timeout = 1\n" for i in range(20)}
    files |= {"jitter/backoff.py": "pass\n", "wait.py": "timeout = jitter(3)\n"}
    index = BM25(tree(tmp_path, files))
    ranked = [path for path, _ in index.rank("Where is the jitter of the timeout?")]
    assert ranked[0] == "wait.py"
    assert "jitter/backoff.py" not in ranked


def test_stop_words_of_the_question_are_ignored(tmp_path: Path) -> None:
    index = BM25(tree(tmp_path, {"prose.md": "where is the a of what\n" * 9, "code.py": "port = 80\n"}))
    assert [path for path, _ in index.rank("what is the port of the")] == ["code.py"]
    assert index.rank("what is the of") == []


def test_equal_scores_are_ordered_by_path(tmp_path: Path) -> None:
    index = BM25(tree(tmp_path, dict.fromkeys(("z.py", "m.py", "a.py"), "port = 80\n")))
    assert [path for path, _ in index.rank("port", top=2)] == ["a.py", "m.py"]


def test_the_lines_are_the_window_with_the_most_distinct_weight(tmp_path: Path) -> None:
    lines = [f"filler {i}" for i in range(60)]
    lines[5] = lines[6] = lines[7] = "retry retry retry"
    lines[40], lines[44] = "retry", "the backoff_factor"
    answer = BM25(tree(tmp_path, {"x.py": "\n".join(lines)})).answers("retry backoff factor")[0]
    assert answer.end_line - answer.start_line == 7
    assert answer.start_line <= 41 and answer.end_line >= 45
    assert "backoff_factor" in answer.snippet


def test_binary_and_empty_files_and_empty_repositories(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"port\0port")
    (tmp_path / "empty").touch()
    index = BM25(Repo.open(tmp_path))
    assert index.answers("port") == []


# -- keyword search, chunks ------------------------------------------------------------------------


def test_keyword_search_counts_keywords_then_lines(tmp_path: Path) -> None:
    files = {
        "one.py": "retry = 3\n" * 30,
        "both.py": "import time\n" * 20 + "RETRY_BACKOFF = 2\n" + "pass\n" * 20,
        "none.py": "pass\n",
    }
    found = KeywordSearch(tree(tmp_path, files)).answers("What is the retry backoff?")
    assert [a.path for a in found] == ["both.py", "one.py"]
    assert found[0].start_line <= 21 <= found[0].end_line and found[0].score > found[1].score


@pytest.mark.parametrize("length", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_chunks_cover_all_lines_and_overlap(length: int) -> None:
    found = list(chunks([""] * length))
    assert {n for first, last in found for n in range(first, last + 1)} == set(range(1, length + 1))
    assert all(a[1] - b[0] + 1 == OVERLAP for a, b in itertools.pairwise(found))
    assert all(last - first < CHUNK for first, last in found)


@pytest.mark.parametrize("index", [ChunkBM25, ChunkEmbeddings])
def test_the_best_chunk_answers_for_its_file(
    tmp_path: Path, index: type[ChunkBM25 | ChunkEmbeddings]
) -> None:
    filler = "nothing happens here\n"
    files = {
        "long.py": filler * 100 + "the connection is closed after ten idle seconds\n" + filler * 60,
        "other.py": filler * 50,
    }
    found = index(tree(tmp_path, files)).answers("When is an idle connection closed?", top=5)
    assert found[0].path == "long.py" and found[0].start_line <= 101 <= found[0].end_line
    assert len({a.path for a in found}) == len(found)


def test_embeddings_find_other_words(tmp_path: Path) -> None:
    files = {"a.py": "cooking recipes for the kitchen\n", "b.py": "the automobile needs petrol\n"}
    assert ChunkEmbeddings(tree(tmp_path, files)).answers("fuel for a car")[0].path == "b.py"


@pytest.mark.parametrize("name", BASELINES)
def test_a_tree_without_words_has_no_answers(tmp_path: Path, name: str) -> None:
    assert BASELINES[name](tree(tmp_path, {"a.txt": "\n\n", "b.txt": "--- !!!\n"})).answers("where?") == []
