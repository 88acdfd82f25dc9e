"""--no-personal-data: who invited is not stored, and is no longer stored of what is fetched with it."""

from syncer.partner_central.population import Population
from tests.conftest import Program, Queues, ids_file, rows, served
from tests.test_listing import assert_history_is_whole, calls, canceled, changed
from tests.test_rights import everything, inviters
from tests.test_sync import touched

OFF = "--no-personal-data"
INVITED = """SELECT count(*) FROM {} WHERE inviter_name IS NOT NULL OR inviter_email IS NOT NULL"""


def told(population: Population, text: str) -> list[str]:
    """Who of those who invited is named in `text`."""
    return [each for each in inviters(population) if each.casefold() in text.casefold()]


def invited(url: str) -> tuple[int, int]:
    """Types, and versions of types, of which it is stored who invited."""
    ((types,),), ((versions,),) = (
        rows(url, INVITED.format(table)) for table in ("connection_type", "connection_type_history")
    )
    return types, versions


async def test_nobody_is_ever_stored(program: Program, database_url: str, queue: Queues) -> None:
    population = Population(150, seed=720)
    people = sorted(inviters(population))
    logs = []
    async with served(program, population):
        # Exports have more in them than IDs, and more than IDs on a queue.
        lines = [*population.identifiers(), f"? {people[0]}", people[1]]
        (program.folder / "ids.txt").write_text("\n".join(lines))
        logs.append(await program("sync", "ids.txt", OFF))
        assert logs[-1].exit == 1
        for number in range(10):
            canceled(population, number)
        population.overrides[population.identifier(11)] = None
        changed(population, 12, InviterName="Somebody Else", InviterEmail="else@example.com")
        program.environment["SYNCER_NO_PERSONAL_DATA"] = "1"
        queue.send(*(population.identifier(number) for number in range(20)), people[2], [people[3]])
        logs.append(await program("work", "--drain"))
        assert logs[-1].exit == 1
        logs.append(await program("sync", "--full"))
        assert logs[-1].exit == 0
    assert invited(database_url) == (0, 0)
    assert told(population, everything(database_url)) == []
    assert told(population, "".join(each.stdout + each.stderr for each in logs)) == []
    # What cannot be read is recorded all the same, by its place.
    recorded = [identifier for (identifier,) in rows(database_url, "SELECT identifier FROM sync_failure")]
    assert len(recorded) == 4
    assert {"ids.txt:151", "ids.txt:152"} < {*recorded}
    assert_history_is_whole(database_url)


async def test_what_was_stored_before_is_erased_where_it_is_fetched_and_nothing_is_rewritten(
    program: Program, database_url: str
) -> None:
    population = Population(80, seed=721)
    ids = ids_file(program.folder, population)
    async with served(program, population) as simulator:
        await program("sync", ids)
        for number in range(5):
            canceled(population, number)
        changed(population, 6, Status="PAUSED")
        gone = population.identifier(7)
        population.overrides[gone] = None
        await program("sync", ids)
        types, versions = invited(database_url)
        assert versions > types > 80
        calls(simulator)

        # Nothing has changed, so nothing is fetched, and nothing erased.
        assert (await program("sync", OFF)).exit == 0
        assert calls(simulator)[1] == 0
        assert invited(database_url) == (types, versions)
        looked = await program("sync", ids, OFF, "--dry-run")
        assert "erased" in looked.stdout
        assert told(population, looked.stdout + looked.stderr) == []
        assert invited(database_url) == (types, versions)

        # Also of what is removed.
        (program.folder / "some.txt").write_text("\n".join([gone, population.identifier(6)]))
        done = await program("sync", "some.txt", OFF, "--json")
        assert (done.exit, done.result["written"], done.result["missing"]) == (0, 1, 1)
        assert 0 < invited(database_url)[0] < types
        ids = ids_file(program.folder, Population(80, seed=721))
        done = await program("sync", ids, OFF, "--json")
        assert (done.exit, done.result["written"], done.result["unchanged"]) == (0, 78, 1)
        assert invited(database_url) == (0, 0)
        # The versions are those that there were: only they tell of nobody.
        assert rows(database_url, "SELECT count(*) FROM connection_type_history") == [(versions,)]
        assert_history_is_whole(database_url)

        before = touched(database_url)
        again = await program("sync", ids, OFF, "--json")
        assert (again.exit, again.result["unchanged"], again.result["missing"]) == (0, 79, 1)
        assert again.result["rows_written"] == 0
        assert touched(database_url) == before


async def test_the_rows_that_are_counted_are_those_that_were_written(
    program: Program, database_url: str
) -> None:
    population = Population(30, seed=722)
    ids = ids_file(program.folder, population)
    async with served(program, population):
        await program("sync", ids)
        before = touched(database_url)
        for number in range(5):
            canceled(population, number)
        done = await program("sync", ids, OFF, "--json")
    written = sum(sum(row[1:]) for row in touched(database_url)) - sum(sum(row[1:]) for row in before)
    assert done.result["rows_written"] == written
