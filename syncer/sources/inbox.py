"""A queue as a source: receives into free slots, keeps what is held invisible, deletes after the commit.

`Holding` decides; here are the tasks that ask the queue. They outlive a run: a worker's runs follow each
other, and what one leaves open, the next one takes.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from math import ceil

import anyio
import structlog

from syncer.background import background
from syncer.events import Event
from syncer.identifiers import Item, connection_id
from syncer.ledger import Settled
from syncer.outcomes import Outcome
from syncer.sources.holding import Entry, Holding, Message
from syncer.sources.messages import Elsewhere, Ids, Ignored, Unreadable, meaning
from syncer.sqs.client import BATCH, Queue, QueueError, Received
from syncer.stopping import Stop, Stopped

# How long one request waits for messages (seconds). A stopping worker waits for the one that is out: what it
# still brings would else be invisible to everybody. So it is not the longest there is: an idle worker makes
# half a million requests a month this way, for about 20 cents. A draining one wants to know soon.
WAIT, WAIT_DRAINING = 5, 1
# Messages that others could see in less than half of their time are hidden anew; looked at so often.
LOOK_EVERY = 1.0
# Requests of a kind at once: one takes about 10 ms, and brings or deletes up to 10 messages.
POLLERS, DELETERS = 4, 4
# A request for messages that took longer (seconds) has waited for them, or the server has enough to do as it
# is: then one at a time is out.
QUICK = 0.5
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0
# A draining worker gives up after so many failed requests in a row: it is a batch job, with an exit code.
DRAIN_TRIES = 6
# After so many tries a settled message is left to come once more: then it will be skipped.
DELETE_TRIES = 6
# A queue counts its messages about right, and after a while exactly: it is empty when it says so twice.
SURE = 2
# For what is still to be told to the queue when the worker has stopped, twice (seconds).
PARTING = 2.0

log = structlog.get_logger()


class Signal:
    """Wakes all who wait for a condition, so that each looks again."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def notify(self) -> None:
        event, self._event = self._event, anyio.Event()
        event.set()

    async def wait(self) -> None:
        await self._event.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._event.wait()


class Inbox:
    """One worker's side of a queue.

    fetched_at: when each of these IDs was last fetched, as far as the database knows. now: by its clock.
    slots: connections fetched at once; twice as many messages wait for their turn, at most.
    visibility: seconds. drain: end when the queue is empty.
    alive: called when there is progress, or nothing to do.
    aged: told of each message that is settled for good, how many seconds after it was sent.
    ignored: messages about something else. failure: of the queue, when that ends the draining.
    """

    def __init__(
        self,
        queue: Queue,
        holding: Holding,
        *,
        catalog: str,
        fetched_at: Callable[[Sequence[str]], Awaitable[Mapping[str, datetime]]],
        now: Callable[[], datetime],
        slots: int,
        visibility: int,
        drain: bool,
        alive: Callable[[], None],
        aged: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self.holding = holding
        self._now = now
        self.failure: QueueError | None = None
        self.ignored = 0
        self._queue = queue
        self._catalog = catalog
        self._fetched_at = fetched_at
        self._slots = slots
        # What the slots can take on while a request for more is out.
        self._room = max(2 * slots, BATCH)
        self._visibility = visibility
        self._drain = drain
        self._alive = alive
        self._aged = aged
        self._stop = Stop()
        self._over = False
        self._polling = 0
        self._coming = 0  # messages that were asked for
        self._plenty = False  # there is more where the last ones came from, and soon
        self._arrived: list[Entry] = []  # entries that are to be looked up
        self._looked_up = 0
        self._empty = 0  # times in a row that the queue said it was empty
        self._left: dict[str, float] = {}  # messages given back, and until when nobody sees them
        self._catalogs: set[str] = set()
        self._troubles: set[str] = set()
        self._to_delete: deque[tuple[Message, int]] = deque()
        self._deleting = 0
        self._to_hide: deque[tuple[Message, int]] = deque()
        self._changed = Signal()
        self._to_tell = Signal()  # there is something to delete or to give back, or not any more

    @property
    def drained(self) -> bool:
        """The queue is empty, as far as this worker can do anything about it."""
        return self._drain and self._empty >= SURE

    def pause(self, why: str, details: str = "") -> None:
        """Receive nothing more until `resume`: each receipt counts against a message."""
        if why not in self._troubles:
            log.warning(Event.RECEIVING_PAUSED, why=why, details=details)
        self._troubles.add(why)

    def resume(self, why: str) -> None:
        if why in self._troubles:
            self._troubles.remove(why)
            log.info(Event.RECEIVING_RESUMED, after=why)
            self._changed.notify()

    def take(self, position: int) -> Item | None:
        """The next item, as number `position`; None while there is none."""
        item = self.holding.take(position, self._now())
        # Only when it makes a difference to those who wait for it: a request more, or a question.
        if self._free % BATCH == 0 or (self._arrived and self.holding.waiting < self._slots / 2):
            self._changed.notify()
        return item

    def settled(self, settled: Sequence[Settled]) -> None:
        """Items are settled, by a commit or because they need none."""
        for message, seconds in self.holding.settle(settled):
            if seconds is None:
                self._to_delete.append((message, 0))
                self._aged((self._now() - message.sent_at).total_seconds())
            else:
                self._to_hide.append((message, seconds))
        self._alive()
        self._changed.notify()
        self._to_tell.notify()

    @asynccontextmanager
    async def receiving(self, stop: Stop) -> AsyncIterator[None]:
        """Receive while the context lasts, until `stop`. At its end everything that is held is given back."""
        self._stop = stop
        async with background(self._ask):
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self._part()

    async def _ask(self) -> None:
        """All that goes on between this worker and the queue."""
        async with anyio.create_task_group() as tasks:
            for task in (self._keep_hidden, self._hide, self._look_up, self._hear_stop):
                tasks.start_soon(task)
            for _ in range(DELETERS):
                tasks.start_soon(self._delete)
            for _ in range(min(POLLERS, ceil(self._room / BATCH))):
                self._polling += 1
                tasks.start_soon(self._poll)

    async def _part(self) -> None:
        """Let the requests that are out come back, delete what is settled, give back the rest."""
        self._over = True
        self._changed.notify()
        with anyio.move_on_after(WAIT + 1):
            await self._changed.until(lambda: not self._polling)
        with anyio.move_on_after(PARTING):
            await self._to_tell.until(lambda: not (self._to_delete or self._deleting))
        with anyio.move_on_after(PARTING):
            await self._hide_now([(message, 0) for message in self.holding.held.values()])

    async def change(self, seconds: float) -> None:
        """Wait until something has changed here, or for so long."""
        with anyio.move_on_after(seconds):
            await self._changed.wait()

    async def _hear_stop(self) -> None:
        await self._stop.wait()
        self._changed.notify()

    async def _poll(self) -> None:
        failed = 0
        try:
            while not (self._over or self._stop.asked):
                enough = self._free < BATCH or (self._coming and not self._plenty)
                if enough or self._troubles or self.drained:
                    await self._changed.wait()
                    continue
                try:
                    await self._receive()
                    failed = 0
                except QueueError as error:
                    failed += 1
                    await self._failed(error, failed)
        except Stopped:
            pass
        finally:
            self._polling -= 1
            self._changed.notify()

    async def _failed(self, error: QueueError, times: int) -> None:
        if times == 1:
            log.warning(Event.QUEUE_FAILING, why=str(error))
        if self._drain and times == DRAIN_TRIES:
            self.failure = error
            self._changed.notify()
        await self._stop.sleep(min(FIRST_BACKOFF * 2**times, LONGEST_BACKOFF))

    @property
    def _free(self) -> int:
        """How many messages more may wait for their turn."""
        return self._room - self._coming - len(self._arrived) - self._looked_up - self.holding.waiting

    async def _receive(self) -> None:
        asked = time.monotonic()
        wait = WAIT if not self._drain else 0 if self._empty else WAIT_DRAINING
        self._coming += BATCH
        try:
            received = await self._queue.receive(BATCH, wait=wait, visibility=self._visibility)
        finally:
            self._coming -= BATCH
        self._plenty = len(received) == BATCH and time.monotonic() - asked < QUICK
        if received:
            self._empty = 0
            # They were handed out after the request was made; how long after, only the server knows.
            expires = asked + self._visibility
            self._arrived += [entry for each in received for entry in self._read(each, expires)]
            self._changed.notify()
        elif not self._is_busy():
            self._alive()
            if self._drain:
                await self._ask_whether_empty()

    def _read(self, received: Received, expires: float) -> list[Entry]:
        """Hold the message; the IDs in it, if they are for this worker."""
        self._left.pop(received.message_id, None)
        message = Message(received.message_id, received.handle, received.sent_at, received.receives, expires)
        if not self.holding.hold(message):
            return []
        match meaning(received.body, self._catalog):
            case Ids(texts):
                return [Entry(message, text) for text in texts]
            case Unreadable(problem):
                # The body itself is not repeated: there is no telling what is in it.
                return [Entry(message, f"message {message.id}", problem)]
            case Ignored(kind):
                self.ignored += 1
                log.info(Event.MESSAGE_IGNORED, kind=kind)
                self._to_delete.append((message, 0))
                self._to_tell.notify()
            case Elsewhere(catalog):
                if catalog not in self._catalogs:
                    self._catalogs.add(catalog)
                    log.warning(
                        Event.MESSAGE_LEFT, catalog=catalog, why="it is for the worker of this catalog"
                    )
                self._leave(message, expires)
        return []

    async def _look_up(self) -> None:
        """Let what has arrived be taken, with what the database knows of it; all of it at once."""
        while True:
            # Not before it is needed: a question costs about the same for ten and for fifty.
            await self._changed.until(lambda: bool(self._arrived) and self.holding.waiting < self._slots / 2)
            entries, self._arrived = self._arrived, []
            self._looked_up = len(entries)
            ids = [connection_id(entry.text, self._catalog) for entry in entries]
            known = await self._fetched_at([id for id in ids if id])
            self._looked_up = 0
            self.holding.wait(
                replace(entry, fetched_at=known.get(id)) if id else entry
                for entry, id in zip(entries, ids, strict=True)
            )
            self._changed.notify()

    def _leave(self, message: Message, until: float) -> None:
        """Hold `message` no longer: others can see it from `until` on."""
        self.holding.let_go(message)
        if self._drain:
            self._left[message.id] = until

    def _is_busy(self) -> bool:
        unsettled = self._arrived or self._looked_up or self.holding.busy
        return bool(unsettled or self._to_delete or self._deleting or self._to_hide)

    async def _ask_whether_empty(self) -> None:
        """Messages that are invisible may be another worker's, or a dead one's: then they come back."""
        depth = await self._queue.depth()
        now = time.monotonic()
        self._left = {id: until for id, until in self._left.items() if until > now}
        ours = len(self._left) + len(self.holding.held)
        gone = not depth.visible and not depth.delayed and depth.in_flight <= ours
        self._empty = self._empty + 1 if gone and not self._is_busy() else 0
        self._changed.notify()

    async def _keep_hidden(self) -> None:
        while True:
            await anyio.sleep(LOOK_EVERY)
            due = self.holding.due(time.monotonic() + self._visibility / 2)
            await self._hide_now([(message, self._visibility) for message in due])

    async def _hide_now(self, messages: Sequence[tuple[Message, int]]) -> None:
        """Make `messages` invisible for so many seconds; what fails is tried again when it is due again."""
        async with anyio.create_task_group() as requests:
            for start in range(0, len(messages), BATCH):
                requests.start_soon(self._hide_some, messages[start : start + BATCH])

    async def _hide_some(self, messages: Sequence[tuple[Message, int]]) -> None:
        asked = time.monotonic()
        try:
            failed = await self._queue.hide([(message.handle, seconds) for message, seconds in messages])
        except QueueError:
            return
        for position, (message, seconds) in enumerate(messages):
            if position not in failed:
                message.expires = asked + seconds

    async def _hide(self) -> None:
        """Give back what is to be tried again later."""
        while True:
            await self._to_tell.until(lambda: bool(self._to_hide))
            messages = [self._to_hide[each] for each in range(min(BATCH, len(self._to_hide)))]
            await self._hide_some(messages)
            for message, seconds in messages:
                self._to_hide.popleft()
                self._leave(message, time.monotonic() + seconds)
            self._to_tell.notify()

    async def _delete(self) -> None:
        while True:
            await self._to_tell.until(lambda: bool(self._to_delete))
            batch = [self._to_delete.popleft() for _ in range(min(BATCH, len(self._to_delete)))]
            self._deleting += len(batch)
            try:
                failed = await self._queue.delete([message.handle for message, _ in batch])
            except QueueError:
                failed = [*range(len(batch))]
            for position, (message, tries) in enumerate(batch):
                if position not in failed or tries + 1 == DELETE_TRIES:
                    self.holding.let_go(message)
                else:
                    self._to_delete.append((message, tries + 1))
            if failed:
                log.warning(Event.DELETE_FAILED, messages=len(failed))
                await anyio.sleep(min(FIRST_BACKOFF * 2 ** batch[failed[0]][1], LONGEST_BACKOFF))
            self._deleting -= len(batch)
            self._to_tell.notify()


class Shift:
    """A run's share of an inbox; iterated once.

    It ends at `until` (monotonic), when the inbox is drained, or in a pause in which `enough` says so.
    """

    def __init__(self, inbox: Inbox, until: float, enough: Callable[[], bool]) -> None:
        self._inbox = inbox
        self._until = until
        self._enough = enough

    def describe(self) -> str:
        return "the queue"

    def expected(self) -> int | None:
        return None

    async def __aiter__(self) -> AsyncIterator[Item]:
        """Raises `QueueError` when a queue that is to be drained does not answer."""
        inbox, position = self._inbox, 0
        while (left := self._until - time.monotonic()) > 0:
            item = inbox.take(position)
            if item is not None:
                position += 1
                yield item
                if item.skip:
                    inbox.settled([Settled(item, Outcome.SKIPPED)])
                continue
            if inbox.failure is not None:
                raise inbox.failure
            if inbox.drained or (self._enough() and not inbox.holding.busy):
                return
            await inbox.change(left)
