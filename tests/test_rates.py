"""The learned rate in a real Postgres: kept for the next run, shared between workers, in nobody's way."""

import math
from collections.abc import AsyncIterator

import anyio
import pytest

from syncer.partner_central.pacing import Pacer, Report, Share
from syncer.partner_central.population import Population
from syncer.partner_central.simulator import GET, Faults
from syncer.sharing import shared
from syncer.store.pool import Pool
from syncer.store.rates import Rates
from syncer.store.writer import Scope
from tests.conftest import Program, Recording, ids_file, rows, served, until

SCOPE = Scope("run", "111122223333", "AWS")


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Recording]:
    async with Recording(database_url) as pool:
        yield pool


def report(worker: str, *, quota: float | None = None, leaving: bool = False) -> Report:
    return Report(worker, quota, 0.0, 0, None, 0, None, leaving)


async def test_what_one_has_learned_the_next_one_starts_from(pool: Pool) -> None:
    rates = Rates(pool, SCOPE)
    assert await rates.exchange({GET: report("a")}) == {GET: None}
    await rates.exchange({GET: report("a", quota=40.0, leaving=True)})
    assert rows_of(pool) == [(GET, 40.0)]
    pacer = Pacer()
    async with shared(rates, {GET: pacer}):
        assert pacer.quota is not None
        assert pacer.quota <= 40.0
        assert pacer.rate < 40.0
    other = Rates(pool, Scope("run", "111122223333", "Sandbox"))
    assert await other.exchange({GET: report("a")}) == {GET: None}


async def test_parts_of_all_workers_together_are_no_more_than_the_rate(pool: Pool) -> None:
    rates = Rates(pool, SCOPE)
    await rates.exchange({GET: report("first", quota=40.0)})
    found: dict[str, float] = {}

    async def worker(name: str) -> None:
        for _ in range(6):
            share = (await Rates(pool, SCOPE).exchange({GET: report(name)}))[GET]
            assert isinstance(share, Share)
            found[name] = share.quota

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(worker, f"w{number}")
    await rates.exchange({GET: report("first", leaving=True)})
    for number in range(4):
        await worker(f"w{number}")
    for number in range(4):
        await worker(f"w{number}")
    assert math.isclose(sum(found.values()), 40.0, rel_tol=0.05)
    assert max(found.values()) / min(found.values()) < 1.3


async def test_an_exchange_is_two_statements_and_holds_no_transaction(pool: Recording) -> None:
    await Rates(pool, SCOPE).exchange({GET: report("a", quota=10.0), "ListConnections": report("a")})
    assert [statement.split()[0] for statement, _ in pool.asked] == ["SELECT", "INSERT"]
    held = (
        "SELECT count(*) FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
        " WHERE relname = 'request_rate' AND pid <> pg_backend_pid()"
    )
    assert rows(pool.url, held) == [(0,)]


async def test_a_database_that_is_gone_leaves_each_with_its_last_share(pool: Recording) -> None:
    rates = Rates(pool, SCOPE)
    await rates.exchange({GET: report("a", quota=30.0, leaving=True)})
    pacer = Pacer()
    async with shared(rates, {GET: pacer}):
        share = pacer.quota
        async with pool.connection() as connection:
            await connection.execute("ALTER TABLE request_rate RENAME TO gone")
        pool.asked.clear()
        await until(lambda: len(pool.asked) >= 2)
        assert pacer.quota == share


async def test_the_program_keeps_what_it_has_learned(program: Program, database_url: str) -> None:
    population = Population(200, seed=95)
    # Its bucket holds a second's worth, as at most services: where it is less the first estimate is low.
    async with served(program, population, Faults(rate=50, latency=0.01)):
        cold = await program("sync", ids_file(program.folder, population), "--json")
        warm = await program("sync", ids_file(program.folder, population), "--json")
    assert (cold.exit, cold.result["written"]) == (0, 200), cold.stderr
    assert (warm.exit, warm.result["unchanged"]) == (0, 200), warm.stderr
    assert cold.result["failed"] == warm.result["failed"] == 0
    ((rate,),) = rows(database_url, "SELECT rate FROM request_rate WHERE operation = 'GetConnection'")
    assert 25 < rate < 75
    status = await program("status", "--json")
    assert [each["rate"] for each in status.result["rates"] if each["operation"] == GET] == [rate]


def rows_of(pool: Pool) -> list[tuple[object, ...]]:
    return rows(pool.url, "SELECT operation, rate FROM request_rate")
