"""A command line as a program: exit codes, errors as one line, interrupts at any time, closed pipes."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import typer

from repoagent.errors import RepoagentError

COMPLETE = "_REPOAGENT_COMPLETE"
"""The variable in which a shell asks for completions."""
INTERRUPTED = 130
CRASHED = 70  # EX_SOFTWARE: not to be taken for an answer that is not confident


def run(app: typer.Typer) -> NoReturn:
    """Run ``app`` on the arguments of this process and exit with its code."""
    # Not as KeyboardInterrupt: raised somewhere in the import of torch, it has been swallowed.
    signal.signal(signal.SIGINT, lambda *_: _leave(INTERRUPTED))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stream of another encoding must not crash on a file name
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _code(app)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. What is left must not fail at shutdown either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        _leave(code)
    sys.exit(code)


def raise_interrupts() -> None:
    """For commands that have something to put in order when interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _code(app: typer.Typer) -> int:
    if COMPLETE in os.environ:  # the script of `completion` asks what could stand here
        from typer._completion_classes import completion_init

        completion_init()
    try:
        return int(app(prog_name="repoagent", standalone_mode=False) or 0)
    except RepoagentError as error:
        return _complain(str(error), error.exit_code)
    except typer.Abort:
        return INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # Typer has turned it into exit code 1
            raise error.__context__ from None
        raise
    except Exception as error:
        # Usage errors; Typer's own classes for them have moved between its versions.
        message = getattr(error, "format_message", None)
        if message is None:
            if os.environ.get("REPOAGENT_DEBUG"):
                raise
            what = f"unexpected {type(error).__name__}: {error}".rstrip(": ")
            return _complain(f"{what}; set REPOAGENT_DEBUG=1 for the traceback and report it.", CRASHED)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message())
            return 0
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "repoagent"
        return _complain(f"{message().rstrip('.')}; see `{command} --help`.", 2)


def _complain(message: str, code: int) -> int:
    print("repoagent: " + " ".join(message.split()), file=sys.stderr)
    return code


def _leave(code: int) -> NoReturn:
    """Exit at once: orderly shutdown would run, and report, whatever the interrupt broke off."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # a spinner may have hidden the cursor
    os._exit(code)
