"""Outlasting an outage: with a sleep that only takes notes, and lets time pass."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import anyio
import anyio.lowlevel
import pytest

from syncer.answers import Answer, Failure, Missing
from syncer.identifiers import Item
from syncer.outage import FIRST_DELAY, IN_A_ROW, TRIES, Outlast
from syncer.outcomes import Outcome
from syncer.partner_central.errors import Denied, PartnerCentralError, Unreachable
from syncer.partner_central.turns import Exhausted

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Trial:
    """An API that is away while `away` says so, and what was made of it."""

    def __init__(self) -> None:
        self.away: PartnerCentralError | str | None = None
        self.calls: list[int] = []
        self.slept: list[float] = []
        self.told: list[str] = []
        outlast = Outlast(self._sleep, began=self.told.append, ended=lambda: self.told.append("over"))
        self.fetch: Callable[[Item], Awaitable[Answer]] = outlast.around(self._fetch)
        self.over_after = 3

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == self.over_after:
            self.away = None
        await anyio.lowlevel.checkpoint()

    async def _fetch(self, item: Item) -> Answer:
        self.calls.append(item.position)
        await anyio.lowlevel.checkpoint()
        if isinstance(self.away, PartnerCentralError):
            raise self.away
        if self.away is not None:
            return Failure(item, Outcome.FAILED, self.away, "", 6)
        return Missing(item, NOW)

    async def all(self, items: int) -> list[Answer]:
        answers: list[Answer] = []

        async def one(position: int) -> None:
            answers.append(await self.fetch(Item(position, f"pac-{position:013d}")))

        async with anyio.create_task_group() as tasks:
            for position in range(items):
                tasks.start_soon(one, position)
        return answers


@pytest.mark.parametrize("error", [Unreachable("X"), Exhausted("X"), Denied("ExpiredTokenException")])
async def test_one_at_a_time_tries_until_it_is_over(error: PartnerCentralError) -> None:
    trial = Trial()
    await trial.all(1)
    trial.away = error
    answers = await trial.all(8)
    assert all(isinstance(answer, Missing) for answer in answers)
    assert len(answers) == 8
    assert trial.slept == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert trial.told == [str(error), "over"]
    # One before, all once, and one at a time until it was over; then all that had not come through yet.
    assert len(trial.calls) == 1 + 8 + len(trial.slept) + 7


async def test_who_was_never_let_in_hears_of_it() -> None:
    trial = Trial()
    trial.away = Denied("AccessDeniedException")
    with pytest.raises(Denied):
        await trial.fetch(Item(0, "pac-0000000000000"))
    assert trial.told == []


async def test_calls_that_fail_for_everybody_are_an_outage() -> None:
    trial = Trial()
    trial.away = "InternalServerException"
    answers = await trial.all(3 * IN_A_ROW)
    failed = [answer for answer in answers if isinstance(answer, Failure)]
    assert len(failed) == IN_A_ROW
    assert len(answers) == 3 * IN_A_ROW
    assert trial.told == ["call after call fails: InternalServerException", "over"]


async def test_a_few_that_fail_are_to_blame_themselves() -> None:
    trial = Trial()
    trial.away = "UnreadableAnswer"
    answers = await trial.all(IN_A_ROW)
    assert all(isinstance(answer, Failure) for answer in answers)
    assert trial.told == []


async def test_many_that_fail_by_themselves_come_to_an_end() -> None:
    trial = Trial()
    trial.away, trial.over_after = "UnreadableAnswer", 10_000
    answers = await trial.all(IN_A_ROW + 3)
    assert len(answers) == IN_A_ROW + 3
    assert all(isinstance(answer, Failure) for answer in answers)
    assert len(trial.slept) == 3 * TRIES
    assert trial.told[-1] == "over"
