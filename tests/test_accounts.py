"""Many accounts side by side: roles assumed through a real STS protocol, a quota for each."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer

from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults
from tests.conftest import Program, rows, served


@pytest.fixture
def sts(program: Program) -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    program.environment["AWS_ENDPOINT_URL_STS"] = f"http://{host}:{port}"
    yield program.environment["AWS_ENDPOINT_URL_STS"]
    server.stop()


def role(number: int) -> str:
    return f"arn:aws:iam::{number:012d}:role/syncer"


async def test_each_account_has_its_own_run_rows_and_quota(
    program: Program, database_url: str, sts: str
) -> None:
    assert sts
    population = Population(60, seed=40)
    (program.folder / "roles.txt").write_text(f"# the others\n{role(2)}\n{role(3)}\n")
    async with served(program, population, Faults(rate=200, burst=20), quota_per_access_key=True):
        del program.environment["SYNCER_ACCOUNT_ID"]
        done = await program("sync", "--assume-role", role(1), "--assume-role", "@roles.txt", "--json")
    assert done.exit == 0, done.stderr
    accounts = [f"{number:012d}" for number in (1, 2, 3)]
    assert [run["account_id"] for run in done.result["runs"]] == accounts
    assert done.result["read"] == sum(run["read"] for run in done.result["runs"])
    assert rows(database_url, "SELECT account_id, status FROM sync_run ORDER BY account_id") == [
        (account, "succeeded") for account in accounts
    ]
    assert len(set(rows(database_url, "SELECT count(*) FROM connection GROUP BY account_id"))) == 1
    assert rows(database_url, "SELECT DISTINCT account_id FROM request_rate ORDER BY 1") == [
        (account,) for account in accounts
    ]


async def test_without_a_role_sts_tells_whose_view_it_is(
    program: Program, database_url: str, sts: str
) -> None:
    assert sts
    async with served(program, Population(5, seed=43)):
        del program.environment["SYNCER_ACCOUNT_ID"]
        done = await program("sync", "--json")
    assert (done.exit, done.result["status"]) == (0, "succeeded"), done.stderr
    # moto's own account
    assert rows(database_url, "SELECT DISTINCT account_id FROM connection") == [("123456789012",)]


@asynccontextmanager
async def denying_the_first_key(endpoint: str) -> AsyncIterator[str]:
    """A way to `endpoint` that is closed to the access key that comes first."""
    denied: list[str] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        key = request.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
        denied[:] = denied or [key]
        if key in denied:
            return web.json_response(
                {"__type": "AccessDeniedException", "Message": "no", "Reason": "ACCESS_DENIED"}, status=400
            )
        async with (
            aiohttp.ClientSession() as client,
            client.post(endpoint, data=await request.read(), headers=request.headers) as answer,
        ):
            return web.Response(body=await answer.read(), status=answer.status)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name
    finally:
        await runner.cleanup()


async def test_an_account_that_is_denied_stops_no_other(
    program: Program, database_url: str, sts: str
) -> None:
    assert sts
    async with served(program, Population(20, seed=41)):
        del program.environment["SYNCER_ACCOUNT_ID"]
        endpoint = "AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT"
        async with denying_the_first_key(program.environment[endpoint]) as program.environment[endpoint]:
            done = await program("sync", "--assume-role", role(1), "--assume-role", role(2), "--json")
    assert done.exit == 77
    assert sorted(run["status"] for run in done.result["runs"]) == ["aborted", "succeeded"]
    assert "does not let us in" in done.stderr
    assert rows(database_url, "SELECT count(*) FROM sync_failure") == [(0,)]
    assert rows(database_url, "SELECT count(DISTINCT account_id) FROM connection") == [(1,)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--assume-role", "syncer"], "is no ARN of a role"),
        (["--assume-role", "@nowhere"], "nowhere cannot be read"),
        (["--assume-role", role(1), "--assume-role", role(1) + "2"], "two of the roles are of one account"),
        (["--assume-role", role(1), "--account-id", "1" * 12], "leave --account-id away"),
        (["-", "--assume-role", role(1)], "stdin can be read for one account only"),
    ],
)
async def test_what_cannot_be_is_refused_in_one_line(
    program: Program, arguments: list[str], message: str
) -> None:
    done = await program("sync", *arguments)
    assert done.exit == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_status_tells_how_things_are(program: Program) -> None:
    population = Population(30, seed=42)
    nothing = await program("status", "--max-age", "1h")
    assert (nothing.exit, nothing.stderr) == (1, "syncer: there was no run yet\n")
    async with served(program, population, Faults(rate=10, burst=2)):
        (program.folder / "ids.txt").write_text("no ID\n")
        assert (await program("sync", "ids.txt")).exit == 1
        late = await program("status", "--max-age", "1h")
        assert late.exit == 1
        assert "last in step never" in late.stderr
        assert (await program("sync")).exit == 0
    done = await program("status", "--json", "--max-age", "1h")
    assert done.exit == 0
    told = json.loads(done.stdout)
    assert [run["status"] for run in told["runs"]] == ["succeeded", "partial"]
    assert told["freshness"][0]["age_seconds"] < 3600
    assert told["failures"][0]["code"] == "InvalidIdentifier"
    assert {rate["operation"] for rate in told["rates"]} == {"GetConnection"}
    shown = await program("status")
    assert "Learned rates" in shown.stdout
    assert (await program("status", "--max-age", "0s")).exit == 1
