"""One at a time: a lock that ends with whoever holds it.

An advisory lock of a transaction that stays open for the run: the server lets go of it when the connection
ends, however it ends, and PgBouncer in transaction mode keeps the connection with the transaction. It has no
snapshot between statements, so it holds back no vacuum.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from syncer.background import background

# The connection is used this often (seconds): its loss is noticed, and nothing between drops it as idle.
BEAT = 10.0

TRY = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:what, 0))")
# An administrator's limit on idle transactions is meant for forgotten ones.
STAY = text("SET LOCAL idle_in_transaction_session_timeout = 0")
HERE = text("SELECT 1")


def of_runs(account_id: str, catalog: str) -> str:
    """The lock of which the runs of an account and catalog take turns."""
    return f"syncer run {account_id} {catalog}"


def of_worker(run_id: str) -> str:
    """The lock that a worker holds for as long as its run is on; `statements.CLOSE_DEAD_WORKERS` looks."""
    return f"syncer worker {run_id}"


@asynccontextmanager
async def only_one(engine: AsyncEngine, what: str, lost: Callable[[], None]) -> AsyncIterator[bool]:
    """Whether this is the only holder of the lock named `what`, while the context lasts.

    lost: called when the connection was lost, and with it the lock, and another one has taken it since.
    """
    connection = await _taken(engine, what)
    if connection is None:
        yield False
        return
    async with background(lambda: _keep(engine, what, connection, lost)):
        yield True


async def _taken(engine: AsyncEngine, what: str) -> AsyncConnection | None:
    connection = await engine.connect()
    await connection.execute(STAY)
    if await connection.scalar(TRY, {"what": what}):
        return connection
    await connection.close()
    return None


async def _keep(
    engine: AsyncEngine, what: str, connection: AsyncConnection, lost: Callable[[], None]
) -> None:
    """Use the connection from time to time; when it is gone, take the lock anew once there is a database."""
    current: AsyncConnection | None = connection
    try:
        while True:
            await anyio.sleep(BEAT)
            try:
                if current is None:
                    current = await _taken(engine, what)
                    if current is None:
                        lost()
                        return
                await current.execute(HERE)
            except (DBAPIError, OSError):
                if current is not None:
                    await _let_go(current)
                current = None
    finally:
        if current is not None:
            with anyio.CancelScope(shield=True):
                await _let_go(current)


async def _let_go(connection: AsyncConnection) -> None:
    """Close `connection`, which may be dead already; then the server has let go of the lock by itself."""
    with suppress(DBAPIError, OSError):
        await connection.invalidate()
    with suppress(DBAPIError, OSError):
        await connection.close()
