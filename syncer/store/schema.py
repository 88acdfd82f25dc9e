"""The schema's version: which one the database has, and the steps to this program's own."""

from pathlib import Path

import anyio.to_thread
import psycopg

from syncer.store.database import DatabaseNotSetUp, described, meaning, sqlstate
from syncer.store.pool import Connection, Pool, scalar

# The newest migration. Written down so that a run need not load Alembic to compare; a test compares the two.
VERSION = "0006"

NO_SUCH_TABLE = "42P01"


def migrations() -> Path:
    """The migrations' folder: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


async def version(connection: Connection) -> str | None:
    """The version of the database's schema; None where there is none yet."""
    try:
        # Where there is a transaction already, it goes on.
        async with connection.transaction():
            found: str | None = await scalar(connection, "SELECT version_num FROM alembic_version")
    except psycopg.Error as error:
        if sqlstate(error) == NO_SUCH_TABLE:
            return None
        raise
    return found


def difference(found: str | None) -> str | None:
    """What is wrong with a schema of version `found`, and what to do; None when it is current."""
    if found == VERSION:
        return None
    if found is None:
        return "the database has no syncer tables yet: run `syncer migrate`"
    if found < VERSION:
        return (
            f"the database's schema is of version {found}, this syncer needs {VERSION}: run `syncer migrate`"
        )
    return (
        f"the database's schema is of version {found}, newer than this syncer's {VERSION}: "
        "install the syncer that made it"
    )


async def current(url: str) -> str | None:
    """The version of the schema of the database at `url`. Raises `DatabaseError`."""
    try:
        async with Pool(url) as pool, pool.connection() as connection:
            return await version(connection)
    except (psycopg.Error, OSError) as error:
        raise meaning(error, url) from None


async def migrate(url: str) -> tuple[str | None, str]:
    """Bring the schema of the database at `url` to this version; the versions before and after.

    Raises `DatabaseError`; when the schema is newer than this program, without touching it.
    """
    before = await current(url)
    if before is not None and before > VERSION:
        raise DatabaseNotSetUp(f"{described(url)}: {difference(before)}")
    try:
        await anyio.to_thread.run_sync(_upgrade, await Pool(url).conninfo())
    except (psycopg.Error, OSError) as error:
        raise meaning(error, url) from None
    return before, VERSION


def _upgrade(conninfo: str) -> None:
    """Raises psycopg's errors."""
    # They take a third of a second to import, and only this needs them.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from sqlalchemy import create_engine  # noqa: PLC0415
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=NullPool
    )
    try:
        with engine.connect() as connection:
            config = Config(attributes={"connection": connection})
            config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
            command.upgrade(config, VERSION)
    except DBAPIError as error:
        raise error.orig or error from None
