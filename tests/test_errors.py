"""What each error of the SDK means for a run. A table: nothing is called."""

import asyncio

import aiohttp
import pytest
from botocore import exceptions as sdk
from botocore.exceptions import ClientError

from syncer.partner_central.errors import (
    LONGEST_MESSAGE,
    Denied,
    NotFound,
    PartnerCentralError,
    Rejected,
    Throttled,
    Transient,
    Unreachable,
    translated,
)
from syncer.wire import NotJson, ServiceError

URL = "https://partnercentral-account.us-east-1.api.aws"


def answered(code: str, status: int = 400, message: str = "", **fields: str) -> ServiceError:
    return ServiceError(status, code, message, fields)


def of_sts(code: str, status: int) -> ClientError:
    return ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetCallerIdentity"
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answered("ThrottlingException"), Throttled),
        (answered("TooManyRequestsException", 429), Throttled),
        (answered("429", 429), Throttled),
        (answered("ThrottlingException", 500), Throttled),
        (answered("InternalServerException", 500), Transient),
        (answered("InternalServerException", 400), Transient),
        (answered("ServiceUnavailable", 503), Transient),
        (answered("500", 500), Transient),
        (answered("502", 502), Transient),
        (answered("504", 504), Transient),
        (answered("ResourceNotFoundException", Reason="CONNECTION_NOT_FOUND"), NotFound),
        (answered("ResourceNotFoundException"), NotFound),
        # Something else that is not there must not make a connection look removed.
        (answered("ResourceNotFoundException", Reason="CATALOG_NOT_FOUND"), Rejected),
        (answered("404", 404), Rejected),
        (answered("UnknownOperationException", 404), Rejected),
        (answered("ValidationException", Reason="REQUEST_VALIDATION_FAILED"), Rejected),
        (answered("SomethingNew"), Rejected),
        (answered("AccessDeniedException", Reason="ACCESS_DENIED"), Denied),
        (answered("AccessDeniedException", Reason="INCOMPATIBLE_BENEFIT_AWS_PARTNER_STATE"), Denied),
        (answered("ExpiredTokenException"), Denied),
        (answered("UnrecognizedClientException"), Denied),
        (answered("InvalidSignatureException"), Denied),
        (answered("RequestExpired"), Denied),
        (answered("401", 401), Denied),
        (answered("403", 403), Denied),
        (answered("302", 302), Unreachable),
        (NotJson("no JSON"), Rejected),
        # STS is asked by the SDK itself.
        (of_sts("InvalidClientTokenId", 403), Denied),
        (of_sts("Throttling", 400), Throttled),
        (sdk.ConnectTimeoutError(endpoint_url=URL), Unreachable),
        (sdk.ReadTimeoutError(endpoint_url=URL), Unreachable),
        (sdk.EndpointConnectionError(endpoint_url=URL), Unreachable),
        (sdk.ConnectionClosedError(endpoint_url=URL), Unreachable),
        (sdk.HTTPClientError(error="cut off"), Unreachable),
        (sdk.SSLError(endpoint_url=URL, error="bad"), Unreachable),
        (aiohttp.ServerDisconnectedError(), Unreachable),
        (aiohttp.ClientPayloadError(), Unreachable),
        (ConnectionResetError(), Unreachable),
        (TimeoutError(), Unreachable),
        (sdk.NoCredentialsError(), Denied),
        (sdk.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), Denied),
        (sdk.ProfileNotFound(profile="x"), Denied),
        (sdk.CredentialRetrievalError(provider="process", error_msg="x"), Denied),
        (sdk.TokenRetrievalError(provider="sso", error_msg="x"), Denied),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:60],
)
def test_what_an_error_means(error: Exception, kind: type[PartnerCentralError]) -> None:
    assert type(translated(error)) is kind


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), KeyError("x"), AssertionError(), asyncio.QueueEmpty()]
)
def test_a_mistake_of_ours_is_nobody_elses(error: Exception) -> None:
    assert translated(error) is None


def test_the_message_is_one_line_for_a_person() -> None:
    error = translated(answered("AccessDeniedException", message="You may\n  not."))
    assert str(error) == "AccessDeniedException: You may not."
    assert error is not None
    assert (error.code, error.message) == ("AccessDeniedException", "You may not.")
    assert str(translated(answered("503", 503))) == "503"
    long = translated(answered("500", 500, "<html>" * 1000))
    assert long is not None
    assert len(long.message) <= LONGEST_MESSAGE + 1
