"""Erasing who invited: one person, by address, from everything that is stored."""

import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg

from syncer.identifiers import CONNECTION_ID
from syncer.store import schema
from syncer.store.arrays import literal
from syncer.store.database import DatabaseNotSetUp, described, meaning
from syncer.store.pool import Connection, Pool

ERASED = "(erased)"
# What is shorter stands in every other text.
SHORTEST_NAME = 3

# What is stored now is an open version too, so the history has all addresses. Upper and lower case are
# compared in Python: what the database does with letters beyond ASCII depends on how it was set up.
PEOPLE = "SELECT DISTINCT inviter_email, inviter_name FROM connection_type_history"

# The person: by address, and by name where there is no address, or another one than before in the same type
# of the same connection.
PERSON = """
    inviter_email = ANY(CAST(%(addresses)s AS text[])) OR inviter_name = ANY(CAST(%(names)s AS text[])) AND (
        inviter_email IS NULL OR (account_id, catalog, connection_id, type) IN (
            SELECT account_id, catalog, connection_id, type FROM connection_type_history
            WHERE inviter_email = ANY(CAST(%(addresses)s AS text[]))
        )
    )
"""
# Held like by the writer, in its order: it copies into a new version what it has read of the one before.
HOLD_CONNECTIONS = """
    SELECT id
    FROM connection
    WHERE (account_id, catalog, id) IN (
        SELECT account_id, catalog, connection_id FROM connection_type_history
        WHERE inviter_email = ANY(CAST(%(addresses)s AS text[]))
           OR inviter_name = ANY(CAST(%(names)s AS text[]))
    )
    ORDER BY account_id, catalog, id
    FOR NO KEY UPDATE
"""
# In this order: the history tells whose the types are.
ERASE = {
    "connection_type": f"""
        UPDATE connection_type SET inviter_email = NULL, inviter_name = NULL WHERE {PERSON}
    """,  # noqa: S608  (no values)
    "connection_type_history": f"""
        UPDATE connection_type_history SET inviter_email = NULL, inviter_name = NULL WHERE {PERSON}
    """,  # noqa: S608  (no values)
}

FAILURES = """
    SELECT account_id, catalog, identifier, message
    FROM sync_failure
    ORDER BY account_id, catalog, identifier
"""
BLANK_FAILURE = """
    UPDATE sync_failure SET identifier = %(kept)s, message = %(message)s
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND identifier = %(identifier)s
"""
INPUTS = "SELECT id, input FROM sync_run WHERE input IS NOT NULL ORDER BY id"
BLANK_INPUT = "UPDATE sync_run SET input = %(input)s WHERE id = %(id)s"

# The planner keeps samples of what is in the columns. From others than the owner the server takes no ANALYZE,
# with a warning; its own comes some time later.
REFRESH = """
    ANALYZE connection_type (inviter_email, inviter_name),
            connection_type_history (inviter_email, inviter_name),
            sync_failure (identifier, message), sync_run (input)
"""

Quotes = Callable[[str], bool]


async def forget(url: str, address: str) -> dict[str, int]:
    """Erase the person who invited as `address` (in any case of its letters); the rows changed, per table.

    All in one transaction, and again without effect. Failures and runs lose what quotes the address, or the
    name that stands beside it. Raises `DatabaseError`.
    """
    try:
        async with Pool(url) as pool, pool.transaction() as connection:
            wrong = schema.difference(await schema.version(connection))
            if wrong:
                raise DatabaseNotSetUp(f"{described(url)}: {wrong}")
            return await _erase(connection, address.strip())
    except (psycopg.Error, OSError) as error:
        raise meaning(error, url) from None


async def _erase(connection: Connection, address: str) -> dict[str, int]:
    # As it was typed, too: it may be in the failures only.
    addresses, names = {address}, set[str]()
    async for row in _read(connection, PEOPLE):
        if (row.inviter_email or "").strip().casefold() == address.casefold():
            addresses.add(row.inviter_email)
            names |= {row.inviter_name} - {None}
    person = {"addresses": literal(addresses), "names": literal(names) if names else "{}"}
    needles = [
        address.casefold(),
        *(name.strip().casefold() for name in names if len(name.strip()) >= SHORTEST_NAME),
    ]

    def quotes(text: str) -> bool:
        return any(needle in text.casefold() for needle in needles)

    await connection.execute(HOLD_CONNECTIONS, person)
    erased = {table: (await connection.execute(each, person)).rowcount for table, each in ERASE.items()}
    erased["sync_failure"] = await _failures(connection, quotes)
    erased["sync_run"] = await _inputs(connection, quotes)
    if any(erased.values()):
        await connection.execute(REFRESH)
    return erased


async def _read(connection: Connection, statement: str) -> AsyncIterator[Any]:
    """The statement's rows, as many as there may be, without holding them all."""
    async with connection.cursor("read") as cursor:
        await cursor.execute(statement)
        async for row in cursor:
            yield row


async def _failures(connection: Connection, quotes: Quotes) -> int:
    """What was read as an ID and was none is lost; that there was something, and where, stays."""
    changes = []
    async for row in _read(connection, FAILURES):
        named = not CONNECTION_ID.fullmatch(row.identifier) and quotes(row.identifier)
        if named or quotes(row.message):
            changes.append(
                {
                    "account_id": row.account_id,
                    "catalog": row.catalog,
                    "identifier": row.identifier,
                    # Two of them stay two.
                    "kept": f"{ERASED} {secrets.token_hex(8)}" if named else row.identifier,
                    "message": ERASED if quotes(row.message) else row.message,
                }
            )
    return await _each(connection, BLANK_FAILURE, changes)


async def _inputs(connection: Connection, quotes: Quotes) -> int:
    """Runs whose files, or queue, are named for the person."""
    changes = [
        {"id": row.id, "input": ERASED} async for row in _read(connection, INPUTS) if quotes(row.input)
    ]
    return await _each(connection, BLANK_INPUT, changes)


async def _each(connection: Connection, statement: str, changes: list[dict[str, str]]) -> int:
    for change in changes:
        await connection.execute(statement, change)
    return len(changes)
