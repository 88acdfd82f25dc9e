"""How far a run is: a bar on a terminal, one log line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable

import anyio
import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from syncer.events import Event
from syncer.ledger import Ledger
from syncer.outcomes import Outcome

REDRAW = 0.2
LOG_EVERY = 10.0

log = structlog.get_logger()


async def show(ledger: Ledger, expected: Callable[[], int | None], why: Callable[[], str]) -> None:
    """Show the progress of `ledger` until cancelled.

    expected: how many items there will be in all, as far as that is known by now.
    why: what holds the run back just now.
    """
    if sys.stderr.isatty():
        await _bar(ledger, expected, why)
    else:
        await _lines(ledger, expected, why)


async def _bar(ledger: Ledger, expected: Callable[[], int | None], why: Callable[[], str]) -> None:
    columns = (
        TextColumn("{task.fields[rate]:>7}/s"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[why]}"),
        TextColumn("{task.fields[trouble]}"),
        TimeRemainingColumn(),
    )
    rate = _Rate()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, rate="0", why="", trouble="")
        while True:
            tally = ledger.tally
            progress.update(
                task,
                total=expected(),
                completed=tally.settled,
                rate=f"{rate.of(tally.settled):,.0f}",
                why=why(),
                trouble=f"{ledger.calls.throttled:,} throttled, {tally[Outcome.FAILED]:,} failed",
            )
            await anyio.sleep(REDRAW)


async def _lines(ledger: Ledger, expected: Callable[[], int | None], why: Callable[[], str]) -> None:
    rate = _Rate()
    while True:
        await anyio.sleep(LOG_EVERY)
        tally = ledger.tally
        log.info(
            Event.PROGRESS,
            settled=tally.settled,
            expected=expected(),
            rate=round(rate.of(tally.settled), 1),
            why=why(),
            throttled=ledger.calls.throttled,
            failed=tally[Outcome.FAILED],
        )


class _Rate:
    """Items per second over the last few seconds."""

    def __init__(self, window: float = 5.0) -> None:
        self._window = window
        self._seen = [(time.monotonic(), 0)]

    def of(self, count: int) -> float:
        now = time.monotonic()
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] < now - self._window:  # noqa: PLR2004  (two make a rate)
            self._seen.pop(0)
        then, before = self._seen[0]
        return (count - before) / (now - then) if now > then else 0.0
