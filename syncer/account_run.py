"""One account's run: built from its settings in one place, from its beginning to its report."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Protocol

import anyio
import psycopg
import structlog

from syncer.answers import Answer
from syncer.background import background
from syncer.clock import Clock
from syncer.events import Event
from syncer.exits import Exit
from syncer.fetch import Fetcher, Pages
from syncer.identifiers import Item
from syncer.ledger import Ledger, Settlement
from syncer.outcomes import Outcome
from syncer.partner_central.client import PartnerCentral
from syncer.partner_central.errors import PartnerCentralError, Throttled
from syncer.partner_central.pacing import Pace, Pacer
from syncer.partner_central.retry import Retrying
from syncer.partner_central.turns import Turns
from syncer.pipeline import WRITE_GRACE, Pipeline
from syncer.report import Report
from syncer.resume import position_to_resume
from syncer.settings import Input, RunSettings
from syncer.sharing import shared
from syncer.sources.failures import Failures
from syncer.sources.files import Files, digest
from syncer.sources.listing import Listing
from syncer.stopping import Ending, Stop, Stopped, time_limit
from syncer.store import runs
from syncer.store.database import meaning
from syncer.store.known import Known
from syncer.store.lock import of_runs, of_worker, only_one
from syncer.store.pool import Pool
from syncer.store.preview import Preview
from syncer.store.rates import Rates
from syncer.store.writer import PATIENCE, Scope, Writer
from syncer.telemetry import RunTelemetry, Telemetry

log = structlog.get_logger()

GET, LIST = "GetConnection", "ListConnections"

# What a run that was stopped gives the database to close its row (seconds), of the 25 that it has in all. A
# row that is left open is closed by the next run.
CLOSING = 2.0

# Removals beyond both of these need somebody's word: a share of the live connections, and a number.
MOST_REMOVED = 0.10
FEW_REMOVED = 5


class Source(Protocol):
    """Where a run's items come from: files, the listing, the recorded failures."""

    def __aiter__(self) -> AsyncIterator[Item]: ...
    def expected(self) -> int | None: ...
    def describe(self) -> str: ...


Fetch = Callable[[Item], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a worker's runs have in common, and what they do where a single run would end.

    pacers: by operation. committed: told of each settlement after its commit. replaying: told when the
    database is in trouble. outlast: a fetch that waits while the API answers nobody.
    """

    pacers: Mapping[str, Pacer]
    committed: Callable[[Settlement], Awaitable[None]]
    replaying: Callable[[], None]
    outlast: Callable[[Fetch], Fetch]
    patience: float


def pacers(max_rate: float | None) -> Mapping[str, Pacer]:
    """A pacer per operation of the API: each has its own quota until shown otherwise."""
    return {operation: Pacer(ceiling=max_rate or inf) for operation in (GET, LIST)}


async def _nothing(_: Settlement) -> None:
    """Nothing to acknowledge: files have their checkpoint, which is committed with the rows."""


class AccountRun:
    """The parts of one run.

    ledger: its books, for whoever shows its progress. telemetry: the process's own. upkeep: of a worker, of
    which this is one run.
    """

    def __init__(
        self,
        settings: RunSettings,
        scope: Scope,
        *,
        api: PartnerCentral,
        pool: Pool,
        clock: Clock,
        stop: Stop,
        telemetry: Telemetry,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._settings = settings
        self._scope = scope
        self._pool = pool
        self._clock = clock
        self._stop = stop
        self.ledger = ledger = Ledger()
        self._upkeep = upkeep
        self._pacers = upkeep.pacers if upkeep else pacers(settings.max_rate)
        self._telemetry = RunTelemetry(
            telemetry, account_id=scope.account_id, catalog=scope.catalog, source=settings.input
        )
        retrying = Retrying(settings.max_attempts, stop.sleep, self._retried)
        self._fetcher = Fetcher(
            api,
            turns=Turns(self._pacers[GET], stop.sleep, called=telemetry.called(GET)),
            retrying=retrying,
            now=clock.now,
            calls=ledger.calls,
            personal_data=settings.personal_data,
        )
        self._pages = Pages(
            api,
            turns=Turns(self._pacers[LIST], stop.sleep, called=telemetry.called(LIST)),
            retrying=retrying,
            calls=ledger.calls,
        )
        self._known = Known(pool, scope)
        committed = upkeep.committed if upkeep else _nothing
        self._writer = Writer(
            pool,
            scope,
            ledger,
            now=clock.now,
            sleep=self._before_replay,
            committed=committed,
            patience=upkeep.patience if upkeep else PATIENCE,
            personal_data=settings.personal_data,
        )
        self._source: Source | None = None
        self._pipeline: Pipeline | None = None
        self._preview = Preview(pool, scope, ledger, committed, personal_data=settings.personal_data)

    def expected(self) -> int | None:
        """How many items there will be in all, as far as that is known by now."""
        return self._source.expected() if self._source else None

    def why(self) -> str:
        """What holds the run back just now."""
        if self._pipeline is None:
            return ""
        if self._pipeline.writer_is_behind:
            return "waiting for the database"
        pacer = self._pacers[GET]
        if pacer.pace is Pace.NOT_THE_LIMIT:
            return "waiting for the API"
        return f"{pacer.pace}: {pacer.rate:.1f}/s"

    async def alone(self, files: Files | None) -> Report:
        """Run, unless another run of the account and catalog is on. A dry run disturbs nobody."""
        with self._telemetry.run():
            report = await self._alone(files)
            self._telemetry.ended(report.status, report.seconds)
        return report

    async def _alone(self, files: Files | None) -> Report:
        if self._settings.dry_run:
            return await self._through(await self._opened(files), self._preview.write)

        def lost() -> None:
            self._stop.ask(
                Ending("interrupted", Exit.LATER, "another run took over while the database was away")
            )

        async with only_one(self._pool, of_runs(self._scope.account_id, self._scope.catalog), lost) as alone:
            if not alone:
                return self._report(
                    Ending("locked", Exit.OK, "another run of the same account and catalog is on")
                )
            source = await self._opened(files)
            async with shared(Rates(self._pool, self._scope), self._pacers):
                return await self._through(source, self._writer.write)

    async def of_worker(self, source: Source) -> Report:
        """Run over what a worker has received. Many workers may be on at once."""
        with self._telemetry.run():
            report = await self._of_worker(source)
            self._telemetry.ended(report.status, report.seconds)
        return report

    async def _of_worker(self, source: Source) -> Report:
        self._source = source
        if self._settings.dry_run:
            return await self._through(source, self._preview.write)
        async with only_one(self._pool, of_worker(self._scope.run_id), lambda: None):
            await self._begin(runs.Beginning(Input.QUEUE, self._clock.now(), input=source.describe()))
            return await self._through(source, self._writer.write)

    async def _opened(self, files: Files | None) -> Source:
        """The settings' input, and the run's row that says so."""
        settings, known = self._settings, self._known
        beginning = runs.Beginning(settings.input, self._clock.now())
        source: Source
        if files is not None:
            names, content = " ".join(settings.paths), await digest(settings.paths)
            if settings.resume:
                earlier = await runs.latest_over(self._pool, self._scope, names, content or "")
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
        self._source = source
        if not settings.dry_run:
            await self._begin(beginning, skipping=files.skip_below if files else 0)
        return source

    async def _begin(self, beginning: runs.Beginning, skipping: int = 0) -> None:
        await runs.start(self._pool, self._scope, beginning)
        log.info(
            Event.RUN_STARTED,
            run_id=self._scope.run_id,
            account_id=self._scope.account_id,
            source=beginning.source,
            input=self._source.describe() if self._source else "",
            full=beginning.full,
            skipping=skipping,
        )

    async def _is_full(self) -> bool:
        """Whether everything is to be fetched: because it was asked for, or because it is time again."""
        if self._settings.full or self._settings.full_every is None:
            return self._settings.full
        last = await runs.last_full(self._pool, self._scope)
        return last is None or self._clock.now() - last >= self._settings.full_every

    async def _through(self, source: Source, write: Callable[[Sequence[Answer]], Awaitable[None]]) -> Report:
        settings, ledger = self._settings, self.ledger

        async def explained(answers: Sequence[Answer]) -> None:
            try:
                with self._telemetry.batch(len(answers)):
                    await write(answers)
            except (psycopg.Error, OSError) as error:
                raise meaning(error, self._pool.url) from None
            self._telemetry.tell(ledger, self._pacers)

        fetch = self._telemetry.fetching(self._fetcher)
        self._pipeline = Pipeline(
            source=source,
            fetch=self._upkeep.outlast(fetch) if self._upkeep else fetch,
            write=explained,
            ledger=ledger,
            stop=self._stop,
            concurrency=settings.concurrency,
            batch_size=settings.batch_size,
        )
        async with background(partial(time_limit, settings.max_runtime, self._stop)):
            await self._pipeline.run()
        ledger.release()
        return await self._closed()

    async def _closed(self) -> Report:
        """Settle what needs all of the run to be known, and close the run's row."""
        ending = self._ending()
        seconds = round(self._clock.seconds, 3)
        if not self._settings.dry_run:
            try:
                ending = await self._removals(ending)
                seconds = round(self._clock.seconds, 3)
                # A run that has to end does not wait for a database that is silent.
                with anyio.fail_after(CLOSING if self._stop.asked else None):
                    await runs.finish(
                        self._pool,
                        self._scope,
                        self.ledger,
                        status=ending.status,
                        now=self._clock.now(),
                        seconds=seconds,
                    )
                    if self._telemetry.wanted:
                        self._telemetry.in_step(await runs.last_complete(self._pool, self._scope))
            except (psycopg.Error, OSError, Stopped) as error:
                if ending.exit in (Exit.OK, Exit.INCOMPLETE):
                    ending = Ending("aborted", Exit.LATER, str(meaning(error, self._pool.url)))
        self._telemetry.tell(self.ledger, self._pacers, over=True)
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
        held = self.ledger.held
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
        tally = self.ledger.tally
        if not tally.adds_up:
            return Ending("aborted", Exit.UNSOUND, f"the sum does not add up: {tally.as_dict()}")
        if self._stop.ending is not None:
            return self._stop.ending
        if tally[Outcome.FAILED] or tally[Outcome.INVALID]:
            exit_code = Exit.OK if self._settings.allow_failures else Exit.INCOMPLETE
            return Ending("partial", exit_code, "")
        source = self._source.describe() if self._source else "the input"
        nothing = "" if tally.read else f"there are no connection IDs in {source}"
        return Ending("succeeded", Exit.OK, nothing)

    def _report(self, ending: Ending, seconds: float = 0.0) -> Report:
        return Report(
            run_id=self._scope.run_id,
            status=ending.status,
            source=self._settings.input,
            account_id=self._scope.account_id,
            catalog=self._scope.catalog,
            counts=self.ledger.standing(),
            seconds=seconds or round(self._clock.seconds, 3),
            exit=ending.exit,
            message=ending.message,
            differences=tuple(self._preview.differences) if self._settings.dry_run else None,
        )

    def _retried(self, error: PartnerCentralError) -> None:
        if isinstance(error, Throttled):
            self.ledger.calls.throttled += 1
        else:
            self.ledger.calls.retried += 1

    async def _before_replay(self, seconds: float) -> None:
        log.warning(Event.WRITE_REPLAYED, wait=round(seconds, 2))
        if self._upkeep:
            self._upkeep.replaying()
        await self._stop.sleep(seconds, grace=WRITE_GRACE)
