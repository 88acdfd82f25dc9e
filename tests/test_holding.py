"""The books of a queue's messages: what is fetched for them, and what becomes of each."""

from datetime import UTC, datetime, timedelta

import pytest

from syncer.identifiers import Item
from syncer.ledger import Settled
from syncer.outcomes import Outcome
from syncer.sources.holding import (
    FIRST_DELAY,
    LONGEST_DELAY,
    MOST_RECEIVES,
    Entry,
    Holding,
    InvalidTo,
    Message,
)

A, B = "pac-AAAAAAAAAAAAA", "pac-BBBBBBBBBBBBB"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=1)


class Books:
    """A `Holding`, and a position to take from."""

    def __init__(self, *, redrive: bool = True, invalid_to: InvalidTo = InvalidTo.DELETE) -> None:
        self.holding = Holding("AWS", redrive=redrive, invalid_to=invalid_to)
        self.position = 0

    def receive(
        self,
        number: int,
        *texts: str,
        sent_at: datetime = NOON,
        receives: int = 1,
        fetched_at: datetime | None = None,
    ) -> Message:
        message = Message(f"m{number}", f"handle {number}", sent_at, receives, 100.0)
        assert self.holding.hold(message)
        self.holding.wait(Entry(message, text, fetched_at=fetched_at) for text in texts)
        return message

    def take(self, now: datetime = LATER) -> Item:
        item = self.holding.take(self.position, now)
        assert item is not None
        self.position += 1
        return item

    def settle(
        self, *items: Item, outcome: Outcome = Outcome.WRITTEN, code: str | None = None
    ) -> list[int | None]:
        settled = [Settled(item, outcome, code) for item in items]
        return [seconds for _, seconds in self.holding.settle(settled)]


def test_a_message_is_deleted_when_all_its_items_are_settled() -> None:
    books = Books()
    books.receive(1, A, B)
    first, second = books.take(), books.take()
    assert books.settle(second) == []
    assert books.holding.busy
    assert books.settle(first) == [None]
    assert not books.holding.busy


@pytest.mark.parametrize(
    ("outcome", "code", "receives", "expected"),
    [
        (Outcome.WRITTEN, None, 1, None),
        (Outcome.MISSING, None, 3, None),
        (Outcome.STALE, None, 1, None),
        (Outcome.FAILED, "InternalServerException", 1, FIRST_DELAY),
        (Outcome.FAILED, "InternalServerException", 2, 2 * FIRST_DELAY),
        (Outcome.FAILED, "InternalServerException", 3, 4 * FIRST_DELAY),
        (Outcome.FAILED, "UnreadableAnswer", 99, LONGEST_DELAY),
        # A removal that is held back is recorded; no message brings it further.
        (Outcome.FAILED, None, 1, None),
        (Outcome.FAILED, "ValidationException", 1, None),
        (Outcome.INVALID, "InvalidIdentifier", 1, None),
    ],
)
def test_what_becomes_of_a_message(
    outcome: Outcome, code: str | None, receives: int, expected: int | None
) -> None:
    books = Books()
    books.receive(1, A, receives=receives)
    assert books.settle(books.take(), outcome=outcome, code=code) == [expected]


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.INVALID, "X"), (Outcome.FAILED, "ValidationException")]
)
def test_poison_can_be_left_to_the_redrive_policy(outcome: Outcome, code: str) -> None:
    books = Books(invalid_to=InvalidTo.REDRIVE)
    books.receive(1, "no ID")
    assert books.settle(books.take(), outcome=outcome, code=code) == [0]


def test_one_failure_in_a_message_brings_all_of_it_back() -> None:
    books = Books()
    books.receive(1, A, B, "no ID")
    first, second, third = books.take(), books.take(), books.take()
    assert books.settle(first) == []
    assert books.settle(second, outcome=Outcome.FAILED, code="X") == []
    assert books.settle(third, outcome=Outcome.INVALID, code="InvalidIdentifier") == [FIRST_DELAY]


@pytest.mark.parametrize(
    ("receives", "expected"), [(MOST_RECEIVES - 1, LONGEST_DELAY), (MOST_RECEIVES, None)]
)
def test_without_a_redrive_policy_somebody_ends_it(receives: int, expected: int | None) -> None:
    books = Books(redrive=False)
    books.receive(1, A, receives=receives)
    assert books.settle(books.take(), outcome=Outcome.FAILED, code="X") == [expected]


def test_messages_that_were_sent_before_the_call_share_it() -> None:
    books = Books()
    books.receive(1, A)
    books.receive(2, A, sent_at=NOON + timedelta(seconds=30))
    first, second = books.take(LATER), books.take(LATER)
    assert (first.skip, second.skip) == (False, False)  # the ledger knows them for duplicates
    assert books.settle(first, second) == [None, None]


def test_a_message_of_after_the_call_waits_for_a_call_of_its_own() -> None:
    books = Books()
    books.receive(1, A)
    first = books.take(NOON)
    books.receive(2, A, sent_at=LATER)
    books.receive(3, B)
    assert books.take().identifier == B
    assert books.holding.take(9, LATER) is None
    assert books.settle(first) == [None]
    again = books.take(LATER + timedelta(minutes=1))
    assert (again.identifier, again.skip) == (A, False)


def test_a_message_that_the_queues_clock_has_sent_later_than_now_is_taken_at_once() -> None:
    books = Books()
    books.receive(1, A, sent_at=LATER)
    assert books.settle(books.take(NOON)) == [None]
    assert not books.holding.busy


@pytest.mark.parametrize(("sent", "waits"), [(0.5, True), (-0.5, True), (-1.5, False)])
def test_two_clocks_a_second_apart_lose_no_message(sent: float, waits: bool) -> None:  # noqa: FBT001  (a row of a table)
    books = Books()
    books.receive(1, A)
    books.take(LATER)
    books.receive(2, A, sent_at=LATER + timedelta(seconds=sent))
    assert (books.holding.take(1, LATER + timedelta(seconds=5)) is None) == waits


def test_a_message_waits_for_every_call_that_is_out_for_its_id() -> None:
    """An item that shares a call, but is handed on after that has come back, has a call of its own."""
    books = Books()
    books.receive(1, A)
    books.receive(2, A)
    first, shared = books.take(LATER), books.take(LATER)
    assert books.settle(first) == [None]
    books.receive(3, A, sent_at=LATER + timedelta(seconds=1))
    assert books.holding.take(2, LATER + timedelta(seconds=5)) is None
    assert books.settle(shared) == [None]
    assert books.take(LATER + timedelta(seconds=5)).identifier == A


def test_what_was_fetched_after_the_message_was_sent_needs_no_call() -> None:
    books = Books()
    books.receive(1, A, fetched_at=NOON + timedelta(seconds=2))
    books.receive(2, B)
    skipped, taken = books.take(), books.take()
    assert (skipped.skip, taken.skip) == (True, False)
    assert books.settle(skipped, outcome=Outcome.SKIPPED) == [None]
    books.settle(taken)
    books.receive(3, B, sent_at=NOON + timedelta(seconds=30))
    books.receive(4, B, sent_at=LATER + timedelta(seconds=30))
    assert books.take(LATER).skip  # fetched a minute after noon, by this very worker
    assert not books.take(LATER + timedelta(minutes=2)).skip


def test_what_failed_was_not_fetched() -> None:
    books = Books()
    books.receive(1, A)
    books.settle(books.take(), outcome=Outcome.FAILED, code="X")
    books.receive(2, A)
    assert not books.take().skip


def test_a_message_that_comes_again_while_it_is_held_brings_a_newer_handle() -> None:
    books = Books()
    message = books.receive(1, A)
    assert not books.holding.hold(Message("m1", "newer", NOON, 2, 200.0))
    assert (message.handle, message.receives, message.expires) == ("newer", 2, 200.0)
    books.take()
    assert books.holding.take(1, LATER) is None


def test_what_a_run_leaves_open_the_next_one_takes_first() -> None:
    books = Books()
    books.receive(1, A)
    books.receive(2, B)
    books.receive(3, A, sent_at=LATER + timedelta(hours=1))
    books.take()
    books.holding.recall()
    books.position = 0
    assert [books.take().identifier for _ in range(2)] == [A, B]


def test_what_others_could_see_soon_is_due() -> None:
    books = Books()
    message = books.receive(1, A)
    assert books.holding.due(100.0) == []
    assert books.holding.due(100.1) == [message]
    books.holding.let_go(message)
    assert books.holding.due(200.0) == []
