"""A database that speaks TLS: who is trusted, who is not, and what is said of it."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from syncer.partner_central.population import Population
from syncer.store.schema import migrate
from tests.certificates import Authority
from tests.cluster import cluster, needs_another
from tests.conftest import Program, database_on, ids_file, rows, served

pytestmark = needs_another

# Nobody comes in unencrypted but the tests themselves.
ACCESS = ("hostssl all syncer 127.0.0.1/32 trust", "host all postgres 127.0.0.1/32 trust")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("an authority")


@pytest.fixture(scope="module")
def tls_url(authority: Authority) -> Iterator[str]:
    """A migrated database of a server whose certificate is for localhost, as its owner would see it."""
    pair = authority.certify("localhost")
    files = {"server.crt": pair.certificate, "server.key": pair.key}
    with (
        cluster(settings={"ssl": "on"}, access=ACCESS, files=files) as server,
        database_on(server.url) as (_, url),
    ):
        asyncio.run(migrate(url))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE ROLE syncer SUPERUSER LOGIN")
        yield url


@pytest.fixture
def program(tmp_path: Path, authority: Authority) -> Program:
    """The program, which knows the authority."""
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    (tmp_path / "other.pem").write_bytes(Authority("somebody else").certificate)
    (tmp_path / "former.pem").write_bytes(Authority("an authority").certificate)
    return Program(tmp_path, PGSSLROOTCERT=str(tmp_path / "ca.pem"))


def reached(url: str, host: str, sslmode: str) -> str:
    made = make_url(url).set(host=host, username="syncer").update_query_dict({"sslmode": sslmode})
    return made.render_as_string(hide_password=False)


async def test_a_server_that_proves_itself_is_worked_with(program: Program, tls_url: str) -> None:
    program.environment["DATABASE_URL"] = reached(tls_url, "localhost", "verify-full")
    population = Population(20, seed=310)
    async with served(program, population):
        checked = await program("check")
        done = await program("sync", ids_file(program.folder, population), "--json")
    assert checked.exit == 0, checked.stdout
    assert "ok     database" in checked.stdout
    assert ", TLS" in checked.stdout.partition("\n")[0]
    assert (done.exit, done.result["written"]) == (0, 20), done.stderr
    assert rows(tls_url, "SELECT count(*) FROM connection") == [(20,)]


async def test_encryption_alone_takes_no_authority(program: Program, tls_url: str) -> None:
    del program.environment["PGSSLROOTCERT"]
    program.environment |= {"DATABASE_URL": reached(tls_url, "127.0.0.1", "require"), "HOME": "/nonexistent"}
    async with served(program, Population(1, seed=311)):
        checked = await program("check")
    assert checked.exit == 0, checked.stdout
    assert ", TLS" in checked.stdout.partition("\n")[0]


@dataclass(frozen=True, slots=True)
class Refused:
    """How the server is reached, with whose certificate; what the client says, and what is to be done."""

    host: str
    sslmode: str
    root: str
    said: str
    remedy: str


@pytest.mark.parametrize(
    "case",
    [
        Refused("localhost", "verify-full", "other.pem", "verify failed", "is not this server's CA"),
        Refused("localhost", "verify-ca", "former.pem", "signature failure", "is not this server's CA"),
        Refused("127.0.0.1", "verify-full", "ca.pem", "does not match host name", "by a name that it has"),
        Refused("localhost", "verify-full", "none.pem", "root certificate file", "name a file with the CA"),
        Refused("localhost", "disable", "ca.pem", "no encryption", "add ?sslmode=verify-full"),
    ],
    ids=lambda case: f"{case.host}-{case.sslmode}-{case.root}",
)
async def test_a_server_that_does_not_is_refused_in_one_line(
    program: Program, tls_url: str, case: Refused
) -> None:
    program.environment |= {
        "DATABASE_URL": reached(tls_url, case.host, case.sslmode),
        "PGSSLROOTCERT": str(program.folder / case.root),
    }
    population = Population(1, seed=312)
    async with served(program, population):
        done = await program("sync", ids_file(program.folder, population))
        checked = await program("check")
    assert (done.exit, checked.exit) == (78, 78), done.stderr + checked.stdout
    assert "Traceback" not in done.stderr
    (line,) = [each for each in done.stderr.splitlines() if case.said in each]
    assert case.remedy in line
    assert case.remedy in checked.stdout


async def test_a_server_without_tls_is_refused_where_it_is_asked_for(program: Program) -> None:
    with cluster() as server:
        program.environment["DATABASE_URL"] = f"{server.url}?sslmode=verify-full"
        async with served(program, Population(1, seed=313)):
            done = await program("sync")
    assert done.exit == 78, done.stderr
    assert "server does not support SSL" in done.stderr
    assert "switch TLS on at the server" in done.stderr
