"""Ending a run early, in order: who asked for it, and what everybody who waits hears of it."""

import time
from dataclasses import dataclass

import anyio

from syncer.exits import Exit


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
            await anyio.sleep(self._asked_at + grace - time.monotonic())
            raise Stopped
