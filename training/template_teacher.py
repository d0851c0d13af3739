"""The offline teacher of AutoExplore: which kind of place to look in, in a few fixed sentences.

It needs no network. It is told the best option, as the paper's teacher is told when an action was a
mistake. Its sentences name no file: a model of a few million parameters cannot copy names, but it
can learn to tell from a question and a listing whether documentation, settings, tests or source
holds the answer, and from a file's lines whether it is the one.
"""

from __future__ import annotations

from typing import Any

from repoagent.explore import FEATURES

KINDS = ("is_test", "is_documentation", "is_configuration")
LOOK = {
    "is_test": "This asks about tests: look in the test files.",
    "is_documentation": "This asks for an explanation: look in the documentation pages.",
    "is_configuration": "This asks about settings: look in the configuration, build or workflow files.",
    "": "This asks what the code does: look in the source file that implements it, not in its tests.",
}
WRONG = {
    "is_test": "The opened file is not it. The tests hold the answer.",
    "is_documentation": "The opened file is not it. A documentation page should explain it.",
    "is_configuration": "The opened file is not it. A configuration file should set it.",
    "": "The opened file is not it. The source file that implements it should be opened next.",
}
FOUND = "The lines of the opened file answer the question: name this file."
GO = "Nothing listed fits: go on to the folder where such files live."
LINES = "Choose the block that answers the question itself."


def reflection(decision: dict[str, Any]) -> str:
    """One or two sentences on a packed ``decision``."""
    _, kind, _, _, features = decision["options"][decision["best"][0]]
    if kind == "lines":
        return LINES
    if kind == "identify":
        return FOUND
    if kind != "open":
        return GO
    about = next((name for name in KINDS if features[FEATURES.index(name)]), "")
    opened = any(action.startswith("open ") for action in decision["history"])
    return (WRONG if opened else LOOK)[about]
