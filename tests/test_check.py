"""`syncer check`: one line per part, each mistake with its remedy, and the exit code of the worst."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer
from sqlalchemy import make_url

from syncer.partner_central.population import Population
from tests.cluster import cluster, needs_another
from tests.collector import Collector
from tests.conftest import Finished, Program, Queues, served

SECRET = "geheim"
NOWHERE = "http://127.0.0.1:9"
NOBODY = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}


def failed(done: Finished) -> dict[str, str]:
    """What is wrong, by part. There is no traceback, and no secret."""
    told = done.stdout + done.stderr
    assert "Traceback" not in told
    assert SECRET not in told
    lines = [line.removeprefix("FAILED ") for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    return {part: message for part, _, message in (line.partition(": ") for line in lines)}


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
    ("variables", "exit_code", "part", "remedy"),
    [
        ({"DATABASE_URL": f"postgresql://u:{SECRET}@127.0.0.1:1/x"}, 75, "database", "host and port"),
        ({"DATABASE_URL": f"mysql://u:{SECRET}@127.0.0.1/x"}, 78, "database", "postgresql://…"),
        ({"DATABASE_URL": f"u:{SECRET}@127.0.0.1"}, 78, "database", "postgresql://user@host/database"),
        (
            {"SYNCER_DB_AUTH": "iam", "DATABASE_URL": "postgresql:///x?host=/run"},
            78,
            "database",
            "one host and a user",
        ),
        ({"AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT": NOWHERE}, 75, "API", "port 443"),
        ({"AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT": "nowhere"}, 77, "API", "see AWS_ENDPOINT_URL"),
        ({"AWS_CA_BUNDLE": "/nowhere"}, 77, "API", "AWS_CA_BUNDLE: /nowhere cannot be read"),
        ({"SYNCER_CATALOG": "sandbox"}, 78, "API", "AWS or Sandbox, spelt like that"),
        ({"AWS_PROFILE": "nobody"}, 77, "credentials", "~/.aws/config"),
        (NOBODY, 77, "credentials", "set AWS_PROFILE"),
        (NOBODY | {"SYNCER_ACCOUNT_ID": ""}, 77, "credentials", "set AWS_PROFILE"),
        ({"SYNCER_ACCOUNT_ID": "", "AWS_ENDPOINT_URL_STS": NOWHERE}, 75, "credentials", "port 443"),
        ({"SYNCER_CONCURENCY": SECRET}, 78, "settings", "is SYNCER_CONCURRENCY meant?"),
        ({"SYNCER_WHATEVER": SECRET}, 78, "settings", "SYNCER_WHATEVER: no command knows it; see"),
        (
            {"SYNCER_BATCH_SIZE": SECRET},
            78,
            "settings",
            "SYNCER_BATCH_SIZE: its value is none that --batch-size",
        ),
        ({"SYNCER_QUEUE_URL": "arn:aws:sqs:eu-west-1:1:x"}, 78, "queue", "https://sqs."),
        ({"SYNCER_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/1/x.fifo"}, 2, "queue", "standard queue"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, 78, "telemetry", "http://collector.example:4318"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://u:{SECRET}@127.0.0.1:9"},
            78,
            "telemetry",
            "OTEL_EXPORTER_OTLP_ENDPOINT: nobody answers at 127.0.0.1:9",
        ),
        ({"OTEL_METRICS_EXPORTER": "pigeon"}, 78, "telemetry", "is it spelt so, and installed?"),
        (
            {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "much"},
            78,
            "telemetry",
            "the OTEL_ variables cannot be used",
        ),
    ],
)
async def test_each_mistake_is_named_with_its_remedy(
    program: Program, variables: dict[str, str], exit_code: int, part: str, remedy: str
) -> None:
    program.environment["HOME"] = str(program.folder)
    async with served(program, Population(1, seed=91)):
        program.environment |= variables
        done = await program("check")
    wrong = failed(done)
    assert done.exit == exit_code, done.stdout + done.stderr
    assert remedy in wrong[part]
    # What has nothing to do with it is looked at all the same.
    assert set(wrong) <= {part, "queue", "API"}
    assert "queue: " in done.stdout


@pytest.mark.parametrize(
    ("code", "exit_code", "remedy"),
    [
        ("AccessDeniedException", 77, "has to allow partnercentral:ListConnections"),
        ("ExpiredTokenException", 77, "sign in anew"),
        ("InvalidSignatureException", 77, "the machine's clock"),
        ("UnrecognizedClientException", 77, "does not know the access key"),
        ("InternalServerException", 75, "AWS fails"),
    ],
)
async def test_what_the_api_has_against_it_is_named_with_its_remedy(
    program: Program, code: str, exit_code: int, remedy: str
) -> None:
    answer = {"__type": code, "Message": "no"}
    async with served(
        program, Population(1, seed=94), answer=lambda *_: web.json_response(answer, status=400)
    ):
        done = await program("check")
    assert done.exit == exit_code
    assert remedy in failed(done)["API"]


async def test_an_account_has_twelve_digits(program: Program) -> None:
    async with served(program, Population(1, seed=94)):
        program.environment["SYNCER_ACCOUNT_ID"] = "11112222333"
        done = await program("check")
    assert done.exit == 78
    assert "12 digits" in failed(done)["settings"]


async def test_a_collector_that_answers_is_all_it_takes(program: Program) -> None:
    collector = Collector()
    async with served(program, Population(1, seed=95)), collector.receiving() as endpoint:
        program.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        done = await program("check")
    assert (done.exit, done.stderr) == (0, "")


async def test_a_port_that_a_worker_has_is_no_mistake(program: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        program.environment |= {
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(taken.getsockname()[1]),
        }
        async with served(program, Population(1, seed=96)):
            done = await program("check")
    assert done.exit == 0, done.stdout


@contextmanager
def role(url: str, options: str) -> Iterator[str]:
    """A user of its own in the database at `url`, as a URL."""
    name = f"{make_url(url).database}_user"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}' {options}".encode())
    try:
        yield make_url(url).set(username=name, password=SECRET).render_as_string(hide_password=False)
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {name}".encode())


async def checked(program: Program, url: str) -> tuple[int, str]:
    """The exit code, and what is wrong with the database."""
    program.environment["DATABASE_URL"] = url
    async with served(program, Population(1, seed=97)):
        done = await program("check")
    wrong = failed(done)
    assert set(wrong) <= {"database", "schema"}, done.stdout
    return done.exit, wrong.get("database") or wrong["schema"]


async def test_rights_that_are_missing_are_named(program: Program, database_url: str) -> None:
    with role(database_url, "") as url:
        exit_code, wrong = await checked(program, url)
    assert exit_code == 78
    assert "may not DELETE, INSERT, SELECT, UPDATE on connection;" in wrong
    assert "see syncer grant --writer" in wrong


async def test_a_server_that_takes_no_writes_is_named(program: Program, database_url: str) -> None:
    with role(database_url, "SUPERUSER") as url:
        name = make_url(url).username
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"ALTER ROLE {name} SET default_transaction_read_only = on".encode())
        exit_code, wrong = await checked(program, url)
    assert exit_code == 78
    assert "read-only: see default_transaction_read_only" in wrong


async def test_an_encoding_that_has_not_all_names_is_named(program: Program, database_url: str) -> None:
    name = f"{make_url(database_url).database}_latin"
    made = f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    with psycopg.connect(database_url, autocommit=True) as connection:
        if connection.info.server_version >= 150_000:
            made += " LOCALE_PROVIDER libc"
        connection.execute(made.encode())
        try:
            url = make_url(database_url).set(database=name).render_as_string(hide_password=False)
            exit_code, wrong = await checked(program, url)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    assert exit_code == 78
    assert "its encoding is LATIN1: names need one in UTF8" in wrong


@pytest.mark.parametrize(
    ("version", "remedy"), [("0001", "run `syncer migrate`"), ("9999", "install the syncer that made it")]
)
async def test_a_schema_of_another_version_is_named(
    program: Program, database_url: str, version: str, remedy: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(f"UPDATE alembic_version SET version_num = '{version}'".encode())
    exit_code, wrong = await checked(program, database_url)
    assert exit_code == 78
    assert remedy in wrong


async def test_a_database_that_is_not_there_is_named(program: Program, database_url: str) -> None:
    url = make_url(database_url).set(database="nobody_made_this")
    exit_code, wrong = await checked(program, url.render_as_string(hide_password=False))
    assert exit_code == 78
    assert "check the name" in wrong


async def test_a_parameter_that_is_not_known_is_named(program: Program, database_url: str) -> None:
    url = make_url(database_url).update_query_dict({"sslmod": "require"})
    exit_code, wrong = await checked(program, url.render_as_string(hide_password=False))
    assert exit_code == 78
    assert "does not exist: sslmod" in wrong


@needs_another
async def test_a_wrong_password_is_named_and_not_repeated(program: Program) -> None:
    access = ("host all syncer 127.0.0.1/32 scram-sha-256", "host all postgres 127.0.0.1/32 trust")
    with cluster(access=access) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE syncer LOGIN PASSWORD 'another'")
        for password in (SECRET, None):
            url = make_url(server.url).set(username="syncer", password=password)
            exit_code, wrong = await checked(program, url.render_as_string(hide_password=False))
            assert exit_code == 78
            assert "check user, password and rights" in wrong


async def test_the_queue_is_looked_at_where_there_is_one(program: Program, queue: Queues) -> None:
    queue.send("a", "b")
    async with served(program, Population(1, seed=93)):
        done = await program("check")
        assert done.exit == 0, done.stdout
        assert "about 2 messages, visibility timeout 10 s, to the dead-letter queue after 3" in done.stdout
        gone = await program("check", "--queue-url", queue.url + "x")
        other = queue.sqs.create_queue(QueueName="alone")["QueueUrl"]
        alone = await program("check", "--queue-url", other)
    assert gone.exit == 78
    assert "FAILED queue: there is no queue" in gone.stdout
    assert alone.exit == 0
    assert "no dead-letter queue: give it one" in alone.stdout


async def test_a_queue_that_lets_nobody_in_is_named(program: Program) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"__type": "AccessDeniedException", "message": SECRET}, status=400)

    application = web.Application()
    application.router.add_post("/{path:.*}", refuse)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with served(program, Population(1, seed=98)):
        program.environment |= {
            "AWS_ENDPOINT_URL_SQS": site.name,
            "SYNCER_QUEUE_URL": f"{site.name}/123456789012/connections",
        }
        done = await program("check")
    await runner.cleanup()
    assert done.exit == 77
    assert "policy allows sqs:ReceiveMessage" in failed(done)["queue"]


async def test_a_database_without_tables_is_not_set_up(program: Program, empty_database_url: str) -> None:
    program.environment["DATABASE_URL"] = empty_database_url
    async with served(program, Population(1, seed=92)):
        done = await program("check")
    assert done.exit == 78
    assert "FAILED schema: the database has no syncer tables yet" in done.stdout
