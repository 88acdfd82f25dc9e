"""Logging in to Amazon RDS with IAM: a token per connection, over TLS only, told to nobody else."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults
from syncer.rds import region
from syncer.settings import DatabaseAuth
from syncer.store.database import AUTH, BadDatabaseUrl, with_auth
from syncer.store.embedded import SOCKET, Embedded, embedded
from syncer.store.schema import migrate
from tests.certificates import Authority
from tests.conftest import Program, finished, ids_file, own_folder, rows, served, until
from tests.rds import Rds

KEY, SECRET, SESSION = "AKIAEXAMPLE", "geheimer/schluessel", "geheimes-token"
# Of a token, whatever is written of it.
SIGNED = re.compile("X-Amz|Signature|aws4_request|" + "|".join(map(re.escape, (SECRET, SESSION))))


@pytest.fixture(scope="module")
def database() -> Iterator[Embedded]:
    with own_folder() as folder, embedded(folder) as server:
        asyncio.run(migrate(server.url))
        yield server


@pytest.fixture
def authority() -> Authority:
    return Authority("an authority")


@pytest.fixture
def rds(database: Embedded, authority: Authority) -> Rds:
    socket = database.folder / "data" / SOCKET
    return Rds(lambda: asyncio.open_unix_connection(socket), authority.certify("localhost"))


@pytest.fixture
async def port(rds: Rds) -> AsyncIterator[int]:
    async with rds.serving() as number:
        yield number


@pytest.fixture
def program(tmp_path: Path, authority: Authority, port: int) -> Program:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.certificate)
    return Program(
        tmp_path,
        DATABASE_URL=f"postgresql://postgres@localhost:{port}/postgres",
        SYNCER_DB_AUTH="iam",
        PGSSLROOTCERT=str(ca),
        AWS_REGION="eu-central-1",
    )


def signs(program: Program) -> None:
    """Credentials with a session, as roles have them."""
    program.environment |= {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": SESSION,
    }


def signed_at(token: str) -> datetime:
    (date,) = parse_qs(urlsplit(f"https://{token}").query)["X-Amz-Date"]
    return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


async def test_a_token_is_for_this_host_port_user_and_region(program: Program, rds: Rds, port: int) -> None:
    async with served(program, Population(1, seed=320)):
        signs(program)
        checked = await program("check")
    assert checked.exit == 0, checked.stdout
    assert ", TLS" in checked.stdout
    assert rds.tokens
    for token in rds.tokens:
        url = urlsplit(f"https://{token}")
        asked = {name: value for name, (value,) in parse_qs(url.query).items()}
        key, _, *scope = asked["X-Amz-Credential"].split("/")
        assert (url.netloc, asked["Action"], asked["DBUser"]) == (f"localhost:{port}", "connect", "postgres")
        assert (asked["X-Amz-Expires"], asked["X-Amz-Security-Token"]) == ("900", SESSION)
        assert (key, scope) == (KEY, ["eu-central-1", "rds-db", "aws4_request"])


async def test_each_new_connection_has_a_token_of_its_own(
    program: Program, rds: Rds, database: Embedded
) -> None:
    population = Population(600, seed=321)
    async with served(program, population, Faults(latency=0.2)) as simulator:
        signs(program)
        process = await program.start(
            "sync", ids_file(program.folder, population), "--json", "--concurrency", "8", "--batch-size", "10"
        )
        await until(lambda: rows(database.url, "SELECT count(*) > 20 FROM connection") == [(True,)])
        before = len(rds.tokens)
        # A token names the second that it was made in.
        await until(lambda: datetime.now(UTC).replace(microsecond=0) > signed_at(rds.tokens[-1]))
        cut = datetime.now(UTC).replace(microsecond=0)
        rds.cut()
        simulator.faults = Faults()
        done = await finished(process)
    assert (done.exit, done.result["status"]) == (0, "succeeded"), done.stderr
    assert len(rds.tokens) > before
    assert all(signed_at(token) >= cut for token in rds.tokens[before:])
    assert not SIGNED.search(done.stdout + done.stderr)


async def test_a_refused_token_is_told_to_nobody(program: Program, rds: Rds) -> None:
    rds.refusing = True
    async with served(program, Population(1, seed=322)):
        signs(program)
        for command in (("sync",), ("check",), ("migrate",), ("status",)):
            done = await program(*command)
            told = done.stdout + done.stderr
            assert done.exit == 78, told
            assert "may the AWS role rds-db:connect as this user" in told
            assert "Traceback" not in told
            assert not SIGNED.search(told)
    assert rds.tokens


async def test_no_token_goes_to_a_server_that_does_not_prove_itself(program: Program, rds: Rds) -> None:
    (program.folder / "other.pem").write_bytes(Authority("somebody else").certificate)
    async with served(program, Population(1, seed=323)):
        signs(program)
        program.environment["PGSSLROOTCERT"] = str(program.folder / "other.pem")
        untrusted = await program("sync")
        program.environment["PGSSLROOTCERT"] = str(program.folder / "ca.pem")
        rds.encrypted = False
        open_to_all = await program("sync")
        program.environment["PGSSLMODE"] = "prefer"
        unasked = await program("sync")
    assert (untrusted.exit, open_to_all.exit, unasked.exit) == (78, 78, 78)
    assert "certificate verify failed" in untrusted.stderr
    assert "server does not support SSL" in open_to_all.stderr
    assert "sslmode=verify-full, please" in unasked.stderr
    assert rds.tokens == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_REGION": ""}, "set AWS_REGION"),
        ({"AWS_PROFILE": "nobody"}, "no AWS credentials to sign a token with"),
        ({"AWS_EC2_METADATA_DISABLED": "true"}, "no AWS credentials to sign a token with"),
    ],
)
async def test_what_it_takes_to_make_one_is_named(
    program: Program, rds: Rds, variables: dict[str, str], said: str
) -> None:
    program.environment |= {"HOME": str(program.folder)} | variables
    checked = await program("check")
    assert "FAILED database" in checked.stdout
    assert said in checked.stdout.partition("\n")[0]
    assert rds.tokens == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u@/x?host=/run/postgresql", "one host and a user"),
        ("postgresql://h/x", "one host and a user"),
        ("postgresql://u@a,b/x", "one host and a user"),
        ("postgresql://u@a/x?port=1,2", "one host and a user"),
        ("postgresql://u:p@h/x", "leave the one in DATABASE_URL away"),
        ("postgresql://u@h/x?sslmode=prefer", "sslmode=verify-full, please"),
    ],
)
def test_a_url_that_does_not_go_with_it(url: str, said: str) -> None:
    with pytest.raises(BadDatabaseUrl, match=re.escape(said)):
        with_auth(url, DatabaseAuth.IAM)


@pytest.mark.parametrize(
    ("url", "mode"),
    [("postgresql://u@h/x", "verify-full"), ("postgresql://u@h/x?sslmode=require", "require")],
)
def test_the_server_has_to_prove_itself_unless_told_otherwise(url: str, mode: str) -> None:
    made = with_auth(url, DatabaseAuth.IAM)
    assert f"sslmode={mode}" in made
    assert AUTH in made


@pytest.mark.parametrize(
    ("host", "configured", "found"),
    [
        ("partners.abc123.eu-west-1.rds.amazonaws.com", "us-east-1", "eu-west-1"),
        ("partners.proxy-abc.us-gov-west-1.rds.amazonaws.com", None, "us-gov-west-1"),
        ("partners.abc123.rds.cn-north-1.amazonaws.com.cn", None, "cn-north-1"),
        ("db.example", "us-east-1", "us-east-1"),
        ("db.example", None, None),
    ],
)
def test_the_region_is_the_hosts(host: str, configured: str | None, found: str | None) -> None:
    assert region(host, configured) == found
