"""What is stored of a listing's connections: asked for page by page, never all at once."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay

from syncer.store import statements
from syncer.store.arrays import literal
from syncer.store.database import is_passing, meaning
from syncer.store.pool import Pool
from syncer.store.writer import BACKOFF, PATIENCE, Scope

# IDs per question when going through all of them.
PAGE = 1000


class Known:
    """The stored connections of one account and catalog. All methods raise `DatabaseError`.

    patience: seconds in which a question that was cut off is asked again.
    """

    def __init__(self, pool: Pool, scope: Scope, patience: float = PATIENCE) -> None:
        self._pool = pool
        self._keys = scope.keys
        # Nothing is changed here, so it may be asked as often as it takes.
        self._asking = AsyncRetrying(
            retry=retry_if_exception(is_passing), stop=stop_after_delay(patience), wait=BACKOFF, reraise=True
        )

    async def updated_at(self, identifiers: Sequence[str]) -> Mapping[str, datetime]:
        """Of `identifiers` those that are stored and not removed, with their `updated_at`."""
        if not identifiers:
            return {}
        rows = await self._rows(statements.UPDATED_AT, ids=literal(identifiers))
        return {row.id: row.updated_at for row in rows}

    async def fetched_at(self, identifiers: Sequence[str]) -> Mapping[str, datetime]:
        """When the answer that last changed each of `identifiers` was asked for."""
        if not identifiers:
            return {}
        rows = await self._rows(statements.FETCHED_AT, ids=literal(identifiers))
        return {row.id: row.synced_at for row in rows}

    async def live_after(self, identifier: str) -> Sequence[str]:
        """The next IDs after `identifier` with an active type and not removed; empty at the end."""
        rows = await self._rows(statements.LIVE_AFTER, after=identifier, page=PAGE)
        return [row.id for row in rows]

    async def failed_after(self, identifier: str) -> Sequence[str]:
        """The next recorded failures after `identifier`; empty at the end."""
        rows = await self._rows(statements.FAILED_AFTER, after=identifier, page=PAGE)
        return [row.identifier for row in rows]

    async def _rows(self, statement: str, **parameters: object) -> Sequence[Any]:
        try:
            rows: Sequence[Any] = await self._asking(self._ask, statement, parameters)
        except (psycopg.Error, OSError) as error:
            raise meaning(error, self._pool.url) from None
        return rows

    async def _ask(self, statement: str, parameters: Mapping[str, object]) -> Sequence[Any]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(statement, {**self._keys, **parameters})).fetchall()
