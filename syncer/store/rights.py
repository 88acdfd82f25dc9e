"""Rights for others than the tables' owner: who may read the views, and who may do the program's daily work.

Statements, to be looked at first: printed, or carried out in one transaction. Each may be repeated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg.sql import SQL, Composable, Identifier
from sqlmodel import SQLModel

from syncer.store import schema, tables  # noqa: F401  (so that SQLModel knows the tables)
from syncer.store.database import DatabaseDenied, DatabaseNotSetUp, described, meaning
from syncer.store.pool import Connection, Pool, scalar

REPORTING = "reporting"
VERSIONS = "alembic_version"


@dataclass(frozen=True, slots=True)
class Grantees:
    """Roles of the database. reader: is to see the views only. writer: is to sync, work and check."""

    reader: str | None = None
    writer: str | None = None

    @property
    def names(self) -> list[str]:
        return [name for name in (self.reader, self.writer) if name is not None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tables are, by names: database, their schema, and the role that owns the views."""

    database: str
    tables: str
    view_owner: str


# Where things are, and whose: new views will be made by the owner of those that there are.
PLACE = """
    SELECT current_database() AS database, nspname AS tables,
           (SELECT min(rolname) FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner
            WHERE relnamespace = to_regnamespace(%(reporting)s) AND relkind = 'v') AS view_owner
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = to_regclass('connection')
"""
KNOWN = "SELECT rolname FROM pg_roles WHERE rolname = ANY(%(names)s)"
# What a role has in spite of the statements: as a superuser, from a role that it is a member of, from PUBLIC.
READS = """
    SELECT name FROM unnest(CAST(%(names)s AS text[])) AS name
    WHERE has_any_column_privilege(%(role)s, to_regclass(name), 'SELECT')
    ORDER BY name
"""
CREATES = "SELECT has_schema_privilege(%(role)s, %(schema)s, 'CREATE')"


async def grant(url: str, grantees: Grantees, *, apply: bool) -> list[str]:
    """The statements that give `grantees` their rights; with `apply`, carried out.

    Raises `DatabaseError`: also when there is no such role, or when a role could do more than it is meant
    to in spite of them; then nothing is carried out.
    """
    try:
        async with Pool(url) as pool, pool.transaction() as connection:
            place = await _place(connection, url)
            await _must_exist(connection, url, grantees)
            found = [each.as_string() for each in _statements(place, grantees)]
            if apply:
                for statement in found:
                    await connection.execute(statement)
                await _must_not_do_more(connection, url, grantees, place.tables)
    except (psycopg.Error, OSError) as error:
        raise meaning(error, url) from None
    return found


async def _place(connection: Connection, url: str) -> Place:
    wrong = schema.difference(await schema.version(connection))
    if wrong:
        raise DatabaseNotSetUp(f"{described(url)}: {wrong}")
    [row] = await (await connection.execute(PLACE, {"reporting": REPORTING})).fetchall()
    return Place(*row)


async def _must_exist(connection: Connection, url: str, grantees: Grantees) -> None:
    found = await connection.execute(KNOWN, {"names": grantees.names})
    known = {row.rolname async for row in found}
    for name in grantees.names:
        if name not in known:
            create = SQL("CREATE ROLE {} LOGIN PASSWORD '…'").format(Identifier(name)).as_string()
            raise DatabaseNotSetUp(f"{described(url)}: there is no role {name}: create it first: {create}")


def _statements(place: Place, grantees: Grantees) -> Iterator[Composable]:
    names = {
        "database": Identifier(place.database),
        "public": Identifier(place.tables),
        "reporting": Identifier(REPORTING),
        "view_owner": Identifier(place.view_owner),
        "tables": SQL(", ").join(Identifier(place.tables, name) for name in sorted(SQLModel.metadata.tables)),
        "versions": Identifier(place.tables, VERSIONS),
    }
    for role, templates in ((grantees.reader, READER), (grantees.writer, WRITER)):
        if role is not None:
            yield from (SQL(template).format(**names, role=Identifier(role)) for template in templates)


# Names of tables and views are all that a reader gets to know of the rest: those are in everybody's catalog.
READER = (
    "GRANT CONNECT ON DATABASE {database} TO {role}",
    "REVOKE ALL ON {tables}, {versions} FROM {role}",
    "GRANT USAGE ON SCHEMA {reporting} TO {role}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA {reporting} TO {role}",
    "ALTER DEFAULT PRIVILEGES FOR ROLE {view_owner} IN SCHEMA {reporting} GRANT SELECT ON TABLES TO {role}",
)
# The tables by name: there may be other people's in their schema. `syncer status` reads a view.
WRITER = (
    "GRANT CONNECT ON DATABASE {database} TO {role}",
    "GRANT USAGE ON SCHEMA {public}, {reporting} TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {role}",
    "GRANT SELECT ON {versions} TO {role}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA {reporting} TO {role}",
)


async def _must_not_do_more(connection: Connection, url: str, grantees: Grantees, public: str) -> None:
    reader, writer = grantees.reader, grantees.writer
    if reader is not None:
        names = [*sorted(SQLModel.metadata.tables), VERSIONS]
        found = await connection.execute(READS, {"role": reader, "names": names})
        left = [row.name async for row in found]
        if left:
            raise DatabaseDenied(
                f"{described(url)}: nothing is granted: {reader} would read {', '.join(left)} all the same, "
                "as a superuser, through a role that it is a member of, or by a right of PUBLIC"
            )
    for name in (public, REPORTING) if writer is not None else ():
        if await scalar(connection, CREATES, {"role": writer, "schema": name}):
            revoke = SQL("REVOKE CREATE ON SCHEMA {} FROM PUBLIC").format(Identifier(name)).as_string()
            raise DatabaseDenied(
                f"{described(url)}: nothing is granted: {writer} would create tables in schema {name} all "
                f"the same, as a superuser, its owner, or because everybody may: {revoke}"
            )
