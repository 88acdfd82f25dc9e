"""The cron job: a sync from the listing fetches what is new, changed or no longer listed, no more."""

import asyncio
from copy import deepcopy
from typing import Any

import pytest
from aiohttp import web

from syncer.partner_central.population import Population
from syncer.partner_central.simulator import LIST, Simulator
from tests.conftest import Program, ids_file, rows, served, until
from tests.test_sync import assert_in_step, touched


def changed(population: Population, number: int, **detail: Any) -> str:
    """Serve connection `number` with `detail` in its first type, and a newer UpdatedAt."""
    identifier = population.identifier(number)
    answer = deepcopy(population.get(identifier))
    assert answer is not None
    answer["UpdatedAt"] = "2026-10-01T00:00:00.5Z"
    answer["ConnectionTypes"][min(answer["ConnectionTypes"])].update(detail)
    population.overrides[identifier] = answer
    return identifier


def canceled(population: Population, number: int) -> str:
    identifier = changed(population, number)
    answer = population.overrides[identifier]
    assert answer is not None
    for detail in answer["ConnectionTypes"].values():
        detail.update(Status="CANCELED", CanceledAt="2026-10-01T00:00:00Z", CanceledBy="000000000001")
    return identifier


def calls(simulator: Simulator) -> tuple[int, int]:
    """Answered ListConnections and GetConnection calls since the last time."""
    counted = simulator.served[LIST, "ok"], simulator.served.total() - simulator.served[LIST, "ok"]
    simulator.served.clear()
    return counted


async def test_an_unchanged_population_costs_a_call_per_hundred_and_touches_no_row(
    program: Program, database_url: str
) -> None:
    population = Population(450, seed=20)
    async with served(program, population) as simulator:
        first = await program("sync", "--json")
        assert first.exit == 0, first.stderr
        listed = first.result["written"]
        assert calls(simulator) == (-(-listed // 100), listed)
        before = touched(database_url)
        second = await program("sync", "--json")
        assert (second.exit, second.result["skipped"], second.result["status"]) == (0, listed, "succeeded")
        assert calls(simulator) == (-(-listed // 100), 0)
    assert touched(database_url) == before


async def test_only_what_changed_is_fetched(program: Program, database_url: str) -> None:
    population = Population(300, seed=21)
    async with served(program, population) as simulator:
        # All of them, those too that were canceled before anybody looked.
        await program("sync", ids_file(program.folder, population))
        calls(simulator)
        one, two, three, *_ = (number for number in range(300) if _active(population, number))
        renamed = changed(population, one, OtherParticipant={"Account": {"Name": "Another Name"}})
        gone_from_list = canceled(population, two)
        removed = population.identifier(three)
        population.overrides[removed] = None
        larger = Population(400, seed=21)
        new = larger.identifier(next(number for number in range(300, 400) if _active(larger, number)))
        population.overrides[new] = larger.get(new)
        done = await program("sync", "--json")
        assert done.exit == 0, done.stderr
        _, fetched = calls(simulator)
    assert fetched == 4
    assert (done.result["written"], done.result["missing"]) == (3, 1)
    assert rows(
        database_url, f"SELECT DISTINCT status FROM connection_type WHERE connection_id = '{gone_from_list}'"
    ) == [("CANCELED",)]
    assert rows(database_url, "SELECT id FROM connection WHERE removed_at IS NOT NULL") == [(removed,)]
    assert rows(
        database_url,
        "SELECT count(*) FROM connection_type_history"
        f" WHERE connection_id = '{renamed}' AND participant_name = 'Another Name' AND valid_to IS NULL",
    ) == [(1,)]
    assert_history_is_whole(database_url)


def _active(population: Population, number: int) -> bool:
    answer = population.get(population.identifier(number))
    assert answer is not None
    return all(detail["Status"] == "ACTIVE" for detail in answer["ConnectionTypes"].values())


def _last_active(population: Population) -> int:
    return max(number for number in range(population.size) if _active(population, number))


def assert_history_is_whole(url: str) -> None:
    """No gap, no overlap, one open version per type, and it says what the type's row says."""
    assert (
        rows(
            url,
            """SELECT connection_id, type FROM (
               SELECT *, lag(valid_to) OVER versions AS ended, lead(valid_from) OVER versions AS next
               FROM connection_type_history
               WINDOW versions AS (PARTITION BY account_id, catalog, connection_id, type ORDER BY valid_from)
           ) AS version
           WHERE valid_to <= valid_from OR valid_to IS DISTINCT FROM next
              OR (ended IS NOT NULL AND ended <> valid_from)""",
        )
        == []
    )
    assert (
        rows(
            url,
            """SELECT t.connection_id, t.type FROM connection_type AS t
           LEFT JOIN connection_type_history AS h
             ON (h.account_id, h.catalog, h.connection_id, h.type)
                = (t.account_id, t.catalog, t.connection_id, t.type) AND h.valid_to IS NULL
           WHERE (h.status, h.participant_id) IS DISTINCT FROM (t.status, t.participant_id)""",
        )
        == []
    )


async def test_what_is_stored_as_canceled_and_not_listed_costs_no_call(program: Program) -> None:
    population = Population(100, seed=22)
    async with served(program, population) as simulator:
        await program("sync", ids_file(program.folder, population))
        calls(simulator)
        done = await program("sync", "--json")
        assert calls(simulator)[1] == 0
    assert done.result["skipped"] == done.result["read"] < 100


async def test_full_fetches_everything_listed(program: Program) -> None:
    population = Population(120, seed=23)
    async with served(program, population) as simulator:
        first = await program("sync", "--json")
        assert (await program("sync", "--full", "--json")).result["unchanged"] == first.result["written"]
        calls(simulator)
        # The full run was a moment ago, so it is not time again.
        assert (await program("sync", "--full-every", "7d", "--json")).result["skipped"] == first.result[
            "written"
        ]
        assert (await program("sync", "--full-every", "0s", "--json")).result["unchanged"] == first.result[
            "written"
        ]


@pytest.mark.parametrize("how", ["fails", "repeats", "unreadable"])
async def test_a_listing_that_does_not_reach_its_end_removes_nothing(
    program: Program, database_url: str, how: str
) -> None:
    population = Population(900, seed=24)

    def answer(operation: str, request: dict[str, Any]) -> web.Response | dict[str, Any] | None:
        if operation != LIST or not request.get("NextToken"):
            return None
        summaries, _ = population.page(0, 100)
        match how:
            case "fails":
                return web.json_response(
                    {"__type": "InternalServerException", "Message": "no"}, status=500,
                    content_type="application/x-amz-json-1.0",
                )  # fmt: skip
            case "repeats":
                return {"ConnectionSummaries": summaries, "NextToken": request["NextToken"]}
        return {"ConnectionSummaries": [{"Catalog": "AWS"}]}

    complete = "SELECT last_complete_at FROM reporting.sync_freshness"
    async with served(program, population) as simulator:
        await program("sync")
        before = rows(database_url, complete)
        simulator.answer = answer
        done = await program("sync", "--json", "--max-attempts", "2")
    assert (done.exit, done.result["status"]) == (75, "partial")
    assert rows(database_url, complete) == before != [(None,)]
    assert "nothing counts as removed" in done.stderr
    assert rows(database_url, "SELECT count(*) FROM connection WHERE removed_at IS NOT NULL") == [(0,)]


async def test_a_mass_removal_is_held_back_until_somebody_allows_it(
    program: Program, database_url: str
) -> None:
    population = Population(60, seed=25)
    removed = "SELECT count(*) FROM connection WHERE removed_at IS NOT NULL"
    async with served(program, population):
        await program("sync", ids_file(program.folder, population))
        for number in range(20):
            population.overrides[population.identifier(number)] = None
        held = await program("sync", "--json")
        assert (held.exit, held.result["status"]) == (1, "partial")
        assert "too many to be believed" in held.stderr
        assert rows(database_url, removed) == [(0,)]
        allowed = await program("sync", "--json", "--allow-mass-removal")
        assert (allowed.exit, allowed.result["status"]) == (0, "succeeded")
    assert rows(database_url, removed) == [(allowed.result["missing"],)]
    assert allowed.result["missing"] == held.result["failed"] > 10
    assert rows(database_url, "SELECT count(*) FROM sync_failure") == [(0,)]
    assert_history_is_whole(database_url)


async def test_a_few_removals_need_nobodys_word(program: Program, database_url: str) -> None:
    population = Population(20, seed=26)
    async with served(program, population):
        await program("sync", ids_file(program.folder, population))
        for number in range(5):
            population.overrides[population.identifier(number)] = None
        done = await program("sync", ids_file(program.folder, Population(20, seed=26)), "--json")
    assert (done.exit, done.result["missing"], done.result["failed"]) == (0, 5, 0)
    assert rows(database_url, "SELECT count(*) FROM connection WHERE removed_at IS NOT NULL") == [(5,)]


async def test_two_runs_at_once_are_one_run(program: Program, database_url: str) -> None:
    population = Population(30, seed=27)
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def answer(*_: object) -> None:
        if not waiting.is_set():
            waiting.set()
            await go_on.wait()

    async with served(program, population) as simulator:
        simulator.answer = answer
        first = await program.start("sync", "--json")
        await waiting.wait()
        second = await program("sync", "--json")
        assert (second.exit, second.result["status"], second.result["api_calls"]) == (0, "locked", 0)
        assert "another run" in second.stderr
        first.kill()
        await first.wait()
        simulator.answer = None
        go_on.set()
        # A dead process keeps no lock.
        third = await program("sync", "--json")
    assert (third.exit, third.result["status"]) == (0, "succeeded")
    assert rows(database_url, "SELECT status FROM sync_run ORDER BY started_at") == [
        ("interrupted",), ("succeeded",)
    ]  # fmt: skip


async def test_a_dry_run_shows_the_difference_and_writes_nothing(program: Program, database_url: str) -> None:
    population = Population(40, seed=28)
    async with served(program, population):
        await program("sync", ids_file(program.folder, population))
        before = touched(database_url), rows(database_url, "SELECT count(*) FROM sync_run")
        changed(population, _last_active(population), InviterName="Somebody Else", Status="PAUSED")
        shown = await program("sync", "--dry-run")
        counted = await program("sync", "--dry-run", "--json")
    assert (shown.exit, counted.result["written"]) == (0, 1)
    assert "PAUSED" in shown.stdout
    assert "Somebody Else" not in shown.stdout + shown.stderr
    assert (touched(database_url), rows(database_url, "SELECT count(*) FROM sync_run")) == before


async def test_failed_ids_are_tried_once_more(program: Program, database_url: str) -> None:
    population = Population(5, seed=29)
    (program.folder / "ids.txt").write_text("\n".join([*population.identifiers(), "no ID"]))
    async with served(program, population) as simulator:
        simulator.answer = lambda *_: {"Id": "?"}
        await program("sync", "ids.txt")
        assert rows(database_url, "SELECT count(*) FROM sync_failure") == [(6,)]
        simulator.answer = None
        done = await program("sync", "--failed", "--json")
    assert (done.exit, done.result["written"], done.result["source"]) == (0, 5, "failures")
    assert rows(database_url, "SELECT identifier FROM sync_failure") == [("no ID",)]


async def test_resume_goes_on_from_the_checkpoint_after_a_kill(program: Program, database_url: str) -> None:
    population = Population(3000, seed=30)
    ids = ids_file(program.folder, population)
    async with served(program, population) as simulator:
        simulator.count_identifiers = True
        process = await program.start("sync", ids, "--batch-size", "100")
        await until(lambda: rows(database_url, "SELECT max(checkpoint) >= 500 FROM sync_run") == [(True,)])
        process.kill()
        await process.wait()
        ((checkpoint,),) = rows(database_url, "SELECT checkpoint FROM sync_run")
        done = await program("sync", ids, "--resume", "--batch-size", "100", "--json")
        twice = sum(count > 1 for count in simulator.calls.values())
    assert done.exit == 0, done.stderr
    assert (done.result["read"], done.result["skipped"]) == (3000, checkpoint)
    assert twice <= 32 + 2 * 100
    assert_in_step(database_url, population)


async def test_a_changed_input_is_not_resumed(program: Program, database_url: str) -> None:
    population = Population(3000, seed=31)
    ids = ids_file(program.folder, population)
    async with served(program, population):
        process = await program.start("sync", ids, "--batch-size", "100")
        await until(lambda: rows(database_url, "SELECT max(checkpoint) > 0 FROM sync_run") == [(True,)])
        process.kill()
        await process.wait()
        (program.folder / ids).write_text("pac-0000000000000\n")
        refused = await program("sync", ids, "--resume")
    assert refused.exit == 2
    assert "is not what it was" in refused.stderr
    assert "leave --resume away" in refused.stderr
