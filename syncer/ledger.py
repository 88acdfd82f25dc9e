"""The books of a run: what was read, what is in flight, what is settled, and up to where all of it is.

Pure: it decides nothing about calls or rows, and does no I/O. What a batch would change is computed before
its commit, to be committed with it, and becomes true here only after it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from syncer.answers import Answer, Failure
from syncer.identifiers import Item
from syncer.outcomes import Outcome, Tally


@dataclass(slots=True)
class Calls:
    """Calls to the API. made: all of them, the throttled and the retried ones too."""

    made: int = 0
    throttled: int = 0
    retried: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """One item with its outcome. code: of a failure, as `sync_failure` has it; else None."""

    item: Item
    outcome: Outcome
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """A batch's effect on the books. done: the items it settles, duplicates with their first ones."""

    ended: Counter[Outcome]
    done: tuple[Settled, ...]
    keys: tuple[str, ...]
    rows_written: int
    checkpoint: int
    held: int = 0


class Ledger:
    """The books of one run.

    start: the position of the input's first item; everything below it was settled by an earlier run.
    """

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self.tally = Tally()
        self.calls = Calls()
        self.rows_written = 0
        # Failures that are removals held back, until it is known how many there are in all.
        self.held = 0
        # Below the checkpoint everything is settled. What is settled above it waits for the gap to close.
        self.checkpoint = start
        self._above: set[int] = set()
        self._in_flight: dict[str, list[Item]] = {}

    def read(self, item: Item) -> bool:
        """Take `item` into the books; False if the same ID is in flight already, and one call serves both."""
        self.tally.read += 1
        items = self._in_flight.setdefault(_key(item), [])
        items.append(item)
        return len(items) == 1

    def skip(self, item: Item) -> None:
        """Take an item into the books that needs no call: it is settled as it is."""
        self.tally.read += 1
        self.tally.add(Outcome.SKIPPED)
        self._settled_at([item.position])

    @property
    def in_flight(self) -> int:
        """How many calls are out, or have come back and are not settled yet."""
        return len(self._in_flight)

    @property
    def ahead(self) -> int:
        """How many items have been read from the checkpoint on: positions have no gaps."""
        return self._start + self.tally.read - self.checkpoint

    def settlement(
        self, answers: Sequence[Answer], outcomes: Sequence[Outcome], rows_written: int, held: int = 0
    ) -> Settlement:
        """What the books would say once `answers` are committed with `outcomes`."""
        ended: Counter[Outcome] = Counter()
        done: list[Settled] = []
        keys: list[str] = []
        for answer, outcome in zip(answers, outcomes, strict=True):
            key = _key(answer.item)
            items = self._in_flight[key]
            ended[outcome] += 1
            if len(items) > 1:
                ended[Outcome.DUPLICATE] += len(items) - 1
            code = answer.code if isinstance(answer, Failure) else None
            done.extend(Settled(item, outcome, code) for item in items)
            keys.append(key)
        positions = {each.item.position for each in done}
        checkpoint = self.checkpoint
        while checkpoint in self._above or checkpoint in positions:
            checkpoint += 1
        return Settlement(ended, tuple(done), tuple(keys), rows_written, checkpoint, held)

    def confirmation(self, outcomes: Sequence[Outcome], rows_written: int) -> Settlement:
        """What the books would say once removals that were held back have got `outcomes` instead."""
        ended = Counter(outcomes)
        ended[Outcome.FAILED] -= len(outcomes)
        return Settlement(ended, (), (), rows_written, self.checkpoint, -len(outcomes))

    def standing(self, settlement: Settlement | None = None) -> dict[str, int]:
        """The run's row: counts and checkpoint by column name, with `settlement` as if it were committed."""
        counts = self.tally.as_dict()
        rows_written, checkpoint = self.rows_written, self.checkpoint
        if settlement is not None:
            for outcome, items in settlement.ended.items():
                counts[outcome.value] += items
            rows_written += settlement.rows_written
            checkpoint = settlement.checkpoint
        return counts | {
            "api_calls": self.calls.made,
            "throttled": self.calls.throttled,
            "retried": self.calls.retried,
            "rows_written": rows_written,
            "checkpoint": checkpoint,
        }

    def settle(self, settlement: Settlement) -> Settlement:
        """The batch is committed: its settlement is true now.

        Returns it with what was read during the commit and is about the same IDs: no call was made for these
        items, so nobody else would ever settle them.
        """
        items = [item for key in settlement.keys for item in self._in_flight.pop(key)]
        if len(items) > len(settlement.done):
            settlement = _with_late_ones(settlement, items)
        self.tally.merge(settlement.ended)
        self.rows_written += settlement.rows_written
        self.held += settlement.held
        self._settled_at(each.item.position for each in settlement.done)
        return settlement

    def _settled_at(self, positions: Iterable[int]) -> None:
        self._above.update(positions)
        while self.checkpoint in self._above:
            self._above.remove(self.checkpoint)
            self.checkpoint += 1

    def release(self) -> Iterable[Item]:
        """The run is over: whatever is not settled is released."""
        released = [item for items in self._in_flight.values() for item in items]
        self.tally.add(Outcome.RELEASED, len(released))
        self._in_flight.clear()
        return released


def _with_late_ones(settlement: Settlement, items: Iterable[Item]) -> Settlement:
    """`settlement`, and those of `items` that it does not have yet, as duplicates of those that it has."""
    known = {each.item.position for each in settlement.done}
    first = {_key(each.item): each for each in settlement.done}
    late = [replace(first[_key(item)], item=item) for item in items if item.position not in known]
    ended = settlement.ended.copy()
    ended[Outcome.DUPLICATE] += len(late)
    return replace(settlement, ended=ended, done=(*settlement.done, *late))


def _key(item: Item) -> str:
    """What makes two items the same call. Two bad lines are never the same: each is recorded for itself."""
    return item.identifier if item.problem is None else f"{item.position} {item.identifier}"
