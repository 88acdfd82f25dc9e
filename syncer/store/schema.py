"""The schema's version: which one the database has, and the steps to this program's own."""

from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from syncer.store.engine import DatabaseNotSetUp, described, engine_for, meaning, sqlstate

# The newest migration. Written down so that a run need not load Alembic to compare; a test compares the two.
VERSION = "0005"

NO_SUCH_TABLE = "42P01"


def migrations() -> Path:
    """The migrations' folder: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


async def version(connection: AsyncConnection) -> str | None:
    """The version of the database's schema; None where there is none yet."""
    try:
        async with connection.begin_nested():
            found: str | None = await connection.scalar(text("SELECT version_num FROM alembic_version"))
    except DBAPIError as error:
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
    engine = engine_for(url, connections=0)
    try:
        async with engine.connect() as connection:
            return await version(connection)
    except (DBAPIError, OSError) as error:
        raise meaning(error, url) from None
    finally:
        await engine.dispose()


async def migrate(url: str) -> tuple[str | None, str]:
    """Bring the schema of the database at `url` to this version; the versions before and after.

    Raises `DatabaseError`; when the schema is newer than this program, without touching it.
    """
    engine = engine_for(url, connections=0)
    try:
        async with engine.connect() as connection:
            before = await version(connection)
            if before is not None and before > VERSION:
                raise DatabaseNotSetUp(f"{described(url)}: {difference(before)}")
            await connection.rollback()
            await connection.run_sync(_upgrade)
    except (DBAPIError, OSError) as error:
        raise meaning(error, url) from None
    finally:
        await engine.dispose()
    return before, VERSION


def _upgrade(connection: Connection) -> None:
    # Alembic takes a fifth of a second to import, and only this needs it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    command.upgrade(config, VERSION)
