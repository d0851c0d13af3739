"""Lexical evidence: which words hit what, where the lines are, and how long it takes."""

import itertools
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repoagent import scent as scent_module
from repoagent.repo import DirectoryRepo, Entry, Repo
from repoagent.scent import FILE_FEATURES, Scent, segment
from repoagent.terms import ABBREVIATIONS, STOPWORDS, literals, parts, root, terms


def repo(folder: Path, files: dict[str, str | bytes]) -> Repo:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data if isinstance(data, bytes) else data.encode())
    return Repo.open(folder)


# -- words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("max_connections", "max connections"),
        ("maxConnections", "max connections"),
        ("MAX-CONNECTIONS", "max connections"),
        ("HTTPServer_v2", "http server v 2"),
        ("src/fooBar.test.ts", "src foo bar test ts"),
        ("utf8Decoder", "utf 8 decoder"),
        ("žluťoučký Kůň", "žluťoučký kůň"),
        ("__init__", "init"),
        ("", ""),
        ("-- ::", ""),
    ],
)
def test_identifiers_fall_into_their_parts(word: str, expected: str) -> None:
    assert " ".join(parts(word)) == expected


@pytest.mark.parametrize(
    "family",
    [
        "connect connected connecting connection connections",
        "configure configured",
        "parse parser parsers parsing parsed",
        "option options",
        "retry",
        "is",
    ],
)
def test_inflections_share_a_root(family: str) -> None:
    roots = {root(word) for word in family.split()}
    assert len(roots) == 1
    (stem,) = roots
    assert all(word.startswith(stem) for word in family.split())


def test_stop_words_go_unless_nothing_else_is_left() -> None:
    assert [t.word for t in terms("Where is the timeout of the server defined?")] == ["timeout", "server"]
    assert terms("where is it?")
    assert terms("?!") == terms("") == []


def test_what_reads_like_code_stays_and_is_marked() -> None:
    found = {t.word: t.code for t in terms("Where does `useFile` read --dry-run from getUse?")}
    assert found["use"]
    assert found["dry"]
    assert not found["read"]
    assert b"usefile" in literals("what is `useFile`?")


@settings(max_examples=300, deadline=1000, derandomize=True)
@given(st.text(st.sampled_from('\udcff\ud800`"._-/aZ9 é\n\0') | st.characters(), max_size=200))
@example("a" * 2000)
def test_any_question_will_do(question: str) -> None:
    """Lone surrogates included: they are what a terminal makes of bytes that are not UTF-8."""
    for text in (question, f"`{question}`", f"a.{question}.b"):
        assert len(terms(text)) <= 24
        assert all(isinstance(found, bytes) for found in literals(text))


# -- hits ----------------------------------------------------------------------------------


def scores(folder: Path, question: str, *contents: str) -> list[float]:
    """Evidence in the content of each of ``contents``, all of one length and in unsuspicious files."""
    width = max(map(len, contents))
    files = {f"{i}.py": text.ljust(width) for i, text in enumerate(contents)}
    found = Scent(repo(folder, {**files, "other.py": "x" * width}), question)
    return [found.hit(path).content for path in files]


def test_every_way_to_write_an_identifier_is_found(tmp_path: Path) -> None:
    written = [
        "max_connections",
        "maxConnections",
        "MaxConnections",
        "MAX_CONNECTIONS",
        "max-connection",
        "max.connected",
    ]
    found = scores(tmp_path, "maximum connections", *written)
    assert min(found) > 0
    assert max(found) - min(found) < 1e-9


def test_only_the_beginning_of_a_part_counts(tmp_path: Path) -> None:
    found = scores(tmp_path, "max port", "climax", "support", "maximal_portal", "max", "importPort")
    assert found[:2] == [0, 0]
    assert found[3] > 0
    assert found[4] > 0


def test_abbreviations_count_less_than_the_word(tmp_path: Path) -> None:
    full, short, none = scores(tmp_path, "the configuration", "configuration", "cfg", "unrelated")
    assert full > short > none == 0


def test_abbreviations_are_shorter_than_what_they_stand_for() -> None:
    for word, short in ABBREVIATIONS.items():
        assert all(len(s) <= len(word) and s.isalpha() for s in short)


def test_rare_words_count_more_than_common_ones(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {f"{i}.py": "common word" for i in range(20)}
    found = Scent(
        repo(tmp_path, {**files, "rare.py": "unusual word", "both.py": "plain text"}), "common unusual"
    )
    assert found.hit("rare.py").content > found.hit("0.py").content > 0


def test_words_in_the_path_count(tmp_path: Path) -> None:
    found = Scent(repo(tmp_path, {"src/retry_policy.py": "pass", "src/other.py": "pass"}), "retry policy")
    assert [h.path for h in found.hits(5)] == ["src/retry_policy.py"]
    assert found.directory("src")[1] >= 1


def test_utf_16_marks_and_line_ends_do_not_matter(tmp_path: Path) -> None:
    text = "first\nmax_connections = 3\nlast\n"
    found = Scent(
        repo(
            tmp_path,
            {
                "plain.txt": text,
                "crlf.txt": text.replace("\n", "\r\n"),
                "bom.txt": b"\xef\xbb\xbf" + text.encode(),
                "wide.txt": text.encode("utf-16"),
            },
        ),
        "maximum connections",
    )
    for name in ("plain.txt", "crlf.txt", "bom.txt", "wide.txt"):
        (window,) = found.windows(name, 1)
        assert (window.start, window.end, window.text) == (1, 3, text[:-1])
        assert found.best_line(name, window) == (2, "max_connections = 3")


def test_binary_and_excluded_files_give_no_evidence(tmp_path: Path) -> None:
    made = repo(tmp_path, {"binary": b"retries\0" * 9, "barred.py": "retries", "seen.py": "retries"})
    found = Scent(made, "retries", exclude=["barred.py"])
    assert found.hit("binary").content == 0
    assert not found.knows("barred.py")
    assert [h.path for h in found.hits(9)] == ["seen.py"]


def test_without_search_no_content_is_read(tmp_path: Path) -> None:
    class Sealed(DirectoryRepo):
        def _read(self, path: str) -> bytes:
            raise AssertionError(path)

    repo(tmp_path, {"src/retry.py": "x" * 100, "other.py": "retry"})
    found = Scent(Sealed(tmp_path), "retry", search=False)
    assert found.hit("src/retry.py").name > 0 == found.hit("other.py").content


# -- lines ---------------------------------------------------------------------------------

line = st.sampled_from(
    ["", "  ", "def retry():", "    retries = 3", "text", "# Retry", "}", "\t\tx", "retry " * 99]
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows=st.lists(line, max_size=120), end=st.sampled_from(["\n", "\r\n"]), closed=st.booleans())
def test_windows_and_blocks_are_where_they_say(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], end: str, closed: bool
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    made = repo(folder, {"x.py": end.join(rows) + (end if closed else "")})
    found = Scent(made, "how many retries?")
    lines = made.lines("x.py")
    windows = found.windows("x.py", 3)
    taken = [n for w in windows for n in range(w.start, w.end + 1)]
    assert len(taken) == len(set(taken))
    assert [w.score for w in windows] == sorted((w.score for w in windows), reverse=True)
    blocks = found.blocks("x.py", count=10**6)
    for piece in (*windows, *blocks):
        assert 1 <= piece.start <= piece.end <= len(lines)
        assert piece.text.split("\n") == [x[:240] for x in lines[piece.start - 1 : piece.end]]
        assert math.isfinite(piece.score)
    covered = [n for b in blocks for n in range(b.start, b.end + 1)]
    assert len(covered) == len(set(covered))
    assert {n for n, text in enumerate(lines, 1) if text.strip()} <= set(covered)
    if any("retr" in text.lower() for text in lines):
        assert any("retr" in row.lower() for row in windows[0].text.split("\n"))
        number, text = found.best_line("x.py", windows[0])
        assert "retr" in lines[number - 1].lower()
        assert "retr" in text.lower()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(line.map(str.encode), max_size=200))
def test_segments_cut_a_file_without_gap_or_overlap(lines: list[bytes]) -> None:
    blocks = segment(lines)
    assert all(0 <= start < end <= len(lines) for start, end in blocks)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(blocks))
    covered = {n for start, end in blocks for n in range(start, end)}
    assert {n for n, text in enumerate(lines) if text.strip()} <= covered


# -- the whole -----------------------------------------------------------------------------

WORDS = [*"retry connection timeout server parse config value render token cache open write".split()]


def project(folder: Path, count: int, size: int, seed: int = 0) -> Path:
    """``count`` source files of about ``size`` bytes in folders of forty."""
    rng = random.Random(seed)
    rows = []
    for i in range(4000):
        a, b, c, d = rng.choices(WORDS, k=4)
        rows.append(f"    {a}_{b}{i % 97} = {c}{d.title()}({i})\n")
    length = max(1, size * len(rows) // sum(map(len, rows)))
    for i in range(count):
        here = folder / f"pkg{i // 1600}/part{i // 40}"
        if i % 40 == 0:
            here.mkdir(parents=True)
        start = rng.randrange(len(rows) - length)
        text = f"def {rng.choice(WORDS)}_{i}():\n" + "".join(rows[start : start + length])
        (here / f"{rng.choice(WORDS)}_{i}.py").write_text(text)
    return folder


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    class Shuffled(DirectoryRepo):
        def files(self) -> Iterator[Entry]:
            found = list(super().files())
            random.Random(1).shuffle(found)
            return iter(found)

    project(tmp_path, 200, 600)
    question = "Where is the connection timeout of the server configured?"
    one, two = Scent(Repo.open(tmp_path), question), Scent(Shuffled(tmp_path), question)
    assert [h.path for h in one.ranking] == [h.path for h in two.ranking]
    for hit in one.ranking:
        assert one.features(hit.path) == pytest.approx(two.features(hit.path))


def test_features_are_as_many_as_their_names_and_finite(tmp_path: Path) -> None:
    made = repo(
        tmp_path, {"a.py": "retry = 1", "b": b"\0", "c.md": "", "tests/test_retry.py": "retry " * 999}
    )
    for question in ("how often to retry?", "", "zzz"):
        found = Scent(made, question)
        for entry in made.files():
            values = found.features(entry.path)
            assert len(values) == len(FILE_FEATURES)
            assert all(math.isfinite(v) for v in values)


def test_an_empty_repository_has_no_hits(tmp_path: Path) -> None:
    found = Scent(Repo.open(tmp_path), "retry")
    assert found.hits(5) == found.ranking == []
    assert found.directory("") == (0.0, 0)


# -- time ----------------------------------------------------------------------------------


def best_of(runs: int, act: object) -> float:
    """Least processor time of ``runs`` runs, so that other work on the machine does not count."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        act()  # type: ignore[operator]
        times.append(time.process_time() - start)
    return min(times)


def test_5_000_files_are_scanned_within_three_seconds(tmp_path: Path) -> None:
    project(tmp_path, 5000, 8000)
    question = "Where is the maximum number of parallel connections to the server configured?"
    assert best_of(2, lambda: Scent(Repo.open(tmp_path), question)) < 3


def test_10_000_files_are_walked_within_two_seconds(tmp_path: Path) -> None:
    project(tmp_path, 10_000, 1)
    (tmp_path / ".gitignore").write_text("".join(f"*.o{i}\n/build{i}/\n" for i in range(40)))
    assert best_of(2, lambda: list(Repo.open(tmp_path).files())) < 2


def test_related_words_bring_files_and_lines_that_share_no_word_with_the_question(tmp_path: Path) -> None:
    filler = "".join(f"line {i} of nothing much\n\n" for i in range(40))
    (tmp_path / "gate.yml").write_text(filler + "steps:\n  - shell: eslint src\n\n" + filler)
    (tmp_path / "other.yml").write_text(filler * 2)
    scent = Scent(Repo.open(tmp_path), "what happens when the linter fails?")
    assert scent.hits(2)[0].path == "gate.yml"
    assert "eslint" in scent.blocks("gate.yml", 1)[0].text
    assert scent.features("gate.yml")[FILE_FEATURES.index("related_content_bm25")] == 1
    assert scent.features("other.yml")[FILE_FEATURES.index("content_bm25")] == 0


def test_a_word_of_the_question_counts_more_than_a_related_one(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def purge(record):\n    record.gone = True\n")
    (tmp_path / "b.py").write_text("def delete(record):\n    record.gone = True\n")
    assert Scent(Repo.open(tmp_path), "who may delete a record?").hits(2)[0].path == "b.py"
    assert Scent(Repo.open(tmp_path), "who may purge a record?").hits(2)[0].path == "a.py"


def test_the_thesaurus_is_in_order() -> None:
    lines = (Path(scent_module.__file__).parent / "thesaurus.txt").read_text(encoding="ascii").splitlines()
    words = [line.partition(":")[0] for line in lines]
    assert words == sorted(set(words)) and len(words) > 1000
    for line in lines:
        word, _, related = line.partition(": ")
        assert related and not STOPWORDS & set(related.split()), word
        assert root(word) not in map(root, related.split()), word


def test_words_that_read_like_code_and_words_of_the_question_bring_no_related_ones() -> None:
    lint, ruff = terms("does the linter call ruff?")[:1] + terms("does the linter call ruff?")[-1:]
    assert b"eslint" in lint.related and b"ruff" not in lint.related and ruff.word == "ruff"
    assert all(not t.related for t in terms("where is `delete_old_things` called?") if t.code)
