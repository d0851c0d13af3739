"""repoagent: a local repository-exploration assistant (Reflect-RL, arXiv 2402.12621).

``from repoagent import ask`` is the whole tool as a function; see :mod:`repoagent.assistant`.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Answer", "Assistant", "Found", "InputError", "ModelError", "Move", "ask"]

if TYPE_CHECKING:
    from repoagent.answer import Answer, Move
    from repoagent.assistant import Assistant, Found, ask
    from repoagent.errors import InputError, ModelError
else:

    def __getattr__(name: str) -> object:
        """Import the public names when they are first asked for: ``import repoagent`` stays cheap."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from repoagent import answer, assistant, errors

        return next(getattr(m, name) for m in (assistant, answer, errors) if hasattr(m, name))
