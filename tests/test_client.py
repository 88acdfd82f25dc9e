"""The API's client: where its requests go, and how its answers' times are read."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncer.partner_central import client
from syncer.partner_central.client import PartnerCentral, timestamp
from syncer.partner_central.errors import Denied, Transient
from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults, Simulator


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")


@asynccontextmanager
async def opened(connections: int = 1) -> AsyncIterator[PartnerCentral]:
    async with client.opened(client.own_session(), catalog="AWS", connections=connections) as api:
        yield api


class Sent(RuntimeError):
    """Raised instead of sending."""

    def __init__(self, request: Any) -> None:
        self.request = request


def send(request: Any, **_: object) -> None:
    raise Sent(request)


@pytest.mark.parametrize(
    ("variables", "host"),
    [
        ({}, "https://partnercentral-account.us-east-1.api.aws/"),
        ({"AWS_REGION": "eu-west-1"}, "https://partnercentral-account.us-east-1.api.aws/"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "https://partnercentral-account.us-east-1.api.aws/"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, "https://partnercentral-account-fips.us-east-1.api.aws/"),
        ({"AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT": "http://127.0.0.1:9"}, "http://127.0.0.1:9/"),
    ],
)
async def test_requests_go_to_the_services_one_region(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], host: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    async with opened() as api:
        api.sdk.meta.events.register("before-send", send)
        with pytest.raises(Sent) as sent:
            await api.get_connection("pac-0000000000001")
    request = sent.value.request
    assert request.url == host
    assert request.body == b'{"Catalog": "AWS", "Identifier": "pac-0000000000001"}'
    headers = {
        name.lower(): value.decode() if isinstance(value, bytes) else value
        for name, value in request.headers.items()
    }
    assert headers["x-amz-target"] == "PartnerCentralAccount.GetConnection"
    assert headers["content-type"] == "application/x-amz-json-1.0"
    assert "/us-east-1/partnercentral-account/aws4_request" in headers["authorization"]


async def test_one_call_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator(Population(1, seed=1), Faults(error_rate=1))
    async with simulator.serving() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT", url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
        async with opened() as api:
            with pytest.raises(Transient):
                await api.get_connection("pac-0000000000001")
    assert simulator.served.total() == 1


async def test_as_many_requests_can_be_out_as_asked_for() -> None:
    async with opened(connections=77) as api:
        assert api.sdk.meta.config.max_pool_connections == 77


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


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05.678Z", datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)),
        ("2026-01-02T03:04:05.678901Z", datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)),
        # Postgres keeps microseconds; so does Python.
        ("2026-01-02T03:04:05.678901234Z", datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)),
        ("2026-01-02T03:04:05+05:30", datetime(2026, 1, 1, 21, 34, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05-0800", datetime(2026, 1, 2, 11, 4, 5, tzinfo=UTC)),
        # Without a zone it is UTC, wherever the worker stands.
        ("2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("Fri, 02 Jan 2026 03:04:05 GMT", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (1767323045, datetime(2026, 1, 2, 3, 4, 5, 0, tzinfo=UTC)),
        (1767323045.5, datetime(2026, 1, 2, 3, 4, 5, 500000, tzinfo=UTC)),
        ("1767323045", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("1767323045.25", datetime(2026, 1, 2, 3, 4, 5, 250000, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        ("1969-12-31T23:59:59Z", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_utc(value: str | float, expected: datetime) -> None:
    read = timestamp(value)
    assert (read, read.utcoffset()) == (expected, timedelta(0))


@pytest.mark.parametrize("value", ["", "yesterday", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match="Invalid timestamp"):
        timestamp(value)
