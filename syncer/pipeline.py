"""source → fetch → write → acknowledge: the tasks of a run and the streams between them.

Every stream is bounded, and the reader stays within a window of the oldest unsettled item: memory does not
grow with the input, and a crash costs at most the window. One item's error never touches its siblings.
"""

import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from syncer.answers import Answer
from syncer.endings import exit_for
from syncer.exits import Exit
from syncer.fetch import invalid
from syncer.identifiers import Item
from syncer.ledger import Ledger
from syncer.partner_central.errors import Denied, PartnerCentralError, Unreachable
from syncer.partner_central.turns import Exhausted
from syncer.sources.files import InputError
from syncer.sources.listing import ListingBroken
from syncer.sqs.client import QueueError
from syncer.stopping import Ending, Stop, Stopped
from syncer.store.database import DatabaseError

# A batch is written when it is full, when its oldest answer has waited this long (seconds), or when nothing
# else is in flight.
LINGER = 1.0
# A stopping run gives the calls that are out so long, and then the writer so long. What is left of the 25 s
# that a scheduler grants is for a driver that has to give up on a dead connection.
FETCH_GRACE = 12.0
WRITE_GRACE = 7.0

# Items read between two turns of the event loop, at most.
TURN = 100

Fetch = Callable[[Item], Awaitable[Answer]]
Write = Callable[[Sequence[Answer]], Awaitable[None]]
# When an answer arrived (monotonic), and the answer.
Arrival = tuple[float, Answer]


class Pipeline:
    """One run's tasks.

    write: settles a batch in the ledger once it is committed. Raises `DatabaseError` when it cannot.
    concurrency: calls in flight, at most. batch_size: answers per write, at most.
    """

    def __init__(
        self,
        *,
        source: AsyncIterable[Item],
        fetch: Fetch,
        write: Write,
        ledger: Ledger,
        stop: Stop,
        concurrency: int,
        batch_size: int,
    ) -> None:
        self._source = source
        self._fetch = fetch
        self._write = write
        self._ledger = ledger
        self._stop = stop
        self._concurrency = concurrency
        self._batch_size = batch_size
        # In flight at most: what is being fetched, what waits for the writer, what it is writing.
        self._window = concurrency + 2 * batch_size
        self._committed = anyio.Event()
        self._fetched = anyio.Event()
        self._waiting: MemoryObjectReceiveStream[Arrival] | None = None

    @property
    def writer_is_behind(self) -> bool:
        """Whether answers wait for the database, so that those who fetch soon will too."""
        return (
            self._waiting is not None and self._waiting.statistics().current_buffer_used >= self._batch_size
        )

    async def run(self) -> None:
        """Until the source is exhausted and everything is settled, or until the run was stopped.

        What is in flight when it stops is finished as far as the grace period allows; the rest stays in the
        ledger, unsettled.
        """
        to_fetch, fetching = anyio.create_memory_object_stream[Item]()
        to_write, writing = anyio.create_memory_object_stream[Arrival](self._batch_size)
        self._waiting = writing
        cut_reading, cut_fetching = anyio.CancelScope(), anyio.CancelScope()
        async with anyio.create_task_group() as everything:
            everything.start_soon(self._cut_short, cut_reading, cut_fetching, everything.cancel_scope)
            async with anyio.create_task_group() as stages:
                stages.start_soon(self._write_batches, writing, everything.cancel_scope)
                async with anyio.create_task_group() as calling:
                    calling.start_soon(self._read, to_fetch, to_write.clone(), cut_reading)
                    calling.start_soon(self._fetch_all, fetching, to_write, cut_fetching)
                self._fetched.set()
            everything.cancel_scope.cancel()

    async def _cut_short(
        self, reading: anyio.CancelScope, fetching: anyio.CancelScope, everything: anyio.CancelScope
    ) -> None:
        await self._stop.wait()
        reading.cancel()
        with anyio.move_on_after(FETCH_GRACE):
            await self._fetched.wait()
        fetching.cancel()
        await anyio.sleep(WRITE_GRACE)
        everything.cancel()

    async def _read(
        self,
        to_fetch: MemoryObjectSendStream[Item],
        to_write: MemoryObjectSendStream[Arrival],
        scope: anyio.CancelScope,
    ) -> None:
        async with to_fetch, to_write:
            with scope:
                try:
                    async for item in self._source:
                        if item.position % TURN == 0:
                            # A source that has it all at hand must not keep the signals waiting.
                            await anyio.lowlevel.checkpoint()
                        await self._room()
                        await self._take(item, to_fetch, to_write)
                except InputError as error:
                    self._stop.note(Ending("aborted", Exit.USAGE, str(error)))
                except ListingBroken as error:
                    self._stop.note(Ending("partial", Exit.LATER, f"{error}: nothing counts as removed"))
                except QueueError as error:
                    self._stop.ask(Ending("interrupted", exit_for(error) or Exit.LATER, str(error)))
                except DatabaseError as error:
                    self._stop.ask(Ending("aborted", exit_for(error) or Exit.LATER, str(error)))
                except Stopped:
                    pass
                except (Denied, Exhausted) as error:
                    self._stop.ask(_hopeless(error))

    async def _room(self) -> None:
        while self._ledger.ahead >= self._window:
            self._committed = anyio.Event()
            await self._committed.wait()

    async def _take(
        self,
        item: Item,
        to_fetch: MemoryObjectSendStream[Item],
        to_write: MemoryObjectSendStream[Arrival],
    ) -> None:
        if item.skip:
            self._ledger.skip(item)
            return
        if not self._ledger.read(item):
            return  # the call that is out for the same ID serves this item too
        if item.problem is not None:
            await to_write.send((time.monotonic(), invalid(item)))
        else:
            await to_fetch.send(item)

    async def _fetch_all(
        self,
        fetching: MemoryObjectReceiveStream[Item],
        to_write: MemoryObjectSendStream[Arrival],
        scope: anyio.CancelScope,
    ) -> None:
        async with fetching, to_write:
            with scope:
                async with anyio.create_task_group() as fetchers:
                    for _ in range(self._concurrency):
                        fetchers.start_soon(self._fetch_some, fetching, to_write)

    async def _fetch_some(
        self, fetching: MemoryObjectReceiveStream[Item], to_write: MemoryObjectSendStream[Arrival]
    ) -> None:
        async for item in fetching:
            try:
                answer = await self._fetch(item)
            except Stopped:
                continue  # released: nothing is known of it yet
            except (Denied, Exhausted, Unreachable) as error:
                self._stop.ask(_hopeless(error))
                continue
            await to_write.send((time.monotonic(), answer))

    async def _write_batches(
        self, writing: MemoryObjectReceiveStream[Arrival], everything: anyio.CancelScope
    ) -> None:
        async with writing:
            try:
                while batch := await self._batch(writing):
                    await self._write(batch)
                    self._committed.set()
            except Stopped:
                everything.cancel()
            except DatabaseError as error:
                self._stop.ask(Ending("aborted", exit_for(error) or Exit.LATER, str(error)))
                everything.cancel()

    async def _batch(self, writing: MemoryObjectReceiveStream[Arrival]) -> list[Answer]:
        """The next answers to write; empty when there are no more."""
        batch: list[Answer] = []
        try:
            arrived, answer = await writing.receive()
            batch.append(answer)
            # What has arrived already is taken without a deadline.
            while len(batch) < self._batch_size:
                try:
                    batch.append(writing.receive_nowait()[1])
                except anyio.WouldBlock:
                    left = arrived + LINGER - time.monotonic()
                    # Where nothing else is in flight, as with single events, there is nothing to wait for.
                    if left <= 0 or self._ledger.in_flight <= len(batch):
                        break
                    with anyio.move_on_after(left):
                        batch.append((await writing.receive())[1])
        except anyio.EndOfStream:
            pass
        return batch


def _hopeless(error: PartnerCentralError) -> Ending:
    """How a run ends on an error that is not about any item."""
    match error:
        case Denied():
            return Ending("aborted", Exit.DENIED, f"Partner Central does not let us in: {error}")
        case Exhausted():
            return Ending("interrupted", Exit.LATER, error.message)
        case _:
            return Ending("aborted", Exit.LATER, f"Partner Central does not answer: {error}")
