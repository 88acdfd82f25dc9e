"""Four workers that are killed while they drain a queue. See `fleet`."""

from tests.trust.crashes import ground
from tests.trust.fleet import AGAIN, Fleet, Plan

PLAN = Plan(messages=400, rate=100.0, kills=2, life=(0.8, 3.0))


async def test_workers_that_are_killed_lose_nothing_and_do_little_twice(server_url: str) -> None:
    async with ground(server_url) as on:
        try:
            figures = await Fleet(on, PLAN).run()
        except AssertionError as error:
            error.add_note(
                f"{AGAIN} {PLAN.seed} --messages {PLAN.messages} --rate {PLAN.rate} --kills {PLAN.kills}"
            )
            raise
    assert figures.kills >= 1
