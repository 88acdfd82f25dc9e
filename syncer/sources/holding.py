"""The books of a queue's messages: which are held, what is to be fetched for them, what becomes of each.

Pure: no task, no clock, no queue. A message is held from its receipt until it is deleted or given back, and
is deleted only once every item of it is settled by a commit.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from syncer.identifiers import Item, item
from syncer.ledger import Settled
from syncer.outcomes import Outcome

# A message that fails is seen again after so long (seconds), twice as long each time.
FIRST_DELAY, LONGEST_DELAY = 30, 900
# Without a dead-letter queue somebody has to put an end to it: the failure is recorded by then.
MOST_RECEIVES = 10
# What the API says of an identifier that is none; no repetition changes that.
POISON = frozenset({"ValidationException"})
# SQS and the database tell the time by clocks of their own.
MARGIN = timedelta(seconds=1)
# So many fetched IDs are remembered, to answer messages about them that were sent before.
REMEMBERED = 100_000


class InvalidTo(StrEnum):
    """What becomes of a message that holds no connection ID, once that is recorded."""

    DELETE = "delete"
    REDRIVE = "redrive"


@dataclass(slots=True, eq=False)
class Message:
    """A message that is held.

    handle: the newest one. sent_at: by the queue's clock. receives: how often it was handed out.
    expires: when others can see it again; monotonic seconds. open: how many of its items are not settled.
    failed: one of them failed for now. poison: one of them is no connection ID.
    """

    id: str
    handle: str
    sent_at: datetime
    receives: int
    expires: float
    open: int = 0
    failed: bool = False
    poison: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One ID of a message. problem: why it is none. fetched_at: when it was last, as the database knows."""

    message: Message
    text: str
    problem: str | None = None
    fetched_at: datetime | None = None


class Holding:
    """The messages of one worker.

    redrive: the queue itself moves a message that comes too often. keep: nothing is deleted (a dry run).
    """

    def __init__(
        self, catalog: str, *, redrive: bool, invalid_to: InvalidTo = InvalidTo.DELETE, keep: bool = False
    ) -> None:
        self.held: dict[str, Message] = {}
        self._catalog = catalog
        self._redrive = redrive
        self._invalid_to = invalid_to
        self._keep = keep
        self._waiting: deque[Entry] = deque()
        self._yielded: dict[int, tuple[Entry, Item]] = {}
        # When the first of the items that are in flight for an ID was handed on, and how many there are: the
        # call for it comes later than that.
        self._taken_at: dict[str, datetime] = {}
        self._in_flight: Counter[str] = Counter()
        self._parked: dict[str, list[Entry]] = {}
        self._fetched_at: OrderedDict[str, datetime] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Entries that nobody has taken yet."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether anything that was received is not settled."""
        return bool(self._waiting or self._yielded or self._parked)

    def hold(self, message: Message) -> bool:
        """Hold `message`; False if it is held already, and only its newer handle counts."""
        known = self.held.get(message.id)
        if known is not None:
            known.handle, known.receives, known.expires = message.handle, message.receives, message.expires
            return False
        self.held[message.id] = message
        return True

    def wait(self, entries: Iterable[Entry]) -> None:
        """Entries to be taken, in their order."""
        for entry in entries:
            entry.message.open += 1
            self._waiting.append(entry)

    def take(self, position: int, now: datetime) -> Item | None:
        """The next item, as number `position`; None while there is none. now: by the database's clock."""
        while self._waiting:
            entry = self._waiting.popleft()
            where = f"message {entry.message.id}"
            made = item(position, entry.text, self._catalog, where, wrong=entry.problem)
            if made.problem is None:
                if self._is_known(entry, made.identifier):
                    made = item(position, entry.text, self._catalog, where, skip=True)
                elif self._may_be_later(entry, made.identifier):
                    self._parked.setdefault(made.identifier, []).append(entry)
                    continue
                else:
                    self._taken_at.setdefault(made.identifier, now)
                    self._in_flight[made.identifier] += 1
            self._yielded[position] = entry, made
            return made
        return None

    def _may_be_later(self, entry: Entry, identifier: str) -> bool:
        """Whether a call for the ID is out that may have been made before what the message tells of."""
        taken_at = self._taken_at.get(identifier)
        return taken_at is not None and taken_at < entry.message.sent_at + MARGIN

    def _is_known(self, entry: Entry, identifier: str) -> bool:
        """Whether the connection was fetched after the message was sent: then it has nothing to tell."""
        if identifier in self._taken_at:
            return False
        times = (entry.fetched_at, self._fetched_at.get(identifier))
        return any(at is not None and at > entry.message.sent_at + MARGIN for at in times)

    def settle(self, settled: Iterable[Settled]) -> Iterator[tuple[Message, int | None]]:
        """Items are settled: the messages that are through with it, and what becomes of each.

        None: it is to be deleted; else it is to be seen again after so many seconds.
        """
        for each in settled:
            entry, made = self._yielded.pop(each.item.position)
            message = entry.message
            message.open -= 1
            # Without a code it is a removal that is held back: recorded, and no message brings it further.
            poison = each.outcome is Outcome.INVALID or each.code in POISON
            message.poison |= poison
            message.failed |= each.outcome is Outcome.FAILED and each.code is not None and not poison
            if made.problem is None and not made.skip:
                self._came_back(made.identifier, fetched=each.outcome is not Outcome.FAILED)
            if not message.open and not self._keep:
                yield message, self._fate(message)

    def _came_back(self, identifier: str, *, fetched: bool) -> None:
        if fetched:
            self._fetched_at[identifier] = self._taken_at[identifier]
            self._fetched_at.move_to_end(identifier)
            if len(self._fetched_at) > REMEMBERED:
                self._fetched_at.popitem(last=False)
        self._in_flight[identifier] -= 1
        if self._in_flight[identifier]:
            return  # one that was handed on late may have a call of its own, which is still out
        del self._taken_at[identifier], self._in_flight[identifier]
        self._waiting.extendleft(reversed(self._parked.pop(identifier, [])))

    def _fate(self, message: Message) -> int | None:
        if not self._redrive and message.receives >= MOST_RECEIVES:
            return None
        if message.failed:
            return min(FIRST_DELAY << min(message.receives - 1, 10), LONGEST_DELAY)
        return 0 if message.poison and self._invalid_to is InvalidTo.REDRIVE else None

    def recall(self) -> None:
        """A run is over: what it has taken and not settled waits again, for the next one."""
        unsettled = [entry for entry, _ in self._yielded.values()]
        parked = [entry for entries in self._parked.values() for entry in entries]
        self._yielded.clear()
        self._taken_at.clear()
        self._in_flight.clear()
        self._parked.clear()
        self._waiting.extendleft(reversed([*unsettled, *parked]))

    def due(self, before: float) -> list[Message]:
        """Held messages that others could see before that time."""
        return [message for message in self.held.values() if message.expires < before]

    def let_go(self, message: Message) -> None:
        """It is deleted, or given back."""
        self.held.pop(message.id, None)
