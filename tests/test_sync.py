"""The main job, end to end: a real process, a real Postgres, a server that speaks the API's protocol."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from syncer.partner_central.population import OWN_ACCOUNT, Population
from syncer.partner_central.simulator import GET, Faults
from tests.conftest import Program, ids_file, rows, served

OUTCOMES = (
    "written", "unchanged", "skipped", "stale", "missing", "duplicate", "invalid", "failed", "released",
)  # fmt: skip


def time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def served_rows(population: Population) -> tuple[set[tuple[Any, ...]], set[tuple[Any, ...]], dict[Any, Any]]:
    """What the three tables must hold, computed from what is served, independently of the program."""
    connections, types = set(), set()
    participants: dict[tuple[str, str], tuple[Any, ...]] = {}
    for identifier in population.identifiers():
        answer = population.get(identifier)
        assert answer is not None
        account, updated = answer["OtherParticipantAccountId"], time(answer["UpdatedAt"])
        connections.add((OWN_ACCOUNT, "AWS", identifier, answer["Arn"], account, updated))
        for name, detail in answer["ConnectionTypes"].items():
            ((kind, content),) = detail["OtherParticipant"].items()
            participant = content.get("Id", account)
            types.add(
                (identifier, name, detail["Status"], time(detail["CreatedAt"]), detail["InviterEmail"],
                 detail["InviterName"], time(detail.get("CanceledAt")), detail.get("CanceledBy"),
                 kind, participant)
            )  # fmt: skip
            # Of two types of one connection that name it differently, the last by type.
            claim = (updated, identifier, name, content["Name"])
            participants[kind, participant] = max(participants.get((kind, participant), claim), claim)
    return connections, types, {key: (*claim[:2], claim[3]) for key, claim in participants.items()}


def assert_in_step(url: str, population: Population) -> None:
    connections, types, participants = served_rows(population)
    assert connections == set(
        rows(
            url,
            "SELECT account_id, catalog, id, arn, other_participant_account_id, updated_at FROM connection",
        )
    )
    assert types == set(
        rows(
            url,
            "SELECT connection_id, type, status, created_at, inviter_email, inviter_name, canceled_at,"
            " canceled_by, participant_kind, participant_id FROM connection_type",
        )
    )
    assert participants == {
        (kind, id): (updated, connection, name)
        for kind, id, name, connection, updated in rows(
            url, "SELECT kind, id, name, connection_id, updated_at FROM participant"
        )
    }


def touched(url: str) -> list[tuple[Any, ...]]:
    """The server's own count of rows written, per table; complete once the program's backends are gone."""
    gone = """SELECT count(*) FROM pg_stat_activity
              WHERE application_name = 'syncer' AND datname = current_database()"""
    while rows(url, gone) != [(0,)]:
        pass
    return rows(
        url,
        "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables"
        " WHERE relname IN ('connection', 'connection_type', 'participant') ORDER BY relname",
    )


async def test_the_tables_hold_exactly_what_is_served_in_spite_of_faults(
    program: Program, database_url: str, tmp_path: Path
) -> None:
    population = Population(1200, seed=1)
    async with served(program, population, Faults(error_rate=0.05, cut_rate=0.01)) as simulator:
        done = await program("sync", ids_file(tmp_path, population), "--json")
        assert done.exit == 0, done.stderr
        assert_in_step(database_url, population)
        assert done.result["written"] == done.result["read"] == 1200
        assert done.result["retried"] > 0
        assert done.result["api_calls"] == simulator.served.total()
        assert done.result["rows_written"] == sum(
            inserted + updated for _, inserted, updated, _ in touched(database_url)
        )


async def test_an_identical_second_run_touches_no_row(
    program: Program, database_url: str, tmp_path: Path
) -> None:
    population = Population(700, seed=2)
    async with served(program, population):
        ids = ids_file(tmp_path, population)
        assert (await program("sync", ids, "--json")).result["written"] == 700
        before = touched(database_url)
        again = await program("sync", ids, "--json")
    assert (again.exit, again.result["unchanged"], again.result["rows_written"]) == (0, 700, 0)
    assert touched(database_url) == before


async def test_the_result_is_one_object_whose_sum_adds_up_and_is_the_runs_row(
    program: Program, database_url: str, tmp_path: Path
) -> None:
    population = Population(50, seed=3)
    async with served(program, population):
        (tmp_path / "ids.csv").write_text(
            "name,connection_id\n" + "".join(f"x,{each}\n" for each in population.identifiers())
            + "y,pac-1;drop table\n"
        )  # fmt: skip
        done = await program("sync", "ids.csv", "--json")
    result = done.result
    assert list(result) == [
        "run_id", "status", "source", "account_id", "catalog", "read", *OUTCOMES,
        "api_calls", "throttled", "retried", "rows_written", "seconds",
    ]  # fmt: skip
    assert result["read"] == sum(result[outcome] for outcome in OUTCOMES) == 51
    assert (done.exit, result["status"], result["invalid"]) == (1, "partial", 1)
    columns = ", ".join("id" if name == "run_id" else name for name in result)
    assert rows(database_url, f"SELECT {columns}, checkpoint FROM sync_run") == [(*result.values(), 51)]
    assert done.events("run_finished")[0]["run_id"] == result["run_id"]


@pytest.mark.parametrize(
    "text",
    [
        "PAC-0000000000001",
        "pac-00000000000011",
        "pac-000000000000\N{FULLWIDTH DIGIT ONE}",
        "pac-1;drop table",
        "pacinv-0000000000001",
    ],
)
async def test_what_is_no_connection_id_is_recorded_and_never_asked_for(
    program: Program, database_url: str, tmp_path: Path, text: str
) -> None:
    (tmp_path / "ids.txt").write_text(text + "\n")
    async with served(program, Population(1, seed=4)) as simulator:
        done = await program("sync", "ids.txt", "--json")
    assert (done.exit, done.result["invalid"], done.result["api_calls"]) == (1, 1, 0)
    assert simulator.served.total() == 0
    assert rows(database_url, "SELECT identifier, code, attempts FROM sync_failure") == [
        (text, "InvalidIdentifier", 0)
    ]


async def test_a_connection_that_is_gone_is_marked_and_keeps_its_values(
    program: Program, database_url: str, tmp_path: Path
) -> None:
    population = Population(20, seed=5)
    ids = ids_file(tmp_path, population)
    async with served(program, population):
        await program("sync", ids)
        gone, never_there = population.identifier(7), population.identifier(99)
        population.overrides[gone] = None
        (tmp_path / ids).write_text(f"{gone}\n{never_there}\n")
        done = await program("sync", ids, "--json")
    assert (done.exit, done.result["missing"], done.result["rows_written"]) == (0, 2, 1)
    assert rows(database_url, "SELECT id FROM connection WHERE removed_at IS NOT NULL") == [(gone,)]
    assert rows(database_url, f"SELECT count(*) FROM connection_type WHERE connection_id = '{gone}'") != [
        (0,)
    ]


async def test_the_same_id_in_flight_is_asked_for_once(program: Program, tmp_path: Path) -> None:
    population = Population(1, seed=6)
    (tmp_path / "ids.txt").write_text(f"{population.identifier(0)}\n" * 40)
    async with served(program, population, Faults(latency=0.2)) as simulator:
        done = await program("sync", "ids.txt", "--json")
    assert (done.result["written"], done.result["duplicate"], done.result["read"]) == (1, 39, 40)
    assert simulator.served[GET, "ok"] == 1


async def test_throttling_costs_no_item_anything(program: Program, tmp_path: Path) -> None:
    population = Population(60, seed=7)
    async with served(program, population, Faults(rate=40, burst=10)):
        done = await program("sync", ids_file(tmp_path, population), "--json", "--max-attempts", "1")
    assert (done.exit, done.result["written"]) == (0, 60)
    assert done.result["throttled"] > 0


async def test_attempts_used_up_are_a_failure_that_goes_when_the_id_settles(
    program: Program, database_url: str, tmp_path: Path
) -> None:
    population = Population(3, seed=8)
    ids = ids_file(tmp_path, population)
    async with served(program, population, Faults(error_rate=1)) as simulator:
        done = await program("sync", ids, "--json", "--max-attempts", "2")
        assert (done.exit, done.result["status"], done.result["failed"]) == (1, "partial", 3)
        assert rows(database_url, "SELECT DISTINCT code, attempts FROM sync_failure") == [
            ("InternalServerException", 2)
        ]
        assert (await program("sync", ids, "--max-attempts", "1", "--allow-failures")).exit == 0
        simulator.faults = Faults()
        assert (await program("sync", ids)).exit == 0
    assert rows(database_url, "SELECT count(*) FROM sync_failure") == [(0,)]


async def test_an_empty_file_is_said_to_be_empty(program: Program, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("# nothing yet\n\n")
    async with served(program, Population(1, seed=9)):
        done = await program("sync", "ids.txt")
    assert done.exit == 0
    assert "no connection IDs" in done.stderr


async def test_stdin_is_a_source(program: Program) -> None:
    population = Population(5, seed=10)
    async with served(program, population):
        done = await program("sync", "-", "--json", stdin="\n".join(population.identifiers()).encode())
    assert done.result["written"] == 5
