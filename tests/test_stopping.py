"""Ending early: signals, time limits, an API or a database that is gone. The books add up in any case."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from syncer.partner_central.population import Population
from syncer.partner_central.simulator import LIST, Faults
from tests.conftest import PATIENCE, Finished, Program, finished, ids_file, rows, served, until
from tests.test_sync import OUTCOMES, assert_in_step

STARTED = "SELECT max(checkpoint) > 0 FROM sync_run"


def assert_books(done: Finished, url: str) -> None:
    """The sum adds up, the run's row says the same, and all below the checkpoint is in the tables."""
    result = done.result
    assert result["read"] == sum(result[outcome] for outcome in OUTCOMES)
    ((status, released, checkpoint, settled),) = rows(
        url,
        "SELECT status, released, checkpoint, read - released FROM sync_run ORDER BY started_at DESC LIMIT 1",
    )
    assert (status, released) == (result["status"], result["released"])
    assert checkpoint <= settled <= rows(url, "SELECT count(*) FROM connection")[0][0]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_a_run_in_order(
    program: Program, database_url: str, signum: signal.Signals, code: int
) -> None:
    population = Population(4000, seed=50)
    ids = ids_file(program.folder, population)
    async with served(program, population, Faults(latency=0.05)):
        process = await program.start("sync", ids, "--json", "--batch-size", "50")
        await until(lambda: rows(database_url, STARTED) == [(True,)])
        process.send_signal(signum)
        done = await finished(process)
        assert done.exit == code, done.stderr
        assert done.result["status"] == "interrupted"
        assert done.result["released"] > 0
        assert_books(done, database_url)
        # Nothing was lost: the next run does the rest.
        assert (await program("sync", ids, "--resume")).exit == 0
    assert_in_step(database_url, population)


async def test_calls_that_hang_do_not_hold_up_the_end(program: Program, database_url: str) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang(*_: object) -> None:
        asked.set()
        await never.wait()

    population = Population(100, seed=51)
    async with served(program, population, answer=hang):
        process = await program.start("sync", ids_file(program.folder, population), "--json")
        await asked.wait()
        process.terminate()
        done = await finished(process)
    assert (done.exit, done.result["released"]) == (143, done.result["read"])
    assert_books(done, database_url)


async def test_a_second_signal_ends_at_once(program: Program) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang(*_: object) -> None:
        asked.set()
        await never.wait()

    population = Population(100, seed=52)
    async with served(program, population, answer=hang):
        process = await program.start("sync", ids_file(program.folder, population))
        await asked.wait()
        process.terminate()
        assert process.stderr is not None
        while b"run_stopping" not in await process.stderr.readline():
            pass
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 143


async def test_a_silent_pipe_does_not_hold_up_the_end(program: Program, database_url: str) -> None:
    reading, writing = os.pipe()
    async with served(program, Population(1, seed=53)):
        process = await program.start("sync", "-", "--json", stdin=reading)
        os.close(reading)
        await until(lambda: rows(database_url, "SELECT count(*) FROM sync_run") == [(1,)])
        process.terminate()
        done = await finished(process)
    os.close(writing)
    assert (done.exit, done.result["read"]) == (143, 0)


async def test_the_time_limit_ends_a_run_in_order(program: Program, database_url: str) -> None:
    population = Population(3000, seed=54)
    async with served(program, population, Faults(latency=0.1)):
        done = await program("sync", ids_file(program.folder, population), "--json", "--max-runtime", "2")
    assert (done.exit, done.result["status"]) == (75, "interrupted")
    assert "time limit" in done.stderr
    assert_books(done, database_url)


async def test_an_api_that_nobody_answers_for_blames_no_id(program: Program, database_url: str) -> None:
    population = Population(20, seed=56)
    async with served(program, population):
        pass  # it has been there, but is no longer
    done = await program("sync", ids_file(program.folder, population), "--json", "--max-attempts", "2")
    assert (done.exit, done.result["status"], done.result["failed"]) == (75, "aborted", 0)
    assert done.result["released"] == done.result["read"]
    assert "does not answer" in done.stderr
    assert_books(done, database_url)


async def test_a_database_that_restarts_during_the_listing_is_waited_for(
    program: Program, database_url: str
) -> None:
    population = Population(700, seed=58)
    cut = 0

    def answer(operation: str, request: dict[str, object]) -> None:
        nonlocal cut
        if operation == LIST and request.get("NextToken"):
            cut += 1
            restart(database_url)

    async with served(program, population, answer=answer):
        done = await program("sync", "--json")
    assert cut > 2
    assert (done.exit, done.result["status"]) == (0, "succeeded"), done.stderr


def restart(url: str) -> None:
    """Cut all connections, as a failover does."""
    rows(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'syncer'",
    )


async def test_personal_data_is_in_no_log(program: Program, tmp_path: Path) -> None:
    population = Population(200, seed=58)
    people: set[str] = set()
    for identifier in population.identifiers():
        answer: Any = population.get(identifier)
        for detail in answer["ConnectionTypes"].values():
            people |= {detail["InviterName"], detail["InviterEmail"]}
    (tmp_path / "bad.txt").write_text("nonsense\n" + "\n".join(population.identifiers()))

    def strange(_: str, request: dict[str, Any]) -> dict[str, Any] | None:
        answer = population.get(request["Identifier"])
        if answer is not None and hash(request["Identifier"]) % 3 == 0:
            detail = next(iter(answer["ConnectionTypes"].values()))
            detail["OtherParticipant"] = {}
            return answer
        return None

    async with served(program, population, Faults(error_rate=0.3), answer=strange):
        done = await program("sync", "bad.txt", "--max-attempts", "2")
    assert done.exit == 1
    told = done.stdout + done.stderr
    assert not [each for each in people if each in told]
