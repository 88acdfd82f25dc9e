"""The one retry policy for calls to the API.

A transient error costs the item an attempt and a wait; a throttled call costs it nothing.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, stop_never
from tenacity.wait import wait_none, wait_random_exponential

from syncer.partner_central.errors import PartnerCentralError, Throttled, Transient

# Full jitter from 0.25 s, doubling, at most 20 s: six attempts wait about four seconds in all on average,
# which outlasts a hiccup. An outage is not waited out per item: it is noticed by the run as a whole.
BACKOFF = wait_random_exponential(multiplier=0.25, max=20)
T = TypeVar("T")
Call = Callable[[], Awaitable[T]]
Sleep = Callable[[float], Awaitable[None]]
Noticed = Callable[[PartnerCentralError], None]


class Retrying:
    """Makes a call until it answers, or until the error that it raises is final.

    max_attempts: how often a call may end in a transient error before that error is raised.
    sleep: waits between attempts; it may raise to end the waiting when the run is stopping.
    noticed: told of every error that is about to be retried.
    """

    def __init__(self, max_attempts: int, sleep: Sleep, noticed: Noticed) -> None:
        def before_sleep(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, PartnerCentralError):
                noticed(error)

        self._transient = AsyncRetrying(
            retry=retry_if_exception_type(Transient),
            stop=stop_after_attempt(max_attempts),
            wait=BACKOFF,
            sleep=sleep,
            before_sleep=before_sleep,
            reraise=True,
        )
        # Inside the other, so that the attempts it counts do not include the throttled ones.
        self._throttled = AsyncRetrying(
            retry=retry_if_exception_type(Throttled),
            stop=stop_never,
            # It waits for its next turn instead, and that is for the pacer to say.
            wait=wait_none(),
            sleep=sleep,
            before_sleep=before_sleep,
            reraise=True,
        )

    async def __call__(self, call: Call[T]) -> T:
        """What `call` returns. Raises the last `PartnerCentralError` when that is not to be retried."""
        try:
            # Nearly every call ends here; tenacity's own bookkeeping would cost it a twentieth of its time.
            return await call()
        except (Throttled, Transient) as error:
            return await self._again(call, error)

    async def _again(self, call: Call[T], error: PartnerCentralError) -> T:
        """Hand `call` over to tenacity, with the `error` of its first attempt."""
        attempted = iter([error])

        async def attempt() -> T:
            for first in attempted:
                raise first
            return await call()

        async def unthrottled() -> T:
            answer: T = await self._throttled(attempt)
            return answer

        result: T = await self._transient(unthrottled)
        return result
