"""A run, built in one place: settings in, a report out."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import aioboto3
import anyio
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from syncer.answers import Answer
from syncer.clock import Clock
from syncer.events import Event
from syncer.exits import Exit
from syncer.fetch import Fetcher
from syncer.ledger import Ledger, Settlement
from syncer.outcomes import Outcome
from syncer.partner_central import client
from syncer.partner_central.client import PartnerCentral
from syncer.pipeline import WRITE_GRACE, Pipeline
from syncer.progress import shown
from syncer.report import Report
from syncer.settings import RunSettings
from syncer.sources.files import Files, open_files
from syncer.stopping import Ending, Stop
from syncer.store import runs
from syncer.store.engine import engine_for, meaning
from syncer.store.writer import Scope, Writer

log = structlog.get_logger()

SOURCE = "file"
STOPPED_BY = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}


async def sync_files(settings: RunSettings, database_url: str, paths: Sequence[str]) -> Report:
    """Fetch and write the connections that `paths` name.

    Raises, before any item is taken: `InputError`, `DatabaseError`, `PartnerCentralError`.
    """
    stop = Stop()
    engine = engine_for(database_url)
    session = aioboto3.Session()
    try:
        with _signals(stop):
            files = await open_files(paths, settings.catalog)
            clock = await runs.ready(engine, database_url)
            account_id = settings.account_id or await client.account_of(session)
            scope = Scope(runs.new_id(clock.now()), account_id, settings.catalog)
            async with client.opened(
                session, catalog=settings.catalog, connections=settings.concurrency
            ) as api:
                await runs.start(engine, scope, SOURCE, clock.now())
                log.info(Event.RUN_STARTED, run_id=scope.run_id, account_id=account_id, source=SOURCE)
                run = _Run(
                    settings, files, engine=engine, url=database_url, scope=scope, clock=clock, stop=stop
                )
                return await run.through(api)
    except (DBAPIError, OSError) as error:
        raise meaning(error, database_url) from None
    finally:
        await engine.dispose()


class _Run:
    """The parts of one run, and its end."""

    def __init__(
        self,
        settings: RunSettings,
        source: Files,
        *,
        engine: AsyncEngine,
        url: str,
        scope: Scope,
        clock: Clock,
        stop: Stop,
    ) -> None:
        self._settings = settings
        self._source = source
        self._url = url
        self._engine = engine
        self._scope = scope
        self._clock = clock
        self._stop = stop
        self._ledger = Ledger()
        self._writer = Writer(
            engine, scope, self._ledger, now=clock.now, sleep=self._before_replay, committed=self._committed
        )

    async def through(self, api: PartnerCentral) -> Report:
        settings, stop, ledger = self._settings, self._stop, self._ledger
        fetcher = Fetcher(
            api,
            max_attempts=settings.max_attempts,
            sleep=stop.sleep,
            now=self._clock.now,
            calls=ledger.calls,
        )
        pipeline = Pipeline(
            source=self._source,
            fetch=fetcher,
            write=self._write,
            ledger=ledger,
            stop=stop,
            concurrency=settings.concurrency,
            batch_size=settings.batch_size,
        )
        async with shown(ledger, self._source.expected), _time_limit(settings.max_runtime, stop):
            await pipeline.run()
        ledger.release()
        report = await self._closed(self._ending())
        log.info(
            Event.RUN_FINISHED,
            **report.as_dict(),
            schema_drift=dict(fetcher.drift),
            exit=int(report.exit),
            message=report.message,
        )
        return report

    def _ending(self) -> Ending:
        """How the run ended: as it was stopped, or by what became of its items."""
        tally = self._ledger.tally
        if not tally.adds_up:
            return Ending("aborted", Exit.UNSOUND, f"the sum does not add up: {tally.as_dict()}")
        if self._stop.ending is not None:
            return self._stop.ending
        if tally[Outcome.FAILED] or tally[Outcome.INVALID]:
            exit_code = Exit.OK if self._settings.allow_failures else Exit.INCOMPLETE
            return Ending("partial", exit_code, "")
        nothing = "" if tally.read else f"there are no connection IDs in {self._source.describe()}"
        return Ending("succeeded", Exit.OK, nothing)

    async def _closed(self, ending: Ending) -> Report:
        """The report, once the run's row is closed too; when that fails, the report says so."""
        seconds = round(self._clock.seconds, 3)
        try:
            await runs.finish(
                self._engine,
                self._scope,
                self._ledger,
                status=ending.status,
                now=self._clock.now(),
                seconds=seconds,
            )
        except (DBAPIError, OSError) as error:
            if ending.exit in (Exit.OK, Exit.INCOMPLETE):
                ending = Ending("aborted", Exit.LATER, str(meaning(error, self._url)))
        return Report(
            run_id=self._scope.run_id,
            status=ending.status,
            source=SOURCE,
            account_id=self._scope.account_id,
            catalog=self._scope.catalog,
            counts=self._ledger.standing(),
            seconds=seconds,
            exit=ending.exit,
            message=ending.message,
        )

    async def _write(self, answers: Sequence[Answer]) -> None:
        try:
            await self._writer.write(answers)
        except (DBAPIError, OSError) as error:
            raise meaning(error, self._url) from None

    async def _before_replay(self, seconds: float) -> None:
        log.warning(Event.WRITE_REPLAYED, wait=round(seconds, 2))
        await self._stop.sleep(seconds, grace=WRITE_GRACE)

    async def _committed(self, settlement: Settlement) -> None:
        """Files need no acknowledgement: their checkpoint is committed with the rows."""


@contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """Ask for a stop at SIGINT or SIGTERM; at a second one, end at once.

    That is safe at any moment: what is committed is whole, and the rest is read again.
    """

    def received(signum: signal.Signals) -> None:
        if stop.asked:
            os._exit(STOPPED_BY[signum])
        log.warning(Event.RUN_STOPPING, signal=signum.name)
        stop.ask(Ending("interrupted", STOPPED_BY[signum], f"stopped by {signum.name}"))

    loop = asyncio.get_running_loop()
    for signum in STOPPED_BY:
        loop.add_signal_handler(signum, received, signum)
    try:
        yield
    finally:
        for signum in STOPPED_BY:
            loop.remove_signal_handler(signum)


@asynccontextmanager
async def _time_limit(seconds: float | None, stop: Stop) -> AsyncIterator[None]:
    async def end() -> None:
        if seconds is not None:
            await anyio.sleep(seconds)
            stop.ask(Ending("interrupted", Exit.LATER, f"the time limit of {seconds:g} s is up"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end)
        yield
        tasks.cancel_scope.cancel()
