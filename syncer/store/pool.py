"""Connections to a database: made when they are needed, kept, and let go of once they are broken.

The driver is psycopg 3: set-wise statements are as quick with it as with asyncpg, and it lives well with
PgBouncer in transaction mode and with cancellation. Its own pool makes connections in the background, and
whoever waits for one hears that it took too long, not that the password is wrong: hence this one.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import anyio
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row

from syncer.rds import tokens
from syncer.settings import DatabaseAuth
from syncer.store.database import PORT, READ_ONLY, sqlstate, target

# Rows are named tuples.
Connection = psycopg.AsyncConnection[Any]

# What a URL may say otherwise.
USUAL = {
    "connect_timeout": "10",
    "application_name": "syncer",
    # A database host that vanishes is noticed in half a minute, not after two hours.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


class Pool:
    """Up to `connections` at once to the database at `url`; who wants more waits.

    Raises `BadDatabaseUrl`. All else raises psycopg's errors, and `OSError`.
    """

    def __init__(self, url: str, connections: int = 3) -> None:
        self.url = url
        named = target(url)
        self._parameters = USUAL | named.parameters
        self._token = (
            tokens(named.host, int(named.port or PORT), named.user)
            if named.auth is DatabaseAuth.IAM
            else None
        )
        self._free = anyio.Semaphore(connections, fast_acquire=True)
        self._idle: list[Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def conninfo(self) -> str:
        """What libpq needs for one connection that is made now."""
        if self._token is None:
            return make_conninfo(**self._parameters)
        return make_conninfo(**self._parameters, password=await self._token())

    async def open(self) -> Connection:
        """A connection of the caller's own. Each statement commits at once, unless in a transaction."""
        return await psycopg.AsyncConnection.connect(
            await self.conninfo(),
            autocommit=True,
            row_factory=namedtuple_row,
            # Prepared statements outlive a transaction, which PgBouncer in transaction mode does not.
            prepare_threshold=None,
        )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for a while. Each statement commits at once: without two round trips around it."""
        async with self._free:
            connection = self._idle.pop() if self._idle else await self.open()
            reads_only = False
            try:
                yield connection
            except psycopg.Error as error:
                # After a failover the old connections may lead to the former primary for ever.
                reads_only = sqlstate(error) == READ_ONLY
                raise
            finally:
                # Whoever was cancelled may have left a statement or a transaction behind.
                if connection.pgconn.transaction_status == TransactionStatus.IDLE and not reads_only:
                    self._idle.append(connection)
                else:
                    await connection.close()
                    await self.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection for a transaction: committed at the context's end, or undone by what it raises."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def close(self) -> None:
        """Close what is idle: where one connection is broken the others will be. The next ones are new."""
        while self._idle:
            await self._idle.pop().close()


async def scalar(
    connection: Connection, statement: str, parameters: Mapping[str, object] | None = None
) -> Any:
    """The first column of the statement's first row; None where there is none."""
    row = await (await connection.execute(statement, parameters)).fetchone()
    return None if row is None else row[0]
