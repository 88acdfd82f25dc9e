"""Ending a run early, in order: who asked for it, and what everybody who waits hears of it."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
import structlog

from syncer.events import Event
from syncer.exits import Exit

log = structlog.get_logger()

STOPPED_BY = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a run ended before its input did.

    status: what `sync_run` says. message: one line for a person.
    """

    status: str
    exit: Exit
    message: str


class Stopped(Exception):
    """The run is stopping: who waits, waits no longer."""


class Stop:
    """Asked for once or more often: the first reason counts."""

    def __init__(self) -> None:
        self._asked = anyio.Event()
        self._asked_at = 0.0
        self.ending: Ending | None = None

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self, ending: Ending) -> None:
        self.note(ending)
        if not self.asked:
            self._asked_at = time.monotonic()
            self._asked.set()

    def note(self, ending: Ending) -> None:
        """How the run will end, without ending it: what is under way is finished as usual."""
        if self.ending is None:
            self.ending = ending

    async def wait(self) -> None:
        await self._asked.wait()

    async def sleep(self, seconds: float, grace: float = 0.0) -> None:
        """Sleep; not beyond `grace` seconds after the stop was asked for. Raises `Stopped` then."""
        with anyio.move_on_after(seconds):
            await self._asked.wait()
            await anyio.sleep(max(0.0, self._asked_at + grace - time.monotonic()))
            raise Stopped


@contextmanager
def signals(stops: Sequence[Stop]) -> Iterator[None]:
    """Ask for all `stops` at SIGINT or SIGTERM; at a second one, end at once.

    That is safe at any moment: what is committed is whole, and the rest is read again.
    """
    seen = False

    def received(signum: signal.Signals) -> None:
        nonlocal seen
        if seen:
            os._exit(STOPPED_BY[signum])
        seen = True
        log.warning(Event.RUN_STOPPING, signal=signum.name)
        for stop in stops:
            stop.ask(Ending("interrupted", STOPPED_BY[signum], f"stopped by {signum.name}"))

    loop = asyncio.get_running_loop()
    for signum in STOPPED_BY:
        loop.add_signal_handler(signum, received, signum)
    try:
        yield
    finally:
        for signum in STOPPED_BY:
            loop.remove_signal_handler(signum)


async def time_limit(seconds: float | None, stop: Stop) -> None:
    """Ask for a stop after `seconds`, if there is a limit."""
    if seconds is not None:
        await anyio.sleep(seconds)
        stop.ask(Ending("interrupted", Exit.LATER, f"the time limit of {seconds:g} s is up"))
