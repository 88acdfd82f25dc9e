"""The books: whatever is read and settled in whatever order, they add up and never run ahead."""

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from syncer.answers import Answer, Failure, Missing
from syncer.identifiers import Item
from syncer.ledger import Ledger, Settlement
from syncer.outcomes import Outcome, Tally

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def item(position: int, identifier: str = "", problem: str | None = None) -> Item:
    return Item(position, identifier or f"id {position}", problem)


def missing(of: Item) -> Answer:
    return Missing(of, NOW)


def settle(
    ledger: Ledger, items: list[Item], outcome: Outcome = Outcome.WRITTEN, rows: int = 0
) -> Settlement:
    settlement = ledger.settlement([missing(each) for each in items], [outcome] * len(items), rows)
    ledger.settle(settlement)
    return settlement


def test_the_sum_rule() -> None:
    tally = Tally()
    tally.read = 3
    tally.add(Outcome.WRITTEN)
    tally.merge(Counter({Outcome.INVALID: 1}))
    before = tally.adds_up
    tally.add(Outcome.RELEASED)
    assert (before, tally.adds_up) == (False, True)
    assert tally.settled == 2
    assert tally.as_dict() == dict.fromkeys(["read", *Outcome], 0) | {
        "read": 3, "written": 1, "invalid": 1, "released": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settled", "checkpoint"),
    [
        ([], 0),
        ([0], 1),
        ([1], 0),
        ([1, 0], 2),
        ([3, 1, 0], 2),
        ([4, 3, 2, 1, 0], 5),
    ],
)
def test_the_checkpoint_stops_before_the_first_unsettled_item(settled: list[int], checkpoint: int) -> None:
    ledger = Ledger()
    items = [item(position) for position in range(5)]
    for each in items:
        assert ledger.read(each)
    committed = 0
    for position in settled:
        committed = settle(ledger, [items[position]]).checkpoint
    assert ledger.checkpoint == committed == checkpoint
    assert ledger.ahead == 5 - checkpoint


def test_nothing_is_true_before_the_commit() -> None:
    ledger = Ledger()
    one = item(0)
    ledger.read(one)
    settlement = ledger.settlement([missing(one)], [Outcome.WRITTEN], 4)
    assert (ledger.checkpoint, ledger.rows_written, ledger.tally[Outcome.WRITTEN]) == (0, 0, 0)
    # But it is what the commit itself writes.
    committed = ledger.standing(settlement)
    assert (committed["written"], committed["rows_written"], committed["checkpoint"]) == (1, 4, 1)
    ledger.settle(settlement)
    assert ledger.standing() == committed
    assert (ledger.checkpoint, ledger.rows_written, ledger.tally[Outcome.WRITTEN]) == (1, 4, 1)


def test_one_call_serves_all_that_wait_for_the_same_id() -> None:
    ledger = Ledger()
    first, second, third = (item(position, "same") for position in range(3))
    assert [ledger.read(each) for each in (first, second, third)] == [True, False, False]
    assert [each.item for each in settle(ledger, [first]).done] == [first, second, third]
    assert (ledger.tally[Outcome.WRITTEN], ledger.tally[Outcome.DUPLICATE]) == (1, 2)
    # Settled is no longer in flight: the next one is fetched again.
    assert ledger.read(item(3, "same"))


def test_what_is_read_during_the_commit_is_served_by_the_same_call() -> None:
    ledger = Ledger()
    first, late = item(0, "same"), item(1, "same")
    ledger.read(first)
    settlement = ledger.settlement([missing(first)], [Outcome.WRITTEN], 1)
    assert not ledger.read(late)
    # What is committed knows nothing of it, what is told after the commit does: it is acknowledged then.
    assert [each.item for each in settlement.done] == [first]
    assert [each.item for each in ledger.settle(settlement).done] == [first, late]
    assert (ledger.tally[Outcome.WRITTEN], ledger.tally[Outcome.DUPLICATE], ledger.checkpoint) == (1, 1, 2)
    assert (ledger.tally.adds_up, ledger.in_flight) == (True, 0)


def test_two_bad_lines_are_never_the_same() -> None:
    ledger = Ledger()
    assert ledger.read(item(0, "x", "no ID"))
    assert ledger.read(item(1, "x", "no ID"))


def test_a_resumed_run_starts_at_its_checkpoint() -> None:
    ledger = Ledger(start=100)
    ledger.read(item(100))
    assert (ledger.checkpoint, ledger.ahead) == (100, 1)
    settle(ledger, [item(100)])
    assert (ledger.checkpoint, ledger.ahead) == (101, 0)


def test_what_is_skipped_is_settled_at_once() -> None:
    ledger = Ledger()
    ledger.skip(item(0))
    assert (ledger.checkpoint, ledger.ahead, ledger.tally[Outcome.SKIPPED]) == (1, 0, 1)
    assert ledger.tally.adds_up


def test_removals_held_back_get_their_outcome_once() -> None:
    ledger = Ledger()
    items = [item(0), item(1)]
    for each in items:
        ledger.read(each)
    ledger.settle(ledger.settlement([missing(each) for each in items], [Outcome.FAILED] * 2, 0, held=2))
    assert ledger.held == 2
    ledger.settle(ledger.confirmation([Outcome.MISSING, Outcome.MISSING], 2))
    assert (ledger.tally[Outcome.MISSING], ledger.tally[Outcome.FAILED], ledger.held) == (2, 0, 0)
    assert (ledger.rows_written, ledger.checkpoint, ledger.tally.adds_up) == (2, 2, True)


class Books(RuleBasedStateMachine):
    """A run that reads and settles as it happens to, and a model of it that forgets nothing."""

    @initialize(start=st.integers(0, 5))
    def begin(self, start: int) -> None:
        self.start = start
        self.ledger = Ledger(start)
        self.next = start
        self.open: dict[int, Item] = {}
        self.settled: set[int] = set()
        self.called: list[Item] = []

    @rule(name=st.sampled_from("abc"), bad=st.booleans())
    def read(self, name: str, bad: bool) -> None:  # noqa: FBT001  (Hypothesis passes by keyword)
        this = item(self.next, name, "no ID" if bad else None)
        self.next += 1
        alike = [each for each in self.called if not bad and (each.identifier, each.problem) == (name, None)]
        assert self.ledger.read(this) == (not alike)
        self.open[this.position] = this
        if not alike:
            self.called.append(this)

    @rule()
    def skip(self) -> None:
        self.ledger.skip(item(self.next))
        self.settled.add(self.next)
        self.next += 1

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """A batch of whatever calls have answered, in whatever order."""
        if not self.called:
            return
        batch = data.draw(st.lists(st.sampled_from(self.called), unique=True, min_size=1))
        outcomes = data.draw(
            st.lists(
                st.sampled_from([Outcome.WRITTEN, Outcome.FAILED]), min_size=len(batch), max_size=len(batch)
            )
        )
        answers: list[Answer] = [
            Failure(each, outcome, "", "", 1) if outcome == Outcome.FAILED else Missing(each, NOW)
            for each, outcome in zip(batch, outcomes, strict=True)
        ]
        settlement = self.ledger.settlement(answers, outcomes, len(batch))
        for name in data.draw(st.lists(st.sampled_from("abc"), max_size=2)):
            self.read(name, bad=False)  # while it is being committed
        if data.draw(st.booleans()):
            return  # its commit failed
        settlement = self.ledger.settle(settlement)
        for each in settlement.done:
            self.settled.add(self.open.pop(each.item.position).position)
        self.called = [each for each in self.called if each not in batch]
        assert settlement.checkpoint <= self.ledger.checkpoint

    @invariant()
    def the_checkpoint_is_the_first_unsettled(self) -> None:
        if hasattr(self, "ledger"):
            assert self.ledger.checkpoint == min(self.open, default=self.next)
            assert self.ledger.ahead == self.next - self.ledger.checkpoint

    @invariant()
    def whatever_is_not_open_is_counted(self) -> None:
        if hasattr(self, "ledger"):
            assert self.ledger.tally.read == self.next - self.start
            assert self.ledger.tally.settled == len(self.settled)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            assert {each.position for each in self.ledger.release()} == set(self.open)
            assert self.ledger.tally.adds_up
            assert self.ledger.tally[Outcome.RELEASED] == len(self.open)
            assert not self.ledger.release()


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
