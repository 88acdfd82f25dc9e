"""What is stored of the connections that a batch of answers is about: read in sets, without locks."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from psycopg import AsyncCursor

from syncer.answers import Fetched, Found
from syncer.store import statements
from syncer.store.arrays import literal
from syncer.store.changes import ConnectionRow, ParticipantRow, Stored, TypeRow, VersionRow
from syncer.store.pool import Connection

Execute = Callable[..., Awaitable[AsyncCursor[Any]]]


async def look(
    connection: Connection, keys: Mapping[str, object], fetched: Sequence[Fetched], *, personal_data: bool
) -> Stored:
    """What the database has of the connections and participants that `fetched` is about.

    keys: the columns that every key begins with. personal_data: whether who invited may stay; else it is
    looked for.
    """

    async def execute(statement: str, **parameters: object) -> AsyncCursor[Any]:
        return await connection.execute(statement, {**keys, **parameters})

    stored = Stored()
    await _connections(execute, fetched, stored, personal_data=personal_data)
    await _not_found(execute, fetched, stored)
    await _participants(execute, fetched, stored)
    return stored


async def _connections(
    execute: Execute, fetched: Sequence[Fetched], stored: Stored, *, personal_data: bool
) -> None:
    ids = literal(answer.item.identifier for answer in fetched)
    async for row in await execute(statements.CONNECTIONS, ids=ids):
        stored.connections[row.id] = ConnectionRow._make(row)
    if not stored.connections:
        return
    known = literal(stored.connections)
    async for row in await execute(statements.TYPES, ids=known):
        stored.types.setdefault(row.connection_id, {})[row.type] = TypeRow._make(row)
    async for row in await execute(statements.OPEN_VERSIONS, ids=known):
        stored.versions[row.connection_id, row.type] = VersionRow(*row)
    if not personal_data:
        async for row in await execute(statements.PERSONAL, ids=known):
            stored.personal.add(row.connection_id)


async def _not_found(execute: Execute, fetched: Sequence[Fetched], stored: Stored) -> None:
    ids = {answer.item.identifier for answer in fetched}
    live = {id for id, row in stored.connections.items() if row.removed_at is None}
    if ids == live:
        return
    async for row in await execute(statements.NOT_FOUND, ids=literal(ids - live)):
        stored.not_found[row.id] = row.asked_at


async def _participants(execute: Execute, fetched: Sequence[Fetched], stored: Stored) -> None:
    participants = {
        (each.participant_kind, each.participant_id)
        for answer in fetched
        if isinstance(answer, Found)
        for each in answer.connection.types
    }
    if not participants:
        return
    kinds, ids = map(set, zip(*participants, strict=True))
    async for row in await execute(statements.PARTICIPANTS, kinds=literal(kinds), ids=literal(ids)):
        stored.participants[row.kind, row.id] = ParticipantRow._make(row)
