"""A worker against a model of it: whatever comes in whatever order, in the end the copy is what the API says.

The parts that decide (`Holding`, `Ledger`, `decide`) are driven without any I/O, on a clock of the model's.
The queue and the database tell the time by clocks of their own, up to a second apart.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from syncer.answers import Connection, ConnectionType, Fetched, Found, Missing
from syncer.identifiers import Item
from syncer.ledger import Ledger, Settled
from syncer.outcomes import Outcome
from syncer.sources.holding import Entry, Holding, Message
from syncer.store.changes import Stored, VersionRow, decide

T0 = datetime(2026, 1, 1, tzinfo=UTC)
IDS = [f"pac-{name * 13}" for name in "ABC"]
NAMES = st.sampled_from(IDS)


@dataclass
class Sent:
    """A message on the queue. hidden: whether a worker holds it.

    since: how each connection was when it was sent, and how often anything had changed by then.
    """

    id: str
    ids: list[str]
    sent_at: datetime
    since: dict[str, tuple[int, int]]
    receives: int = 0
    hidden: bool = False


@dataclass
class Database:
    """What is committed."""

    stored: Stored = field(default_factory=Stored)
    versions: dict[tuple[str, str], list[VersionRow]] = field(default_factory=dict)
    missed: set[str] = field(default_factory=set)


def at(state: int) -> datetime:
    """AWS's time of a connection's state."""
    return T0 + timedelta(seconds=state)


def copied(stored: Stored) -> Stored:
    return Stored(
        dict(stored.connections),
        {key: dict(types) for key, types in stored.types.items()},
        dict(stored.versions),
        dict(stored.participants),
    )


class Worker(RuleBasedStateMachine):
    """One worker, its queue, its database, and an API whose connections change, vanish and come back.

    An API's connection is a number: how often it has changed; 0: it is not there (yet).
    """

    @initialize(skew=st.floats(-0.9, 0.9))
    def begin(self, skew: float) -> None:
        self.now = T0
        self.skew = timedelta(seconds=skew)  # of the queue's clock against the database's
        self.api: dict[str, int] = dict.fromkeys(IDS, 0)
        self.changes = 0
        self.queue: dict[str, Sent] = {}
        self.sent = 0
        self.database = Database()
        self.fresh()

    def fresh(self) -> None:
        """The worker starts, with nothing in its memory."""
        self.holding = Holding("AWS", redrive=True)
        self.ledger = Ledger()
        self.position = 0
        self.taken: list[Item] = []  # handed on by the source, not in the books yet
        self.out: list[tuple[Item, datetime]] = []  # calls that are out, since when
        self.back: list[Fetched] = []  # answers that wait for the writer
        for message in self.queue.values():
            message.hidden = False

    @rule(milliseconds=st.integers(0, 3000))
    def wait(self, milliseconds: int) -> None:
        self.now += timedelta(milliseconds=milliseconds)

    @rule(names=st.lists(NAMES, min_size=1, max_size=3))
    def send(self, names: list[str]) -> None:
        self.sent += 1
        # SQS tells milliseconds.
        told = (self.now + self.skew).replace(microsecond=(self.now + self.skew).microsecond // 1000 * 1000)
        self.queue[f"m{self.sent}"] = Sent(
            f"m{self.sent}", names, told, {name: (self.api[name], self.changes) for name in names}
        )

    @rule(name=NAMES, vanishes=st.booleans())
    def change(self, name: str, vanishes: bool) -> None:  # noqa: FBT001  (Hypothesis passes by keyword)
        """It is created, updated, canceled or vanishes; an event tells of it."""
        self.now += timedelta(microseconds=10)
        self.changes += 1
        self.api[name] = 0 if vanishes and self.api[name] else self.changes
        self.send([name])

    @rule(data=st.data())
    def receive(self, data: st.DataObject) -> None:
        """Some messages, in any order; one that is held already may come too, as its lease has lapsed."""
        if not self.queue:
            return
        for id in data.draw(st.lists(st.sampled_from(sorted(self.queue)), unique=True, max_size=3)):
            self._receive(self.queue[id])

    def _receive(self, sent: Sent) -> None:
        sent.receives += 1
        sent.hidden = True
        message = Message(sent.id, f"handle {sent.receives}", sent.sent_at, sent.receives, 0.0)
        if self.holding.hold(message):
            known = self.database.stored.connections
            self.holding.wait(
                Entry(message, name, fetched_at=known[name].synced_at if name in known else None)
                for name in sent.ids
            )

    @rule()
    def take(self) -> None:
        item = self.holding.take(self.position, self.now)
        if item is not None:
            self.position += 1
            self.taken.append(item)

    @precondition(lambda self: self.taken)
    @rule()
    def read(self) -> None:
        item = self.taken.pop(0)
        if item.skip:
            self.ledger.skip(item)
            self._settled([Settled(item, Outcome.SKIPPED)])
        elif self.ledger.read(item):
            self.out.append((item, self.now))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self._answer(data.draw(st.integers(0, len(self.out) - 1)))

    def _answer(self, index: int) -> None:
        """The API looks at its data somewhere between the call and the answer: here, right before that."""
        item, asked_at = self.out.pop(index)
        state = self.api[item.identifier]
        if not state:
            self.back.append(Missing(item, asked_at))
            return
        each = ConnectionType(
            "SUBSIDIARY", f"S{state}", T0, None, None, None, None, "Account", "p", f"N{state}"
        )
        connection = Connection(item.identifier, f"arn:{state}", "0" * 12, at(state), (each,))
        self.back.append(Found(item, asked_at, connection))

    @precondition(lambda self: self.back)
    @rule(data=st.data(), meanwhile=st.integers(0, 2), fails=st.booleans())
    def commit(self, data: st.DataObject, meanwhile: int, fails: bool) -> None:  # noqa: FBT001  (likewise)
        self._commit(data.draw(st.integers(1, len(self.back))), meanwhile, fails=fails)

    def _commit(self, count: int, meanwhile: int = 0, *, fails: bool = False) -> None:
        batch = self.back[:count]
        stored = copied(self.database.stored)
        changes = decide(batch, stored)
        settlement = self.ledger.settlement(batch, changes.outcomes, 0)
        for _ in range(meanwhile):  # reading goes on
            self.take()
            if self.taken:
                self.read()
        if fails:
            return
        for name, row in changes.connections.items():
            before = self.database.stored.connections.get(name)
            assert before is None or (row.updated_at, row.synced_at) >= (before.updated_at, before.synced_at)
        self.database.stored = stored
        self.database.missed |= {each.item.identifier for each in batch if isinstance(each, Missing)}
        for key, ended in changes.ended.items():
            self.database.versions[key][-1] = self.database.versions[key][-1]._replace(valid_to=ended)
        for key, versions in changes.versions.items():
            self.database.versions.setdefault(key, []).extend(versions)
        del self.back[:count]
        self._settled(self.ledger.settle(settlement).done)

    def _settled(self, settled: Iterable[Settled]) -> None:
        for message, delay in self.holding.settle(settled):
            assert delay is None
            self.holding.let_go(message)
            sent = self.queue.pop(message.id, None)
            for name, since in sent.since.items() if sent else ():
                self._assert_settled(name, *since)

    def _assert_settled(self, name: str, state: int, changes: int) -> None:
        """A message is deleted: what is committed is no older than what it may have told of."""
        row = self.database.stored.connections.get(name)
        if row is None:
            assert name in self.database.missed
        elif state:
            assert row.updated_at >= at(state)
        else:
            assert row.removed_at is not None or row.updated_at > at(changes)

    @rule()
    def crash(self) -> None:
        self.fresh()

    @rule()
    def next_run(self) -> None:
        """A run ends with what it has in flight; what is left open, the next one takes."""
        self.ledger.release()
        self.out, self.back, self.taken = [], [], []
        self.holding.recall()
        self.ledger, self.position = Ledger(), 0

    @invariant()
    def history_is_whole(self) -> None:
        if not hasattr(self, "database"):
            return
        for key, versions in self.database.versions.items():
            assert [each.valid_to is None for each in versions] == [False] * (len(versions) - 1) + [True]
            for before, after in pairwise(versions):
                assert before.valid_to == after.valid_from > before.valid_from
            assert self.database.stored.versions[key] == versions[-1]

    @invariant()
    def books_add_up(self) -> None:
        if hasattr(self, "ledger"):
            open_items = Counter(item.identifier for item, _ in self.out)
            open_items.update(answer.item.identifier for answer in self.back)
            assert self.ledger.in_flight == len(open_items)

    def teardown(self) -> None:
        """Left alone, the worker drains the queue; then the copy is what the API says."""
        if not hasattr(self, "queue"):
            return
        for _ in range(200):
            if not self.queue:
                break
            self._go_round()
        assert not self.queue, "something is never settled"
        assert not self.holding.busy
        assert not self.holding.held
        assert self.ledger.tally.adds_up
        for name, state in self.api.items():
            row = self.database.stored.connections.get(name)
            if state and (row is not None or name in self.database.missed):
                assert row is not None
                assert (row.arn, row.removed_at) == (f"arn:{state}", None)
            elif not state:
                assert row is None or row.removed_at is not None

    def _go_round(self) -> None:
        """Receive all that there is, take what may be taken, fetch it, write it."""
        self.now += timedelta(seconds=0.5)
        for sent in [each for each in self.queue.values() if not each.hidden]:
            self._receive(sent)
        before = -1
        while before != self.position:
            before = self.position
            self.take()
        while self.taken:
            self.read()
        while self.out:
            self._answer(0)
        if self.back:
            self._commit(len(self.back))


TestWorker = Worker.TestCase
TestWorker.settings = settings(max_examples=settings().max_examples, stateful_step_count=40)
