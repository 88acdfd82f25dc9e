"""Waiting for a turn: the pacer's decisions, carried out.

Every call of an operation goes through here, and its answer is told to the pacer. Who waits, waits in line.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio

from syncer.partner_central.errors import PartnerCentralError, Throttled, Transient
from syncer.partner_central.pacing import Pacer
from syncer.partner_central.retry import Call, Sleep, T

# So many seconds of nothing but throttled calls are no hiccup: a quota for the day, perhaps, is used up.
PATIENCE = 120.0
TRY_AGAIN = timedelta(minutes=15)


class Exhausted(PartnerCentralError):
    """The request quota serves nobody any more."""


class Turns:
    """The line of those who wait to call one operation.

    sleep: waits for a turn; it may raise to end the waiting when the run is stopping.
    called: told of each call, how many seconds it took, and its error.
    """

    def __init__(
        self,
        pacer: Pacer,
        sleep: Sleep,
        patience: float = PATIENCE,
        *,
        called: Callable[[float, PartnerCentralError | None], None] = lambda _seconds, _error: None,
    ) -> None:
        self.pacer = pacer
        self._sleep = sleep
        self._patience = patience
        self._called = called
        self._line = anyio.Lock(fast_acquire=True)
        self._served_at: float | None = None

    async def __call__(self, call: Call[T]) -> T:
        """What `call` returns, or raises, once it was its turn.

        Raises `Exhausted` in place of `Throttled` when nothing was served for longer than `patience`.
        """
        # Where nobody waits there is no line to stand in.
        if self._line.locked() or self.pacer.turn(time.monotonic()):
            async with self._line:
                # Nothing is promised to those in line: the pacer may think otherwise after each wait.
                while wait := self.pacer.turn(time.monotonic()):
                    await self._sleep(wait)
        asked = time.monotonic()
        try:
            answer = await call()
        except Throttled as error:
            self._called(time.monotonic() - asked, error)
            self._throttled(asked, error)
            raise
        except Transient as error:
            now = time.monotonic()
            self._called(now - asked, error)
            self.pacer.failed(now, asked)
            raise
        except PartnerCentralError as error:
            self._served(asked, error)
            raise
        self._served(asked)
        return answer

    def _served(self, asked: float, error: PartnerCentralError | None = None) -> None:
        self._served_at = time.monotonic()
        self._called(self._served_at - asked, error)
        self.pacer.served(self._served_at, asked)

    def _throttled(self, asked: float, error: Throttled) -> None:
        now = time.monotonic()
        self.pacer.throttled(now, asked)
        if self._served_at is None:
            self._served_at = asked
        if now - self._served_at > self._patience:
            again = datetime.now(UTC) + TRY_AGAIN
            raise Exhausted(
                error.code,
                f"no call was served for {self._patience:.0f} s: the request quota is used up; "
                f"try again after {again:%H:%M} UTC",
            ) from None
