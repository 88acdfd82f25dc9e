"""Everything that can come back instead of an answer, as types that say what to do about it.

What the SDK and the wire raise is translated here, once, at the edge; nothing further in knows it.

    Throttled     slow down; says nothing about the item, so it costs the item none of its attempts
    Transient     try again with backoff, a few times
      Unreachable   likewise, and there was no answer of the service at all
    NotFound      the connection is not there, or not ours
    Rejected      this item cannot be had: trying again changes nothing
    Denied        the run cannot go on, and no item is to blame
"""

from collections.abc import Mapping

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as SdkConnectionError

from syncer.wire import NotJson, ServiceError

# The SDK counts these as throttling too; the API reference names only the first.
THROTTLING = frozenset(
    {
        "ThrottlingException",
        "Throttling",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "SlowDown",
    }
)
# Credentials, clock and permissions: about the caller, never about an item.
DENYING = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
FAILING = frozenset(
    {
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    }
)
BAD_REQUEST = 400
TOO_MANY_REQUESTS = 429
UNAUTHORIZED = 401
FORBIDDEN = 403
SERVER_ERROR = 500

# A message is for a person and goes into a table; a service that echoes a page of HTML is cut off here.
LONGEST_MESSAGE = 300


class PartnerCentralError(Exception):
    """The API gave no answer that can be used.

    code: the API's or the SDK's name of the error.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message


class Throttled(PartnerCentralError):
    """The request quota is used up for the moment."""


class Transient(PartnerCentralError):
    """The service failed; the same call may well succeed in a moment."""


class Unreachable(Transient):
    """Nothing answered: refused, cut off, timed out, no such host."""


class NotFound(PartnerCentralError):
    """The API has no such connection."""


class Rejected(PartnerCentralError):
    """The API will not or cannot answer for this item, or its answer makes no sense."""


class Denied(PartnerCentralError):
    """The caller may not do this: permissions, credentials or clock."""


def translated(error: Exception) -> PartnerCentralError | None:
    """What `error`, raised by a call, means; None if it is no call's to raise."""
    match error:
        case ServiceError():
            return _of_service(error.status, error.code, error.message, error.fields)
        case ClientError():  # of STS, which the SDK itself asks
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            details = error.response.get("Error", {})
            return _of_service(
                status, str(details.get("Code") or "Unknown"), str(details.get("Message") or ""), {}
            )
        case NotJson():
            return Rejected("UnreadableAnswer", str(error))
        case HTTPClientError() | SdkConnectionError() | aiohttp.ClientError() | TimeoutError() | OSError():
            return Unreachable(type(error).__name__, _bounded(str(error)))
        case BotoCoreError():
            # What is left are errors before anything is sent: no credentials, no such profile, a failing
            # credential process or sign-in.
            return Denied(type(error).__name__, _bounded(str(error)))
    return None


def _of_service(status: int, code: str, message: str, fields: Mapping[str, object]) -> PartnerCentralError:
    message = _bounded(message)
    if code in THROTTLING or status == TOO_MANY_REQUESTS:
        return Throttled(code, message)
    if code in DENYING or status in (UNAUTHORIZED, FORBIDDEN):
        return Denied(code, message)
    if code in FAILING or status >= SERVER_ERROR:
        return Transient(code, message)
    if status < BAD_REQUEST:
        # It sends us elsewhere, which the service never does: something stands between it and us.
        return Unreachable(code, message)
    # A bare 404, or one that is about something else, must not make a connection look removed.
    if code == "ResourceNotFoundException" and fields.get("Reason", "CONNECTION_NOT_FOUND") == (
        "CONNECTION_NOT_FOUND"
    ):
        return NotFound(code, message)
    return Rejected(code, message)


def _bounded(message: str) -> str:
    # AWS explains a wrong signature in its first paragraph; what follows quotes the request with its headers,
    # and the session token is one of them.
    message = " ".join(message.partition("\n\n")[0].split())
    return message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + "…"
