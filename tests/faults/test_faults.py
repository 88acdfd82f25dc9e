"""Each row of the table of faults: done, seen, in the ledger; then put right. README shows the table."""

from collections.abc import AsyncIterator

import pytest

from syncer.store.embedded import embedded
from syncer.store.schema import migrate
from tests.conftest import Program, own_folder
from tests.faults.scene import Scene, scene
from tests.faults.table import QUEUE, TABLE, Fault
from tests.test_readme import rows_of_table, section


@pytest.fixture
async def trial(
    program: Program, fault: Fault, request: pytest.FixtureRequest, database_url: str
) -> AsyncIterator[Scene]:
    queue = request.getfixturevalue("queue") if fault.where == QUEUE else None
    seed = 800 + TABLE.index(fault)
    if not fault.own_server:
        async with scene(program, database_url, seed=seed, queue=queue) as each:
            yield each
        return
    with own_folder() as folder, embedded(folder) as own:
        await migrate(own.url)
        async with scene(program, own.url, seed=seed, own=own) as each:
            yield each


@pytest.mark.parametrize("fault", TABLE, ids=lambda fault: f"{fault.where}: {fault.done}")
async def test_the_fault_is_told_and_costs_nothing(trial: Scene, fault: Fault) -> None:
    done = await fault.act(trial)
    assert done.exit == fault.exit, done.stderr
    assert fault.says in done.stderr
    assert "Traceback" not in done.stderr
    if fault.ledger is None:
        assert not done.stdout
    else:
        trial.assert_ledger(done, fault.ledger)
    await trial.lift()
    await trial.assert_whole_after()


def test_readme_shows_this_table() -> None:
    assert rows_of_table(section("Faults")) == [fault.cells() for fault in TABLE]
