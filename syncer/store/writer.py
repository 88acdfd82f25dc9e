"""One transaction per batch: rows, failures, and the run's own books.

Read what is stored, decide what changes, write that. Nothing that is unchanged is touched. Whoever changes
a connection holds its row from before it looks a second time until the commit, so an older answer can
never overwrite a newer one, however many workers there are.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, TextClause
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay
from tenacity.wait import wait_random_exponential

from syncer.answers import Answer, Failure, Fetched, Found
from syncer.ledger import Ledger, Settlement
from syncer.outcomes import Outcome
from syncer.store import statements
from syncer.store.arrays import columns, literal
from syncer.store.changes import (
    Changes,
    ConnectionRow,
    ParticipantRow,
    Stored,
    TypeRow,
    VersionRow,
    decide,
)
from syncer.store.engine import is_passing, is_refusal, sqlstate

# A failover takes up to a minute; after two, somebody should hear of it. What is not committed by then is
# read again by the next run.
PATIENCE = 120.0
BACKOFF = wait_random_exponential(multiplier=0.1, max=5)

Sleep = Callable[[float], Awaitable[None]]


class Moved(Exception):
    """Another worker inserted a connection between our look and our insert: look again."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose rows these are."""

    run_id: str
    account_id: str
    catalog: str


class Writer:
    """Writes batches of answers, and tells the ledger what became of them.

    sleep: waits between replays; it may raise to end the waiting when the run must end.
    committed: told of each settlement after its commit: the place to acknowledge from.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        scope: Scope,
        ledger: Ledger,
        *,
        now: Callable[[], datetime],
        sleep: Sleep,
        committed: Callable[[Settlement], Awaitable[None]],
        patience: float = PATIENCE,
    ) -> None:
        self._engine = engine
        self._scope = scope
        self._ledger = ledger
        self._now = now
        self._committed = committed
        self._replaying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, Moved) or is_passing(error)),
            stop=stop_after_delay(patience),
            wait=BACKOFF,
            sleep=sleep,
            reraise=True,
        )

    async def write(self, answers: Sequence[Answer]) -> None:
        """Settle `answers`. Raises the database's error when it does not pass within the writer's patience.

        A row that the database refuses is found by halving: the others are written, it becomes a failure.
        """
        try:
            settlement: Settlement = await self._replaying(self._transaction, answers)
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(answers) > 1:
                middle = len(answers) // 2
                await self.write(answers[:middle])
                await self.write(answers[middle:])
                return
            if isinstance(answers[0], Failure):
                raise
            await self.write([_refused(answers[0], error)])
            return
        self._ledger.settle(settlement)
        await self._committed(settlement)

    async def _transaction(self, answers: Sequence[Answer]) -> Settlement:
        fetched = [answer for answer in answers if not isinstance(answer, Failure)]
        failures = [answer for answer in answers if isinstance(answer, Failure)]
        async with self._engine.begin() as connection:
            batch = _Batch(connection, self._scope)
            fetched_outcomes, rows_written = await batch.apply(fetched)
            await batch.clear_failures(fetched)
            await batch.record_failures(failures, self._now())
            outcome_of_fetched = iter(fetched_outcomes)
            outcomes = [
                answer.outcome if isinstance(answer, Failure) else next(outcome_of_fetched)
                for answer in answers
            ]
            settlement = self._ledger.settlement(answers, outcomes, rows_written)
            await connection.execute(
                statements.RECORD_RUN, {"id": self._scope.run_id, **self._ledger.standing(settlement)}
            )
        return settlement


class _Batch:
    """The statements of one transaction."""

    def __init__(self, connection: AsyncConnection, scope: Scope) -> None:
        self._connection = connection
        self._scope = scope

    async def apply(self, fetched: Sequence[Fetched]) -> tuple[list[Outcome], int]:
        """Write what `fetched` changes: the outcome of each, and how many rows were written."""
        if not fetched:
            return [], 0
        locked: set[str] = set()
        while True:
            stored = await self._stored(fetched)
            known = set(stored.connections)
            changes = decide(fetched, stored)
            to_lock = known.intersection(changes.connections) - locked
            if not to_lock:
                return changes.outcomes, await self._put(changes, known)
            # Only now do we know what must hold still. Look again once it does.
            await self._execute(statements.LOCK_CONNECTIONS, ids=literal(to_lock))
            locked |= to_lock

    async def _stored(self, fetched: Sequence[Fetched]) -> Stored:
        ids = [answer.item.identifier for answer in fetched]
        stored = Stored()
        for row in await self._execute(statements.CONNECTIONS, ids=literal(ids)):
            stored.connections[row.id] = ConnectionRow._make(row)
        if stored.connections:
            for found in await self._execute(statements.TYPES, ids=literal(stored.connections)):
                values: list[Any] = [*found]
                key, now, opened = values[:2], values[2:11], values[11:]
                stored.types.setdefault(key[0], {})[key[1]] = TypeRow(*key, *now)
                if found.valid_from is not None:
                    stored.versions[key[0], key[1]] = VersionRow(*key, *opened)
        participants = {
            (each.participant_kind, each.participant_id)
            for answer in fetched
            if isinstance(answer, Found)
            for each in answer.connection.types
        }
        if participants:
            kinds, wanted = zip(*participants, strict=True)
            for row in await self._execute(
                statements.PARTICIPANTS, kinds=literal(kinds), ids=literal(wanted)
            ):
                stored.participants[row.kind, row.id] = ParticipantRow._make(row)
        return stored

    async def _put(self, changes: Changes, known: set[str]) -> int:
        rows_written = 0
        if changes.connections:
            arrays = columns(ConnectionRow._fields, changes.connections.values())
            put = list(await self._execute(statements.PUT_CONNECTIONS, **arrays))
            if any(not row.inserted and row.id not in known for row in put):
                raise Moved
            rows_written += len(put)
        if changes.participants:
            arrays = columns(ParticipantRow._fields, changes.participants.values())
            rows_written += (await self._execute(statements.PUT_PARTICIPANTS, **arrays)).rowcount
        if changes.ended:
            rows = [(*key, ended) for key, ended in changes.ended.items()]
            await self._execute(
                statements.END_VERSIONS, **columns(("connection_id", "type", "valid_to"), rows)
            )
        if changes.versions:
            versions = [version for each in changes.versions.values() for version in each]
            await self._execute(statements.ADD_VERSIONS, **columns(VersionRow._fields, versions))
        if changes.types:
            arrays = columns(TypeRow._fields, changes.types.values())
            rows_written += (await self._execute(statements.PUT_TYPES, **arrays)).rowcount
        return rows_written

    async def clear_failures(self, fetched: Sequence[Fetched]) -> None:
        """An ID that settles is no failure any more."""
        if fetched:
            await self._execute(
                statements.CLEAR_FAILURES, ids=literal(answer.item.identifier for answer in fetched)
            )

    async def record_failures(self, failures: Sequence[Failure], failed_at: datetime) -> None:
        if not failures:
            return
        attempts: Counter[str] = Counter()
        for failure in failures:
            attempts[failure.item.identifier] += failure.attempts
        # A bad line can stand in an input twice, but one statement cannot write one row twice.
        last = {failure.item.identifier: failure for failure in failures}
        await self._execute(
            statements.PUT_FAILURES,
            identifier=literal(last),
            code=literal(failure.code for failure in last.values()),
            message=literal(failure.message for failure in last.values()),
            attempts=literal(attempts[identifier] for identifier in last),
            failed_at=failed_at,
            run_id=self._scope.run_id,
        )

    async def _execute(self, statement: TextClause, **parameters: object) -> CursorResult[Any]:
        return await self._connection.execute(
            statement,
            {"account_id": self._scope.account_id, "catalog": self._scope.catalog, **parameters},
        )


def _refused(answer: Answer, error: BaseException) -> Failure:
    """The failure for a row that the database refuses. Its text is left out: it may quote the row."""
    return Failure(
        answer.item,
        Outcome.FAILED,
        "RefusedByDatabase",
        f"the database refuses this connection's rows: SQLSTATE {sqlstate(error)}",
        attempts=1,
    )
