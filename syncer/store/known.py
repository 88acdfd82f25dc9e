"""What is stored of a listing's connections: asked for page by page, never all at once."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from syncer.store import statements
from syncer.store.arrays import literal
from syncer.store.writer import Scope

# IDs per question when going through all of them.
PAGE = 1000


class Known:
    """The stored connections of one account and catalog."""

    def __init__(self, engine: AsyncEngine, scope: Scope) -> None:
        # Single statements need no transaction around them, which would be two round trips more.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._keys = scope.keys

    async def updated_at(self, identifiers: Sequence[str]) -> Mapping[str, datetime]:
        """Of `identifiers` those that are stored and not removed, with their `updated_at`."""
        if not identifiers:
            return {}
        async with self._engine.connect() as connection:
            rows = await connection.execute(
                statements.UPDATED_AT, {**self._keys, "ids": literal(identifiers)}
            )
            return {row.id: row.updated_at for row in rows}

    async def fetched_at(self, identifiers: Sequence[str]) -> Mapping[str, datetime]:
        """When the answer that last changed each of `identifiers` was asked for."""
        if not identifiers:
            return {}
        async with self._engine.connect() as connection:
            rows = await connection.execute(
                statements.FETCHED_AT, {**self._keys, "ids": literal(identifiers)}
            )
            return {row.id: row.synced_at for row in rows}

    async def live_after(self, identifier: str) -> Sequence[str]:
        """The next IDs after `identifier` with an active type and not removed; empty at the end."""
        async with self._engine.connect() as connection:
            rows = await connection.scalars(
                statements.LIVE_AFTER, {**self._keys, "after": identifier, "page": PAGE}
            )
            return [*rows]

    async def failed_after(self, identifier: str) -> Sequence[str]:
        """The next recorded failures after `identifier`; empty at the end."""
        async with self._engine.connect() as connection:
            rows = await connection.scalars(
                statements.FAILED_AFTER, {**self._keys, "after": identifier, "page": PAGE}
            )
            return [*rows]
