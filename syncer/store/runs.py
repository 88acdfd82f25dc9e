"""The run's own row in `sync_run`: there from its start, closed at its end."""

import secrets
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from syncer.clock import Clock
from syncer.ledger import Ledger
from syncer.store import schema, statements
from syncer.store.engine import DatabaseNotSetUp, meaning
from syncer.store.writer import Scope


async def ready(engine: AsyncEngine, url: str) -> Clock:
    """The database's clock, once it is certain that the database can be written to by this program.

    Raises `DatabaseError`: unreachable, not allowed, or a schema that is not current.
    """
    try:
        async with engine.begin() as connection:
            wrong = schema.difference(await schema.version(connection))
            now: datetime = await connection.scalar(text("SELECT clock_timestamp()"))
    except (DBAPIError, OSError) as error:
        raise meaning(error, url) from None
    if wrong:
        raise DatabaseNotSetUp(wrong)
    return Clock(now)


def new_id(now: datetime) -> str:
    """An ID for a run: sorts by time, and two runs of one second differ."""
    return f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


async def start(engine: AsyncEngine, scope: Scope, source: str, now: datetime) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            statements.START_RUN,
            {
                "id": scope.run_id,
                "source": source,
                "account_id": scope.account_id,
                "catalog": scope.catalog,
                "started_at": now,
            },
        )


async def finish(
    engine: AsyncEngine, scope: Scope, ledger: Ledger, *, status: str, now: datetime, seconds: float
) -> None:
    """Close the run's row: its status, its last counts, its duration."""
    async with engine.begin() as connection:
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
