"""Waiting out what is nobody's fault: an API that answers nobody, or lets nobody in, for a while.

A batch job ends on it, with an exit code. A worker holds on to what it has, lets one call at a time try, and
goes on when it is over.
"""

from collections.abc import Awaitable, Callable

import anyio

from syncer.answers import Answer
from syncer.identifiers import Item
from syncer.partner_central.errors import Denied, PartnerCentralError, Unreachable
from syncer.partner_central.turns import Exhausted

# Seconds between two tries, growing.
FIRST_DELAY, LONGEST_DELAY = 5.0, 60.0


Fetch = Callable[[Item], Awaitable[Answer]]


class Outlast:
    """Lets fetches wait while nobody is answered.

    sleep: may raise to end the waiting. began, ended: called at an outage's beginning, and at its end.
    Whom the API has never let in is not waiting for better times: then `Denied` is raised.
    """

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]],
        *,
        began: Callable[[PartnerCentralError], None],
        ended: Callable[[], None],
        first_delay: float = FIRST_DELAY,
    ) -> None:
        self._sleep = sleep
        self._began = began
        self._ended = ended
        self._first_delay = self._delay = first_delay
        self._out = False
        self._answered = False
        self._line = anyio.Lock()

    def around(self, fetch: Fetch) -> Fetch:
        """`fetch`, made to wait."""

        async def outlasting(item: Item) -> Answer:
            while True:
                if self._out:
                    async with self._line:  # one at a time
                        answer = await self._try_later(fetch, item)
                else:
                    answer = await self._try(fetch, item)
                if answer is not None:
                    return answer

        return outlasting

    async def _try_later(self, fetch: Fetch, item: Item) -> Answer | None:
        if self._out:  # it may have ended while we stood in line
            await self._sleep(self._delay)
            self._delay = min(2 * self._delay, LONGEST_DELAY)
        return await self._try(fetch, item)

    async def _try(self, fetch: Fetch, item: Item) -> Answer | None:
        """The answer, or None while there is none for anybody."""
        try:
            answer = await fetch(item)
        except (Denied, Exhausted, Unreachable) as error:
            if isinstance(error, Denied) and not self._answered:
                raise
            if not self._out:
                self._out = True
                self._began(error)
            return None
        self._answered = True
        if self._out:
            self._out, self._delay = False, self._first_delay
            self._ended()
        return answer
