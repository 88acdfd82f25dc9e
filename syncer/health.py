"""Is the worker alive? `/healthz`, for whoever would restart it."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Longer than a batch, a retry or a pause of the database takes; shorter than anybody wants to wait.
STILL = 120.0


class PortTaken(Exception):
    """Somebody else listens there, or it is not ours to take."""


class Pulse:
    """When there was last progress, or nothing to do."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def beat(self) -> None:
        self._at = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._at


@asynccontextmanager
async def answering(pulse: Pulse, host: str, port: int | None, still: float = STILL) -> AsyncIterator[str]:
    """Answer `/healthz` at `host` and `port` while the context lasts: 200, or 503 without a pulse for long.

    Yields the URL; empty with no port. Raises `PortTaken`.
    """
    if port is None:
        yield ""
        return

    # Only a worker with a port waits for the server part to be imported.
    from aiohttp import web  # noqa: PLC0415

    async def health(_: web.Request) -> web.Response:
        age = pulse.age
        body = {"alive": age < still, "seconds_since_progress": round(age, 1)}
        return web.json_response(body, status=200 if age < still else 503)

    application = web.Application()
    application.router.add_get("/healthz", health)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        yield f"{site.name}/healthz"
    finally:
        await runner.cleanup()
