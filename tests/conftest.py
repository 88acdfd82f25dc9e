"""What the tests stand on: a real Postgres, a database for each test, and the program as a process.

The server is the one of SYNCER_TEST_DATABASE_URL (its user may create databases), or else the embedded one,
in a temporary folder. It is migrated once, into a template; each test gets a copy.
"""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import boto3
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from moto.server import ThreadedMotoServer
from sqlalchemy import make_url

from syncer.demo import environment
from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults, Simulator
from syncer.store.embedded import embedded
from syncer.store.pool import Connection, Pool
from syncer.store.schema import migrate

# A failure found yesterday should be found today: properties are tried with the same examples every time.
# `SYNCER_HYPOTHESIS=thorough` tries many more, and others each time.
# How long an example takes to draw says something of the machine, nothing of the program.
SLOW = [HealthCheck.too_slow]
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, suppress_health_check=SLOW
)
settings.register_profile("thorough", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("SYNCER_HYPOTHESIS", "repeatable"))

# Waits are on conditions; this only ends a test whose condition never comes.
PATIENCE = 60.0


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    with server() as url:
        yield url


@contextmanager
def server() -> Iterator[str]:
    """A Postgres to create databases in."""
    given = os.environ.get("SYNCER_TEST_DATABASE_URL")
    if given:
        yield given
        return
    with own_folder() as folder, embedded(folder) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            # Nothing here need outlive a crash of the machine: a test's database then costs 30 ms, not 100.
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
            connection.execute("SELECT pg_reload_conf()")
        yield server.url


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for an embedded server.

    Not below `tmp_path`, which is closed to the account that the server runs as when the tests are root's.
    A test session that is killed leaves its folder (never its server): a later one clears it away.
    """
    for left in Path(tempfile.gettempdir()).glob("syncer-tests-*"):
        if left.stat().st_mtime < time.time() - timedelta(days=1).total_seconds():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="syncer-tests-") as folder:
        yield Path(folder)


class Recording(Pool):
    """A pool that notes what is asked: each statement, with its parameters. before: told of it first."""

    def __init__(self, url: str, before: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(url)
        self.before = before
        self.asked: list[tuple[str, Any]] = []

    async def open(self) -> Connection:
        pool = self

        class Cursor(psycopg.AsyncCursor[Any]):
            async def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
                pool.before(str(query))
                pool.asked.append((str(query), params))
                return await super().execute(query, params, **options)

        connection = await super().open()
        connection.cursor_factory = Cursor
        return connection


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    with database_on(server_url) as (name, url):
        asyncio.run(migrate(url))
        yield name


@pytest.fixture
def database_url(server_url: str, template: str) -> Iterator[str]:
    """A migrated, empty database."""
    with database_on(server_url, template) as (_, url):
        yield url


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database without any tables."""
    with database_on(server_url) as (_, url):
        yield url


@contextmanager
def database_on(server_url: str, template: str = "template1") -> Iterator[tuple[str, str]]:
    """A database, its name and URL, for the duration of the context."""
    name = f"syncer_test_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    try:
        yield name, make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run of the program left behind."""

    exit: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """stdout as the one JSON object it should be."""
        result: dict[str, Any] = json.loads(self.stdout)
        return result

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log events of that name."""
        lines = (json.loads(line) for line in self.stderr.splitlines() if line.startswith("{"))
        return [line for line in lines if line.get("event") == name]


class Program:
    """The program, run as users run it: as a process, set up by its environment."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        # PYTHONPATH: the program that is tried need not be the one that is installed.
        passed_on = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")
        kept = {name: os.environ[name] for name in passed_on if name in os.environ}
        self.environment = kept | variables

    async def start(
        self, *arguments: str, stdin: int | None = subprocess.DEVNULL
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "syncer", *arguments,
            cwd=self.folder, env=self.environment, stdin=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    async def __call__(self, *arguments: str, stdin: bytes | None = None) -> Finished:
        process = await self.start(
            *arguments, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL
        )
        return await finished(process, stdin)


async def finished(process: asyncio.subprocess.Process, stdin: bytes | None = None) -> Finished:
    """Wait for `process` to end."""
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(stdin), PATIENCE)
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return Finished(process.returncode, stdout.decode(), stderr.decode())


@pytest.fixture
def program(tmp_path: Path, database_url: str) -> Program:
    """The program, with a database; no API yet: see `served`."""
    return Program(tmp_path, DATABASE_URL=database_url)


@asynccontextmanager
async def served(
    program: Program, population: Population, faults: Faults | None = None, **options: Any
) -> AsyncIterator[Simulator]:
    """Let `program` call a simulator of `population` while the context lasts."""
    simulator = Simulator(population, faults or Faults(), **options)
    async with simulator.serving() as url:
        program.environment.update(environment(url))
        yield simulator


def ids_file(folder: Path, population: Population, name: str = "ids.txt") -> str:
    """A file with all IDs of `population`; its name, relative to `folder`."""
    (folder / name).write_text("\n".join(population.identifiers()) + "\n")
    return name


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query in the database at `url`."""
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`, while everything else goes on."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  (what is waited for happens in another process)
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Queues:
    """A queue, and the dead-letter queue to which messages go at their fourth receipt."""

    sqs: Any
    url: str
    dead_url: str

    def send(self, *bodies: object) -> None:
        for start in range(0, len(bodies), 10):
            entries = [
                {"Id": str(number), "MessageBody": body if isinstance(body, str) else json.dumps(body)}
                for number, body in enumerate(bodies[start : start + 10])
            ]
            assert not self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries).get("Failed")

    def left(self, url: str = "") -> int:
        """Messages, whether anybody can see them or not."""
        return sum(self.depth(url))

    def depth(self, url: str = "") -> tuple[int, int]:
        """Messages that are visible, and that are not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        told = self.sqs.get_queue_attributes(QueueUrl=url or self.url, AttributeNames=names)["Attributes"]
        return int(told[names[0]]), int(told[names[1]])


@pytest.fixture
def queue(program: Program) -> Iterator[Queues]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    sqs = boto3.client(
        "sqs",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
    )
    name = f"connections-{program.folder.name}"
    dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    url = sqs.create_queue(
        QueueName=name,
        Attributes={
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3}),
            "VisibilityTimeout": "10",
        },
    )["QueueUrl"]
    program.environment |= {
        "AWS_ENDPOINT_URL_SQS": endpoint,
        "SYNCER_QUEUE_URL": url,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
    }
    yield Queues(sqs, url, dead)
    server.stop()
