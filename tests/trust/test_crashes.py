"""`kill -9` at chosen points and at any moment, started again until done; then the ledger. See `crashes`.

SYNCER_CRASH_SEEDS says how many seeds are tried; whatever fails names its own.
"""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.trust.crashes import AGAIN, POINTS, Ground, Kill, Trial, crash, ground

SEEDS = int(os.environ.get("SYNCER_CRASH_SEEDS", "200"))
# A trial waits more than it works, so each of pytest's processes has some side by side.
PER_TEST, AT_ONCE = 10, 3

CHUNKS = [range(first, min(first + PER_TEST, SEEDS)) for first in range(0, SEEDS, PER_TEST)]
NAMED = [(kind, point) for kind, points in POINTS.items() for point in points]
# A migration begins to matter with its second statement.
AMID = {"migrating": 5}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def on(server_url: str) -> AsyncIterator[Ground]:
    async with ground(server_url) as made:
        yield made


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
async def test_killed_again_and_again_nothing_is_lost(on: Ground, seeds: range) -> None:
    failed = await crash(on, seeds, AT_ONCE)
    assert not failed, "\n".join(f"{AGAIN} {seed}\n{what}" for seed, what in failed.items())


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(("kind", "point"), NAMED, ids=[" ".join(each) for each in NAMED])
async def test_killed_at_this_very_point_nothing_is_lost(on: Ground, kind: str, point: str) -> None:
    trial = Trial(on, 7, kind, Kill(point, AMID.get(point, 1)))
    try:
        await trial.run()
    except AssertionError as error:
        error.add_note(trial.told_by_the_lives())
        raise
    assert trial.struck, "the program did not pass that point"
    trial.clear()
