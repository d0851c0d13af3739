"""The terminal interface: ask, watch the walk, read the answer. Started by ``repoagent explore``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repoagent.session import Session

__all__ = ["run"]


def run(
    repo_path: str,
    policy: str = "auto",
    reflector: str = "bundled",
    steps: int = 8,
    saved: Session | None = None,
) -> int:
    """Explore the repository at ``repo_path`` until the user quits; returns the exit code.

    ``saved`` is a session to go on with. Raises ``InputError`` where there is no repository, or a setting
    is none; a model that does not load is shown in the status line instead, and makes the exit code 3 if
    none ever does.
    """
    import gc
    import os
    import sys

    from repoagent import config
    from repoagent.errors import InputError
    from repoagent.explore import ExploreConfig
    from repoagent.models import chosen
    from repoagent.repo import DirectoryRepo, Repo, display
    from repoagent.tui.app import ExploreApp
    from repoagent.tui.keys import keymap
    from repoagent.tui.walker import Keep, Pair, preload_torch

    def players() -> Pair:
        if not policy.startswith(("openai:", "random")) or not reflector.startswith(("openai:", "none")):
            preload_torch()
        from repoagent.models import load_players

        pair = load_players(spec, reflector)
        gc.freeze()  # else each full collection goes through all that the imports brought
        return pair

    settings = config.DEFAULTS | config.load()
    repo = Repo.open(repo_path)
    where = repo.root if isinstance(repo, DirectoryRepo) else os.path.realpath(repo_path)
    if saved is not None and saved.repo != where:
        raise InputError(f"session {saved.id} is of {display(saved.repo)}; leave the repository out.")
    spec, warning = chosen(policy, [where])
    if warning:
        print(f"repoagent: {warning}", file=sys.stderr)
    keep = Keep(where, bool(settings["sessions"]), bool(settings["corrections"]))
    keys = keymap(str(settings["keys"]))
    app = ExploreApp(repo, players, ExploreConfig(horizon=steps), keep=keep, saved=saved, keymap=keys)
    if settings["theme"] not in app.available_themes:
        raise InputError(f"theme: there are {', '.join(sorted(app.available_themes))}.")
    app.theme = str(settings["theme"])
    app.run()
    app.sitting.close()
    code = app.return_code or app.walker.exit_code
    if app.walker.busy:
        # The thread cannot be interrupted, and waiting for a model's last step would make
        # quitting slow; a daemon thread inside native code can crash an orderly shutdown.
        os._exit(code)
    return code
