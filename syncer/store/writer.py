"""One transaction per batch: rows, failures, and the run's own books.

Read what is stored, decide what changes, write that. Nothing that is unchanged is touched. Whoever changes
a connection holds its row from before it looks a second time until the commit, so an older answer can
never overwrite a newer one, however many workers there are. Where there is no row to hold, because the API
had no such connection, a lock of the account's stands for all of these: see `statements.OF_NOT_FOUND`.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from psycopg import AsyncCursor
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay
from tenacity.wait import wait_random_exponential

from syncer.answers import Answer, Failure, Fetched, Missing
from syncer.identifiers import Item
from syncer.ledger import Ledger, Settlement
from syncer.outcomes import Outcome
from syncer.store import statements
from syncer.store.arrays import Value, columns, literal
from syncer.store.changes import Changes, ConnectionRow, ParticipantRow, TypeRow, VersionRow, decide
from syncer.store.database import is_passing, is_refusal, sqlstate, violated
from syncer.store.look import look
from syncer.store.pool import Connection, Pool, scalar

# A failover takes up to a minute; after two, somebody should hear of it. What is not committed by then is
# read again by the next run.
PATIENCE = 120.0
BACKOFF = wait_random_exponential(multiplier=0.1, max=5)

# A removal that is held back is recorded under this code until all of the run's are known.
HELD_BACK = "RemovalHeldBack"
CONFIRMED_AT_ONCE = 500

Key = TypeVar("Key")
Row = TypeVar("Row", ConnectionRow, TypeRow)

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose rows these are."""

    run_id: str
    account_id: str
    catalog: str

    @property
    def keys(self) -> dict[str, object]:
        """The columns that every key begins with."""
        return {"account_id": self.account_id, "catalog": self.catalog}


@dataclass(frozen=True, slots=True)
class _Locks:
    """What a transaction holds from its beginning. alone: the lock of what is not found, without others."""

    ids: AbstractSet[str] = frozenset()
    alone: bool = False


class Writer:
    """Writes batches of answers, and tells the ledger what became of them.

    sleep: waits between replays; it may raise to end the waiting when the run must end.
    committed: told of each settlement after its commit: the place to acknowledge from.
    personal_data: False erases who invited from all that is stored of the connections written, and records
    of what is no ID only where it was read.
    """

    def __init__(
        self,
        pool: Pool,
        scope: Scope,
        ledger: Ledger,
        *,
        now: Callable[[], datetime],
        sleep: Sleep,
        committed: Callable[[Settlement], Awaitable[None]],
        patience: float = PATIENCE,
        personal_data: bool = True,
    ) -> None:
        self._pool = pool
        self._scope = scope
        self._ledger = ledger
        self._now = now
        self._committed = committed
        self._personal_data = personal_data
        self._replaying = AsyncRetrying(
            retry=retry_if_exception(
                lambda error: is_passing(error) or violated(error) == statements.SAME_CONNECTION
            ),
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
            settlement: Settlement = await self._replaying(
                _in_order, lambda locks: self._transaction(answers, locks)
            )
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
        await self._committed(self._ledger.settle(settlement))

    async def live(self) -> int:
        """How many connections are stored and not removed."""
        async with self._pool.connection() as connection:
            count: int = await scalar(connection, statements.LIVE_COUNT, self._scope.keys)
        return count

    async def confirm_removals(self) -> None:
        """Carry out the removals that were held back: their failures become what they are."""
        while self._ledger.held:
            settlement: Settlement = await self._replaying(_in_order, self._confirmation)
            if not settlement.held:
                break  # somebody else has taken their failures over
            self._ledger.settle(settlement)

    async def _transaction(self, answers: Sequence[Answer], locks: _Locks) -> Settlement:
        fetched = [answer for answer in answers if not isinstance(answer, Failure)]
        failures = [answer for answer in answers if isinstance(answer, Failure)]
        async with self._pool.transaction() as connection:
            batch = _Batch(connection, self._scope, personal_data=self._personal_data)
            fetched_outcomes, rows_written, held = await batch.apply(fetched, locks, hold=True)
            await batch.clear_failures([answer for answer in fetched if answer.item.identifier not in held])
            failed_at = self._now()
            await batch.record_failures(
                [*((failure, failed_at) for failure in failures), *_held(fetched, held)]
            )
            outcome_of_fetched = iter(fetched_outcomes)
            outcomes = [
                answer.outcome if isinstance(answer, Failure) else next(outcome_of_fetched)
                for answer in answers
            ]
            settlement = self._ledger.settlement(answers, outcomes, rows_written, len(held))
            await self._record(connection, settlement)
        return settlement

    async def _confirmation(self, locks: _Locks) -> Settlement:
        async with self._pool.transaction() as connection:
            held = await connection.execute(
                statements.HELD,
                {
                    **self._scope.keys,
                    "run_id": self._scope.run_id,
                    "code": HELD_BACK,
                    "page": CONFIRMED_AT_ONCE,
                },
            )
            missing = [Missing(Item(0, row.identifier), row.last_failed_at) async for row in held]
            batch = _Batch(connection, self._scope, personal_data=self._personal_data)
            outcomes, rows_written, _ = await batch.apply(missing, locks, hold=False)
            await batch.clear_failures(missing)
            settlement = self._ledger.confirmation(outcomes, rows_written)
            await self._record(connection, settlement)
        return settlement

    async def _record(self, connection: Connection, settlement: Settlement) -> None:
        await connection.execute(
            statements.RECORD_RUN, {"id": self._scope.run_id, **self._ledger.standing(settlement)}
        )


class _MustHold(Exception):
    """More is to be held than was known at the transaction's beginning."""

    def __init__(self, locks: _Locks) -> None:
        super().__init__()
        self.locks = locks


async def _in_order(transaction: Callable[[_Locks], Awaitable[Settlement]]) -> Settlement:
    """Do `transaction` with all its locks taken at once: two that take more later may wait for each other."""
    locks = _Locks()
    while True:
        try:
            return await transaction(locks)
        except _MustHold as more:
            locks = more.locks


class _Batch:
    """The statements of one transaction."""

    def __init__(self, connection: Connection, scope: Scope, *, personal_data: bool) -> None:
        self._connection = connection
        self._scope = scope
        self._personal_data = personal_data

    async def apply(
        self, fetched: Sequence[Fetched], locks: _Locks, *, hold: bool
    ) -> tuple[list[Outcome], int, dict[str, datetime]]:
        """Write what `fetched` changes; `locks` are to be held from the beginning.

        The outcome of each, how many rows were written, and the removals that were held back, if `hold`.
        Raises `_MustHold` when there are more to be held than that.
        """
        if not fetched:
            return [], 0, {}
        await self._execute(statements.LOCK_ALONE if locks.alone else statements.LOCK_TOGETHER)
        locked = locks.ids
        if locked:
            await self._execute(statements.LOCK_CONNECTIONS, ids=literal(locked))
        while True:
            stored = await look(
                self._connection, self._scope.keys, fetched, personal_data=self._personal_data
            )
            known = set(stored.connections)
            known_types = {(id, name) for id, types in stored.types.items() for name in types}
            changes = decide(fetched, stored, hold=hold)
            to_lock = known.intersection({*changes.connections, *changes.erased}) - locked
            alone = bool(changes.not_found)
            if alone and not locks.alone:
                raise _MustHold(_Locks(locked | to_lock, alone=True))
            if not to_lock:
                return changes.outcomes, await self._put(changes, known, known_types), changes.held
            if locked:
                raise _MustHold(_Locks(locked | to_lock, locks.alone))
            # Only now do we know what must hold still. Look again once it does.
            await self._execute(statements.LOCK_CONNECTIONS, ids=literal(to_lock))
            locked = to_lock

    async def _put(self, changes: Changes, known: set[str], known_types: set[tuple[str, str]]) -> int:
        """Write `changes` beside what was known before them; how many rows of the three tables that were."""
        add, change = _split(changes.connections, known)
        rows_written = await self._write(statements.ADD_CONNECTIONS, ConnectionRow._fields, add)
        rows_written += await self._write(statements.CHANGE_CONNECTIONS, ConnectionRow._fields, change)
        participants = [*changes.participants.values()]
        rows_written += await self._write(statements.PUT_PARTICIPANTS, ParticipantRow._fields, participants)
        add_types, change_types = _split(changes.types, known_types)
        rows_written += await self._write(statements.ADD_TYPES, TypeRow._fields, add_types)
        rows_written += await self._write(statements.CHANGE_TYPES, TypeRow._fields, change_types)
        ended = [(*key, valid_to) for key, valid_to in changes.ended.items()]
        await self._write(statements.END_VERSIONS, ("connection_id", "type", "valid_to"), ended)
        versions = [version for each in changes.versions.values() for version in each]
        await self._write(statements.ADD_VERSIONS, VersionRow._fields, versions)
        not_found = [*changes.not_found.items()]
        await self._write(statements.PUT_NOT_FOUND, ("id", "asked_at"), not_found)
        if changes.erased:
            ids = literal(changes.erased)
            rows_written += (await self._execute(statements.ERASE_IN_TYPES, ids=ids)).rowcount
            await self._execute(statements.ERASE_IN_HISTORY, ids=ids)
        return rows_written

    async def _write(self, statement: str, fields: tuple[str, ...], rows: Sequence[tuple[Value, ...]]) -> int:
        if not rows:
            return 0
        return (await self._execute(statement, **columns(fields, rows))).rowcount

    async def clear_failures(self, fetched: Sequence[Fetched]) -> None:
        """An ID that settles is no failure any more."""
        if fetched:
            await self._execute(
                statements.CLEAR_FAILURES, ids=literal(answer.item.identifier for answer in fetched)
            )

    async def record_failures(self, failures: Sequence[tuple[Failure, datetime]]) -> None:
        """Record each failure, and when it was."""
        if not failures:
            return
        attempts: Counter[str] = Counter()
        for failure, _ in failures:
            attempts[self._kept(failure)] += failure.attempts
        # A bad line can stand in an input twice, but one statement cannot write one row twice.
        last = {self._kept(failure): (failure, failed_at) for failure, failed_at in failures}
        await self._execute(
            statements.PUT_FAILURES,
            identifier=literal(last),
            code=literal(failure.code for failure, _ in last.values()),
            message=literal(failure.message for failure, _ in last.values()),
            attempts=literal(attempts[identifier] for identifier in last),
            failed_at=literal(failed_at for _, failed_at in last.values()),
            run_id=self._scope.run_id,
        )

    def _kept(self, failure: Failure) -> str:
        """What the failure is recorded under. Text that is no ID may be anybody's: then only its place."""
        if self._personal_data or failure.outcome is not Outcome.INVALID:
            return failure.item.identifier
        return failure.item.where

    async def _execute(self, statement: str, **parameters: object) -> AsyncCursor[Any]:
        return await self._connection.execute(
            statement,
            {**self._scope.keys, **parameters},
        )


def _split(rows: Mapping[Key, Row], known: Container[Key]) -> tuple[list[Row], list[Row]]:
    """The rows that are new, and those that are known."""
    new = [row for key, row in rows.items() if key not in known]
    return new, [row for key, row in rows.items() if key in known]


def _held(fetched: Sequence[Fetched], held: dict[str, datetime]) -> list[tuple[Failure, datetime]]:
    """The failures that stand for removals held back; their time is when it was asked."""
    message = "the API has no such connection, but its removal is held back"
    return [
        (Failure(answer.item, Outcome.FAILED, HELD_BACK, message, attempts=1), held[answer.item.identifier])
        for answer in fetched
        if answer.item.identifier in held
    ]


def _refused(answer: Answer, error: BaseException) -> Failure:
    """The failure for a row that the database refuses. Its text is left out: it may quote the row."""
    return Failure(
        answer.item,
        Outcome.FAILED,
        "RefusedByDatabase",
        f"the database refuses this connection's rows: SQLSTATE {sqlstate(error)}",
        attempts=1,
    )
