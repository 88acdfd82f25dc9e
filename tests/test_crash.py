"""`kill -9` at any moment loses nothing: restarted until done, the tables are what is served."""

import asyncio
import random

import pytest

from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults
from tests.conftest import Program, ids_file, rows, served
from tests.test_listing import assert_history_is_whole
from tests.test_sync import assert_in_step

WHOLE = """
    SELECT count(*) FROM connection AS c
    WHERE NOT EXISTS (SELECT FROM connection_type AS t WHERE t.connection_id = c.id)
"""
# A run's checkpoint never claims more than is there.
HONEST = "SELECT max(checkpoint) <= (SELECT count(*) FROM connection) FROM sync_run"


@pytest.mark.parametrize("seed", range(5))
async def test_killed_at_random_moments_and_restarted_nothing_is_lost(
    program: Program, database_url: str, seed: int
) -> None:
    dice = random.Random(seed)
    population = Population(2500, seed=seed)
    ids = ids_file(program.folder, population)
    async with served(program, population, Faults(latency=0.01, error_rate=0.02, cut_rate=0.01)):
        for _ in range(4):
            process = await program.start("sync", ids, "--resume", "--batch-size", "50")
            try:
                # The moment is the point here, not a wait for anything.
                await asyncio.wait_for(process.wait(), dice.uniform(0.9, 2.5))
            except TimeoutError:
                process.kill()
                await process.wait()
            assert rows(database_url, WHOLE) == [(0,)]
            assert rows(database_url, HONEST) in ([(True,)], [(None,)])
        done = await program("sync", ids, "--resume", "--json")
    assert done.exit == 0, done.stderr
    assert_in_step(database_url, population)
    assert_history_is_whole(database_url)
