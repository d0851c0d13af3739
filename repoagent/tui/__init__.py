"""The terminal interface: ask, watch the walk, read the answer. Started by ``repoagent explore``."""

from __future__ import annotations

__all__ = ["run"]


def run(repo_path: str, policy: str = "bundled", reflector: str = "bundled", steps: int = 8) -> int:
    """Explore the repository at ``repo_path`` until the user quits; returns the exit code.

    Raises ``InputError`` where there is no repository; a model that does not load is shown in
    the status line instead, and makes the exit code 3 if none ever does.
    """
    import gc

    from repoagent.explore import ExploreConfig
    from repoagent.repo import Repo
    from repoagent.tui.app import ExploreApp
    from repoagent.tui.walker import Pair, preload_torch

    def players() -> Pair:
        if not policy.startswith(("openai:", "random")) or not reflector.startswith(("openai:", "none")):
            preload_torch()
        from repoagent.models import load_players

        pair = load_players(policy, reflector)
        gc.freeze()  # else each full collection goes through all that the imports brought
        return pair

    app = ExploreApp(Repo.open(repo_path), players, ExploreConfig(horizon=steps))
    app.run()
    code = app.return_code or app.walker.exit_code
    if app.walker.busy:
        # The thread cannot be interrupted, and waiting for a model's last step would make
        # quitting slow; a daemon thread inside native code can crash an orderly shutdown.
        import os

        os._exit(code)
    return code
