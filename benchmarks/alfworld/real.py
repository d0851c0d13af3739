"""The real engine (TextWorld with fast-downward) behind the interface of ours; extra ``alfworld``.

For comparing the two only: it takes seconds to begin a game and evaluates the grammar in the game's file as
Python. Never give it a file from someone you do not trust.
"""

from __future__ import annotations

import copy
import functools
import importlib
import sys
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from repoagent.errors import InputError


class RealEngine:
    """One game after another in one process; see :class:`benchmarks.alfworld.engine.Player`.

    Raises :class:`InputError` where the extra is not installed.
    """

    def __init__(self) -> None:
        arguments = sys.argv
        try:
            pddl = importlib.import_module("textworld.envs.pddl.pddl")
            core = importlib.import_module("textworld.core")
            tools = importlib.import_module("alfworld.agents.utils.misc")
            _memoise()
            infos = core.EnvInfos(won=True, admissible_commands=True, feedback=True)
            self._env: Any = pddl.PddlEnv(infos)
        except ImportError as error:
            raise InputError(
                f"the real engine is not installed ({error.name or error}); with Python 3.11 or 3.12 run: "
                "pip install 'repoagent[alfworld]' (it builds fast-downward, GPL-3)."
            ) from error
        finally:
            sys.argv = arguments
        self._demangler: Any = tools.Demangler
        self._state: Any = None
        self.won = False

    def load(self, data: Mapping[str, Any]) -> None:
        """Take the game in ``data``, the JSON of a game file that is trusted."""
        # The translator overwrites the command line of the process.
        arguments = sys.argv
        try:
            self._env.load(dict(data))
            names = self._demangler(game_infos=self._env._entity_infos, shuffle=False)
            for info in self._env._entity_infos.values():
                info.name = names.demangle_alfred_name(info.id)
        finally:
            sys.argv = arguments

    def reset(self) -> str:
        arguments = sys.argv
        try:
            self._state = self._env.reset()
        finally:
            sys.argv = arguments
        self.won = bool(self._state["won"])
        return str(self._state.feedback)

    def commands(self) -> tuple[str, ...]:
        return tuple(self._state["admissible_commands"])

    def step(self, command: str) -> str:
        self._state, _, _ = self._env.step(command)
        self.won = bool(self._state["won"])
        return str(self._state.feedback)


def package_texts() -> tuple[str, str]:
    """The domain and the grammar of the installed package alfworld, the latter without a task."""
    try:
        data = files("alfworld") / "data"
        return (data / "alfred.pddl").read_text(), (data / "alfred.twl2").read_text()
    except (ImportError, OSError) as error:
        raise InputError("alfworld is not installed; run: pip install 'repoagent[alfworld]'.") from error


@functools.cache
def _memoise() -> None:
    """Make the real engine some fifteen times faster without changing what it says.

    It parses each template and query once instead of many times a step, shares the description of things in
    place of copying them deeply for each word that it writes, and translates a problem once instead of four
    times (the other translations are for beginning again and for its planner, which is not asked here).
    """
    textgen: Any = importlib.import_module("textworld.envs.pddl.textgen")
    logic: Any = importlib.import_module("textworld.logic")
    translator: Any = importlib.import_module("fast_downward")
    templates = functools.lru_cache(maxsize=4096)(textgen._parse_and_convert)

    def parse(*arguments: Any, **options: Any) -> Any:
        # The symbols are given a context while the text is made, so each use needs its own.
        return copy.deepcopy(templates(*arguments, **options))

    def context(found: Mapping[str, Any]) -> dict[str, Any]:
        own = {key: dict(found[key]) for key in ("variables", "mapping")}
        return {key: own.get(key, found[key]) for key in ("state", "facts", "entity_infos", *own)}

    translated = functools.lru_cache(maxsize=1)(translator.pddl2sas)

    def translate(domain: str, problem: str, verbose: bool = False, optimize: bool = False) -> Any:
        return translated(domain, problem)

    textgen._parse_and_convert = parse
    textgen.copy_context = context
    queries = logic.Rule.parse_conjunctive_query
    logic.Rule.parse_conjunctive_query = functools.lru_cache(maxsize=4096)(queries)
    translator.pddl2sas = translate
