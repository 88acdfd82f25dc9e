"""Erasing one person: afterwards nothing that the database holds tells of them, and all else is as it was."""

import subprocess
import sys
from copy import deepcopy
from typing import Any

import psycopg
import pytest

from syncer.answers import Connection, ConnectionType, Found, Missing
from syncer.identifiers import Item
from syncer.partner_central.population import Population
from tests.conftest import Program, Recording, rows, served
from tests.test_listing import assert_history_is_whole, canceled
from tests.test_rights import everything, inviters
from tests.test_writer import T0, write, writer

ADDRESS, NAME = "Zaphod.O'Beeblebröx@example.com", "Zaphod O'Beeblebröx"
OTHER_ADDRESS = "zaphod@elsewhere.example"


def invited(population: Population, number: int, address: str | None = ADDRESS, name: str = NAME) -> str:
    """Let all types of connection `number` have been agreed on by the person's invitation."""
    identifier = population.identifier(number)
    answer: Any = deepcopy(population.get(identifier))
    for detail in answer["ConnectionTypes"].values():
        detail |= {"InviterEmail": address, "InviterName": name}
    population.overrides[identifier] = answer
    return identifier


def count(url: str, table: str, *numbers_of: str) -> int:
    """The rows of some connections."""
    ids = ", ".join(f"'{each}'" for each in numbers_of)
    ((found,),) = rows(url, f"SELECT count(*) FROM {table} WHERE connection_id IN ({ids})")
    return int(found)


async def test_a_person_is_erased_from_tables_history_and_failures(
    program: Program, database_url: str
) -> None:
    population = Population(60, seed=710)
    theirs = [invited(population, 3), invited(population, 4, ADDRESS.upper()), invited(population, 5)]
    # Here AWS tells no address, so the name is all there is.
    theirs.append(invited(population, 6, None))
    people = inviters(population) - {NAME, ADDRESS, ADDRESS.upper(), None}
    lines = [*population.identifiers(), f"invited by {ADDRESS}", f"{NAME}, pac-0", "nobody"]
    (program.folder / f"from {ADDRESS}.txt").write_text("\n".join(lines))
    async with served(program, population):
        assert (await program("sync", f"from {ADDRESS}.txt")).exit == 1
        # Old versions tell of them too; one of the connections is gone by now.
        canceled(population, 3)
        population.overrides[theirs[2]] = None
        # Somebody has corrected the address, and of another connection it is not told any more.
        invited(population, 4, OTHER_ADDRESS)
        invited(population, 3, None)
        (program.folder / "ids.txt").write_text("\n".join(theirs))
        assert (await program("sync", "ids.txt")).exit == 0
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ANALYZE")
    assert all(each.casefold() in everything(database_url) for each in (ADDRESS, NAME))
    types, versions = (count(database_url, each, *theirs) for each in ("connection_type",
                       "connection_type_history"))  # fmt: skip

    done = await program("forget", "--email", ADDRESS.swapcase())
    assert done.exit == 0, done.stderr
    assert done.stdout.splitlines()[0] == (
        f"Rows erased of this person: connection_type {types}, connection_type_history {versions}, "
        "sync_failure 3, sync_run 1"
    )
    assert "--no-personal-data" in done.stdout
    left = everything(database_url)
    for each in (ADDRESS, NAME, OTHER_ADDRESS):
        assert each.casefold() not in left
        assert each.casefold() not in (done.stdout + done.stderr).casefold()
    # Everybody else is still there, and so is the line that was none of theirs, if not the file's name.
    assert not [each for each in people if each.casefold() not in left]
    assert rows(database_url, "SELECT count(*) FROM sync_failure") == [(3,)]
    assert rows(database_url, "SELECT count(*) FROM sync_failure WHERE identifier = 'nobody'") == [(1,)]
    assert_history_is_whole(database_url)

    again = await program("forget", "--email", ADDRESS)
    assert again.exit == 0
    assert again.stdout.startswith(
        "Rows erased of this person: connection_type 0, connection_type_history 0, sync_failure 0, sync_run 0"
    )


async def test_a_namesake_keeps_their_data(program: Program, database_url: str) -> None:
    population = Population(10, seed=711)
    invited(population, 1)
    namesake = invited(population, 2, OTHER_ADDRESS)
    (program.folder / "ids.txt").write_text("\n".join(population.identifiers()))
    async with served(program, population):
        assert (await program("sync", "ids.txt")).exit == 0
    assert (await program("forget", "--email", ADDRESS)).exit == 0
    assert rows(
        database_url, "SELECT DISTINCT connection_id FROM connection_type WHERE inviter_name LIKE 'Zaphod%'"
    ) == [(namesake,)]


async def test_who_is_not_known_here_is_no_error(program: Program) -> None:
    done = await program("forget", "--email", "nobody@example.com")
    assert (done.exit, done.stderr) == (0, "")
    assert "connection_type 0, " in done.stdout
    no_address = await program("forget", "--email", "Somebody")
    assert no_address.exit == 2
    assert "Somebody" not in no_address.stderr


async def test_a_later_fetch_brings_the_person_back_unless_nobody_is_to_be_stored(
    program: Program, database_url: str
) -> None:
    population = Population(10, seed=712)
    (program.folder / "ids.txt").write_text(invited(population, 1))
    async with served(program, population):
        await program("sync", "ids.txt")
        assert (await program("forget", "--email", ADDRESS)).exit == 0
        done = await program("sync", "ids.txt", "--json", "--no-personal-data")
        assert (done.exit, done.result["unchanged"]) == (0, 1)
        assert NAME.casefold() not in everything(database_url)
        done = await program("sync", "ids.txt", "--json")
        assert (done.exit, done.result["written"]) == (0, 1)
    assert NAME.casefold() in everything(database_url)


@pytest.mark.parametrize("first", ["the writer", "forget"])
async def test_a_writer_at_work_does_not_bring_the_person_back(
    program: Program, database_url: str, first: str
) -> None:
    """It copies what it has read of the version before: that must not be what is erased meanwhile."""
    pool = Recording(database_url)
    identifier = "pac-0000000000001"
    each = ConnectionType("SUBSIDIARY", "ACTIVE", T0, ADDRESS, NAME, None, None, "Account", "p", "Acme")
    one = await writer(pool)
    await write(one, [Found(Item(0, identifier), T0, Connection(identifier, "arn", "0" * 12, T0, (each,)))])
    await write(one, [Missing(Item(0, identifier), T0.replace(year=2027))])
    # Held back until here; carried out below.
    forgetting: list[subprocess.Popen[bytes]] = []
    moment = {"the writer": "INSERT INTO connection_type_history", "forget": "FOR NO KEY UPDATE"}[first]

    def interrupt(statement: str) -> None:
        """Let the person be forgotten just now, until that waits for us or is done."""
        if moment in statement and not forgetting:
            command = [sys.executable, "-m", "syncer", "forget", "--email", ADDRESS]
            forgetting.append(subprocess.Popen(command, env=program.environment, stdout=subprocess.DEVNULL))
            waiting = """SELECT count(*) FROM pg_stat_activity
                         WHERE wait_event_type = 'Lock' AND datname = current_database()"""
            while forgetting[0].poll() is None and rows(database_url, waiting) == [(0,)]:
                pass

    pool.before = interrupt
    await one[0].confirm_removals()
    await pool.close()
    assert [each.wait() for each in forgetting] == [0]
    assert rows(database_url, "SELECT count(*) FROM connection WHERE removed_at IS NOT NULL") == [(1,)]
    assert rows(database_url, "SELECT count(*) FROM connection_type_history") == [(2,)]
    assert NAME.casefold() not in everything(database_url)
