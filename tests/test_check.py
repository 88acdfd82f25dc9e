"""`syncer check`: one line per part, and the exit code of the worst."""

import pytest
from moto.server import ThreadedMotoServer

from syncer.partner_central.population import Population
from tests.conftest import Program, Queues, served


async def test_everything_is_there(program: Program) -> None:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    async with served(program, Population(10, seed=90)):
        del program.environment["SYNCER_ACCOUNT_ID"]
        program.environment["AWS_ENDPOINT_URL_STS"] = f"http://{host}:{port}"
        done = await program("check")
    server.stop()
    assert done.exit == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "ok     database",
        "ok     schema",
        "ok     credentials",
        "ok     API",
        "ok     queue",
    ]
    assert "as STS tells" in lines[2]


@pytest.mark.parametrize(
    ("variables", "exit_code", "part"),
    [
        ({"DATABASE_URL": "postgresql://u:geheim@127.0.0.1:1/x"}, 75, "FAILED database"),
        ({"AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT": "http://127.0.0.1:9"}, 75, "FAILED API"),
        ({"AWS_PROFILE": "nobody"}, 77, "FAILED credentials"),
    ],
)
async def test_what_is_missing_is_named(
    program: Program, variables: dict[str, str], exit_code: int, part: str
) -> None:
    async with served(program, Population(1, seed=91)):
        program.environment |= variables
        done = await program("check")
    assert done.exit == exit_code, done.stdout + done.stderr
    assert part in done.stdout
    assert "geheim" not in done.stdout + done.stderr


async def test_the_queue_is_looked_at_where_there_is_one(program: Program, queue: Queues) -> None:
    queue.send("a", "b")
    async with served(program, Population(1, seed=93)):
        done = await program("check")
        assert done.exit == 0, done.stdout
        assert "about 2 messages, visibility timeout 10 s, to the dead-letter queue after 3" in done.stdout
        gone = await program("check", "--queue-url", queue.url + "x")
    assert gone.exit == 78
    assert "FAILED queue: there is no queue" in gone.stdout


async def test_a_database_without_tables_is_not_set_up(program: Program, empty_database_url: str) -> None:
    program.environment["DATABASE_URL"] = empty_database_url
    async with served(program, Population(1, seed=92)):
        done = await program("check")
    assert done.exit == 78
    assert "FAILED schema: the database has no syncer tables yet" in done.stdout
