"""A run, built in one place: settings in, a report out."""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import Protocol

import aioboto3
import anyio
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from syncer.answers import Answer
from syncer.background import background
from syncer.clock import Clock
from syncer.events import Event
from syncer.exits import Exit
from syncer.fetch import Fetcher, Pages
from syncer.identifiers import Item
from syncer.ledger import Ledger, Settlement
from syncer.outcomes import Outcome
from syncer.partner_central import client
from syncer.partner_central.client import PartnerCentral
from syncer.partner_central.errors import PartnerCentralError, Throttled
from syncer.partner_central.pacing import Pace, Pacer
from syncer.partner_central.retry import Retrying
from syncer.partner_central.turns import Turns
from syncer.pipeline import WRITE_GRACE, Pipeline
from syncer.progress import show
from syncer.report import Report
from syncer.resume import position_to_resume
from syncer.settings import Input, RunSettings
from syncer.sources.failures import Failures
from syncer.sources.files import Files, digest, open_files
from syncer.sources.listing import Listing
from syncer.stopping import Ending, Stop, Stopped
from syncer.store import runs
from syncer.store.engine import engine_for, meaning
from syncer.store.known import Known
from syncer.store.lock import only_run
from syncer.store.preview import Preview
from syncer.store.rates import Rates
from syncer.store.writer import Scope, Writer

log = structlog.get_logger()

STOPPED_BY = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}

GET, LIST = "GetConnection", "ListConnections"

# Shares of the learned rate are exchanged this often: two statements a second are the most a worker makes.
EXCHANGE_EVERY = 1.0

# Removals beyond both of these need somebody's word: a share of the live connections, and a number.
MOST_REMOVED = 0.10
FEW_REMOVED = 5


class Source(Protocol):
    """Where a run's items come from: files, the listing, the recorded failures."""

    def __aiter__(self) -> AsyncIterator[Item]: ...
    def expected(self) -> int | None: ...
    def describe(self) -> str: ...


async def sync(settings: RunSettings, database_url: str) -> Report:
    """Fetch and write the connections that the settings' input names.

    Raises, before any item is taken: `InputError`, `DatabaseError`, `PartnerCentralError`.
    """
    stop = Stop()
    engine = engine_for(database_url)
    session = aioboto3.Session()
    try:
        with signals(stop):
            # The user's mistakes first: what is wrong with the input is known before anything is asked for.
            files = await open_files(settings.paths, settings.catalog) if settings.paths else None
            clock = await runs.ready(engine, database_url)
            account_id = settings.account_id or await client.account_of(session)
            scope = Scope(runs.new_id(clock.now()), account_id, settings.catalog)
            async with client.opened(
                session, catalog=settings.catalog, connections=settings.concurrency
            ) as api:
                run = _Run(settings, scope, api=api, engine=engine, url=database_url, clock=clock, stop=stop)
                return await run.alone(files)
    except (DBAPIError, OSError) as error:
        raise meaning(error, database_url) from None
    finally:
        await engine.dispose()


class _Run:
    """The parts of one run, and its way from its beginning to its report."""

    def __init__(
        self,
        settings: RunSettings,
        scope: Scope,
        *,
        api: PartnerCentral,
        engine: AsyncEngine,
        url: str,
        clock: Clock,
        stop: Stop,
    ) -> None:
        self._settings = settings
        self._scope = scope
        self._engine = engine
        self._url = url
        self._clock = clock
        self._stop = stop
        self._ledger = ledger = Ledger()
        ceiling = settings.max_rate or inf
        self._pacers = {operation: Pacer(ceiling=ceiling) for operation in (GET, LIST)}
        retrying = Retrying(settings.max_attempts, stop.sleep, self._retried)
        self._fetcher = Fetcher(
            api,
            turns=Turns(self._pacers[GET], stop.sleep),
            retrying=retrying,
            now=clock.now,
            calls=ledger.calls,
        )
        self._pages = Pages(
            api, turns=Turns(self._pacers[LIST], stop.sleep), retrying=retrying, calls=ledger.calls
        )
        self._known = Known(engine, scope)
        self._writer = Writer(
            engine, scope, ledger, now=clock.now, sleep=self._before_replay, committed=self._committed
        )
        self._described = ""
        self._preview = Preview(engine, scope, ledger, self._committed)

    async def alone(self, files: Files | None) -> Report:
        """Run, unless another run of the account and catalog is on. A dry run disturbs nobody."""
        if self._settings.dry_run:
            return await self._through(await self._source(files), self._preview.write)

        def lost() -> None:
            self._stop.ask(
                Ending("interrupted", Exit.LATER, "another run took over while the database was away")
            )

        async with only_run(self._engine, self._scope.account_id, self._scope.catalog, lost) as alone:
            if not alone:
                return self._report(
                    Ending("locked", Exit.OK, "another run of the same account and catalog is on")
                )
            source = await self._source(files)
            async with self._shared_rates():
                return await self._through(source, self._writer.write)

    async def _source(self, files: Files | None) -> Source:
        """The settings' input, and the run's row that says so."""
        settings, known = self._settings, self._known
        beginning = runs.Beginning(settings.input, self._clock.now())
        source: Source
        if files is not None:
            names, content = " ".join(settings.paths), await digest(settings.paths)
            if settings.resume:
                earlier = await runs.latest_over(self._engine, self._scope, names, content or "")
                files.skip_below = position_to_resume(earlier, content)
            beginning = replace(beginning, input=names, input_digest=content)
            source = files
        elif settings.input is Input.FAILURES:
            source = Failures(known.failed_after, settings.catalog)
        else:
            full = await self._is_full()
            beginning = replace(beginning, full=full)
            source = Listing(
                next_page=self._pages,
                known=known.updated_at,
                live_after=known.live_after,
                catalog=settings.catalog,
                full=full,
            )
        self._described = source.describe()
        if not settings.dry_run:
            await runs.start(self._engine, self._scope, beginning)
            log.info(
                Event.RUN_STARTED,
                run_id=self._scope.run_id,
                account_id=self._scope.account_id,
                source=beginning.source,
                input=self._described,
                full=beginning.full,
                skipping=files.skip_below if files else 0,
            )
        return source

    async def _is_full(self) -> bool:
        """Whether everything is to be fetched: because it was asked for, or because it is time again."""
        if self._settings.full or self._settings.full_every is None:
            return self._settings.full
        last = await runs.last_full(self._engine, self._scope)
        return last is None or self._clock.now() - last >= self._settings.full_every

    async def _through(self, source: Source, write: Callable[[Sequence[Answer]], Awaitable[None]]) -> Report:
        settings, ledger = self._settings, self._ledger

        async def explained(answers: Sequence[Answer]) -> None:
            try:
                await write(answers)
            except (DBAPIError, OSError) as error:
                raise meaning(error, self._url) from None

        pipeline = Pipeline(
            source=source,
            fetch=self._fetcher,
            write=explained,
            ledger=ledger,
            stop=self._stop,
            concurrency=settings.concurrency,
            batch_size=settings.batch_size,
        )
        why = partial(_why, self._pacers, pipeline)
        limit = partial(_time_limit, settings.max_runtime, self._stop)
        async with background(partial(show, ledger, source.expected, why)), background(limit):
            await pipeline.run()
        ledger.release()
        return await self._closed()

    async def _closed(self) -> Report:
        """Settle what needs all of the run to be known, and close the run's row."""
        ending = self._ending()
        seconds = 0.0
        if not self._settings.dry_run:
            try:
                ending = await self._removals(ending)
                seconds = round(self._clock.seconds, 3)
                await runs.finish(
                    self._engine,
                    self._scope,
                    self._ledger,
                    status=ending.status,
                    now=self._clock.now(),
                    seconds=seconds,
                )
            except (DBAPIError, OSError, Stopped) as error:
                if ending.exit in (Exit.OK, Exit.INCOMPLETE):
                    ending = Ending("aborted", Exit.LATER, str(meaning(error, self._url)))
        report = self._report(ending, seconds)
        log.info(
            Event.RUN_FINISHED,
            **report.as_dict(),
            schema_drift=dict(self._fetcher.drift),
            exit=int(report.exit),
            message=report.message,
        )
        return report

    async def _removals(self, ending: Ending) -> Ending:
        """Carry out the removals that were held back, or leave them, if they are too many to be believed."""
        held = self._ledger.held
        if not held or ending.status == "aborted":
            return ending
        live = await self._writer.live()
        if held > FEW_REMOVED and held > MOST_REMOVED * live and not self._settings.allow_mass_removal:
            too_many = (
                f"the API no longer has {held:,} of {live:,} live connections: too many to be believed, "
                "none is marked as removed; if it is true, run again with --allow-mass-removal"
            )
            if ending.exit not in (Exit.OK, Exit.INCOMPLETE):
                return ending
            return Ending("partial", Exit.INCOMPLETE, too_many)
        await self._writer.confirm_removals()
        return ending if self._stop.ending is not None else self._ending()

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
        nothing = "" if tally.read else f"there are no connection IDs in {self._described}"
        return Ending("succeeded", Exit.OK, nothing)

    def _report(self, ending: Ending, seconds: float = 0.0) -> Report:
        return Report(
            run_id=self._scope.run_id,
            status=ending.status,
            source=self._settings.input,
            account_id=self._scope.account_id,
            catalog=self._scope.catalog,
            counts=self._ledger.standing(),
            seconds=seconds or round(self._clock.seconds, 3),
            exit=ending.exit,
            message=ending.message,
            differences=tuple(self._preview.differences) if self._settings.dry_run else None,
        )

    @asynccontextmanager
    async def _shared_rates(self) -> AsyncIterator[None]:
        """Share the learned rates with the other workers while the context lasts, and keep them after it."""
        rates = Rates(self._engine, self._scope)
        worker = secrets.token_hex(4)

        async def exchange(*, leaving: bool = False) -> None:
            now = time.monotonic()
            reports = {
                operation: pacer.report(worker, now, leaving=leaving)
                for operation, pacer in self._pacers.items()
            }
            for operation, share in (await rates.exchange(reports)).items():
                if share is not None:
                    self._pacers[operation].share(share, time.monotonic())

        async def keep_exchanging() -> None:
            while True:
                await anyio.sleep(EXCHANGE_EVERY)
                # Without the database each worker goes on with its own last share.
                with suppress(DBAPIError, OSError):
                    await exchange()

        await exchange()
        async with background(keep_exchanging):
            yield
        with suppress(DBAPIError, OSError):
            await exchange(leaving=True)

    def _retried(self, error: PartnerCentralError) -> None:
        if isinstance(error, Throttled):
            self._ledger.calls.throttled += 1
        else:
            self._ledger.calls.retried += 1

    async def _before_replay(self, seconds: float) -> None:
        log.warning(Event.WRITE_REPLAYED, wait=round(seconds, 2))
        await self._stop.sleep(seconds, grace=WRITE_GRACE)

    async def _committed(self, settlement: Settlement) -> None:
        """Nothing to acknowledge: files have their checkpoint, which is committed with the rows."""


def _why(pacers: Mapping[str, Pacer], pipeline: Pipeline) -> str:
    """Why the run is as fast as it is, for the progress line."""
    if pipeline.writer_is_behind:
        return "waiting for the database"
    pacer = pacers[GET]
    if pacer.pace is Pace.NOT_THE_LIMIT:
        return "waiting for the API"
    return f"{pacer.pace}: {pacer.rate:.1f}/s"


@contextmanager
def signals(stop: Stop) -> Iterator[None]:
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


async def _time_limit(seconds: float | None, stop: Stop) -> None:
    if seconds is not None:
        await anyio.sleep(seconds)
        stop.ask(Ending("interrupted", Exit.LATER, f"the time limit of {seconds:g} s is up"))
