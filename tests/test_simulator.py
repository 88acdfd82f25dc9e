"""The simulated Partner Central, asked over HTTP as any caller would."""

import asyncio
import json
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import anyio
import pytest
from aiobotocore.config import AioConfig
from aiohttp import web
from botocore.exceptions import ClientError

from syncer.partner_central.client import REGION, SERVICE, opened, own_session
from syncer.partner_central.errors import NotFound, Throttled, Transient, Unreachable
from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Bucket, Faults, Simulator, simulate
from syncer.times import timestamp


@dataclass
class Answered:
    status: int
    headers: Any
    content: dict[str, Any]

    @property
    def code(self) -> str:
        return str(self.headers.get("x-amzn-errortype", "ok"))


@dataclass
class Caller:
    """Speaks to the simulator without any SDK."""

    http: aiohttp.ClientSession
    url: str
    access_key: str = "AKIAEXAMPLE"

    async def send(self, target: str, body: bytes) -> Answered:
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": target,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={self.access_key}/20260101/x, Signature=0",
        }
        async with self.http.post(self.url, data=body, headers=headers) as response:
            return Answered(response.status, response.headers, json.loads(await response.read()))

    async def ask(self, operation: str, **request: object) -> Answered:
        body = json.dumps({"Catalog": "AWS"} | request).encode()
        return await self.send(f"PartnerCentralAccount.{operation}", body)

    async def get(self, identifier: str) -> Answered:
        return await self.ask("GetConnection", Identifier=identifier)

    async def codes(self, calls: int, identifier: str) -> Counter[str]:
        return Counter([(await self.get(identifier)).code for _ in range(calls)])


@asynccontextmanager
async def calling(simulator: Simulator) -> AsyncIterator[Caller]:
    async with simulator.serving() as url, aiohttp.ClientSession() as http:
        yield Caller(http, url)


def population(size: int = 1000) -> Population:
    return Population(size, seed=1)


async def test_a_connection_is_answered_as_the_population_has_it() -> None:
    simulator = Simulator(population())
    async with calling(simulator) as caller:
        for number in range(50):
            answered = await caller.get(simulator.population.identifier(number))
            assert answered.status == 200
            assert answered.content == simulator.population.connection(number)
    assert answered.headers["Content-Type"] == "application/x-amz-json-1.0"
    assert len(answered.headers["x-amzn-RequestId"]) == 36
    assert simulator.served == {("GetConnection", "ok"): 50}


async def test_a_listing_is_read_page_by_page() -> None:
    simulator = Simulator(population())
    expected, _ = simulator.population.page(0, 1000)
    async with calling(simulator) as caller:
        for size in ({}, {"MaxResults": 7}):
            summaries: list[dict[str, Any]] = []
            token: dict[str, str] = {}
            while True:
                page = (await caller.ask("ListConnections", **size, **token)).content
                summaries += page["ConnectionSummaries"]
                assert len(page["ConnectionSummaries"]) <= size.get("MaxResults", 100)
                if "NextToken" not in page:
                    break
                token = {"NextToken": page["NextToken"]}
            assert summaries == expected


@pytest.mark.parametrize(
    ("operation", "request_", "code"),
    [
        ("GetConnection", {"Identifier": "pac-0123456789abc"}, "ResourceNotFoundException"),
        ("GetConnection", {"Identifier": "pac-short"}, "ValidationException"),
        ("GetConnection", {"Identifier": "pac-0123456789abc\n"}, "ValidationException"),
        ("GetConnection", {"Identifier": 7}, "ValidationException"),
        ("GetConnection", {}, "ValidationException"),
        ("GetConnection", {"Identifier": "pac-0123456789abc", "Catalog": "aws"}, "ValidationException"),
        ("GetConnection", {"Identifier": "pac-0123456789abc", "Catalog": None}, "ValidationException"),
        ("ListConnections", {"Catalog": "Other"}, "ValidationException"),
        ("ListConnections", {"MaxResults": 0}, "ValidationException"),
        ("ListConnections", {"MaxResults": 101}, "ValidationException"),
        ("ListConnections", {"MaxResults": "10"}, "ValidationException"),
        ("ListConnections", {"MaxResults": True}, "ValidationException"),
        ("ListConnections", {"NextToken": "guessed"}, "ValidationException"),
        ("ListConnections", {"NextToken": "MTAwLzE="}, "ValidationException"),
        ("ListConnections", {"NextToken": "é"}, "ValidationException"),
        ("ListConnections", {"NextToken": 5}, "ValidationException"),
        ("DeleteConnection", {}, "UnknownOperationException"),
    ],
)
async def test_errors_have_the_form_that_sdks_read(
    operation: str, request_: dict[str, object], code: str
) -> None:
    async with calling(Simulator(population())) as caller:
        answered = await caller.ask(operation, **request_)
    assert answered.status == 400
    assert answered.code == code
    assert answered.content["__type"].rpartition("#")[2] == code
    assert answered.content["Message"]
    reason = {
        "ResourceNotFoundException": "CONNECTION_NOT_FOUND",
        "ValidationException": "REQUEST_VALIDATION_FAILED",
    }.get(code)
    assert answered.content.get("Reason") == reason


@pytest.mark.parametrize(
    ("target", "body", "code"),
    [
        ("PartnerCentralAccount.GetConnection", b"no json", "SerializationException"),
        ("PartnerCentralAccount.GetConnection", b"[]", "SerializationException"),
        ("PartnerCentralAccount.GetConnection", b"\xff", "SerializationException"),
        ("PartnerCentralSelling.GetConnection", b"{}", "UnknownOperationException"),
        ("GetConnection", b"{}", "UnknownOperationException"),
        ("", b"{}", "UnknownOperationException"),
    ],
)
async def test_what_is_no_call_of_this_api_is_refused(target: str, body: bytes, code: str) -> None:
    async with calling(Simulator(population())) as caller:
        answered = await caller.send(target, body)
        assert (answered.status, answered.code) == (400, code)


async def test_calls_are_posted_to_the_root() -> None:
    simulator = Simulator(population())
    headers = {"X-Amz-Target": "PartnerCentralAccount.ListConnections"}
    async with calling(simulator) as caller:
        for method, path in (("GET", "/"), ("PUT", "/"), ("POST", "/connections")):
            request = caller.http.request(
                method, caller.url + path, data=b'{"Catalog": "AWS"}', headers=headers
            )
            async with request as response:
                assert response.headers["x-amzn-errortype"] == "UnknownOperationException"
    assert simulator.served == {("", "UnknownOperationException"): 3}


async def test_the_other_catalog_is_empty() -> None:
    simulator = Simulator(population())
    async with calling(simulator) as caller:
        identifier = simulator.population.identifier(0)
        answered = await caller.ask("GetConnection", Identifier=identifier, Catalog="Sandbox")
        assert answered.content["Reason"] == "CONNECTION_NOT_FOUND"
        listed = await caller.ask("ListConnections", Catalog="Sandbox")
        assert listed.content == {"ConnectionSummaries": []}


def test_a_bucket_serves_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate=2.0, burst=3.0, now=100.0)
    table = [
        (100.0, True),  # full: 3 tokens
        (100.0, True),
        (100.0, True),
        (100.0, False),
        (100.25, False),  # 0.25 s * 2/s = half a token
        (100.5, True),  # a whole one
        (100.5, False),
        (1000.0, True),  # rested: full again, and no more than full
        (1000.0, True),
        (1000.0, True),
        (1000.0, False),
    ]
    assert [bucket.take(now) for now, _ in table] == [served for _, served in table]


def test_a_bucket_that_changes_keeps_what_it_has() -> None:
    bucket = Bucket(rate=8.0, burst=8.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(8)] == [True] * 8
    # Half a second at the old rate: 4 tokens, of which the smaller bucket has room for 2.
    bucket.change(rate=1.0, burst=2.0, now=0.5)
    assert [bucket.take(0.5) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1.0), bucket.take(1.5)] == [False, True]


async def test_calls_beyond_the_quota_are_throttled_for_each_operation_alone() -> None:
    # One token in 1,000 s: nothing flows in while the test lasts.
    simulator = Simulator(population(), Faults(rate=0.001, burst=5), keep_timeline=True)
    began = time.monotonic()
    async with calling(simulator) as caller:
        identifier = simulator.population.identifier(0)
        assert await caller.codes(12, identifier) == {"ok": 5, "ThrottlingException": 7}
        throttled = await caller.get(identifier)
        assert throttled.status == 400
        assert throttled.content["Message"] == "Rate exceeded"
        assert (await caller.ask("ListConnections")).code == "ok"
    assert simulator.served == {
        ("GetConnection", "ok"): 5,
        ("GetConnection", "ThrottlingException"): 8,
        ("ListConnections", "ok"): 1,
    }
    assert [within for _, within in simulator.timeline] == [True] * 5 + [False] * 8 + [True]
    assert all(began <= at <= time.monotonic() for at, _ in simulator.timeline)


async def test_the_quota_may_change_while_serving() -> None:
    simulator = Simulator(population(), Faults(rate=0.001, burst=2))
    async with calling(simulator) as caller:
        identifier = simulator.population.identifier(0)
        assert await caller.codes(3, identifier) == {"ok": 2, "ThrottlingException": 1}
        simulator.faults = replace(simulator.faults, burst=50)
        assert await caller.codes(3, identifier) == {"ThrottlingException": 3}
        # So fast that it is full again by the next call; then slow again, with room for two.
        simulator.faults = replace(simulator.faults, rate=1e9)
        assert await caller.codes(20, identifier) == {"ok": 20}
        simulator.faults = replace(simulator.faults, rate=0.001, burst=2)
        assert await caller.codes(3, identifier) == {"ok": 2, "ThrottlingException": 1}
        simulator.faults = Faults()
        assert await caller.codes(20, identifier) == {"ok": 20}
        simulator.faults = Faults(rate=0.001, burst=4)
        assert await caller.codes(9, identifier) == {"ok": 4, "ThrottlingException": 5}


@pytest.mark.parametrize(("quota_per_access_key", "served"), [(True, 3), (False, 0)])
async def test_quotas_belong_to_all_callers_or_to_each_access_key(
    quota_per_access_key: bool,  # noqa: FBT001  (a parameter of the table)
    served: int,
) -> None:
    simulator = Simulator(
        population(), Faults(rate=0.001, burst=3), quota_per_access_key=quota_per_access_key
    )
    async with calling(simulator) as caller:
        identifier = simulator.population.identifier(0)
        assert (await caller.codes(5, identifier))["ok"] == 3
        other = replace(caller, access_key="AKIAOTHER")
        assert (await other.codes(5, identifier))["ok"] == served


async def test_errors_come_in_the_share_asked_for_and_the_same_for_a_seed() -> None:
    async def codes(seed: int) -> list[str]:
        simulator = Simulator(population(), Faults(error_rate=0.3, seed=seed))
        async with calling(simulator) as caller:
            identifier = simulator.population.identifier(0)
            answers = [await caller.get(identifier) for _ in range(200)]
        assert {answer.status for answer in answers} == {200, 500}
        assert simulator.served["GetConnection", "InternalServerException"] == sum(
            answer.status == 500 for answer in answers
        )
        return [answer.code for answer in answers]

    first = await codes(1)
    assert 0.2 < first.count("InternalServerException") / 200 < 0.4
    assert first == await codes(1)
    assert first != await codes(2)


async def test_connections_are_cut_before_and_within_the_answer() -> None:
    simulator = Simulator(population(), Faults(cut_rate=0.5))
    seen: Counter[type] = Counter()
    async with calling(simulator) as caller:
        for number in range(100):
            try:
                answered = await caller.get(simulator.population.identifier(number))
                assert answered.content == simulator.population.connection(number)
                seen[Answered] += 1
            except aiohttp.ClientError as error:
                seen[type(error)] += 1
    assert set(seen) == {Answered, aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError}
    assert simulator.served == {
        ("GetConnection", "ok"): seen[Answered],
        ("GetConnection", "cut"): 100 - seen[Answered],
    }
    assert min(seen.values()) > 10


async def test_a_throttled_call_is_never_cut_nor_an_error() -> None:
    simulator = Simulator(population(), Faults(rate=0.001, burst=1, cut_rate=1.0, error_rate=1.0))
    async with calling(simulator) as caller:
        with pytest.raises(aiohttp.ClientError):
            await caller.get(simulator.population.identifier(0))
        assert await caller.codes(20, simulator.population.identifier(0)) == {"ThrottlingException": 20}


async def test_unknown_connections_are_the_same_ones_everywhere_and_every_time() -> None:
    simulator = Simulator(population(), Faults(unknown_rate=0.2))
    identifiers = list(simulator.population.identifiers())
    async with calling(simulator) as caller:
        unknown = [identifier for identifier in identifiers if (await caller.get(identifier)).code != "ok"]
        assert 150 < len(unknown) < 250
        again = await caller.get(unknown[0])
        assert (again.code, again.content["Reason"]) == ("ResourceNotFoundException", "CONNECTION_NOT_FOUND")
        page = (await caller.ask("ListConnections")).content
        assert "NextToken" in page
        listed = {summary["Id"] for summary in page["ConnectionSummaries"]}
        assert listed
        assert listed.isdisjoint(unknown)


async def test_answers_take_the_latency_and_up_to_the_jitter_more() -> None:
    faults = Faults(latency=0.01, jitter=0.05, seed=7, rate=0.001, burst=5)
    simulator = Simulator(population(), faults)
    # Nothing else draws lots here, so the jitter of each call is known; no answer can come earlier.
    lots = random.Random(7)
    least = sum(0.01 + 0.05 * lots.random() for _ in range(10))
    async with calling(simulator) as caller:
        began = time.monotonic()
        await caller.codes(10, simulator.population.identifier(0))
        assert time.monotonic() - began > least - 0.001
    assert least > 0.2


async def test_overrides_are_served() -> None:
    simulator = Simulator(population())
    first, second = simulator.population.identifier(0), simulator.population.identifier(1)
    simulator.population.overrides = {first: None, second: {"Id": second, "Future": ["\x00", "\ud800"]}}
    async with calling(simulator) as caller:
        assert (await caller.get(first)).code == "ResourceNotFoundException"
        assert (await caller.get(second)).content == {"Id": second, "Future": ["\x00", "\ud800"]}


async def test_a_hook_answers_instead_and_is_asked_for_nothing_beyond_the_quota() -> None:
    asked: list[tuple[str, object]] = []

    def answer(operation: str, request: dict[str, Any]) -> web.Response | dict[str, Any] | None:
        asked.append((operation, request.get("Identifier")))
        match len(asked):
            case 1:
                return {"hostile": True}
            case 2:
                return web.json_response({}, status=429)
            case _:
                return None

    simulator = Simulator(population(), Faults(rate=0.001, burst=3), answer=answer)
    async with calling(simulator) as caller:
        identifier = simulator.population.identifier(0)
        assert (await caller.get(identifier)).content == {"hostile": True}
        assert (await caller.get(identifier)).status == 429
        assert (await caller.get(identifier)).content["Id"] == identifier
        assert (await caller.get(identifier)).code == "ThrottlingException"
    assert asked == [("GetConnection", identifier)] * 3
    assert simulator.served == {
        ("GetConnection", "ok"): 2,
        ("GetConnection", "HTTP 429"): 1,
        ("GetConnection", "ThrottlingException"): 1,
    }


async def test_a_hook_may_hold_calls_in_flight() -> None:
    everybody = anyio.Event()

    async def answer(operation: str, request: dict[str, Any]) -> None:
        del operation, request
        if simulator.in_flight == 5:
            everybody.set()
        await everybody.wait()

    simulator = Simulator(population(), answer=answer)
    async with calling(simulator) as caller:
        with anyio.fail_after(10):
            answers = await asyncio.gather(
                *(caller.get(simulator.population.identifier(number)) for number in range(5))
            )
    assert {answered.code for answered in answers} == {"ok"}
    assert (simulator.in_flight, simulator.most_in_flight) == (0, 5)


async def test_a_call_that_is_held_does_not_keep_the_server_from_ending() -> None:
    held = anyio.Event()

    async def answer(operation: str, request: dict[str, Any]) -> None:
        del operation, request
        held.set()
        await anyio.sleep_forever()

    simulator = Simulator(population(), answer=answer)
    with anyio.fail_after(10):
        async with aiohttp.ClientSession() as http, simulator.serving() as url:
            call = asyncio.create_task(Caller(http, url).get(simulator.population.identifier(0)))
            await held.wait()
        with pytest.raises(aiohttp.ClientError):
            await call


async def test_calls_are_counted_by_identifier_where_wanted() -> None:
    simulator = Simulator(population(), Faults(rate=0.001, burst=1), count_identifiers=True)
    first, second = simulator.population.identifier(0), simulator.population.identifier(1)
    async with calling(simulator) as caller:
        for identifier in (first, second, first, "bad"):
            await caller.get(identifier)
        await caller.ask("ListConnections")
    assert simulator.calls == {first: 2, second: 1, "bad": 1}


async def test_a_port_that_is_taken_is_an_oserror() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            async with Simulator(population()).serving(port=taken.getsockname()[1]):
                pytest.fail("the port was taken")


async def test_simulate_announces_itself_and_serves_until_cancelled() -> None:
    announced: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(simulate, population(), Faults(), "127.0.0.1", 0, announced.set_result)
            url = await announced
            async with aiohttp.ClientSession() as http:
                answered = await Caller(http, url).get(population().identifier(0))
                assert answered.content == population().connection(0)
            tasks.cancel_scope.cancel()
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientConnectorError):
                await Caller(http, url).get(population().identifier(0))


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.usefixtures("credentials")
async def test_the_sdk_reads_answers_and_errors_as_meant() -> None:
    """By the project's own model of the service, until the SDK ships one."""
    simulator = Simulator(population())
    identifier = simulator.population.identifier(0)
    no_retries = AioConfig(retries={"total_max_attempts": 1})
    async with (
        simulator.serving() as url,
        own_session().client(SERVICE, region_name=REGION, endpoint_url=url, config=no_retries) as sdk,
    ):
        answer = await sdk.get_connection(Catalog="AWS", Identifier=identifier)
        expected = simulator.population.connection(0)
        assert {**answer, "UpdatedAt": None, "ConnectionTypes": None, "ResponseMetadata": None} == {
            **expected, "UpdatedAt": None, "ConnectionTypes": None, "ResponseMetadata": None,
        }  # fmt: skip
        assert answer["UpdatedAt"] == timestamp(expected["UpdatedAt"])
        assert set(answer["ConnectionTypes"]) == set(expected["ConnectionTypes"])
        pages = [page async for page in sdk.get_paginator("list_connections").paginate(Catalog="AWS")]
        assert [len(page["ConnectionSummaries"]) for page in pages[:2]] == [100, 100]
        with pytest.raises(ClientError, match="ResourceNotFoundException"):
            await sdk.get_connection(Catalog="AWS", Identifier="pac-0123456789abc")
        simulator.faults = Faults(rate=0.001, burst=1)
        await sdk.get_connection(Catalog="AWS", Identifier=identifier)
        with pytest.raises(ClientError, match="ThrottlingException"):
            await sdk.get_connection(Catalog="AWS", Identifier=identifier)


@pytest.mark.usefixtures("credentials")
async def test_our_client_reads_answers_and_errors_as_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator(population())
    identifier = simulator.population.identifier(0)
    async with simulator.serving() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT", url)
        async with opened(own_session(), catalog="AWS", connections=4) as api:
            assert await api.get_connection(identifier) == simulator.population.connection(0)
            first = await api.list_connections()
            second = await api.list_connections(first["NextToken"])
            assert len(first["ConnectionSummaries"]) == len(second["ConnectionSummaries"]) == 100
            with pytest.raises(NotFound, match="ResourceNotFoundException"):
                await api.get_connection("pac-0123456789abc")
            simulator.faults = Faults(error_rate=1.0)
            with pytest.raises(Transient, match="InternalServerException"):
                await api.get_connection(identifier)
            simulator.faults = Faults(rate=0.001, burst=1)
            await api.get_connection(identifier)
            with pytest.raises(Throttled, match="Rate exceeded"):
                await api.get_connection(identifier)
            simulator.faults = Faults(cut_rate=1.0)
            for _ in range(10):
                with pytest.raises(Unreachable):
                    await api.get_connection(identifier)
