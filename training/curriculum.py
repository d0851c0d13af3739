"""Which stage of a benchmark is trained on, and when the next one begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Curriculum:
    """Stages from easy to hard; the next begins at a success rate or after a number of updates.

    ``advance_at`` is the success rate in an evaluation (0: never), ``advance_after`` the number of
    updates in a stage (0: never) after which it ends in any case, so that none can be stuck.
    """

    stages: Sequence[str]
    advance_at: float
    advance_after: int
    index: int = 0
    entered: int = 0

    @property
    def stage(self) -> str:
        return self.stages[self.index]

    def advance(self, update: int, success: float | None) -> bool:
        """Whether the next stage begins with ``update``, given the success rate just measured, if any."""
        if self.index == len(self.stages) - 1:
            return False
        reached = success is not None and 0 < self.advance_at <= success
        late = 0 < self.advance_after <= update - self.entered
        if reached or late:
            self.index, self.entered = self.index + 1, update
            return True
        return False
