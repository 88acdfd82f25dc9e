"""The retry policy, with a sleep that only takes notes."""

import asyncio

import pytest

from syncer.partner_central.errors import (
    Denied,
    NotFound,
    PartnerCentralError,
    Rejected,
    Throttled,
    Transient,
    Unreachable,
)
from syncer.partner_central.retry import Retrying
from syncer.stopping import Stopped


class Trial:
    """A call that fails as `errors` say, then answers; and what became of it."""

    def __init__(self, *errors: PartnerCentralError, attempts: int = 3) -> None:
        self.calls = 0
        self.slept: list[float] = []
        self.noticed: list[PartnerCentralError] = []
        self._errors = iter(errors)
        self.retrying = Retrying(attempts, self.sleep, self.noticed.append)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def call(self) -> str:
        self.calls += 1
        for error in self._errors:
            raise error
        return "answer"

    async def __call__(self) -> str:
        return await self.retrying(self.call)


T, X, U = Throttled("T"), Transient("X"), Unreachable("U")


@pytest.mark.parametrize(
    ("errors", "attempts", "calls"),
    [
        ([], 1, 1),
        ([X], 2, 2),
        ([X, U], 3, 3),
        ([T], 1, 2),
        ([T] * 50, 1, 51),
        ([T, X, T, T, U, T], 3, 7),
        ([X, T, T, T, X], 3, 6),
    ],
)
async def test_it_tries_until_there_is_an_answer(
    errors: list[PartnerCentralError], attempts: int, calls: int
) -> None:
    trial = Trial(*errors, attempts=attempts)
    assert await trial() == "answer"
    assert trial.calls == calls
    assert trial.noticed == errors


@pytest.mark.parametrize(
    ("errors", "attempts", "calls"),
    [
        ([X], 1, 1),
        ([X, X], 2, 2),
        ([X, U, X], 3, 3),
        # A throttled call costs no attempt, wherever it stands.
        ([T, T, X, T, X], 2, 5),
        ([X, T, T, T, X], 2, 5),
    ],
)
async def test_attempts_are_used_up_by_failures_alone(
    errors: list[PartnerCentralError], attempts: int, calls: int
) -> None:
    trial = Trial(*errors, attempts=attempts)
    with pytest.raises(Transient) as raised:
        await trial()
    assert raised.value is errors[-1]
    assert trial.calls == calls
    # The last one is not about to be retried.
    assert trial.noticed == errors[:-1]


@pytest.mark.parametrize(
    "final", [NotFound("N"), Rejected("R"), Denied("D"), Stopped(), RuntimeError("a bug")]
)
@pytest.mark.parametrize("before", [[], [X], [T], [X, T]])
async def test_what_is_final_is_not_tried_again(before: list[PartnerCentralError], final: Exception) -> None:
    trial = Trial(*before, final)  # type: ignore[arg-type]  # any exception may come
    with pytest.raises(type(final)):
        await trial()
    assert trial.calls == len(before) + 1


async def test_the_waits_double_at_most_and_vary() -> None:
    slept = [trial.slept for trial in [Trial(*[X] * 9, attempts=10) for _ in range(50)] if await trial()]
    for waits in slept:
        assert all(0 <= wait <= min(20, 0.25 * 2**before) for before, wait in enumerate(waits))
    assert all(len(set(column)) > 1 for column in zip(*slept, strict=True))


async def test_throttling_waits_for_the_pacer_not_here() -> None:
    trial = Trial(T, T, T)
    await trial()
    assert sum(trial.slept) == 0


async def test_a_stopping_run_waits_no_longer() -> None:
    async def sleep(_: float) -> None:
        raise Stopped

    trial = Trial(X)
    with pytest.raises(Stopped):
        await Retrying(3, sleep, trial.noticed.append)(trial.call)
    assert trial.calls == 1


async def test_calls_at_once_do_not_share_their_attempts() -> None:
    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    retrying = Retrying(3, sleep, lambda _: None)

    async def call(failing: int) -> str:
        errors = iter([X, T] * failing)

        async def once() -> str:
            await asyncio.sleep(0)
            for error in errors:
                raise error
            return "answer"

        return await retrying(once)

    ends = await asyncio.gather(*[call(at % 4) for at in range(40)], return_exceptions=True)
    assert ends == ["answer", "answer", "answer", X] * 10
