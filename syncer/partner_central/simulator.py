"""A simulated Partner Central Account API: a real HTTP server that speaks AWS JSON 1.0.

For trying a deployment, for load, and for our own tests. It answers GetConnection and ListConnections over a
`Population`, with a request quota, latency and faults to order. Signatures are not checked, and the filters
of ListConnections are ignored.
"""

import asyncio
import base64
import binascii
import hashlib
import inspect
import json
import random
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import anyio
from aiohttp import web

from syncer.identifiers import CONNECTION_ID
from syncer.partner_central.population import Population

GET = "GetConnection"
LIST = "ListConnections"
# By the X-Amz-Target that asks for them.
OPERATIONS = {f"PartnerCentralAccount.{operation}": operation for operation in (GET, LIST)}
CATALOGS = ("AWS", "Sandbox")
LARGEST_PAGE = 100
CONTENT_TYPE = "application/x-amz-json-1.0"
ACCESS_KEY = re.compile(r"Credential=([^/,\s]+)")

# Results beside the API's own error codes.
OK = "ok"
CUT = "cut"

# What is still in flight when the server ends gets this long, in seconds: nobody waits for a simulator.
LAST_ANSWERS = 0.1

Answer = web.Response | dict[str, Any] | None
Hook = Callable[[str, dict[str, Any]], Answer | Awaitable[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What stands between a caller and an answer.

    rate: calls/s that each operation's quota allows; None: no quota.
    burst: calls that a rested quota allows at once, at least 1; None: as many as in a second.
    latency, jitter: seconds; each answer takes `latency` and up to `jitter` more.
    error_rate, cut_rate: shares of the calls within the quota that end in InternalServerException, or
        with the connection cut: half of them before the answer, the others in its middle.
    unknown_rate: share of the connections that are not there; always the same ones for a seed.
    """

    rate: float | None = None
    burst: float | None = None
    latency: float = 0.0
    jitter: float = 0.0
    error_rate: float = 0.0
    cut_rate: float = 0.0
    unknown_rate: float = 0.0
    seed: int = 0


class Bucket:
    """A token bucket: pure arithmetic, the time (seconds, monotonic) is passed in. It is full at first."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token; False if there is none."""
        self._refill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def change(self, rate: float, burst: float, now: float) -> None:
        """Refill at another rate from now on. What is in the bucket stays, as far as there is room."""
        self._refill(now)
        self.rate = rate
        self.burst = burst

    def _refill(self, now: float) -> None:
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now


class Simulator:
    """Serves `population`, and counts what it did.

    served: answers by (operation, result); a result is "ok", "cut", an error code, or "HTTP 429" and the like
        where the hook answered without one. An operation that the API does not have counts as "".
    calls: how often each identifier was asked for, throttled calls included; empty unless
        `count_identifiers`, because it grows with them.
    timeline: (monotonic seconds, whether within the quota) of each call; likewise unless `keep_timeline`.
    in_flight, most_in_flight: calls being answered now, and the most there ever were at once.

    quota_per_access_key: each access key ID has quotas of its own, as each AWS account has.
    answer: asked for every call within the quota before the population is: None for the normal answer, a
        dictionary to be sent instead, or a response (a new one each time). It may be a coroutine function, to
        hold a call in flight.

    `faults`, `answer` and the population's overrides may change while it serves.
    """

    def __init__(
        self,
        population: Population,
        faults: Faults = Faults(),
        *,
        quota_per_access_key: bool = False,
        count_identifiers: bool = False,
        keep_timeline: bool = False,
        answer: Hook | None = None,
    ) -> None:
        self.population = population
        self.quota_per_access_key = quota_per_access_key
        self.count_identifiers = count_identifiers
        self.keep_timeline = keep_timeline
        self.answer = answer
        self.served: Counter[tuple[str, str]] = Counter()
        self.calls: Counter[str] = Counter()
        self.timeline: list[tuple[float, bool]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._faults = faults
        self._random = random.Random(faults.seed)  # noqa: S311  (faults are to be repeatable, not secret)
        self._buckets: dict[tuple[str, str], Bucket] = {}

    @property
    def faults(self) -> Faults:
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        if faults.rate is None:
            self._buckets.clear()
        for bucket in self._buckets.values():
            bucket.change(*_quota(faults), time.monotonic())

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve until the context ends; yields the base URL. Port 0: any free one.

        Raises OSError where the address cannot be had.
        """
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=LAST_ANSWERS)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
            yield site.name
        finally:
            await runner.cleanup()

    async def _handle(self, http: web.BaseRequest) -> web.Response:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answered(http)
        finally:
            self.in_flight -= 1

    async def _answered(self, http: web.BaseRequest) -> web.Response:
        operation = _operation(http)
        request = _request(await http.read())
        if self.count_identifiers and operation == GET and request is not None:
            self.calls[str(request.get("Identifier"))] += 1
        within_quota = self._within_quota(operation, http)
        faults = self._faults
        # Even a sleep of no time costs a turn of the event loop.
        if faults.latency or faults.jitter:
            await asyncio.sleep(faults.latency + faults.jitter * self._random.random())
        if not within_quota:
            response = _error("ThrottlingException", "Rate exceeded")
        elif self._strikes(faults.error_rate):
            response = _error("InternalServerException", "An internal error occurred.", status=500)
        else:
            response = await self._response(operation, request)
        if within_quota and self._strikes(faults.cut_rate):
            self.served[operation, CUT] += 1
            _cut(http, response, in_the_middle=self._strikes(0.5))
        else:
            self.served[operation, _result(response)] += 1
        return response

    def _within_quota(self, operation: str, http: web.BaseRequest) -> bool:
        if self._faults.rate is None and not self.keep_timeline:
            return True
        now = time.monotonic()
        within = self._faults.rate is None or self._bucket(operation, http, now).take(now)
        if self.keep_timeline:
            self.timeline.append((now, within))
        return within

    def _bucket(self, operation: str, http: web.BaseRequest, now: float) -> Bucket:
        owner = ""
        if self.quota_per_access_key and (found := ACCESS_KEY.search(http.headers.get("Authorization", ""))):
            owner = found[1]
        bucket = self._buckets.get((owner, operation))
        if bucket is None:
            bucket = self._buckets[owner, operation] = Bucket(*_quota(self._faults), now)
        return bucket

    def _strikes(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    async def _response(self, operation: str, request: dict[str, Any] | None) -> web.Response:
        if not operation:
            return _error("UnknownOperationException", "The service has no such operation.")
        if request is None:
            return _error("SerializationException", "The request is not a JSON object.")
        answer = self.answer and self.answer(operation, request)
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is None:
            answer = self._get(request) if operation == GET else self._list(request)
        return answer if isinstance(answer, web.Response) else _json(answer)

    def _get(self, request: dict[str, Any]) -> web.Response | dict[str, Any]:
        identifier = request.get("Identifier")
        if not isinstance(identifier, str) or not CONNECTION_ID.fullmatch(identifier):
            return _invalid(f"Identifier must match {CONNECTION_ID.pattern}")
        if not self._has_catalog(request):
            return _invalid("Catalog must be AWS or Sandbox")
        connection = None
        if request["Catalog"] == self.population.catalog and not self._unknown(identifier):
            connection = self.population.get(identifier)
        if connection is None:
            return _error(
                "ResourceNotFoundException",
                f"Connection {identifier} was not found.",
                reason="CONNECTION_NOT_FOUND",
            )
        return connection

    def _list(self, request: dict[str, Any]) -> web.Response | dict[str, Any]:
        limit = request.get("MaxResults", LARGEST_PAGE)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= LARGEST_PAGE:
            return _invalid(f"MaxResults must be between 1 and {LARGEST_PAGE}")
        if not self._has_catalog(request):
            return _invalid("Catalog must be AWS or Sandbox")
        token = request.get("NextToken")
        start = 0 if token is None else self._start(token)
        if start is None:
            return _invalid("NextToken is not valid")
        if request["Catalog"] != self.population.catalog:
            return {"ConnectionSummaries": []}
        summaries, following = self.population.page(start, limit)
        # A page may be shorter than asked for; only a missing token ends a listing.
        known = [summary for summary in summaries if not self._unknown(str(summary.get("Id")))]
        page: dict[str, Any] = {"ConnectionSummaries": known}
        if following is not None:
            page["NextToken"] = self._token(following)
        return page

    def _has_catalog(self, request: dict[str, Any]) -> bool:
        return request.get("Catalog") in (*CATALOGS, self.population.catalog)

    def _unknown(self, identifier: str) -> bool:
        share = self._faults.unknown_rate
        return share > 0 and _digest(f"{self._faults.seed}/{identifier}") < share * 2**32

    def _token(self, start: int) -> str:
        check = _digest(f"{self.population.seed}/{self.population.catalog}/{start}")
        return base64.urlsafe_b64encode(f"{start}/{check}".encode()).decode()

    def _start(self, token: object) -> int | None:
        """Where the page of `token` starts; None if the token is not one of `_token`."""
        try:
            start = int(base64.urlsafe_b64decode(str(token)).partition(b"/")[0])
        except (ValueError, binascii.Error):
            return None
        return start if self._token(start) == token else None


async def simulate(
    population: Population, faults: Faults, host: str, port: int, announce: Callable[[str], None]
) -> None:
    """Serve until cancelled; `announce` is told the base URL once calls are answered.

    Raises OSError where the address cannot be had.
    """
    async with Simulator(population, faults).serving(host, port) as url:
        announce(url)
        await anyio.sleep_forever()


def _quota(faults: Faults) -> tuple[float, float]:
    rate = faults.rate or 0.0
    return rate, max(1.0, rate if faults.burst is None else faults.burst)


def _operation(http: web.BaseRequest) -> str:
    """The operation that is asked for; empty if it is none of this API's."""
    if http.method != "POST" or http.path != "/":
        return ""
    return OPERATIONS.get(http.headers.get("X-Amz-Target", ""), "")


def _request(body: bytes) -> dict[str, Any] | None:
    try:
        request = json.loads(body)
    except ValueError:
        return None
    return request if isinstance(request, dict) else None


def _invalid(message: str) -> web.Response:
    return _error("ValidationException", message, reason="REQUEST_VALIDATION_FAILED")


def _error(code: str, message: str, *, reason: str | None = None, status: int = 400) -> web.Response:
    body = {"__type": f"com.amazonaws.partnercentralaccount#{code}", "Message": message}
    if reason is not None:
        body["Reason"] = reason
    return _json(body, status, {"x-amzn-errortype": code})


def _json(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=json.dumps(content).encode(),
        status=status,
        headers={"Content-Type": CONTENT_TYPE, "x-amzn-RequestId": str(uuid.uuid4())} | (headers or {}),
    )


def _result(response: web.Response) -> str:
    code = response.headers.get("x-amzn-errortype")
    return code or (OK if response.status == HTTPStatus.OK else f"HTTP {response.status}")


def _cut(http: web.BaseRequest, response: web.Response, *, in_the_middle: bool) -> None:
    """Close the connection, after half of the response or none of it.

    The server then fails to send the response, which it takes for a caller who has left.
    """
    transport = http.transport
    if transport is None:
        return
    body = response.body
    if in_the_middle and isinstance(body, bytes):
        head = f"HTTP/1.1 {response.status} Cut\r\nContent-Length: {len(body)}\r\n\r\n"
        transport.write(head.encode() + body[: len(body) // 2])
    transport.close()


def _digest(text: str) -> int:
    """32 bits that depend on `text` only."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
