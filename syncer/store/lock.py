"""One at a time: a lock that ends with whoever holds it.

An advisory lock of a transaction that stays open for the run: the server lets go of it when the connection
ends, however it ends, and PgBouncer in transaction mode keeps the connection with the transaction. It has no
snapshot between statements, so it holds back no vacuum.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import psycopg

from syncer.background import background
from syncer.store.pool import Connection, Pool, scalar

# The connection is used this often (seconds): its loss is noticed, and nothing between drops it as idle.
BEAT = 10.0

TRY = "SELECT pg_try_advisory_xact_lock(hashtextextended(%(what)s, 0))"
# An administrator's limit on idle transactions is meant for forgotten ones.
STAY = "SET LOCAL idle_in_transaction_session_timeout = 0"
HERE = "SELECT 1"


def of_runs(account_id: str, catalog: str) -> str:
    """The lock of which the runs of an account and catalog take turns."""
    return f"syncer run {account_id} {catalog}"


def of_worker(run_id: str) -> str:
    """The lock that a worker holds for as long as its run is on; `statements.CLOSE_DEAD_WORKERS` looks."""
    return f"syncer worker {run_id}"


@asynccontextmanager
async def only_one(pool: Pool, what: str, lost: Callable[[], None]) -> AsyncIterator[bool]:
    """Whether this is the only holder of the lock named `what`, while the context lasts.

    lost: called when the connection was lost, and with it the lock, and another one has taken it since.
    """
    connection = await _taken(pool, what)
    if connection is None:
        yield False
        return
    async with background(lambda: _keep(pool, what, connection, lost)):
        yield True


async def _taken(pool: Pool, what: str) -> Connection | None:
    connection = await pool.open()
    taken = False
    try:
        await connection.execute("BEGIN")
        await connection.execute(STAY)
        taken = await scalar(connection, TRY, {"what": what})
    finally:
        if not taken:
            await connection.close()
    return connection if taken else None


async def _keep(pool: Pool, what: str, connection: Connection, lost: Callable[[], None]) -> None:
    """Use the connection from time to time; when it is gone, take the lock anew once there is a database."""
    current: Connection | None = connection
    try:
        while True:
            await anyio.sleep(BEAT)
            try:
                if current is None:
                    current = await _taken(pool, what)
                    if current is None:
                        lost()
                        return
                await current.execute(HERE)
            except (psycopg.Error, OSError):
                if current is not None:
                    await current.close()
                current = None
    finally:
        if current is not None:
            # Dead or alive: with its connection the lock ends.
            await current.close()
