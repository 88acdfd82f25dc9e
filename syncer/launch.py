"""What every command begins and ends with: the database, the event loop, and a refusal in one line."""

import gc
import sys
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import typer

from syncer.exits import Exit
from syncer.settings import DatabaseAuth

T = TypeVar("T")


class Refusal(Exception):
    """The command cannot be carried out; the message is one line for a person."""

    def __init__(self, exit_code: Exit, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def database_at(
    url: str | None, auth: DatabaseAuth = DatabaseAuth.PASSWORD, *, migrated: bool = True
) -> AbstractContextManager[str]:
    """The database at `url`, or the embedded one: that is brought to this version's schema by itself.

    auth: how to log in there.
    """
    if url:
        if auth is DatabaseAuth.PASSWORD:
            return nullcontext(url)
        from syncer.store.database import with_auth

        return nullcontext(with_auth(url, auth))
    if auth is not DatabaseAuth.PASSWORD:
        raise Refusal(Exit.NOT_SET_UP, f"--db-auth {auth} needs a database: set DATABASE_URL")
    from syncer.store.embedded import default_database

    database: AbstractContextManager[str] = default_database(migrated=migrated)
    return database


def run_job(main: Coroutine[Any, Any, T], context: typer.Context) -> T:
    """Run `main` as `run` does, in a process that others watch: it exports its telemetry, if it has to.

    What is left of that is sent when `context` closes: when the result is told. A variable that means nothing
    is pointed out, and stops nothing.
    """
    import os

    import structlog

    from syncer.events import Event
    from syncer.exporters import start
    from syncer.logs import configure
    from syncer.variables import known_to, unknown

    configure()
    for name, nearest in unknown(os.environ, known_to(context)):
        structlog.get_logger().warning(Event.UNKNOWN_VARIABLE, name=name, nearest=nearest)
    context.call_on_close(start(os.environ))
    return run(main)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end, on the quicker event loop where there is one."""
    import anyio

    from syncer.logs import configure

    configure()
    # What has been imported stays for good: no collection need look at it again.
    gc.freeze()
    gc.enable()

    async def entry() -> T:
        return await main

    return anyio.run(entry, backend_options={"use_uvloop": sys.platform != "win32"})
