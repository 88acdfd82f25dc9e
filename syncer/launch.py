"""What every command begins and ends with: the database, the event loop, and a refusal in one line."""

import gc
import sys
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from syncer.exits import Exit

T = TypeVar("T")


class Refusal(Exception):
    """The command cannot be carried out; the message is one line for a person."""

    def __init__(self, exit_code: Exit, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def database_at(url: str | None, *, migrated: bool = True) -> AbstractContextManager[str]:
    """The database at `url`, or the embedded one: that is brought to this version's schema by itself."""
    if url:
        return nullcontext(url)
    from syncer.store.embedded import default_database

    database: AbstractContextManager[str] = default_database(migrated=migrated)
    return database


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
