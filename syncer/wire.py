"""One request of an AWS JSON service, as the SDK would send it, without what the SDK does around it.

The SDK says where to (its endpoint rules and settings), as whom (its chain of credentials, renewed when
they expire), and whom to trust. What is left out are its hooks, its signer and its parser: two thirds of a
call's CPU. Nothing is retried, and no redirect followed: one call is one request.
"""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from botocore import UNSIGNED
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, NoCredentialsError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from syncer import __version__
from syncer.signature import Credentials, Signature

# No answer of the services that are called here is longer (bytes).
LONGEST_ANSWER = 16 * 1024 * 1024
# Idle connections are closed after so long (seconds), before the service does: as in the SDK.
KEEP_ALIVE = 12.0


class ServiceError(Exception):
    """The service answered, with an error.

    status: of HTTP. code: the service's own, or else the status. fields: what the answer holds besides.
    """

    def __init__(self, status: int, code: str, message: str, fields: Mapping[str, object]) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.fields = fields


class NotJson(Exception):
    """An answer that tells of success, but is no JSON object."""


class Unusable(BotoCoreError):  # type: ignore[misc]  # the SDK has no types
    """A setting of the SDK's that it takes, and then cannot use."""

    fmt = "{why}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the SDK sends a service's requests, and how they are named.

    target: what an operation's name stands behind in X-Amz-Target. signing_name: in signatures.
    """

    url: str
    target: str
    version: str
    signing_name: str
    region: str


class Wire:
    """Requests of one service; as many at once as the HTTP session allows."""

    def __init__(self, endpoint: Endpoint, credentials: Any, http: aiohttp.ClientSession) -> None:
        self.endpoint = endpoint
        self._credentials = credentials
        self._http = http
        self._signature = Signature(
            endpoint.url,
            endpoint.signing_name,
            endpoint.region,
            {"content-type": f"application/x-amz-json-{endpoint.version}"},
        )

    async def __call__(self, operation: str, parameters: Mapping[str, object]) -> dict[str, Any]:
        """The answer to `operation` (such as ``GetConnection``), as JSON has it: times are text or numbers.

        Raises `ServiceError`, `NotJson`, aiohttp's ClientError and TimeoutError, botocore's BotoCoreError.
        """
        credentials = await self._frozen()
        body = json.dumps(parameters).encode()
        headers = self._signature.headers(
            body, credentials, datetime.now(UTC), {"x-amz-target": f"{self.endpoint.target}.{operation}"}
        )
        async with self._http.post(
            self.endpoint.url, data=body, headers=headers, allow_redirects=False
        ) as response:
            answer = await _body(response)
            if response.status != HTTPStatus.OK:
                raise _error(response, answer)
        return _object(answer)

    async def _frozen(self) -> Credentials:
        try:
            credentials: Credentials = await self._credentials.get_frozen_credentials()
        except RuntimeError as error:  # so the SDK tells of new credentials that have expired already
            raise CredentialRetrievalError(provider="the SDK's chain", error_msg=str(error)) from None
        return credentials


@asynccontextmanager
async def opened(
    session: aioboto3.Session,
    service: str,
    *,
    operation: str,
    region: str,
    connections: int,
    connecting: float,
    answering: float,
) -> AsyncIterator[Wire]:
    """A wire to `service`, as the SDK names it, with up to `connections` requests in flight.

    operation: one of the service's, as the SDK names its methods. connecting, answering: seconds, the latter
    for all of a request. Raises botocore's BotoCoreError where the SDK's settings cannot be used.
    """
    try:
        endpoint = await _endpoint(session, service, operation, region)
    except BotoCoreError:
        raise
    except ValueError as error:
        raise Unusable(why=f"{error}: see AWS_ENDPOINT_URL and its like") from None
    credentials = await session.get_credentials() or _NoCredentials()
    bundle = session._session.get_config_variable("ca_bundle")  # noqa: SLF001  (aioboto3 has no other way to it)
    try:
        trusted = ssl.create_default_context(cafile=get_cert_path(bundle or True))
    except OSError as error:
        why = f"AWS_CA_BUNDLE: {bundle} cannot be read: {error.strerror or type(error).__name__}"
        raise Unusable(why=why) from None
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=trusted, keepalive_timeout=KEEP_ALIVE),
        timeout=aiohttp.ClientTimeout(total=answering, sock_connect=connecting),
        headers={"User-Agent": f"syncer/{__version__} aioboto3"},
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=get_environ_proxies(endpoint.url).get(urlsplit(endpoint.url).scheme),
    ) as http:
        yield Wire(endpoint, credentials, http)


async def _endpoint(session: aioboto3.Session, service: str, operation: str, region: str) -> Endpoint:
    # A link to an operation is the SDK's public way to tell where its requests go.
    config = AioConfig(signature_version=UNSIGNED, parameter_validation=False)
    async with session.client(service, region_name=region, config=config) as sdk:
        link = urlsplit(await sdk.generate_presigned_url(operation, Params={}))
        model = sdk.meta.service_model
        return Endpoint(
            url=urlunsplit(link._replace(query="")),
            target=model.metadata["targetPrefix"],
            version=model.metadata["jsonVersion"],
            signing_name=model.signing_name,
            region=region,
        )


class _NoCredentials:
    """Stands in where the SDK finds none: that is told when they are needed."""

    async def get_frozen_credentials(self) -> Credentials:
        raise NoCredentialsError


async def _body(response: aiohttp.ClientResponse) -> bytes:
    length, compressed = response.content_length, "Content-Encoding" in response.headers
    if length is not None and length <= LONGEST_ANSWER and not compressed:
        return await response.read()
    read = bytearray()
    async for chunk in response.content.iter_any():
        read += chunk
        if len(read) > LONGEST_ANSWER:
            raise aiohttp.ClientPayloadError("an answer that does not end")
    return bytes(read)


def _object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise NotJson("the answer is no JSON object")
    return answer


def _error(response: aiohttp.ClientResponse, body: bytes) -> ServiceError:
    """What the service says is wrong. A proxy's page says nothing: then the status is all there is."""
    try:
        fields = _object(body)
    except NotJson:
        fields = {}
    # For clients of its older protocol SQS has codes of their own, which are the documented ones.
    code = response.headers.get("x-amzn-query-error", "").partition(";")[0]
    code = (
        code
        or response.headers.get("x-amzn-errortype")
        or str(fields.get("__type") or fields.get("code") or "")
    )
    # As in "com.amazonaws.service#Code:http://…".
    code = code.partition(":")[0].rpartition("#")[2] or str(response.status)
    message = fields.get("message") or fields.get("Message") or ""
    return ServiceError(response.status, code, str(message), cast("Mapping[str, object]", fields))
