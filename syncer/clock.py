"""The time of a run: the database's, read once, and from there on by the monotonic clock.

Workers on several machines compare the times they write down with each other's; a machine whose clock is
ten minutes off, or set while a run is on, must not make its answers look newer than they are.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta


class Clock:
    """Tells the time from `at`, the database's time at this moment (aware)."""

    def __init__(self, at: datetime, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._at = at
        self._monotonic = monotonic
        self._since = monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the clock was set."""
        return self._monotonic() - self._since

    def now(self) -> datetime:
        return self._at + timedelta(seconds=self.seconds)
