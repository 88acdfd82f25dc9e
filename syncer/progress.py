"""How far a run is: a bar on a terminal, one log line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import anyio
import structlog

from syncer.events import Event
from syncer.ledger import Ledger
from syncer.outcomes import Outcome

REDRAW = 0.2
LOG_EVERY = 10.0

log = structlog.get_logger()


class View(Protocol):
    """What is shown of a run. expected: how many items there will be in all, as far as that is known by now.

    why: what holds the run back just now.
    """

    @property
    def ledger(self) -> Ledger: ...
    def expected(self) -> int | None: ...
    def why(self) -> str: ...


async def show(views: Sequence[View]) -> None:
    """Show the progress of `views`, to which runs may be added, until cancelled."""
    if sys.stderr.isatty():
        await _bar(views)
    else:
        await _lines(views)


async def _bar(views: Sequence[View]) -> None:
    # Most runs have no terminal, and need not wait for this.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

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
            seen = _seen(views)
            progress.update(
                task,
                total=seen.expected,
                completed=seen.settled,
                rate=f"{rate.of(seen.settled):,.0f}",
                why=seen.why,
                trouble=f"{seen.throttled:,} throttled, {seen.failed:,} failed",
            )
            await anyio.sleep(REDRAW)


async def _lines(views: Sequence[View]) -> None:
    rate = _Rate()
    while True:
        await anyio.sleep(LOG_EVERY)
        seen = _seen(views)
        log.info(Event.PROGRESS, rate=round(rate.of(seen.settled), 1), **asdict(seen))


@dataclass(frozen=True, slots=True)
class _Seen:
    """All views at one moment, as one."""

    settled: int
    expected: int | None
    why: str
    throttled: int
    failed: int


def _seen(views: Sequence[View]) -> _Seen:
    expected = [view.expected() for view in views]
    return _Seen(
        settled=sum(view.ledger.tally.settled for view in views),
        expected=None if None in expected else sum(count or 0 for count in expected),
        why=views[0].why() if len(views) == 1 else f"{len(views)} accounts",
        throttled=sum(view.ledger.calls.throttled for view in views),
        failed=sum(view.ledger.tally[Outcome.FAILED] for view in views),
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
        # A worker's next run begins at 0 again.
        return max(count - before, 0) / (now - then) if now > then else 0.0
