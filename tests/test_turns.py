"""Taking turns: each call waits for the pacer, and what became of it is told to the pacer."""

from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from syncer.exits import Exit
from syncer.partner_central.errors import NotFound, Throttled, Transient
from syncer.partner_central.pacing import Pacer
from syncer.partner_central.turns import Exhausted, Turns
from syncer.stopping import Ending, Stop, Stopped


class Told(Pacer):
    """A pacer that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(known=1000.0)
        self.events: list[str] = []

    def served(self, now: float, asked: float) -> None:
        self.events.append("served")
        super().served(now, asked)

    def throttled(self, now: float, asked: float) -> None:
        self.events.append("throttled")
        super().throttled(now, asked)

    def failed(self, now: float, asked: float) -> None:
        self.events.append("failed")
        super().failed(now, asked)


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (None, "served"),
        (NotFound("ResourceNotFoundException"), "served"),  # an answer, and it took from the quota
        (Throttled("ThrottlingException"), "throttled"),
        (Transient("InternalServerException"), "failed"),
    ],
)
async def test_the_pacer_hears_what_became_of_each_call(error: Exception | None, event: str) -> None:
    pacer = Told()

    async def call() -> str:
        if error is not None:
            raise error
        return "answer"

    if error is None:
        assert await Turns(pacer, anyio.sleep)(call) == "answer"
    else:
        with pytest.raises(type(error)):
            await Turns(pacer, anyio.sleep)(call)
    assert pacer.events == [event]


async def throttled() -> None:
    raise Throttled("ThrottlingException", "Rate exceeded")


class AtOnce(Pacer):
    """A pacer that lets everybody go at once: then nobody waits but for the service."""

    def turn(self, now: float) -> float:  # noqa: ARG002
        return 0.0


async def until_exhausted(turns: Turns, seconds: float = 30.0) -> None:
    began = anyio.current_time()
    while anyio.current_time() - began < seconds:
        with suppress(Throttled):
            await turns(throttled)


async def test_a_quota_that_serves_nobody_ends_the_waiting_and_says_when_to_come_back() -> None:
    with pytest.raises(Exhausted, match=r"no call was served for 0 s: .* try again after \d\d:\d\d UTC"):
        await until_exhausted(Turns(AtOnce(), anyio.sleep, patience=0.05))


async def test_one_call_served_and_the_patience_begins_anew() -> None:
    turns = Turns(AtOnce(), anyio.sleep, patience=0.5)
    for _ in range(4):
        await until_exhausted(turns, seconds=0.2)
        await turns(anyio.lowlevel.checkpoint)


async def test_a_stop_ends_the_waiting_in_line() -> None:
    stop = Stop()
    turns = Turns(Pacer(known=0.5), stop.sleep)
    stopped = 0

    async def wait() -> None:
        nonlocal stopped
        try:
            while True:
                await turns(anyio.lowlevel.checkpoint)
        except Stopped:
            stopped += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        stop.ask(Ending("interrupted", Exit.INTERRUPTED, ""))
    assert stopped == 5
