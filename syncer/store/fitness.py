"""Whether a database can be worked in: what a run would find out only half-way."""

import psycopg
from sqlmodel import SQLModel

from syncer.store import tables  # noqa: F401  (so that SQLModel knows the tables)
from syncer.store.database import DatabaseDenied, DatabaseNotSetUp, described, meaning
from syncer.store.pool import Pool

# The oldest that its own makers still maintained in 2025, and the tests have been run on.
OLDEST = 13

SERVER = """
    SELECT current_setting('server_version') AS version,
           current_setting('server_version_num')::integer / 10000 AS major,
           pg_encoding_to_char(encoding) AS encoding,
           pg_is_in_recovery() AS standby,
           current_setting('transaction_read_only') = 'on' AS read_only
    FROM pg_database
    WHERE datname = current_database()
"""
# A table that is not there is the schema's matter.
LACKING = """
    SELECT name, string_agg(privilege, ', ' ORDER BY privilege) AS privileges
    FROM unnest(CAST(%(names)s AS text[])) AS name,
         unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
    WHERE to_regclass(name) IS NOT NULL AND NOT has_table_privilege(to_regclass(name), privilege)
    GROUP BY name
    ORDER BY name
"""


async def fitness(url: str) -> str:
    """The database at `url` in a line. Raises `DatabaseError`, also where it cannot be worked in."""
    try:
        async with Pool(url) as pool, pool.connection() as connection:
            [server] = await (await connection.execute(SERVER)).fetchall()
            names = [*SQLModel.metadata.tables]
            lacking = await (await connection.execute(LACKING, {"names": names})).fetchall()
            tls = connection.pgconn.ssl_in_use
    except (psycopg.Error, OSError) as error:
        raise meaning(error, url) from None
    where = described(url)
    if server.major < OLDEST:
        raise DatabaseNotSetUp(f"{where}: PostgreSQL {server.version} is too old: {OLDEST} or later, please")
    if server.encoding != "UTF8":
        raise DatabaseNotSetUp(f"{where}: its encoding is {server.encoding}: names need one in UTF8")
    if server.standby:
        raise DatabaseNotSetUp(f"{where}: a standby, which takes no writes: name the primary's host")
    if server.read_only:
        raise DatabaseNotSetUp(f"{where}: read-only: see default_transaction_read_only of database and user")
    if lacking:
        told = "; ".join(f"{each.privileges} on {each.name}" for each in lacking)
        raise DatabaseDenied(f"{where}: the user may not {told}: see syncer grant --writer")
    encrypted = "TLS" if tls else "no TLS"
    return f"{where}: PostgreSQL {server.version}, {encrypted}"
