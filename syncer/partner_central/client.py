"""The Partner Central Account API: one client, no retries, errors translated.

aioboto3 pins a botocore that does not know the service, so a small model of it lies beside this module.
Its folder is searched after the SDK's own: the day the SDK ships the service, the SDK's model wins.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aioboto3
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioAssumeRoleCredentialFetcher, AioDeferredRefreshableCredentials
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, NoCredentialsError

from syncer.partner_central.errors import Denied, translated
from syncer.wire import Wire
from syncer.wire import opened as wired

SERVICE = "partnercentral-account"
MODEL = Path(__file__).parent / "model"
# The service is in this region only, whatever region the rest of the environment speaks of.
REGION = "us-east-1"
# The API's largest page.
PAGE = 100

CONNECT_TIMEOUT = 5.0
# A connection's answer is a few hundred bytes and takes well under a second; whoever hangs is cut off
# early enough for a stopping run to try nothing more and still end in time.
TIMEOUT = 15.0
STS_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class PartnerCentral:
    """The API as one AWS account sees it, in one catalog.

    Every method makes exactly one HTTP request, and raises a `PartnerCentralError` where it fails.
    """

    wire: Wire
    catalog: str

    async def get_connection(self, identifier: str) -> Mapping[str, Any]:
        """The answer of GetConnection; `normalize` knows what to make of it."""
        return await self._call("GetConnection", {"Catalog": self.catalog, "Identifier": identifier})

    async def list_connections(self, token: str | None = None, limit: int = PAGE) -> Mapping[str, Any]:
        """One page of ListConnections: up to `limit` summaries of active connections, and `NextToken`."""
        more = {"NextToken": token} if token else {}
        return await self._call("ListConnections", {"Catalog": self.catalog, "MaxResults": limit, **more})

    async def _call(self, operation: str, parameters: Mapping[str, object]) -> Mapping[str, Any]:
        try:
            return await self.wire(operation, parameters)
        except Exception as error:
            meaning = translated(error)
            if meaning is None:
                raise
            # The error's own text may quote the answer, so it is not chained to what gets logged.
            raise meaning from None


@asynccontextmanager
async def opened(
    session: aioboto3.Session, *, catalog: str, connections: int
) -> AsyncIterator[PartnerCentral]:
    """A client for `catalog` that keeps up to `connections` requests in flight.

    session: from `own_session` or `assuming`, which know the service. Raises `PartnerCentralError` (Denied)
    when the SDK's settings cannot be used.
    """
    async with AsyncExitStack() as opening:
        try:
            wire = await opening.enter_async_context(
                wired(
                    session,
                    SERVICE,
                    operation="list_connections",
                    region=REGION,
                    connections=connections,
                    connecting=CONNECT_TIMEOUT,
                    answering=TIMEOUT,
                )
            )
        except BotoCoreError as error:
            raise Denied(type(error).__name__, str(error)) from None
        yield PartnerCentral(wire, catalog)


def own_session() -> aioboto3.Session:
    """A session with the credentials that the SDK finds by itself. Raises `PartnerCentralError`."""
    try:
        return _knowing(aioboto3.Session())
    except BotoCoreError as error:  # no such profile, a broken configuration file
        raise Denied(type(error).__name__, str(error)) from None


async def signs(session: aioboto3.Session) -> None:
    """Raises `PartnerCentralError` where `session` has no credentials to sign with. Asks no service."""
    try:
        if await session.get_credentials() is None:
            raise NoCredentialsError
    except BotoCoreError as error:
        raise Denied(type(error).__name__, str(error)) from None


async def assuming(role: str, external_id: str | None) -> aioboto3.Session:
    """A session with the credentials of `role`, an IAM role's ARN, renewed before they expire.

    They are asked for when first used; what STS says against it is raised then.
    """
    own = get_session()
    fetcher = AioAssumeRoleCredentialFetcher(
        client_creator=partial(own.create_client, region_name=own.get_config_variable("region") or REGION),
        source_credentials=await own.get_credentials(),
        role_arn=role,
        extra_args={"RoleSessionName": "syncer"} | ({"ExternalId": external_id} if external_id else {}),
    )
    session = get_session()
    # As botocore's own documentation has it: there is no public way to hand credentials to a session.
    session._credentials = AioDeferredRefreshableCredentials(  # noqa: SLF001
        method="assume-role", refresh_using=fetcher.fetch_credentials
    )
    return _knowing(aioboto3.Session(botocore_session=session))


def _knowing(session: aioboto3.Session) -> aioboto3.Session:
    """`session`, told of the service before its first client: the SDK looks at its folders only once."""
    sdk = session._session  # noqa: SLF001  (aioboto3 has no public way to its botocore session)
    sdk.get_component("data_loader").search_paths.append(str(MODEL))
    return session


def account_in(role: str) -> str:
    """The account that a role's ARN names."""
    return role.split(":")[4]


async def account_of(session: aioboto3.Session) -> str:
    """The AWS account whose credentials `session` has, as STS tells: 12 digits, text.

    Raises `PartnerCentralError`.
    """
    try:
        # STS answers in every region; us-east-1 serves where none is configured.
        config = AioConfig(
            retries={"total_max_attempts": STS_ATTEMPTS, "mode": "standard"}, connect_timeout=CONNECT_TIMEOUT
        )
        async with session.client("sts", region_name=session.region_name or REGION, config=config) as sts:
            identity = await sts.get_caller_identity()
    except Exception as error:
        meaning = translated(error)
        if meaning is None:
            raise
        raise meaning from None
    return str(identity["Account"])
