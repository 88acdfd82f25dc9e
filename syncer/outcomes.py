"""The nine outcomes of an item, and the tally that must add up before a run may end."""

from collections import Counter
from enum import StrEnum


class Outcome(StrEnum):
    """How an item ended. Every item that was read ends in exactly one of them."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    STALE = "stale"
    MISSING = "missing"
    DUPLICATE = "duplicate"
    INVALID = "invalid"
    FAILED = "failed"
    RELEASED = "released"


class Tally:
    """What a run has read, and how each item of it ended."""

    def __init__(self) -> None:
        self.read = 0
        self._ended: Counter[Outcome] = Counter()

    def __getitem__(self, outcome: Outcome) -> int:
        return self._ended[outcome]

    def add(self, outcome: Outcome, items: int = 1) -> None:
        self._ended[outcome] += items

    def merge(self, ended: Counter[Outcome]) -> None:
        """Add the outcomes of a committed batch."""
        self._ended.update(ended)

    @property
    def settled(self) -> int:
        """Items that have their outcome, durably."""
        return self._ended.total() - self._ended[Outcome.RELEASED]

    @property
    def adds_up(self) -> bool:
        """The sum rule: `read` is the sum of all outcomes."""
        return self.read == self._ended.total()

    def as_dict(self) -> dict[str, int]:
        """`read` and the nine outcomes, by their names."""
        return {"read": self.read} | {outcome.value: self._ended[outcome] for outcome in Outcome}
