"""Behind PgBouncer in transaction mode: each transaction may be on another connection of the server's."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults
from tests.conftest import Program, Queues, finished, ids_file, rows, served, until

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
# Fewer than the program would take for itself: each transaction is on whichever is free.
SERVER_CONNECTIONS = 3
# So that there is a middle to be in.
SLOW = Faults(latency=0.2)
STEPS = ("--concurrency", "8", "--batch-size", "10")
LOCKS = """
    SELECT count(*)
    FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND datname = current_database()
"""

# Where it is said to be CI, PgBouncer has to be there: a test that is never carried out holds nothing.
pytestmark = pytest.mark.skipif(
    PGBOUNCER is None and not os.environ.get("CI"), reason="needs PgBouncer: apt-get install pgbouncer"
)


class Bouncer:
    """A PgBouncer before the database at `behind`. url: the way through it."""

    def __init__(self, folder: Path, behind: str) -> None:
        assert PGBOUNCER is not None, "PgBouncer has to be here: apt-get install pgbouncer"
        server = make_url(behind)
        host = server.host or str(server.query["host"])
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        target = {
            "host": host,
            "port": server.port or server.query.get("port") or 5432,
            "dbname": server.database,
            "user": server.username,
            "password": server.password,
        }
        self.url = f"postgresql://syncer@127.0.0.1:{port}/partners"
        self._folder = folder
        # It refuses to be root. To a socket in a folder that is closed it gets as the folder's owner.
        closed = Path(host).stat() if host.startswith("/") else None
        nobody = pwd.getpwnam("nobody")
        self._account = (closed.st_uid, closed.st_gid) if closed else (nobody.pw_uid, nobody.pw_gid)
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": SERVER_CONNECTIONS,
        }
        (folder / "pgbouncer.ini").write_text(
            "[databases]\npartners = "
            + " ".join(f"{name}={value}" for name, value in target.items() if value)
            + "\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        folder.chmod(0o755)

    @contextmanager
    def running(self) -> Iterator[None]:
        user, group = self._account if os.geteuid() == 0 else (None, None)
        log = self._folder / "log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [PGBOUNCER or "", str(self._folder / "pgbouncer.ini")],
                user=user, group=group, extra_groups=[] if user else None,
                stdout=subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip
        try:
            while not self._answers():
                assert process.poll() is None, log.read_text()
            yield
        finally:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others can enter."""
    with tempfile.TemporaryDirectory(prefix="syncer-pgbouncer-") as name:
        yield Path(name)


@pytest.fixture
def bouncer(folder: Path, program: Program, database_url: str) -> Bouncer:
    """What `program` has for a database."""
    bouncer = Bouncer(folder, database_url)
    program.environment["DATABASE_URL"] = bouncer.url
    return bouncer


async def test_a_sync_is_complete_and_alone(program: Program, bouncer: Bouncer, database_url: str) -> None:
    population = Population(1500, seed=301)
    with bouncer.running():
        async with served(program, population, SLOW) as simulator:
            first = await program.start("sync", ids_file(program.folder, population), "--json", *STEPS)
            # In the midst of it, and it takes as long as the others do.
            await until(lambda: rows(database_url, "SELECT count(*) > 0 FROM connection") == [(True,)])
            others = [await program("sync", "--json") for _ in range(3)]
            simulator.faults = Faults()
            done = await finished(first)
        assert [(each.exit, each.result["status"]) for each in others] == [(0, "locked")] * 3
        assert (done.exit, done.result["written"]) == (0, 1500), done.stderr
        async with served(program, population):
            again = await program("sync", "--full", "--json")
        assert (again.exit, again.result["status"]) == (0, "succeeded"), again.stderr
        assert again.result["rows_written"] == 0
    assert rows(database_url, "SELECT count(*) FROM connection") == [(1500,)]


async def test_a_lock_ends_with_its_holder_and_the_next_run_goes_on(
    program: Program, bouncer: Bouncer, database_url: str
) -> None:
    population = Population(600, seed=302)
    ids = ids_file(program.folder, population)
    with bouncer.running():
        async with served(program, population, SLOW):
            process = await program.start("sync", ids, *STEPS)
            await until(lambda: rows(database_url, "SELECT max(checkpoint) > 0 FROM sync_run") == [(True,)])
            assert rows(database_url, LOCKS) == [(1,)]
            process.kill()
            await process.wait()
            await until(lambda: rows(database_url, LOCKS) == [(0,)])
        async with served(program, population):
            done = await program("sync", ids, "--resume", "--json")
    assert (done.exit, done.result["status"]) == (0, "succeeded"), done.stderr
    assert done.result["skipped"] > 0
    assert rows(database_url, "SELECT count(*) FROM connection") == [(600,)]


async def test_pgbouncer_may_be_restarted(program: Program, bouncer: Bouncer, database_url: str) -> None:
    population = Population(600, seed=303)
    async with served(program, population, SLOW) as simulator:
        with bouncer.running():
            process = await program.start("sync", ids_file(program.folder, population), "--json", *STEPS)
            await until(lambda: rows(database_url, "SELECT count(*) > 30 FROM connection") == [(True,)])
        simulator.faults = Faults()
        with bouncer.running():
            done = await finished(process)
    assert done.exit == 0, done.stderr
    assert rows(database_url, "SELECT count(*) FROM connection") == [(600,)]


async def test_workers_share_a_queue(
    program: Program, bouncer: Bouncer, database_url: str, queue: Queues
) -> None:
    population = Population(200, seed=304)
    queue.send(*population.identifiers())
    with bouncer.running():
        async with served(program, population, Faults(latency=0.02)):
            workers = [await program.start("work", "--drain", "--json") for _ in range(2)]
            done = [await finished(worker) for worker in workers]
    assert [each.exit for each in done] == [0, 0], [each.stderr for each in done]
    assert sum(each.result["written"] for each in done) == 200
    assert queue.left() == 0
    assert rows(database_url, "SELECT count(*) FROM connection") == [(200,)]


async def test_migrations_and_the_check_go_through_it(
    folder: Path, tmp_path: Path, empty_database_url: str
) -> None:
    bouncer = Bouncer(folder, empty_database_url)
    program = Program(tmp_path, DATABASE_URL=bouncer.url)
    with bouncer.running():
        async with served(program, Population(3, seed=305)):
            done = [await program(command) for command in ("migrate", "check", "sync", "status")]
    assert [each.exit for each in done] == [0, 0, 0, 0], [each.stdout + each.stderr for each in done]
    assert rows(empty_database_url, "SELECT count(*) > 0 FROM connection") == [(True,)]


async def test_a_setting_that_it_does_not_pass_on_is_named(program: Program, bouncer: Bouncer) -> None:
    program.environment["DATABASE_URL"] += "?options=-csearch_path%3Dpartners"
    with bouncer.running():
        async with served(program, Population(1, seed=306)):
            done = await program("check")
    assert done.exit == 78, done.stdout
    assert "unsupported startup parameter: options" in done.stdout
    assert "behind PgBouncer, `alter role … set …` does what options=… would" in done.stdout
