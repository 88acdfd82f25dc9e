"""The API's client: where its requests go, and how many."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from syncer.partner_central import client
from syncer.partner_central.client import PartnerCentral
from syncer.partner_central.errors import Denied, Transient
from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults, Simulator
from syncer.wire import Endpoint
from tests.conftest import until


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")


@asynccontextmanager
async def opened(connections: int = 1) -> AsyncIterator[PartnerCentral]:
    async with client.opened(client.own_session(), catalog="AWS", connections=connections) as api:
        yield api


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "https://partnercentral-account.us-east-1.api.aws/"),
        ({"AWS_REGION": "eu-west-1"}, "https://partnercentral-account.us-east-1.api.aws/"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "https://partnercentral-account.us-east-1.api.aws/"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "https://partnercentral-account-fips.us-east-1.api.aws/"),
        ({"AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT": "http://127.0.0.1:9"}, "http://127.0.0.1:9/"),
        ({"AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT": "http://[::1]:9/a/b"}, "http://[::1]:9/a/b"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9/"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "https://partnercentral-account.us-east-1.api.aws/",
        ),
    ],
)
async def test_requests_go_to_the_services_one_region(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    async with opened() as api:
        assert api.wire.endpoint == Endpoint(
            url, "PartnerCentralAccount", "1.0", "partnercentral-account", "us-east-1"
        )


async def test_one_call_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator(Population(1, seed=1), Faults(error_rate=1))
    async with simulator.serving() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT", url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
        async with opened() as api:
            with pytest.raises(Transient):
                await api.get_connection("pac-0000000000001")
    assert simulator.served.total() == 1


async def test_as_many_requests_can_be_out_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator(Population(1, seed=1), answer=lambda *_: until_all_are_there())

    async def until_all_are_there() -> None:
        await until(lambda: simulator.most_in_flight == 77)

    async with simulator.serving() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT", url)
        async with opened(connections=77) as api, anyio.create_task_group() as calls:
            for _ in range(77):
                calls.start_soon(api.list_connections)


async def test_without_credentials_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_CONFIG_FILE": "/nowhere",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with opened() as api:
        with pytest.raises(Denied) as denied:
            await api.get_connection("pac-0000000000001")
    assert denied.value.code == "NoCredentialsError"
