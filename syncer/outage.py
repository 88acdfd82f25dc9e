"""Waiting out what is nobody's fault: an API that answers nobody, or lets nobody in, for a while.

A batch job ends on it, with an exit code. A worker holds on to what it has, lets one call at a time try, and
goes on when it is over.
"""

from collections.abc import Awaitable, Callable

import anyio

from syncer.answers import Answer, Failure
from syncer.identifiers import Item
from syncer.partner_central.errors import Denied, Unreachable
from syncer.partner_central.turns import Exhausted

# Seconds between two tries, growing.
FIRST_DELAY, LONGEST_DELAY = 5.0, 60.0
# So many items that fail in a row, and none that does not, are no coincidence any more.
IN_A_ROW = 10
# An item that fails so often while others wait is itself to blame after all.
TRIES = 3

Fetch = Callable[[Item], Awaitable[Answer]]


class Outlast:
    """Lets fetches wait while nobody is answered, or everybody's calls fail.

    sleep: may raise to end the waiting. began, ended: called at an outage's beginning, and at its end.
    Whom the API has never let in is not waiting for better times: then `Denied` is raised.
    """

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]],
        *,
        began: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        self._sleep = sleep
        self._began = began
        self._ended = ended
        self._delay = FIRST_DELAY
        self._out = False
        self._let_in = False
        self._failed_in_a_row = 0
        self._line = anyio.Lock()

    def around(self, fetch: Fetch) -> Fetch:
        """`fetch`, made to wait."""

        async def outlasting(item: Item) -> Answer:
            tries = 0
            while True:
                if self._out:
                    async with self._line:  # one at a time
                        if self._out:  # it may have ended while we stood in line
                            await self._sleep(self._delay)
                            self._delay = min(2 * self._delay, LONGEST_DELAY)
                            tries += 1
                        answer = await self._try(fetch, item, last=tries == TRIES)
                else:
                    answer = await self._try(fetch, item, last=False)
                if answer is not None:
                    return answer

        return outlasting

    async def _try(self, fetch: Fetch, item: Item, *, last: bool) -> Answer | None:
        """The answer; None while it is the same for everybody. last: it is the item's own from now on."""
        try:
            answer = await fetch(item)
        except (Denied, Exhausted, Unreachable) as error:
            if isinstance(error, Denied) and not self._let_in:
                raise
            self._begin(str(error))
            return None
        self._let_in = True
        if isinstance(answer, Failure):
            self._failed_in_a_row += 1
            if self._failed_in_a_row > IN_A_ROW and not last:
                self._begin(f"call after call fails: {answer.code}")
                return None
            # Who waits behind us tries next. Without anybody it takes a new message to find out.
            if self._out and not self._line.statistics().tasks_waiting:
                self._end()
            return answer
        self._failed_in_a_row = 0
        self._end()
        return answer

    def _begin(self, why: str) -> None:
        if not self._out:
            self._out = True
            self._began(why)

    def _end(self) -> None:
        if self._out:
            self._out, self._delay = False, FIRST_DELAY
            self._ended()
