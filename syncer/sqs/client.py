"""One queue: errors are translated, batches come apart, what does not arrive is sent again.

An answer of 200 may still say that some of a batch failed: each method that takes a batch tells which.
Source: the API reference of Amazon SQS.
"""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aioboto3
import aiohttp
from botocore.exceptions import BotoCoreError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from syncer.wire import NotJson, ServiceError, Wire
from syncer.wire import opened as wired

# What one request takes, and how long SQS lets a receiver wait (seconds).
BATCH = 10
LONGEST_WAIT = 20
# A message can be held no longer than this after its receipt (seconds).
LONGEST_VISIBILITY = 12 * 3600

CONNECT_TIMEOUT = 5.0
TIMEOUT = LONGEST_WAIT + 20.0
# Requests to the queue are many and cheap, and all of them may be made twice.
ATTEMPTS = 3
BACKOFF = wait_random_exponential(multiplier=0.1, max=2)

REGION_IN_HOST = re.compile(r"(?:^|\.)([a-z]{2}(?:-[a-z]+)+-\d)\.")
ANYWHERE = "us-east-1"

MISSING = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "InvalidAddress", "404"})
DENIED = frozenset(
    {
        "AWS.SimpleQueueService.UnsupportedOperation",
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "KMS.AccessDeniedException",
        "MissingAuthenticationToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
# What a worker asks of the queue, and then `syncer enqueue`.
ACTIONS = (
    "sqs:ReceiveMessage",
    "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibility",
    "sqs:GetQueueAttributes",
    "sqs:SendMessage",
)
# The message is not ours any more: it has become visible again, or is deleted already.
LAPSED = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"})


class QueueError(Exception):
    """The queue cannot be used; the message is one line for a person."""


class QueueMissing(QueueError):
    """There is no such queue, or not one that serves."""


class QueueUnfit(QueueError):
    """A queue of another kind than this work needs."""


class QueueDenied(QueueError):
    """Wrong credentials or missing rights."""


class QueueUnavailable(QueueError):
    """Not now: it may well work later."""


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it was handed out. receives: how often it has been, this time included."""

    message_id: str
    handle: str
    body: str
    sent_at: datetime
    receives: int


@dataclass(frozen=True, slots=True)
class About:
    """What the queue says of itself.

    visibility: seconds. redrive: how often a message is handed out before it goes to the dead-letter queue;
    None without one.
    """

    visibility: int
    redrive: int | None


@dataclass(frozen=True, slots=True)
class Depth:
    """About how many messages there are: SQS itself is not sure."""

    visible: int
    in_flight: int
    delayed: int


class Queue:
    """One queue. All methods raise `QueueError`."""

    def __init__(self, wire: Wire, url: str) -> None:
        self._wire = wire
        self.url = url
        self._again = AsyncRetrying(
            retry=retry_if_exception_type(QueueUnavailable),
            stop=stop_after_attempt(ATTEMPTS - 1),
            wait=BACKOFF,
            reraise=True,
        )

    async def about(self) -> About:
        attributes = await self._attributes("VisibilityTimeout", "RedrivePolicy")
        redrive = None
        if policy := attributes.get("RedrivePolicy"):
            redrive = int(json.loads(policy)["maxReceiveCount"])
        return About(int(attributes.get("VisibilityTimeout", 30)), redrive)

    async def depth(self) -> Depth:
        names = ("", "NotVisible", "Delayed")
        attributes = await self._attributes(*(f"ApproximateNumberOfMessages{name}" for name in names))
        return Depth(*(int(attributes.get(f"ApproximateNumberOfMessages{name}", 0)) for name in names))

    async def receive(self, most: int, *, wait: int, visibility: int) -> list[Received]:
        """Up to `most` (of 10) messages, invisible to others for `visibility` seconds from now."""
        answer = await self._call(
            "ReceiveMessage",
            MaxNumberOfMessages=most,
            WaitTimeSeconds=wait,
            VisibilityTimeout=visibility,
            MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        )
        return [_received(message) for message in answer.get("Messages", [])]

    async def delete(self, handles: Sequence[str]) -> list[int]:
        """Delete up to 10 messages; the positions of those that are still to be deleted."""
        return await self._batch("DeleteMessageBatch", [{"ReceiptHandle": handle} for handle in handles])

    async def hide(self, handles: Sequence[tuple[str, int]]) -> list[int]:
        """Make up to 10 messages invisible for so many seconds from now; the positions of failures."""
        entries = [{"ReceiptHandle": handle, "VisibilityTimeout": seconds} for handle, seconds in handles]
        return await self._batch("ChangeMessageVisibilityBatch", entries)

    async def send(self, bodies: Sequence[str]) -> list[int]:
        """Send up to 10 messages; the positions of those that the queue did not take."""
        return await self._batch("SendMessageBatch", [{"MessageBody": body} for body in bodies])

    async def _batch(self, operation: str, entries: Sequence[Mapping[str, object]]) -> list[int]:
        # Entry IDs are positions: a message's own ID may stand in one batch twice.
        answer = await self._call(
            operation, Entries=[{"Id": str(position), **entry} for position, entry in enumerate(entries)]
        )
        return [int(each["Id"]) for each in answer.get("Failed", []) if each.get("Code") not in LAPSED]

    async def _attributes(self, *names: str) -> Mapping[str, str]:
        answer = await self._call("GetQueueAttributes", AttributeNames=list(names))
        attributes: Mapping[str, str] = answer.get("Attributes", {})
        return attributes

    async def _call(self, operation: str, **parameters: object) -> Mapping[str, Any]:
        try:
            return await self._once(operation, parameters)
        except QueueUnavailable:
            answer: Mapping[str, Any] = await self._again(self._once, operation, parameters)
            return answer

    async def _once(self, operation: str, parameters: Mapping[str, object]) -> Mapping[str, Any]:
        try:
            return await self._wire(operation, {"QueueUrl": self.url, **parameters})
        except ServiceError as error:
            raise _meaning(error, self.url) from None
        except (aiohttp.ClientError, TimeoutError, OSError, NotJson) as error:
            raise QueueUnavailable(
                f"queue {self.url}: no answer ({type(error).__name__}): is there a way to it?"
            ) from None
        except BotoCoreError as error:  # before anything is sent: no credentials, a failing sign-in
            raise QueueDenied(f"queue {self.url}: {error}") from None


@asynccontextmanager
async def opened(session: aioboto3.Session, url: str, connections: int) -> AsyncIterator[Queue]:
    """The queue at `url`, with up to `connections` requests in flight. Raises `QueueError`."""
    found = urlsplit(url)
    if found.scheme not in ("http", "https") or not found.path.strip("/"):
        raise QueueMissing(
            f"{url} is no queue's URL such as https://sqs.us-east-1.amazonaws.com/123456789012/name"
        )
    if url.endswith(".fifo"):
        raise QueueUnfit(
            f"{url} is a FIFO queue: it hands out one message of a group at a time, for an order that means "
            "nothing here; take a standard queue"
        )
    async with AsyncExitStack() as opening:
        try:
            wire = await opening.enter_async_context(
                wired(
                    session,
                    "sqs",
                    operation="receive_message",
                    region=region(url, session.region_name),
                    connections=connections,
                    connecting=CONNECT_TIMEOUT,
                    answering=TIMEOUT,
                )
            )
        except BotoCoreError as error:
            raise QueueDenied(f"queue {url}: {error}") from None
        yield Queue(wire, url)


def region(url: str, configured: str | None) -> str:
    """The region of the queue: what its URL says, else what is configured."""
    found = REGION_IN_HOST.search(urlsplit(url).hostname or "")
    return found[1] if found else configured or ANYWHERE


def _received(message: Mapping[str, Any]) -> Received:
    attributes = message.get("Attributes", {})
    return Received(
        message["MessageId"],
        message["ReceiptHandle"],
        message.get("Body", ""),
        datetime.fromtimestamp(int(attributes.get("SentTimestamp", 0)) / 1000, UTC),
        int(attributes.get("ApproximateReceiveCount", 1)),
    )


def _meaning(error: ServiceError, url: str) -> QueueError:
    if error.code in MISSING or error.code.endswith("NonExistentQueue"):
        return QueueMissing(f"there is no queue {url}: look at region, account and name in it")
    if error.code in DENIED:
        return QueueDenied(
            f"queue {url}: not allowed ({error.code}): check the credentials, and that their policy allows "
            f"{', '.join(ACTIONS)}"
        )
    return QueueUnavailable(f"queue {url}: {error.code}")
