"""Errors that a user can act on: one line each (what, why, what to do), with an exit code."""

from __future__ import annotations


class RepoagentError(Exception):
    """Base class; the CLI prints the message alone and exits with ``exit_code``."""

    exit_code = 2


class InputError(RepoagentError):
    """Wrong usage, or a repository or file that cannot be read."""


class ModelError(RepoagentError):
    """A model is missing, broken or does not fit."""

    exit_code = 3
