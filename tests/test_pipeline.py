"""The tasks of a run, around a fetch and a write that do what the test needs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime

import anyio
import pytest

from syncer.answers import Answer, Failure, Missing
from syncer.exits import Exit
from syncer.identifiers import Item
from syncer.ledger import Ledger
from syncer.outcomes import Outcome
from syncer.partner_central.errors import Denied, Unreachable
from syncer.pipeline import Pipeline
from syncer.sources.files import InputError
from syncer.stopping import Ending, Stop, Stopped
from syncer.store.database import DatabaseUnavailable
from tests.conftest import PATIENCE

NOW = datetime(2026, 1, 2, tzinfo=UTC)
STOP = Ending("interrupted", Exit.TERMINATED, "stopped by SIGTERM")


def number(item: Item) -> int:
    return int(item.identifier.removeprefix("pac-"))


async def first(items: int, then: Exception | None = None) -> AsyncIterator[Item]:
    for at in range(items):
        yield Item(at, f"pac-{at:013}")
    if then:
        raise then


class Run:
    """A run, with all that happened in it.

    items: a source, or how many IDs from 0 on.

    fetch, write: may wait, raise or look around before the answer is given, or the batch settled.
    """

    def __init__(
        self, items: int | AsyncIterator[Item], *, concurrency: int = 4, batch_size: int = 10
    ) -> None:
        self.ledger = Ledger()
        self.stop = Stop()
        self.batches: list[list[int]] = []
        self.fetched: list[int] = []
        self.under_way = self.most_under_way = self.most_ahead = 0
        self._changed = anyio.Event()
        self.fetch: Callable[[int], Awaitable[None]] = self.at_once
        self.write: Callable[[list[int]], Awaitable[None]] = self.at_once
        self._items = first(items) if isinstance(items, int) else items
        self.pipeline = Pipeline(
            source=self._source(),
            fetch=self._fetch,
            write=self._write,
            ledger=self.ledger,
            stop=self.stop,
            concurrency=concurrency,
            batch_size=batch_size,
        )

    async def __call__(self) -> None:
        with anyio.fail_after(PATIENCE):
            await self.pipeline.run()
        self.ledger.release()
        assert self.ledger.tally.adds_up

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE):
            while not condition():
                await self._changed.wait()

    def changed(self) -> None:
        """Let whoever waits for a condition look again."""
        before, self._changed = self._changed, anyio.Event()
        before.set()

    @property
    def written(self) -> list[int]:
        return [at for batch in self.batches for at in batch]

    def count(self, outcome: Outcome) -> int:
        return self.ledger.tally[outcome]

    async def at_once(self, _: object) -> None:
        await anyio.lowlevel.checkpoint()

    async def _source(self) -> AsyncIterator[Item]:
        async for item in self._items:
            yield item
            self.most_ahead = max(self.most_ahead, self.ledger.ahead)
            self.changed()

    async def _fetch(self, item: Item) -> Answer:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.fetched.append(number(item))
        self.changed()
        try:
            await self.fetch(number(item))
        except ValueError as error:
            return Failure(item, Outcome.FAILED, "Failed", str(error), 1)
        finally:
            self.under_way -= 1
        return Missing(item, NOW)

    async def _write(self, answers: Sequence[Answer]) -> None:
        batch = [number(answer.item) for answer in answers]
        await self.write(batch)
        outcomes = [answer.outcome if isinstance(answer, Failure) else Outcome.WRITTEN for answer in answers]
        self.ledger.settle(self.ledger.settlement(answers, outcomes, len(answers)))
        self.batches.append(batch)
        self.changed()


async def test_everything_is_fetched_once_and_written_once() -> None:
    run = Run(1003)
    await run()
    assert sorted(run.fetched) == sorted(run.written) == list(range(1003))
    assert (run.count(Outcome.WRITTEN), run.ledger.checkpoint) == (1003, 1003)


async def test_nothing_to_read_ends_at_once() -> None:
    run = Run(0)
    await run()
    assert (run.batches, run.ledger.tally.read) == ([], 0)


async def test_a_batch_is_written_when_it_is_full() -> None:
    run = Run(40, concurrency=40, batch_size=10)
    first = anyio.Event()

    async def write(_: list[int]) -> None:
        first.set()
        # All others are waiting by now: they come in full batches.
        await anyio.wait_all_tasks_blocked()

    run.write = write
    await run()
    assert [len(batch) for batch in run.batches] == [10, 10, 10, 10]


async def test_a_batch_is_written_when_its_oldest_answer_has_waited_long_enough() -> None:
    run = Run(5, concurrency=5, batch_size=500)

    async def fetch(at: int) -> None:
        if at == 4:
            # It does not come before the others are committed, although a batch has room for it.
            await run.until(lambda: run.written != [])

    run.fetch = fetch
    await run()
    assert [sorted(batch) for batch in run.batches] == [[0, 1, 2, 3], [4]]


async def test_calls_go_out_side_by_side_and_no_more_than_allowed() -> None:
    run = Run(20, concurrency=7)

    async def fetch(at: int) -> None:
        if at < 7:
            await anyio.wait_all_tasks_blocked()

    run.fetch = fetch
    await run()
    assert run.most_under_way == 7


@pytest.mark.parametrize("held", ["by the writer", "by one slow call"])
async def test_reading_stays_within_a_window_of_the_checkpoint(held: str) -> None:
    window = 4 + 2 * 10
    run = Run(100, concurrency=4, batch_size=10)

    async def wait_for_the_others(_: object) -> None:
        await anyio.wait_all_tasks_blocked()

    def full() -> bool:
        assert run.ledger.ahead <= window
        return sorted(run.written) == [0, 1, 2, *range(4, 3 + window)]

    async def one_is_slow(at: int) -> None:
        if at == 3:
            # The others go on until the window is full, are written, and wait for this one.
            await run.until(full)
            await anyio.wait_all_tasks_blocked()
            assert (run.ledger.checkpoint, run.ledger.ahead) == (3, window)

    if held == "by the writer":
        run.write = wait_for_the_others
    else:
        run.fetch = one_is_slow
    await run()
    assert run.most_ahead == window
    assert run.count(Outcome.WRITTEN) == 100


async def test_one_failure_leaves_its_siblings_alone() -> None:
    run = Run(50)

    async def fetch(at: int) -> None:
        if at % 10 == 3:
            raise ValueError(at)
        await anyio.lowlevel.checkpoint()

    run.fetch = fetch
    await run()
    assert (run.count(Outcome.WRITTEN), run.count(Outcome.FAILED)) == (45, 5)


async def test_a_problem_or_a_skip_needs_no_call_and_a_duplicate_no_second_one() -> None:
    async def source() -> AsyncIterator[Item]:
        yield Item(0, "pac-1")
        yield Item(1, "pac-2", "no ID")
        yield Item(2, "pac-1")
        yield Item(3, "pac-3", skip=True)

    run = Run(source())

    async def fetch(_: int) -> None:
        await run.until(lambda: run.ledger.tally.read == 4)

    run.fetch = fetch
    await run()
    assert run.fetched == [1]
    assert {outcome for outcome in Outcome for _ in range(run.count(outcome))} == {
        Outcome.WRITTEN, Outcome.DUPLICATE, Outcome.INVALID, Outcome.SKIPPED,
    }  # fmt: skip
    assert (run.ledger.tally.read, run.ledger.checkpoint) == (4, 4)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(Denied("AccessDeniedException"), Exit.DENIED), (Unreachable("ConnectTimeoutError"), Exit.LATER)],
)
async def test_an_error_about_the_run_stops_it_and_blames_no_item(error: Exception, exit_code: Exit) -> None:
    run = Run(10_000)

    async def fetch(at: int) -> None:
        if at >= 20:
            raise error
        await anyio.lowlevel.checkpoint()

    run.fetch = fetch
    await run()
    assert run.stop.ending is not None
    assert (run.stop.ending.status, run.stop.ending.exit) == ("aborted", exit_code)
    # What was answered before is kept.
    assert (run.count(Outcome.WRITTEN), run.count(Outcome.FAILED)) == (20, 0)
    assert run.count(Outcome.RELEASED) == run.ledger.tally.read - 20 < 100


async def test_a_database_that_fails_stops_the_run_and_nothing_counts_as_settled() -> None:
    run = Run(10_000)

    async def write(_: list[int]) -> None:
        if len(run.batches) == 2:
            raise DatabaseUnavailable("the database does not answer")
        await anyio.lowlevel.checkpoint()

    run.write = write
    await run()
    assert run.stop.ending == Ending("aborted", Exit.LATER, "the database does not answer")
    settled = len(run.written)
    assert run.count(Outcome.WRITTEN) == run.ledger.tally.settled == settled
    assert run.count(Outcome.RELEASED) == run.ledger.tally.read - settled > 0


async def test_a_stop_finishes_what_is_in_flight_and_reads_nothing_more() -> None:
    run = Run(10_000, concurrency=4)

    async def fetch(at: int) -> None:
        if at == 50:
            run.stop.ask(STOP)
        if at >= 47:
            await anyio.wait_all_tasks_blocked()

    run.fetch = fetch
    await run()
    assert run.stop.ending == STOP
    # The four that were out are answered and written; one more may have been handed over already.
    assert 51 <= run.count(Outcome.WRITTEN) == len(run.fetched) <= 54
    assert run.count(Outcome.RELEASED) == run.ledger.tally.read - len(run.fetched) <= 2


async def test_a_stop_ends_the_wait_for_a_silent_source() -> None:
    async def source() -> AsyncIterator[Item]:
        yield Item(0, f"pac-{0:013}")
        await anyio.sleep_forever()

    run = Run(source())
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await run.until(lambda: run.batches == [[0]])
            run.stop.ask(STOP)
    assert run.count(Outcome.WRITTEN) == run.ledger.tally.read == 1


async def test_a_call_that_does_not_end_is_released_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncer.pipeline.FETCH_GRACE", 0.05)
    run = Run(3)

    async def fetch(at: int) -> None:
        if at == 1:
            await anyio.sleep_forever()
        if at == 2:
            raise Stopped

    run.fetch = fetch
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await run.until(lambda: run.batches == [[0]])
            run.stop.ask(STOP)
    assert (run.count(Outcome.WRITTEN), run.count(Outcome.RELEASED), run.ledger.checkpoint) == (1, 2, 1)


async def test_a_write_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncer.pipeline.WRITE_GRACE", 0.05)
    run = Run(30)
    writing = anyio.Event()

    async def write(_: list[int]) -> None:
        writing.set()
        await anyio.sleep_forever()

    run.write = write
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await writing.wait()
            run.stop.ask(STOP)
    assert (run.ledger.tally.settled, run.ledger.checkpoint) == (0, 0)
    assert run.count(Outcome.RELEASED) == run.ledger.tally.read > 0


async def test_input_that_turns_bad_ends_the_run_after_what_came_before() -> None:
    run = Run(first(25, then=InputError("ids.gz: its gzip data ends in the middle")))
    await run()
    assert run.stop.ending == Ending("aborted", Exit.USAGE, "ids.gz: its gzip data ends in the middle")
    assert run.count(Outcome.WRITTEN) == 25
