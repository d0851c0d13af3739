"""Mining tasks: what is found in files and history, what is hidden, what is left out."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from repoagent.errors import InputError
from training import mine, mine_history, mine_sources, phrasing, tasks
from training.cli import app
from training.corpus import CorpusRepo
from training.mine_sources import Candidate, candidates

ENVIRONMENT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def found(path: str, text: str) -> list[Candidate]:
    return list(candidates(path, text.split("\n")))


# -- sources -----------------------------------------------------------------------------------

PYTHON = '''"""Rate limits for outgoing requests."""

import time


class Bucket:
    """A bucket of tokens that is
    refilled at a steady pace. Not thread-safe.

    Longer explanation.
    """

    @property
    def level(self):
        """Number of tokens that are left in it."""
        return 3

    def __len__(self):
        """How many tokens there are in all."""
        return 4

    def plain(self): return 1
'''


def test_python_docstrings() -> None:
    module, bucket, level = found("limits.py", PYTHON)
    assert (module.text, module.span, module.hide) == (
        "Rate limits for outgoing requests",
        None,
        [("limits.py", 1, 1)],
    )
    assert bucket.text == "A bucket of tokens that is refilled at a steady pace"
    assert bucket.span == (6, 22) and bucket.hide == [("limits.py", 7, 8)] and not bucket.callable
    assert level.text == "Number of tokens that are left in it"
    assert level.span == (13, 16) and level.hide == [("limits.py", 15, 15)]


def test_python_that_does_not_parse_yields_nothing() -> None:
    assert found("old.py", 'def f():\n    """Doc."""\n    print "x"\n') == []


@pytest.mark.parametrize(
    ("path", "text", "said", "span", "hide"),
    [
        ("a.js",
         "/**\n * Debounces calls of `fn`.\n * @param fn x\n */\nexport function debounce(fn) {\n"
         "  return fn;\n}\n",
         "Debounces calls of fn", (5, 7), (2, 2)),
        ("a.ts", "// Longest wait in ms.\n// Really.\nexport const limit = 3;\nlet other;\n",
         "Longest wait in ms", (3, 3), (1, 2)),
        ("a.go",
         "// NewPool starts a pool of workers.\nfunc NewPool(n int) *Pool {\n\treturn nil\n}\n\n"
         "func x() {}\n",
         "starts a pool of workers", (2, 4), (1, 1)),
        ("a.rs",
         "/// Parses [`Level`] from text.\n#[inline]\npub fn parse(text: &str) -> Level {\n"
         "    todo!()\n}\n",
         "Parses Level from text", (3, 5), (1, 1)),
        ("A.java",
         "  /**\n   * Sends {@link Mail} to all. Slow.\n   */\n  @Override\n  public void send() {\n"
         "    x();\n  }\n",
         "Sends Mail to all", (5, 7), (2, 2)),
        ("A.cs",
         "/// <summary>\n/// Reads a token.\n/// </summary>\npublic int Read()\n{\n    return 1;\n}\n",
         "Reads a token", (4, 7), (2, 2)),
        ("a.c",
         "/*\n * Free the list and\n * all its nodes.\n */\nstatic int\nlist_free(struct list *l)\n{\n"
         "\treturn 0;\n}\nint z;\n",
         "Free the list and all its nodes", (5, 9), (2, 3)),
        ("a.rb", "# Runs the queue until empty.\ndef run\n  step\nend\n",
         "Runs the queue until empty", (2, 4), (1, 1)),
        ("a.php",
         "/**\n * Escapes a value for SQL.\n */\nfinal public function esc($v)\n{\n    return $v;\n}\n",
         "Escapes a value for SQL", (4, 7), (2, 2)),
        ("a.sh", "#!/bin/sh\n# Print usage, then leave.\nusage() {\n  exit 1\n}\n",
         "Print usage, then leave", (3, 5), (2, 2)),
        ("a.toml", "[net]\n# Seconds before a retry.\nwait = 3\n", "Seconds before a retry", (3, 3), (2, 2)),
        ("a.yml", "# old: 1\n#\n# Who may deploy.\ndeploy:\n  by: me\nx: 1\n",
         "Who may deploy", (4, 5), (3, 3)),
        (".env.example", "# Where mails are sent from\nMAIL_FROM=a\n",
         "Where mails are sent from", (2, 2), (1, 1)),
    ],
)  # fmt: skip
def test_comments_above_definitions(
    path: str, text: str, said: str, span: tuple[int, int], hide: tuple[int, int]
) -> None:
    (one,) = found(path, text)
    assert (one.text, one.gold, one.span, one.hide) == (said, (path,), span, [(path, *hide)])


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.go", "// Starts a pool of workers.\n\nfunc NewPool() {}\n"),  # an empty line between
        ("a.js", "  // the caller is right here\n  call(x);\n"),  # no definition
        ("a.js", "  // the caller is right here\n  if (x) {\n  }\n"),
        ("a.js", "  // the caller is right here\n  const x = 1;\n"),  # local
        ("a.c", "/* never closed\n int f(void) {\n"),
        ("tests/a.js", "// Debounces all the calls.\nfunction debounce() {}\n"),
        ("vendor/x/a.go", "// Starts a pool of workers.\nfunc NewPool() {}\n"),
        ("a.min.js", "// Debounces all the calls.\nfunction debounce() {}\n"),
        ("a.yml", "# wait: 3\nretry: 1\n"),  # a key that is commented out
        ("CHANGELOG.md", "# Changes\n## Faster start of the server\n\na\nb\nc\nd\n"),
        ("docs/de-DE/a.md", "# Server\n## Faster start of the server\n\na\nb\nc\nd\n"),
        ("README.tr.md", "# Server\n## Faster start of the server\n\na\nb\nc\nd\n"),
        ("a.bin", "// Starts a pool of workers.\nfunc NewPool() {}\n"),
    ],
)
def test_not_mined(path: str, text: str) -> None:
    assert found(path, text) == []


MARKDOWN = """# The server

Intro.

```sh
# Not a heading at all
```

## Configure request retries

A request may be retried.
two
three

### Limits

One
two
three

## Installation

One
two
three
"""


LAST = "# er\n\nx\n\n## Stop all running workers\n\nWorkers finish first.\n\nThen the rest.\n"


def test_markdown_headings() -> None:
    retries, limits = found("docs/a.md", MARKDOWN)
    assert (retries.text, retries.parent, retries.span) == (
        "Configure request retries",
        "The server",
        (9, 20),
    )
    assert retries.hide == [("docs/a.md", 9, 9), ("docs/a.md", 1, 1)]
    assert (limits.text, limits.parent, limits.span) == ("Limits", "Configure request retries", (15, 20))


def test_rst_headings() -> None:
    text = "=========\nThe Tool\n=========\n\nx\n\nWrite your own plugin\n---------------------\n\na\nb\nc\n"
    (plugin,) = found("docs/a.rst", text)
    assert (plugin.text, plugin.parent, plugin.span) == ("Write your own plugin", "The Tool", (7, 13))
    assert plugin.hide == [("docs/a.rst", 7, 8), ("docs/a.rst", 1, 3)]


@given(
    st.sampled_from(["a.py", "a.go", "a.c", "a.md", "a.rst", "a.yml", "a.cs", "a.sh"]), st.text(max_size=300)
)
def test_any_text_is_mined_without_error_and_within_its_lines(path: str, text: str) -> None:
    lines = text.split("\n")
    for one in candidates(path, lines):
        assert all(1 <= a <= b <= len(lines) for _, a, b in one.hide)
        assert one.span is None or 1 <= one.span[0] <= one.span[1] <= len(lines)


# -- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Uses e.g. two. Then more.", "Uses e.g. two"),
        ("Reads file.txt from disk. x", "Reads file.txt from disk"),
        ("Is it done? Yes.", "Is it done?"),
        ("no stop at all", "no stop at all"),
        ("", ""),
    ],
)
def test_sentence(text: str, first: str) -> None:
    assert phrasing.sentence(text) == first


@pytest.mark.parametrize(
    "text",
    [
        "Copyright 2020 the authors of this file",
        "TODO make this a lot faster",
        "Constructor for the thing in question",
        "see https://example.org for the details",
        "zwei drei",
        "返回所有已知编码的列表 之一 的 列表",
        "the of to and in on",
        "x = y + z * 2 - 1",
        "returns foo_bar baz_qux quux_x",
    ],
)
def test_unfit(text: str) -> None:
    assert not phrasing.fit(text)


def test_fit() -> None:
    assert phrasing.fit("Returns the list of known encodings")


@pytest.mark.parametrize(
    ("word", "base"),
    [("Returns", "return"), ("tries", "try"), ("fetches", "fetch"), ("Added", "add"), ("stopped", "stop"),
     ("caching", "cache"), ("Encoding", "encode"), ("class", None), ("The", None), ("number", None)],
)  # fmt: skip
def test_base_form(word: str, base: str | None) -> None:
    assert phrasing.base_form(word) == base


def test_questions_are_varied_and_keep_the_matter() -> None:
    rng = random.Random(0)
    asked = {phrasing.ask_doc("Returns the list of known encodings.".strip("."), rng) for _ in range(80)}
    assert len(asked) >= 7
    assert all("known encodings" in q for q in asked)
    assert "Where do we return the list of known encodings?" in asked
    asked = {phrasing.ask_commit("Fix a crash when the socket closes", rng) for _ in range(40)}
    assert "crash when the socket closes" in asked
    asked = {phrasing.ask_heading("Limits", "Request retries", rng) for _ in range(40)}
    assert all("limits" in q.lower() and "retries" in q for q in asked)
    assert phrasing.ask_heading("What is a bucket?", "FAQ", rng) == "What is a bucket?"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fix(core): retry when the socket closes (#123)", "retry when the socket closes"),
        ("net/http: Close idle connections early. Fixes #7", "Close idle connections early"),
        ("[3.1] Accept empty headers too (closes #9)", "Accept empty headers too"),
        ("upstream: check the key's age; ok someone@", "check the key's age"),
        ("Accept empty headers", "Accept empty headers"),
    ],
)
def test_subject(line: str, said: str) -> None:
    assert mine_history.subject(line) == said


# -- a whole repository ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[CorpusRepo, Path]:
    """Trees folder with own__er: sources, documentation and a history of real commits."""
    trees = tmp_path_factory.mktemp("trees")
    root = trees / "own__er"
    root.mkdir()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=ENVIRONMENT
        ).stdout.strip()

    def commit(subject: str, **files: str) -> str:
        for name, text in files.items():
            path = root / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git("add", "-A")
        git("commit", "-q", "-m", subject)
        return git("rev-parse", "HEAD")

    git("init", "-q")
    net = "import time\n\n\ndef connect(host):\n    return host\n"
    commit("Start", src__net_dot_py=net, README_dot_md="# er\n", docs__a_dot_md=MARKDOWN, docs__b_dot_md=LAST)
    net += (
        "\n\ndef retry(call, attempts=3):\n    for attempt in range(attempts):\n        time.sleep(attempt)\n"
    )
    commit("Wait between retry attempts of a call (#12)", src__net_dot_py=net)
    commit("Bump version of the retry library", src__net_dot_py=net + "VERSION = 'retry-attempts-9'\n")
    net += "\n\ndef doomed(call):\n    return call.doomed_for_ever()\n"
    commit("Doom every call for ever", src__net_dot_py=net)
    net = net.replace("doomed_for_ever()", "spared()")
    limits = PYTHON.replace("import time", "import time  # refill pace of tokens in the bucket")
    pin = commit(
        "The rest",
        src__net_dot_py=net,
        src__limits_dot_py=limits,
        CHANGELOG_dot_md="# Changes\n\n- wait between retry attempts of a call\n",
        docs__api_dot_md="# API\n\nA bucket of tokens that is\nrefilled at a steady pace.\n",
        settings_dot_toml="[retry]\n# Longest wait between two attempts, in seconds.\nlongest_wait = 3\n",
    )
    commit(
        "Later than the pin, about retry attempts",
        src__net_dot_py=net + "# retry attempts of later\nx_attempts = 1\n",
    )
    git("checkout", "-q", pin)
    return CorpusRepo("own/er", pin, "MIT", "train", "Python"), trees


@pytest.fixture(scope="module")
def mined(repository: tuple[CorpusRepo, Path]) -> list[dict[str, object]]:
    item, trees = repository
    return mine.mine_repo(item, trees / item.folder, trees / item.folder / ".git")


def of_kind(mined: list[dict[str, object]], kind: str) -> list[dict[str, object]]:
    return [r for r in mined if r["kind"] == kind]


def test_commits_lead_to_the_lines_that_still_stand(mined: list[dict[str, object]]) -> None:
    # Not the start, the version bump, the change that was undone, nor what came after the pin.
    (task,) = of_kind(mined, "mined-commit")
    assert task["gold"] == ["src/net.py"] and task["span"] == [8, 10]
    assert "retry attempts" in str(task["question"])
    assert task["hide"] == [["CHANGELOG.md", 3, 3]]  # the same words elsewhere


def test_the_last_section_ends_with_the_file(mined: list[dict[str, object]]) -> None:
    (task,) = [t for t in of_kind(mined, "mined-heading") if t["gold"] == ["docs/b.md"]]
    assert task["span"] == [5, 9]


def test_every_copy_of_the_sentence_is_hidden(mined: list[dict[str, object]]) -> None:
    (task,) = [t for t in of_kind(mined, "mined-doc") if t["span"] == [6, 22]]
    assert task["hide"] == [["src/limits.py", 7, 8], ["docs/api.md", 3, 3]]


def test_all_kinds_are_there_and_valid(
    mined: list[dict[str, object]], repository: tuple[CorpusRepo, Path], tmp_path: Path
) -> None:
    item, trees = repository
    assert {r["kind"] for r in mined} == set(mine.SHARES)
    assert len({r["id"] for r in mined}) == len({str(r["question"]).lower() for r in mined}) == len(mined)
    mine.write(mined, tmp_path / "own__er.jsonl")
    read = tasks.read(tmp_path / "own__er.jsonl")
    assert [t.source for t in read] == ["mined"] * len(mined)
    assert list(tasks.validate(read, trees / item.folder)) == []


def test_mining_is_repeatable_and_keeps_to_the_limit(
    mined: list[dict[str, object]], repository: tuple[CorpusRepo, Path]
) -> None:
    item, trees = repository
    tree = trees / item.folder
    assert mine.mine_repo(item, tree, tree / ".git") == mined
    assert len(mine.mine_repo(item, tree, tree / ".git", limit=3)) <= 3
    assert not of_kind(mine.mine_repo(item, tree, None), "mined-commit")


def test_a_file_gives_few_tasks_and_a_common_sentence_none(tmp_path: Path) -> None:
    functions = "".join(
        f'def item{n}():\n    """Computes price number {"of every " * (n % 3 + 1)}item{n} sold."""\n'
        f"    return price * {n}\n\n"
        for n in range(40)
    )
    (tmp_path / "many.py").write_text(functions)
    common = (
        "// Closes the open connection at once.\nfunc Close{n}(connection int) {{\n\tconnection.open()\n}}\n"
    )
    (tmp_path / "common.go").write_text("".join(common.format(n=n) for n in range(3)))
    found = mine.mine_repo(CorpusRepo("o/n", "0" * 40, "MIT", "train", "Go"), tmp_path, None)
    assert len(found) == mine.PER_FILE
    assert {tuple(r["gold"]) for r in found} == {("many.py",)}  # type: ignore[arg-type]


def test_the_command(repository: tuple[CorpusRepo, Path], tmp_path: Path) -> None:
    # The corpus' own names: one tree is there, one history elsewhere, the other trees are missing.
    item, trees = repository
    tree = tmp_path / "trees" / "pallets__click"
    tree.parent.mkdir()
    tree.symlink_to(trees / item.folder)
    histories = tmp_path / "histories.txt"
    histories.write_text(f"pallets/click {trees / item.folder / '.git'} extra columns\n")
    out = tmp_path / "out"
    arguments = ["mine", "--trees", str(tree.parent), "--out", str(out), "--git-dirs", str(histories)]
    done = CliRunner().invoke(app, [*arguments, "--repo", "pallets/click", "--repo", "encode/httpx"])
    assert done.exit_code == 0, done.output
    assert "encode/httpx: missing 1" in done.output
    rows = [json.loads(line) for line in (out / "pallets__click.jsonl").read_text().splitlines()]
    assert rows and {r["repo"] for r in rows} == {"pallets/click"}
    assert [p.name for p in out.iterdir()] == ["pallets__click.jsonl"]


def test_bad_list_of_histories(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        mine.read_git_dirs(tmp_path / "none")
    (tmp_path / "list").write_text("own/er\n")
    with pytest.raises(InputError, match="without a path"):
        mine.read_git_dirs(tmp_path / "list")


def test_copies_ignores_case_and_counts_lines_per_file() -> None:
    copies = mine.Copies({"a": "one\nTwo words\n", "b": "x\ny\nof TWO words, İ\ntwo words", "c": ""})
    assert copies.find(("two words",)) == [("a", 2), ("b", 3), ("b", 4)]
    assert copies.find(("absent",)) == []


def test_is_side() -> None:
    sides = (
        "tests/a.py",
        "pkg/a_test.go",
        "lib/test_x.py",
        "vendor/a.c",
        "src/FooTest.java",
        "x/testdata/y.go",
    )
    assert all(mine_sources.is_side(p) for p in sides)
    assert not any(
        mine_sources.is_side(p) for p in ("src/attest.py", "lib/latest/a.js", "src/contest.rs", "cmd/a.go")
    )


def test_documents_are_not_taken_for_translations() -> None:
    text = "# Server\n## Faster start of the server\n\na\nb\nc\nd\n"
    for path in ("docs/how-to/set-up.md", "docs/templates/a.md", "docs/security/keys.md"):
        assert len(found(path, text)) == 1, path
