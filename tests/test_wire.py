"""Requests as they go over the wire: signed as the SDK signs, sent once, and what comes back."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aioboto3
import aiohttp
import pytest
from aiohttp import web
from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import NoCredentialsError
from hypothesis import given
from hypothesis import strategies as st

from syncer import wire
from syncer.signature import Signature
from syncer.wire import LONGEST_ANSWER, NotJson, ServiceError, Wire

Answer = Callable[[web.BaseRequest], web.Response]

words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)


@given(
    url=st.sampled_from(
        [
            "https://partnercentral-account.us-east-1.api.aws/",
            "http://127.0.0.1:4566/",
            "http://[::1]:4566/some where/ü~",
            "https://sqs.eu-west-1.amazonaws.com",
        ]
    ),
    body=st.binary(max_size=100),
    key=words,
    secret=words,
    token=st.none() | words,
    now=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  (bounds have no zone)
)
def test_signed_as_the_sdk_signs(
    *, url: str, body: bytes, key: str, secret: str, token: str | None, now: datetime
) -> None:
    credentials = ReadOnlyCredentials(key, secret, token)
    own = Signature(url, "sqs", "eu-west-1", {"content-type": "application/x-amz-json-1.0"})
    headers = own.headers(body, credentials, now, {"x-amz-target": "AmazonSQS.Receive"})
    request = AWSRequest(
        "POST",
        url,
        headers={"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AmazonSQS.Receive"},
        data=body,
    )
    signer = SigV4Auth(credentials, "sqs", "eu-west-1")
    request.context["timestamp"] = now.strftime(SIGV4_TIMESTAMP)
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    if token:
        request.headers["X-Amz-Security-Token"] = token
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert headers["authorization"].endswith(f"Signature={signer.signature(text, request)}")
    scope = f"{now:%Y%m%d}/eu-west-1/sqs/aws4_request"
    assert headers["authorization"].startswith(f"AWS4-HMAC-SHA256 Credential={key}/{scope}, ")


def test_the_key_changes_with_the_day_and_the_credentials() -> None:
    signature = Signature("http://127.0.0.1/", "sqs", "us-east-1", {})
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def sign(own: Signature, secret: str, now: datetime) -> str:
        return own.headers(b"", ReadOnlyCredentials("x", secret, None), now, {})["authorization"]

    for secret, now in [("a", noon), ("a", noon + timedelta(days=1)), ("b", noon), ("a", noon)]:
        fresh = Signature("http://127.0.0.1/", "sqs", "us-east-1", {})
        assert sign(signature, secret, now) == sign(fresh, secret, now)


@asynccontextmanager
async def opened() -> AsyncIterator[Wire]:
    async with wire.opened(
        aioboto3.Session(),
        "sqs",
        operation="receive_message",
        region="us-east-1",
        connections=1,
        connecting=1,
        answering=10,
    ) as opened:
        yield opened


@asynccontextmanager
async def served(handle: Callable[[web.BaseRequest], Awaitable[web.Response]]) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield site.name
    finally:
        await runner.cleanup()


@asynccontextmanager
async def answering(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> AsyncIterator[Wire]:
    """A wire to a server that answers so."""

    async def handle(request: web.BaseRequest) -> web.Response:
        return answer(request)

    async with served(handle) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", url)
        async with opened() as wire:
            yield wire


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")


async def test_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "temporary")
    sent: list[tuple[str, Any, bytes]] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        sent.append((request.path, request.headers, await request.read()))
        return web.json_response({"Messages": []})

    async with served(handle) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", url)
        async with opened() as wire:
            assert await wire("ReceiveMessage", {"QueueUrl": "ü"}) == {"Messages": []}
    [(path, headers, body)] = sent
    assert (path, json.loads(body)) == ("/", {"QueueUrl": "ü"})
    assert headers["X-Amz-Target"] == "AmazonSQS.ReceiveMessage"
    assert headers["Content-Type"] == "application/x-amz-json-1.0"
    assert headers["X-Amz-Security-Token"] == "temporary"
    assert "/us-east-1/sqs/aws4_request" in headers["Authorization"]


@pytest.mark.parametrize(
    ("answer", "status", "code", "message"),
    [
        (
            lambda _: web.json_response({"__type": "com.amazonaws.sqs#Gone", "message": "it is"}, status=400),
            400,
            "Gone",
            "it is",
        ),
        (
            lambda _: web.json_response(
                {"Message": "No"}, status=403, headers={"x-amzn-errortype": "Denied:http://aws/"}
            ),
            403,
            "Denied",
            "No",
        ),
        (
            lambda _: web.json_response(
                {"__type": "Other"}, status=400, headers={"x-amzn-query-error": "AWS.Documented;Sender"}
            ),
            400,
            "AWS.Documented",
            "",
        ),
        (lambda _: web.Response(text="<html>busy</html>", status=503), 503, "503", ""),
        (lambda _: web.Response(status=429), 429, "429", ""),
        (lambda _: web.Response(status=302, headers={"Location": "/"}), 302, "302", ""),
    ],
)
async def test_errors_are_told_by_their_code(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, status: int, code: str, message: str
) -> None:
    asked = 0

    def counted(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        return answer(request)

    async with answering(monkeypatch, counted) as wire:
        with pytest.raises(ServiceError) as raised:
            await wire("ReceiveMessage", {})
    assert (raised.value.status, raised.value.code, raised.value.message) == (status, code, message)
    assert asked == 1


@pytest.mark.parametrize("text", ["<html>", "[]", "null", '"text"', "{", "[" * 100_000])
async def test_a_success_that_is_no_object_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    async with answering(monkeypatch, lambda _: web.Response(text=text)) as wire:
        with pytest.raises(NotJson):
            await wire("ReceiveMessage", {})


async def test_an_empty_answer_is_an_empty_object(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(monkeypatch, lambda _: web.Response()) as wire:
        assert await wire("DeleteMessage", {}) == {}


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(monkeypatch, lambda _: web.Response(body=b" " * (LONGEST_ANSWER + 1))) as wire:
        with pytest.raises(aiohttp.ClientPayloadError):
            await wire("ReceiveMessage", {})


async def test_credentials_are_asked_for_at_each_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process hands out credentials that are about to expire: it is asked anew, as the SDK does."""
    expiring = datetime.now(UTC) + timedelta(minutes=5)
    (tmp_path / "handed").touch()
    script = tmp_path / "credentials"
    script.write_text(
        "#!/bin/sh\n"
        f"echo >>{tmp_path}/handed\n"
        f"n=$(wc -l <{tmp_path}/handed)\n"
        """printf '{"Version":1,"AccessKeyId":"KEY%s","SecretAccessKey":"s","Expiration":"%s"}' $n """
        f"{expiring:%Y-%m-%dT%H:%M:%SZ}\n"
    )
    script.chmod(0o755)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {script}\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    seen: list[str] = []

    def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers["Authorization"].partition("Credential=")[2].partition("/")[0])
        return web.json_response({})

    async with answering(monkeypatch, answer) as wire:
        for _ in range(3):
            await wire("ReceiveMessage", {})
    assert len(set(seen)) == 3


async def test_without_credentials_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_CONFIG_FILE": "/nowhere",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    asked: list[object] = []

    def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request)
        return web.Response()

    async with answering(monkeypatch, answer) as wire:
        with pytest.raises(NoCredentialsError):
            await wire("ReceiveMessage", {})
    assert not asked


async def test_a_configured_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    targets: list[str] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        targets.append(request.raw_path)
        return web.json_response({"proxied": True})

    async with served(handle) as url:
        for name, value in {"http_proxy": url, "no_proxy": "", "NO_PROXY": ""}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://queue.example/")
        async with opened() as wire:
            assert await wire("ReceiveMessage", {}) == {"proxied": True}
    assert targets == ["http://queue.example/"]
