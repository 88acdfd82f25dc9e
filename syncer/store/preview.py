"""A dry run's stand-in for the writer: it decides the same, shows the difference, and writes nothing."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from syncer.answers import Answer, Failure
from syncer.ledger import Ledger, Settlement
from syncer.store.changes import Changes, ConnectionRow, ParticipantRow, Stored, TypeRow, decide
from syncer.store.look import look
from syncer.store.pool import Pool
from syncer.store.writer import Scope

AnyRow = ConnectionRow | TypeRow | ParticipantRow

# So many differences are shown; the counts are of all.
SHOWN = 20

# Personal data: that it changed is shown, never what it is.
MASKED = frozenset({"inviter_email", "inviter_name"})
MASK = "•••"
# What every change brings with it.
UNTOLD = frozenset({"synced_at", "first_seen_at"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that would change. before: None where the row is new; of a new row only its key is told."""

    row: str
    field: str
    before: str | None
    after: str


class Preview:
    """Takes batches of answers like the writer, and keeps the first differences."""

    def __init__(
        self,
        pool: Pool,
        scope: Scope,
        ledger: Ledger,
        committed: Callable[[Settlement], Awaitable[None]],
        *,
        personal_data: bool = True,
    ) -> None:
        self.differences: list[Difference] = []
        self._pool = pool
        self._scope = scope
        self._ledger = ledger
        self._committed = committed
        self._personal_data = personal_data

    async def write(self, answers: Sequence[Answer]) -> None:
        """Settle `answers` in the ledger, as if they had been written. Raises the database's error."""
        fetched = [answer for answer in answers if not isinstance(answer, Failure)]
        before = Stored()
        if fetched:
            async with self._pool.connection() as connection:
                before = await look(connection, self._scope.keys, fetched, personal_data=self._personal_data)
        after = Stored(
            dict(before.connections),
            {key: dict(types) for key, types in before.types.items()},
            dict(before.versions),
            dict(before.participants),
            dict(before.not_found),
            set(before.personal),
        )
        changes = decide(fetched, after)
        outcomes = iter(changes.outcomes)
        settlement = self._ledger.settlement(
            answers,
            [answer.outcome if isinstance(answer, Failure) else next(outcomes) for answer in answers],
            len(changes.connections) + len(changes.types) + len(changes.participants),
        )
        for difference in _differences(before, changes):
            if len(self.differences) == SHOWN:
                break
            self.differences.append(difference)
        await self._committed(self._ledger.settle(settlement))


def _differences(before: Stored, changes: Changes) -> Iterator[Difference]:
    for id, connection in changes.connections.items():
        yield from _fields(f"connection {id}", before.connections.get(id), connection)
    for (id, name), type_row in changes.types.items():
        yield from _fields(f"connection_type {id} {name}", before.types.get(id, {}).get(name), type_row)
    for id in sorted(changes.erased):
        yield Difference(f"connection {id}", "inviter, in its history too", MASK, "erased")
    for key, participant in changes.participants.items():
        yield from _fields(f"participant {' '.join(key)}", before.participants.get(key), participant)


def _fields(row: str, before: AnyRow | None, after: AnyRow) -> Iterator[Difference]:
    if before is None:
        yield Difference(row, "", None, "new")
        return
    for field, old, new in zip(after._fields, before, after, strict=True):
        if old != new and field not in UNTOLD:
            masked = field in MASKED
            yield Difference(row, field, MASK if masked else str(old), MASK if masked else str(new))
