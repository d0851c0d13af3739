"""Defaults of one's own: a TOML file, and ``repoagent config``, which shows and changes it.

The file is ``config.toml`` in the user's configuration folder, or what ``REPOAGENT_CONFIG`` names. Its
values stand in for the defaults of the options of ``ask``, ``explore`` and ``mcp``; an option on the command
line wins. What has no option is of ``explore`` alone: what it keeps, its theme and its keys.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from repoagent.errors import InputError
from repoagent.repo import display

VARIABLE = "REPOAGENT_CONFIG"
DEFAULTS: dict[str, str | int | bool] = {
    "policy": "auto",
    "reflector": "bundled",
    "steps": 8,
    "top": 5,
    "reflect": True,
    "sessions": True,
    "corrections": True,
    "theme": "textual-dark",
    "keys": "none",
}
"""Every key with the value that counts where the file has none; it also gives the type."""
COMMANDS = {
    "ask": ("policy", "reflector", "steps", "top", "reflect"),
    "explore": ("policy", "reflector", "steps", "reflect"),
    "mcp": ("policy", "reflector", "reflect"),
}
"""Commands that the file has a say in, and in which of their options."""


def location() -> Path:
    """Where the file lies, or would."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    from platformdirs import user_config_dir

    return Path(user_config_dir("repoagent", appauthor=False)) / "config.toml"


def load() -> dict[str, Any]:
    """The values of the file, checked; none where there is no file.

    ``InputError`` if it cannot be read, has an unknown key or a value of another type, or if
    ``REPOAGENT_CONFIG`` names none.
    """
    path = location()
    if os.environ.get(VARIABLE) and not path.exists():
        raise InputError(f"{VARIABLE} names {display(str(path))}, which does not exist; make it or unset it.")
    return check(_parsed(path, _text(path)), path)


def defaults(command: str) -> dict[str, Any]:
    """The values of the file for the options of ``command``."""
    keys = COMMANDS.get(command, ())
    return {key: value for key, value in load().items() if key in keys} if keys else {}


def check(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """``values``, or an ``InputError`` that says which of them does not belong into the file at ``path``."""
    for key, value in values.items():
        default = DEFAULTS.get(key)
        where = f"{display(str(path))}: {display(key)}"
        if default is None:
            raise InputError(f"{where} is no setting; there are {', '.join(DEFAULTS)}.")
        if type(value) is not type(default) or value == "" or (type(value) is int and value < 1):
            raise InputError(
                f"{where} must be {_wanted(key)}, not {display(json.dumps(value, default=str))}."
            )
    return values


def _wanted(key: str) -> str:
    kind = type(DEFAULTS[key])
    return {bool: "true or false", int: "a whole number of at least 1", str: "a text in quotes"}[kind]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise InputError(f"cannot read {display(str(path))}: {reason}; mend it or delete it.") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{display(str(path))} is no TOML: {error}; mend it or delete it.") from error


# -- changing it -------------------------------------------------------------------------------


def value_of(key: str, text: str) -> str | int | bool:
    """``text`` of the command line as a value of ``key``; ``InputError`` if it is none."""
    if key not in DEFAULTS:
        raise InputError(f"{display(key)} is no setting; there are {', '.join(DEFAULTS)}.")
    kind = type(DEFAULTS[key])
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind is int and re.fullmatch(r"[1-9][0-9]{0,8}", text):
        return int(text)
    if kind is str and text.strip() and text.isprintable():
        return text
    wanted = "a text" if kind is str else _wanted(key)
    raise InputError(f"{key} must be {wanted}, not '{display(text)}'.")


def change(key: str, value: str | int | bool | None) -> None:
    """Write ``value`` for ``key`` into the file, or take the key out of it where ``value`` is None.

    The other lines stay as they are. Where that cannot be done (a value of several lines) the file is written
    anew without its comments, which is said on stderr.
    """
    path = location()
    before = _text(path)
    values = _parsed(path, before)
    if value is not None:
        check(values, path)
        wanted = values | {key: value}
    else:
        wanted = {k: v for k, v in values.items() if k != key}
    after = _edited(before, key, value)
    if not _holds(after, wanted):
        after = "".join(_line(k, v) for k, v in check(wanted, path).items())
        print("repoagent: the file is written anew; its comments are gone.", file=sys.stderr)
    _write(path, after)


def _edited(text: str, key: str, value: str | int | bool | None) -> str:
    """``text`` with the line of ``key`` changed, added or taken out; its comment stays."""
    line = re.compile(
        rf"^[ \t]*[\"']?{re.escape(key)}[\"']?[ \t]*=[^#\n]*?([ \t]*#[^\n]*)?(?:\n|\Z)", re.MULTILINE
    )
    if value is None:
        return line.sub("", text)
    changed, count = line.subn(lambda m: _line(key, value).rstrip("\n") + (m[1] or "") + "\n", text)
    if count:
        return changed
    return text + ("\n" if text and not text.endswith("\n") else "") + _line(key, value)


def _line(key: str, value: str | int | bool) -> str:
    # What is printable is written alike in JSON and in TOML.
    return f"{key} = {json.dumps(value, ensure_ascii=False)}\n"


def _holds(text: str, values: dict[str, Any]) -> bool:
    import tomllib

    try:
        return tomllib.loads(text) == values
    except tomllib.TOMLDecodeError:
        return False


def _write(path: Path, text: str) -> None:
    real = Path(os.path.realpath(path))  # a link stays one
    part = real.with_name(f"{real.name}.part")
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(real)
    except OSError as error:
        raise InputError(
            f"cannot write {display(str(path))}: {error.strerror}; {VARIABLE} may name another."
        ) from error


# -- the command -------------------------------------------------------------------------------

app = typer.Typer(help="Show the defaults in force, and where they come from; set or unset one.")


@app.callback(invoke_without_command=True)
def show(context: typer.Context) -> None:
    """Show the defaults in force, and where they come from; set or unset one."""
    if context.invoked_subcommand:
        return
    values = load()
    path = location()
    print(display(str(path)) + ("" if path.exists() else " (not there)"))
    for key, default in DEFAULTS.items():
        value = values.get(key, default)
        shown = display(value) if isinstance(value, str) else json.dumps(value)
        print(f"{key:<11} {shown:<12} {'set there' if key in values else 'default'}")


@app.command("set")
def set_(
    key: Annotated[str, typer.Argument(metavar="KEY", help=f"One of {', '.join(DEFAULTS)}.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="As the option takes it; true or false.")],
) -> None:
    """Write VALUE for KEY into the file; comments stay."""
    change(key, value_of(key, value))


@app.command()
def unset(key: Annotated[str, typer.Argument(metavar="KEY", help="What the file no longer says.")]) -> None:
    """Take KEY out of the file, so that its default counts again."""
    path = location()
    if key not in _parsed(path, _text(path)):
        if key not in DEFAULTS:
            raise InputError(f"{display(key)} is no setting; there are {', '.join(DEFAULTS)}.")
        return
    change(key, None)
