"""The MCP server as its clients meet it: the official client, over stdio, with a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.types import CallToolResult, ListRootsResult, Root, TextContent

from tests.test_cli import command, environment, one_line

FAST = ("--policy", "random", "--no-reflect")  # needs no torch
SECRET = "SECRET-7d1c"


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``shop`` and ``blog``; ``outside`` them; and links from shop to both of the others."""
    base = tmp_path_factory.mktemp("trees").resolve()
    files = {
        "shop/shop/session.py": "# sessions\n" * 8 + "SESSION_TIMEOUT = 1800  # seconds until it expires\n",
        "shop/shop/cart.py": "def total(items):\n    return sum(items)\n",
        "blog/posts.py": "PAGE_SIZE = 20  # posts on a page\n",
        "outside/private.py": f"SESSION_TIMEOUT = '{SECRET}'\n",
    }
    for name, text in files.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text)
    (base / "shop/link").symlink_to("../outside")
    (base / "shop/inner").symlink_to("shop")
    return base


@asynccontextmanager
async def client(
    *arguments: object, cwd: Path | None = None, roots: list[Path] | None = None
) -> AsyncIterator[ClientSession]:
    """A session with a server of its own; ``roots`` are what this client grants, where it does."""

    async def granted(_: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=root.as_uri()) for root in roots or []])

    executable, *rest = command("mcp", *arguments)
    path = os.pathsep.join(sys.path)
    server = StdioServerParameters(
        command=executable, args=rest, env=environment(PYTHONPATH=path), cwd=cwd or Path.cwd()
    )
    callback = None if roots is None else granted
    with anyio.fail_after(60):
        async with (
            stdio_client(server) as (read, write),
            ClientSession(read, write, list_roots_callback=callback) as session,
        ):
            await session.initialize()
            yield session


def text(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def test_find_and_explore(trees: Path) -> None:
    async with client("--root", trees / "shop", "--policy", "encoder", "--no-reflect") as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert set(tools) == {"find", "explore"}
        assert tools["find"].input_schema["required"] == ["question"]
        assert set(tools["find"].input_schema["properties"]) == {"question", "repo", "top"}
        assert set(tools["explore"].input_schema["properties"]) == {"question", "repo", "steps"}
        assert all(t.output_schema and t.annotations and t.annotations.read_only_hint for t in tools.values())

        progress: list[tuple[float, str | None]] = []

        async def reported(count: float, _: float | None, message: str | None) -> None:
            progress.append((count, message))

        asked = {"question": "Where is the timeout of a session set?", "top": 2}
        result = await session.call_tool("find", asked, progress_callback=reported)
        assert not result.is_error and result.structured_content
        data = result.structured_content
        assert list(data) == ["repo", "confident", "answers"] and data["repo"] == str(trees / "shop")
        best = data["answers"][0]
        assert best["path"] == "shop/session.py" and best["start_line"] <= 9 <= best["end_line"]
        assert "SESSION_TIMEOUT = 1800" in best["snippet"] and 0 < best["score"] <= 1
        assert text(result).startswith(f"shop/session.py:{best['start_line']}-{best['end_line']}\n")
        counts = [count for count, _ in progress]
        assert counts == sorted(set(counts)) and ("loading the model" in str(progress[0]))
        assert any(message and message.startswith("open shop/session.py") for _, message in progress)

        result = await session.call_tool("explore", {"question": "session timeout?", "steps": 3})
        assert not result.is_error and result.structured_content
        data = result.structured_content
        assert data["answers"][0]["path"] == "shop/session.py"
        assert 1 <= len(data["steps"]) <= 4
        assert all(step["action"] in [o["text"] for o in step["options"]] for step in data["steps"])
        assert data["files_read"] >= 1 and data["policy"] and data["reflector"] == "none"
        assert "Steps:\n  1. open shop/session.py" in text(result)


async def test_what_lies_outside_the_roots_is_refused(trees: Path) -> None:
    shop = trees / "shop"
    refused = [
        "..",
        "../outside",
        "shop/../../outside",
        str(trees / "outside"),
        str(trees / "outside" / "private.py"),
        "link",
        str(shop / "link"),
        "/",
        "~",
        "nowhere",
        str(trees / "shop2"),
        "a\0b",
    ]
    (trees / "shop2").mkdir(exist_ok=True)  # its name begins like that of the root
    async with client("--root", shop, *FAST) as session:
        for repo in refused:
            result = await session.call_tool("find", {"question": "session timeout?", "repo": repo})
            assert result.is_error, repo
            assert "is not within the directories that may be read" in text(result)
            assert SECRET not in text(result)
        for repo in ("", ".", "shop", "inner", str(shop), "shop/../shop"):
            result = await session.call_tool("find", {"question": "session?", "repo": repo})
            assert not result.is_error, repo
            assert SECRET not in str(result)


async def test_bad_arguments_are_errors_that_leave_the_server_standing(trees: Path) -> None:
    async with client("--root", trees / "shop", *FAST) as session:
        for arguments, message in (
            ({}, "question"),
            ({"question": "  "}, "question is empty"),
            ({"question": 7}, "question"),
            ({"question": "total?", "top": 0}, "top"),
            ({"question": "total?", "top": "many"}, "top"),
            ({"question": "total?", "repo": "shop/cart.py"}, "no zip or tar archive"),
        ):
            result = await session.call_tool("find", arguments)
            assert result.is_error and message in text(result), arguments
        assert (await session.call_tool("explore", {"question": "total?", "steps": 99})).is_error
        assert (await session.call_tool("nonsense", {})).is_error
        assert not (await session.call_tool("find", {"question": "total?"})).is_error


async def test_a_broken_model_is_said(trees: Path) -> None:
    async with client("--root", trees / "shop", "--policy", "openai:nothing", "--no-reflect") as session:
        result = await session.call_tool("find", {"question": "total?"})
        assert result.is_error and "nothing" in text(result)


async def test_the_clients_roots_bound_it_where_the_command_line_names_none(trees: Path) -> None:
    spaced = trees / "a shop & more"
    if not spaced.exists():
        spaced.mkdir()
        (spaced / "prices.py").write_text("VAT = 19\n")
    async with client(*FAST, cwd=trees / "shop", roots=[trees / "blog", spaced]) as session:
        result = await session.call_tool("find", {"question": "page size?"})
        assert result.is_error and "several roots" in text(result)
        for repo, name in ((str(trees / "blog"), "blog"), (str(spaced), spaced.name)):
            result = await session.call_tool("explore", {"question": "page?", "repo": repo, "steps": 40})
            assert not result.is_error and result.structured_content
            assert Path(result.structured_content["repo"]).name == name
        result = await session.call_tool("find", {"question": "session?", "repo": str(trees / "shop")})
        assert result.is_error and "is not within" in text(result)
    async with client(*FAST, cwd=trees / "shop", roots=[]) as session:
        result = await session.call_tool("find", {"question": "session?"})
        assert result.is_error and "no directory may be read" in text(result)


async def test_a_client_without_roots_asks_about_the_current_directory(trees: Path) -> None:
    async with client(*FAST, cwd=trees / "blog") as session:
        result = await session.call_tool("explore", {"question": "page size?", "steps": 40})
        assert result.structured_content and result.structured_content["repo"] == str(trees / "blog")
        assert result.structured_content["answers"][0]["path"] == "posts.py"


async def test_a_cancelled_question_ends_and_the_next_is_answered(tmp_path: Path) -> None:
    for name, count in (("big", 3000), ("small", 1)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"file{i}.py").write_text("port = 80  # of the server\n" * 20)
    async with client("--root", tmp_path, *FAST) as session:
        started = anyio.Event()
        finished = []

        async def reported(_: float, __: float | None, message: str | None) -> None:
            if message == "reading the repository":
                started.set()

        async def ask_about_the_big_one() -> None:
            big = {"question": "server port?", "repo": "big"}
            finished.append(await session.call_tool("find", big, progress_callback=reported))

        async with anyio.create_task_group() as group:
            group.start_soon(ask_about_the_big_one)
            await started.wait()
            group.cancel_scope.cancel()
        assert finished == []
        await session.send_ping()
        result = await session.call_tool("find", {"question": "server port?", "repo": "small"})
        assert not result.is_error


async def test_names_that_are_no_utf8_do_not_break_the_protocol(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.py")).write_text("port = 80\n")
    (tmp_path / os.fsdecode(b"d\xe9p")).mkdir()
    async with client("--root", tmp_path, *FAST) as session:
        result = await session.call_tool("explore", {"question": "port?", "steps": 40})
        assert result.structured_content and not result.is_error
        assert [a["path"] for a in result.structured_content["answers"]] == ["caf\\udce9.py"]


def test_only_the_protocol_is_on_stdout_and_the_end_of_stdin_ends_it(trees: Path) -> None:
    result = subprocess.run(
        command("mcp", "--root", trees / "shop", *FAST),
        input="", capture_output=True, text=True, timeout=60, env=environment(),
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_root_that_is_none_and_a_package_that_is_missing_are_one_line_and_exit_2(tmp_path: Path) -> None:
    missing = subprocess.run(
        command("mcp", "--root", tmp_path / "none"), capture_output=True, text=True, env=environment()
    )
    assert missing.returncode == 2 and "is no directory" in one_line(missing)
    probe = (
        "import sys; sys.modules['mcp'] = None; sys.argv[1:] = ['mcp']\n"
        "from repoagent.cli import main; main()"
    )
    missing = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment())
    assert missing.returncode == 2 and "pip install 'repoagent[mcp]'" in one_line(missing)
