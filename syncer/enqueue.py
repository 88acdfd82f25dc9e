"""Putting connection IDs on a queue, ten at a time: from files, or those that a sync would fetch."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from math import inf

import aioboto3
import anyio
import psycopg
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from syncer.account_run import LIST, Source
from syncer.background import background
from syncer.endings import exit_for
from syncer.exits import Exit
from syncer.fetch import Pages, invalid
from syncer.ledger import Ledger
from syncer.outcomes import Outcome
from syncer.partner_central import client
from syncer.partner_central.errors import Denied
from syncer.partner_central.pacing import Pacer
from syncer.partner_central.retry import Retrying
from syncer.partner_central.turns import Exhausted, Turns
from syncer.progress import show
from syncer.sharing import shared
from syncer.sources.files import InputError, open_files
from syncer.sources.listing import Listing, ListingBroken
from syncer.sqs import client as sqs
from syncer.stopping import Ending, Stop, Stopped, signals
from syncer.store import runs
from syncer.store.database import DatabaseError, meaning
from syncer.store.known import Known
from syncer.store.pool import Pool
from syncer.store.rates import Rates
from syncer.store.writer import Scope

SENDERS = 8
# What the queue does not take is sent again, alone, after growing waits; after so many it is not there.
TRIES = 6
FIRST_BACKOFF = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueSettings:
    """What goes on which queue.

    paths: files, "-" is stdin; empty: what a sync would fetch, or with `full` all that is listed.
    """

    queue_url: str
    paths: tuple[str, ...] = ()
    full: bool = False
    account_id: str | None = None
    catalog: str = "AWS"
    max_attempts: int = 6
    max_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of the IDs that were read. skipped: need not be fetched. unsent: read, yet not sent."""

    queue_url: str
    read: int
    sent: int
    skipped: int
    invalid: int
    unsent: int
    exit: Exit
    message: str = ""

    def as_json(self) -> str:
        told = asdict(self)
        del told["exit"], told["message"]
        return json.dumps(told)


async def enqueue(settings: EnqueueSettings, database_url: str) -> Sent:
    """Send a message per connection ID. The database is asked only when there are no files.

    Raises `InputError`, `QueueError`, and for the listing `DatabaseError` and `PartnerCentralError`.
    """
    stop = Stop()
    async with AsyncExitStack() as opened:
        opened.enter_context(signals([stop]))
        session = client.own_session()
        source: Source
        if settings.paths:
            source = await open_files(settings.paths, settings.catalog)
        else:
            source = await opened.enter_async_context(_listing(settings, session, database_url, stop))
        queue = await opened.enter_async_context(sqs.opened(session, settings.queue_url, SENDERS))
        await queue.about()  # is it there?
        sending = _Sending(settings, queue, source, stop)
        async with background(partial(show, [sending])):
            return await sending()


@asynccontextmanager
async def _listing(
    settings: EnqueueSettings, session: aioboto3.Session, url: str, stop: Stop
) -> AsyncIterator[Listing]:
    """The listing, compared with what is stored, at the pace that all have learned."""
    pool = Pool(url)
    try:
        await runs.ready(pool)
        scope = Scope("", settings.account_id or await client.account_of(session), settings.catalog)
        pacer = Pacer(ceiling=settings.max_rate or inf)
        async with (
            client.opened(session, catalog=settings.catalog, connections=1) as api,
            shared(Rates(pool, scope), {LIST: pacer}),
        ):
            known, ledger = Known(pool, scope), Ledger()
            yield Listing(
                next_page=Pages(
                    api,
                    turns=Turns(pacer, stop.sleep),
                    retrying=Retrying(settings.max_attempts, stop.sleep, lambda _: None),
                    calls=ledger.calls,
                ),
                known=known.updated_at,
                live_after=known.live_after,
                catalog=settings.catalog,
                full=settings.full,
            )
    except (psycopg.Error, OSError) as error:
        raise meaning(error, url) from None
    finally:
        await pool.close()


class _Sending:
    """Reads, batches and sends.

    ledger: for its progress: what is sent counts as written, on the queue.
    """

    def __init__(self, settings: EnqueueSettings, queue: sqs.Queue, source: Source, stop: Stop) -> None:
        self.ledger = Ledger()
        self._settings = settings
        self._queue = queue
        self._source = source
        self._stop = stop
        self._failed = False

    def expected(self) -> int | None:
        return self._source.expected()

    def why(self) -> str:
        return "sending"

    async def __call__(self) -> Sent:
        batches, to_send = anyio.create_memory_object_stream[list[str]](SENDERS)
        async with anyio.create_task_group() as tasks:
            reading = anyio.CancelScope()
            tasks.start_soon(self._read, batches, reading)
            async with background(partial(self._cut_short, reading)), anyio.create_task_group() as senders:
                for _ in range(SENDERS):
                    senders.start_soon(self._send_all, to_send)
            reading.cancel()
        return self._result()

    async def _cut_short(self, reading: anyio.CancelScope) -> None:
        await self._stop.wait()
        reading.cancel()

    async def _read(self, batches: MemoryObjectSendStream[list[str]], scope: anyio.CancelScope) -> None:
        tally = self.ledger.tally
        batch: list[str] = []
        async with batches:
            with scope:
                try:
                    async for item in self._source:
                        tally.read += 1
                        if item.problem is not None:
                            invalid(item)
                            tally.add(Outcome.INVALID)
                        elif item.skip:
                            tally.add(Outcome.SKIPPED)
                        else:
                            batch.append(
                                json.dumps({"id": item.identifier, "catalog": self._settings.catalog})
                            )
                        if len(batch) == sqs.BATCH:
                            await batches.send(batch)
                            batch = []
                except (InputError, DatabaseError) as error:
                    self._stop.note(Ending("aborted", exit_for(error) or Exit.LATER, str(error)))
                except ListingBroken as error:
                    told = f"{error}: what it showed until then is on the queue"
                    self._stop.note(Ending("partial", Exit.LATER, told))
                except (Denied, Exhausted) as error:
                    self._stop.ask(Ending("aborted", exit_for(error) or Exit.LATER, str(error)))
                except Stopped:
                    pass
            if batch and not self._failed:
                await batches.send(batch)

    async def _send_all(self, to_send: MemoryObjectReceiveStream[list[str]]) -> None:
        async for bodies in to_send:
            if not self._failed:
                await self._send(bodies)

    async def _send(self, bodies: list[str]) -> None:
        """Send a batch, and again alone what the queue did not take of it."""
        trouble: sqs.QueueError = sqs.QueueUnavailable(f"queue {self._queue.url}: it takes no messages")
        for tries in range(TRIES):
            try:
                failed = await self._queue.send(bodies)
            except sqs.QueueUnavailable as error:
                failed, trouble = [*range(len(bodies))], error
            except sqs.QueueError as error:
                trouble = error
                break
            self.ledger.tally.add(Outcome.WRITTEN, len(bodies) - len(failed))
            if not failed:
                return
            bodies = [bodies[position] for position in failed]
            await anyio.sleep(FIRST_BACKOFF * 2**tries)
        self._failed = True
        self._stop.ask(Ending("aborted", exit_for(trouble) or Exit.LATER, str(trouble)))

    def _result(self) -> Sent:
        tally, ending = self.ledger.tally, self._stop.ending
        if ending is None:
            wrong = tally[Outcome.INVALID]
            nothing = "" if tally.read else f"there are no connection IDs in {self._source.describe()}"
            ending = Ending("", Exit.INCOMPLETE if wrong else Exit.OK, nothing)
        return Sent(
            queue_url=self._queue.url,
            read=tally.read,
            sent=tally[Outcome.WRITTEN],
            skipped=tally[Outcome.SKIPPED],
            invalid=tally[Outcome.INVALID],
            unsent=tally.read - tally.settled,
            exit=ending.exit,
            message=ending.message,
        )
