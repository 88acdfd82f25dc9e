"""The run's own row in `sync_run`: there from its start, closed at its end."""

import secrets
from dataclasses import asdict, dataclass
from datetime import datetime

import psycopg

from syncer.clock import Clock
from syncer.ledger import Ledger
from syncer.store import schema, statements
from syncer.store.database import DatabaseNotSetUp, meaning
from syncer.store.pool import Pool, scalar
from syncer.store.writer import Scope


async def ready(pool: Pool) -> Clock:
    """The database's clock, once it is certain that the database can be written to by this program.

    Raises `DatabaseError`: unreachable, not allowed, or a schema that is not current.
    """
    try:
        async with pool.connection() as connection:
            wrong = schema.difference(await schema.version(connection))
            now: datetime = await scalar(connection, "SELECT clock_timestamp()")
    except (psycopg.Error, OSError) as error:
        raise meaning(error, pool.url) from None
    if wrong:
        raise DatabaseNotSetUp(wrong)
    return Clock(now)


def new_id(now: datetime) -> str:
    """An ID for a run: sorts by time, and two runs of one second differ."""
    return f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a run's row says from its start. See `tables.SyncRun`."""

    source: str
    started_at: datetime
    input: str | None = None
    input_digest: str | None = None
    full: bool = False


async def start(pool: Pool, scope: Scope, beginning: Beginning) -> None:
    """Add the run's row, to be called with its lock held. Rows of runs that died are closed."""
    async with pool.transaction() as connection:
        if beginning.source == "queue":
            await connection.execute(statements.CLOSE_DEAD_WORKERS, {**scope.keys, "id": scope.run_id})
        else:
            await connection.execute(statements.CLOSE_DEAD_RUNS, scope.keys)
        await connection.execute(
            statements.START_RUN, {"id": scope.run_id, **scope.keys, **asdict(beginning)}
        )
    async with pool.connection() as connection:
        await connection.execute(statements.CLEAR_NOT_FOUND, scope.keys)


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier run over files."""

    id: str
    status: str
    input: str | None
    input_digest: str | None
    checkpoint: int

    @property
    def unfinished(self) -> bool:
        return self.status in ("running", "interrupted", "aborted")


async def latest_over(pool: Pool, scope: Scope, names: str, digest: str) -> Earlier | None:
    """The latest run over the same files, or else over files of the same names; None if there was none."""
    async with pool.connection() as connection:
        found = await connection.execute(
            statements.LATEST_OVER, {**scope.keys, "input": names, "digest": digest}
        )
        row = await found.fetchone()
    return None if row is None else Earlier(*row)


async def last_full(pool: Pool, scope: Scope) -> datetime | None:
    """When the last run ended that fetched everything and succeeded."""
    async with pool.connection() as connection:
        finished_at: datetime | None = await scalar(connection, statements.LAST_FULL, scope.keys)
    return finished_at


async def last_complete(pool: Pool, scope: Scope) -> float | None:
    """When a sync from the listing last left everything in step, in seconds since 1970."""
    async with pool.connection() as connection:
        finished_at: datetime | None = await scalar(connection, statements.LAST_COMPLETE, scope.keys)
    return None if finished_at is None else finished_at.timestamp()


async def finish(
    pool: Pool, scope: Scope, ledger: Ledger, *, status: str, now: datetime, seconds: float
) -> None:
    """Close the run's row: its status, its last counts, its duration."""
    async with pool.transaction() as connection:
        await connection.execute(statements.RECORD_RUN, {"id": scope.run_id, **ledger.standing()})
        await connection.execute(
            statements.FINISH_RUN,
            {
                "id": scope.run_id,
                "status": status,
                "finished_at": now,
                "seconds": seconds,
            },
        )
