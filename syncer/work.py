"""A worker: the queue's messages, run after run, until it is stopped or the queue is empty."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from math import inf

import anyio
import psycopg
import structlog

from syncer.account_run import AccountRun, Upkeep, pacers
from syncer.background import background
from syncer.clock import Clock
from syncer.events import Event
from syncer.exits import Exit
from syncer.health import Pulse, answering
from syncer.ledger import Ledger, Settlement
from syncer.outage import Outlast
from syncer.partner_central import client
from syncer.partner_central.client import PartnerCentral
from syncer.partner_central.pacing import Pacer
from syncer.progress import show
from syncer.report import Report, ended_by, followed_by, unstarted
from syncer.settings import Input, RunSettings
from syncer.sharing import shared
from syncer.sources.holding import MOST_RECEIVES, Holding, InvalidTo
from syncer.sources.inbox import DELETERS, POLLERS, Inbox, Shift
from syncer.sqs import client as sqs
from syncer.stopping import Stop, Stopped, signals, time_limit
from syncer.store import runs
from syncer.store.database import DatabaseError, DatabaseUnavailable, meaning
from syncer.store.known import Known
from syncer.store.pool import Pool
from syncer.store.rates import Rates
from syncer.store.writer import PATIENCE, Scope
from syncer.telemetry import MESSAGES, STATE, RunTelemetry, Telemetry

# A run's row tells what a worker did in an hour at most.
SHIFT = 3600.0
# A dead worker's messages are invisible for so long, in seconds: what the queue itself says, within reason.
LEAST_VISIBILITY, MOST_VISIBILITY = 10, 300
# Between two looks at a database that is gone (seconds).
DATABASE_AGAIN = 5.0
# The writer, the lock, the rates, and whoever asks something beside them.
CONNECTIONS = 4
# How often (seconds) the queue's depth and the last complete sync are asked for, if anybody wants to know.
ASK_EVERY = 30.0
# What a worker cannot go on after.
FINAL = (Exit.DENIED, Exit.NOT_SET_UP, Exit.UNSOUND, Exit.USAGE)
# Why nothing is received.
DATABASE, API = "the database is away", "the API answers nobody"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSettings:
    """How a worker goes about it.

    run: of each of its runs. drain: end when the queue is empty. invalid_to: what becomes of a message
    without a connection ID. health_port: None: nobody asks. shift: seconds that one run's row tells of.
    """

    run: RunSettings
    queue_url: str
    drain: bool = False
    invalid_to: InvalidTo = InvalidTo.DELETE
    health_host: str = "127.0.0.1"
    health_port: int | None = None
    shift: float = SHIFT


async def work(settings: WorkSettings, database_url: str) -> Report:
    """Fetch and write the connections that the queue's messages name.

    The report is of all its runs together. Raises before any message is received: `QueueError`,
    `DatabaseError`, `PartnerCentralError`, `PortTaken`.
    """
    pool = Pool(database_url, CONNECTIONS)
    stop = Stop()
    try:
        with signals([stop]):
            session = client.own_session()
            clock = await runs.ready(pool)
            account_id = settings.run.account_id or await client.account_of(session)
            async with (
                sqs.opened(session, settings.queue_url, POLLERS + 2 * DELETERS) as queue,
                client.opened(
                    session, catalog=settings.run.catalog, connections=settings.run.concurrency
                ) as api,
            ):
                about = await queue.about()
                worker = _Worker(settings, pool, stop, api=api, account_id=account_id, clock=clock)
                return await worker.work(queue, about)
    except (psycopg.Error, OSError) as error:
        raise meaning(error, database_url) from None
    finally:
        await pool.close()


class _Worker:
    """The parts that all of a worker's runs share."""

    def __init__(
        self,
        settings: WorkSettings,
        pool: Pool,
        stop: Stop,
        *,
        api: PartnerCentral,
        account_id: str,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._stop = stop
        self._api = api
        self._scope = Scope("", account_id, settings.run.catalog)
        self._clock = clock
        # Whoever asks here can do without the answer, and must not wait for it: see `_fetched_at`.
        self._known = Known(pool, self._scope, patience=0)
        self._pulse = Pulse()
        self._telemetry = Telemetry()
        self._run: AccountRun | None = None

    @property
    def ledger(self) -> Ledger:
        """The books of the run that is on."""
        return self._run.ledger if self._run else Ledger()

    def expected(self) -> int | None:
        return None

    def why(self) -> str:
        return self._run.why() if self._run else ""

    async def work(self, queue: sqs.Queue, about: sqs.About) -> Report:
        settings, run = self._settings, self._settings.run
        visibility = min(max(about.visibility, LEAST_VISIBILITY), MOST_VISIBILITY)
        log.info(Event.WORKER_STARTED, queue=queue.url, visibility=visibility, redrive=about.redrive)
        if about.redrive is None:
            log.warning(
                Event.QUEUE_WITHOUT_REDRIVE,
                why=f"a message that fails is deleted after {MOST_RECEIVES} receipts: it is in sync_failure",
            )
        inbox = Inbox(
            queue,
            Holding(
                run.catalog,
                redrive=about.redrive is not None,
                invalid_to=settings.invalid_to,
                keep=run.dry_run,
            ),
            catalog=run.catalog,
            fetched_at=self._fetched_at,
            now=self._now,
            slots=run.concurrency,
            visibility=visibility,
            drain=settings.drain or run.dry_run,
            alive=self._pulse.beat,
            aged=self._telemetry.aged,
        )
        learned = pacers(run.max_rate)
        rates = nullcontext() if run.dry_run else shared(Rates(self._pool, self._scope), learned)
        async with (
            answering(self._pulse, settings.health_host, settings.health_port),
            background(partial(time_limit, run.max_runtime, self._stop)),
            background(partial(show, [self])),
            background(partial(self._tell, queue)),
            rates,
            inbox.receiving(self._stop),
        ):
            report = await self._shifts(inbox, self._upkeep(inbox, learned))
        log.info(Event.WORKER_STOPPED, ignored=inbox.ignored, exit=int(report.exit))
        return report

    async def _tell(self, queue: sqs.Queue) -> None:
        """Let telemetry know, from time to time, what no run of ours tells."""
        if not self._telemetry.metrics:
            return
        telling = RunTelemetry(
            self._telemetry,
            account_id=self._scope.account_id,
            catalog=self._scope.catalog,
            source=Input.QUEUE,
        )
        while True:
            with suppress(sqs.QueueError):
                depth = await queue.depth()
                for state, messages in asdict(depth).items():
                    self._telemetry.set(MESSAGES, messages, {STATE: state})
            with suppress(psycopg.Error, OSError):
                telling.in_step(await runs.last_complete(self._pool, self._scope))
            await anyio.sleep(ASK_EVERY)

    def _upkeep(self, inbox: Inbox, learned: Mapping[str, Pacer]) -> Upkeep:
        async def committed(settlement: Settlement) -> None:
            inbox.resume(DATABASE)
            inbox.settled(settlement.done)

        drain = self._settings.drain or self._settings.run.dry_run
        outlast = Outlast(
            self._stop.sleep,
            began=lambda why: inbox.pause(API, why),
            ended=lambda: inbox.resume(API),
        )
        return Upkeep(
            pacers=learned,
            committed=committed,
            replaying=lambda: inbox.pause(DATABASE),
            # A batch job says in its exit code that something was away; a service waits until it is back.
            outlast=(lambda fetch: fetch) if drain else outlast.around,
            patience=PATIENCE if drain else inf,
        )

    async def _shifts(self, inbox: Inbox, upkeep: Upkeep) -> Report:
        """Run after run, until there is a reason to end."""
        total: Report | None = None
        while True:
            try:
                report = await self._shift(inbox, upkeep)
            except (psycopg.Error, OSError):  # gone between two runs
                if self._settings.drain:
                    raise
            else:
                total = report if total is None else followed_by(total, report)
                away = report.exit is Exit.LATER and self._settings.drain
                if self._stop.asked or report.exit in FINAL or inbox.drained or away:
                    return ended_by(total, self._stop.ending)
            inbox.holding.recall()
            try:
                self._clock = await self._database(inbox)
            except Stopped:
                return ended_by(total, self._stop.ending) if total else self._unstarted()

    def _unstarted(self) -> Report:
        ending = self._stop.ending
        exit_code, message = (ending.exit, ending.message) if ending else (Exit.LATER, "")
        return unstarted(self._settings.run, self._scope.account_id, exit_code, message)

    async def _shift(self, inbox: Inbox, upkeep: Upkeep) -> Report:
        stop = Stop()
        run = self._run = AccountRun(
            replace(self._settings.run, input=Input.QUEUE, max_runtime=None),
            replace(self._scope, run_id=runs.new_id(self._clock.now())),
            api=self._api,
            pool=self._pool,
            clock=self._clock,
            stop=stop,
            telemetry=self._telemetry,
            upkeep=upkeep,
        )

        async def hear() -> None:
            await self._stop.wait()
            if self._stop.ending is not None:
                stop.ask(self._stop.ending)

        # Removals that were held back are decided on at a run's end: that need not be an hour away.
        shift = Shift(inbox, time.monotonic() + self._settings.shift, enough=lambda: run.ledger.held > 0)
        async with background(hear):
            return await run.of_worker(shift)

    async def _database(self, inbox: Inbox) -> Clock:
        """Its clock, as soon as it is there. Raises `Stopped`, and `DatabaseError` if waiting is no use."""
        while True:
            try:
                clock = await runs.ready(self._pool)
            except DatabaseUnavailable:
                inbox.pause(DATABASE)
                await self._stop.sleep(DATABASE_AGAIN)
            else:
                inbox.resume(DATABASE)
                return clock

    def _now(self) -> datetime:
        return self._clock.now()

    async def _fetched_at(self, identifiers: Sequence[str]) -> Mapping[str, datetime]:
        try:
            return await self._known.fetched_at(identifiers)
        except DatabaseError:
            return {}  # then it is fetched once more
