"""Whether a database can be worked in: what a run would find out only half-way."""

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from syncer.store import tables  # noqa: F401  (so that SQLModel knows the tables)
from syncer.store.engine import DatabaseDenied, DatabaseNotSetUp, described, engine_for, meaning

# The oldest that its own makers still maintained in 2025, and the tests have been run on.
OLDEST = 13

SERVER = text("""
    SELECT current_setting('server_version') AS version,
           current_setting('server_version_num')::integer / 10000 AS major,
           pg_encoding_to_char(encoding) AS encoding,
           pg_is_in_recovery() AS standby,
           current_setting('transaction_read_only') = 'on' AS read_only
    FROM pg_database
    WHERE datname = current_database()
""")
# A table that is not there is the schema's matter.
LACKING = text("""
    SELECT name, string_agg(privilege, ', ' ORDER BY privilege) AS privileges
    FROM unnest(CAST(:names AS text[])) AS name,
         unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
    WHERE to_regclass(name) IS NOT NULL AND NOT has_table_privilege(to_regclass(name), privilege)
    GROUP BY name
    ORDER BY name
""")


async def fitness(url: str) -> str:
    """The database at `url` in a line. Raises `DatabaseError`, also where it cannot be worked in."""
    engine = engine_for(url, connections=0)
    try:
        async with engine.connect() as connection:
            server = (await connection.execute(SERVER)).one()
            names = "{" + ",".join(f'"{name}"' for name in SQLModel.metadata.tables) + "}"
            lacking = [*await connection.execute(LACKING, {"names": names})]
            driver = (await connection.get_raw_connection()).driver_connection
            tls = bool(driver and driver.pgconn.ssl_in_use)
    except (DBAPIError, OSError) as error:
        raise meaning(error, url) from None
    finally:
        await engine.dispose()
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
