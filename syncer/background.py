"""Work beside a body of code: it begins with the body and ends with it."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio


@asynccontextmanager
async def background(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Do `work` while the body runs, and cancel it when the body ends.

    An error of the body comes out as it is, not in the group that a task group would make of it.
    """
    failed: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        try:
            yield
        except Exception as error:  # noqa: BLE001  (raised again below)
            failed = error
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed
