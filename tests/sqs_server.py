"""A queue's server of our own: SQS's protocol as far as syncer speaks it, in constant time.

moto's server, which most tests use, looks at all of a queue's messages in each request, and goes by the clock
on the wall. Here a benchmark measures the worker, not the server; time passes when a test says so; and a test
can watch what passes by, or cut it off.
"""

import heapq
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from aiohttp import web

# Told of an operation and its request before it is carried out, and of its answer too before that is sent.
Watch = Callable[[str, dict[str, Any], dict[str, Any] | None], Awaitable[None]]


class Cut(Exception):
    """Raised by who watches: the connection ends here, without an answer."""


@dataclass(slots=True)
class Message:
    id: str
    body: str
    sent_at: int
    receives: int = 0
    handle: str = ""
    hidden_until: float = 0.0


class SqsServer:
    """One queue, and behind it a dead-letter queue for what was handed out `most_receives` times.

    pace: seconds that pass here in one. Below 1 a message stays hidden longer than was asked for, so that
    a machine that is too busy to extend a lease in time is not taken for a worker that does not.
    received: how often each message ever was, by its ID, those deleted since too.
    """

    def __init__(self, visibility: int = 30, most_receives: int = 10, pace: float = 1.0) -> None:
        self.visibility = visibility
        self.most_receives = most_receives
        self.pace = pace
        self.dead: list[Message] = []
        self.received: dict[str, int] = {}
        self._ready: deque[Message] = deque()
        self._hidden: dict[str, Message] = {}  # by handle
        self._order: list[tuple[float, str]] = []
        self._ahead = 0.0

    @asynccontextmanager
    async def serving(self, watch: Watch | None = None) -> AsyncIterator[str]:
        """Yields the queue's URL. Each call listens on a port of its own."""
        runner = web.ServerRunner(web.Server(partial(self._handle, watch)), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"{site.name}/123456789012/connections"
        finally:
            await runner.cleanup()

    def send(self, body: str) -> Message:
        """Put a message on the queue."""
        message = Message(str(uuid.uuid4()), body, int(time.time() * 1000))
        self._ready.append(message)
        return message

    def held(self, handle: str) -> Message | None:
        """The message that was handed out with this handle, while it is hidden."""
        return self._hidden.get(handle)

    def pass_time(self, seconds: float) -> None:
        """What is hidden for no longer than `seconds` can be seen again."""
        self._ahead += seconds

    @property
    def _now(self) -> float:
        return time.monotonic() * self.pace + self._ahead

    @property
    def depth(self) -> tuple[int, int]:
        """Messages that can be seen, and that cannot."""
        self._show_again()
        return len(self._ready), len(self._hidden)

    async def _handle(self, watch: Watch | None, http: web.BaseRequest) -> web.Response:
        operation = http.headers["X-Amz-Target"].partition(".")[2]
        request = await http.json()
        try:
            if watch is not None:
                await watch(operation, request, None)
            answer = await self._answer(operation, request, http)
            if answer is None:
                return web.json_response({"__type": "InvalidAction"}, status=400)
            if watch is not None:
                await watch(operation, request, answer)
        except Cut:
            if http.transport is not None:
                http.transport.abort()
            return web.Response()
        return web.json_response(answer)

    async def _answer(
        self, operation: str, request: dict[str, Any], http: web.BaseRequest
    ) -> dict[str, Any] | None:
        match operation:
            case "SendMessageBatch":
                answer = self._send(request)
            case "ReceiveMessage":
                answer = await self._receive(request, http)
            case "DeleteMessageBatch":
                answer = self._each(request, self.delete)
            case "ChangeMessageVisibilityBatch":
                answer = self._each(request, self._change)
            case "GetQueueAttributes":
                ready, hidden = self.depth
                answer = {
                    "Attributes": {
                        "VisibilityTimeout": str(self.visibility),
                        "RedrivePolicy": f'{{"maxReceiveCount": {self.most_receives}}}',
                        "ApproximateNumberOfMessages": str(ready),
                        "ApproximateNumberOfMessagesNotVisible": str(hidden),
                        "ApproximateNumberOfMessagesDelayed": "0",
                    }
                }
            case _:
                return None
        return answer

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        for entry in request["Entries"]:
            self.send(entry["MessageBody"])
        return {"Successful": [{"Id": entry["Id"]} for entry in request["Entries"]]}

    async def _receive(self, request: dict[str, Any], http: web.BaseRequest) -> dict[str, Any]:
        deadline = time.monotonic() + request.get("WaitTimeSeconds", 0)
        messages = self._hand_out(request)
        while not messages and time.monotonic() < deadline and not _has_hung_up(http):
            await anyio.sleep(0.02)
            # Whoever has hung up gets nothing: it would be hidden from everybody else.
            messages = [] if _has_hung_up(http) else self._hand_out(request)
        return {
            "Messages": [
                {
                    "MessageId": message.id,
                    "ReceiptHandle": message.handle,
                    "Body": message.body,
                    "Attributes": {
                        "SentTimestamp": str(message.sent_at),
                        "ApproximateReceiveCount": str(message.receives),
                    },
                }
                for message in messages
            ]
        }

    def _hand_out(self, request: dict[str, Any]) -> list[Message]:
        self._show_again()
        handed_out: list[Message] = []
        while self._ready and len(handed_out) < request["MaxNumberOfMessages"]:
            message = self._ready.popleft()
            if message.receives >= self.most_receives:
                self.dead.append(message)
                continue
            message.receives += 1
            self.received[message.id] = message.receives
            message.handle = uuid.uuid4().hex
            self._hide(message, request.get("VisibilityTimeout", self.visibility))
            handed_out.append(message)
        return handed_out

    def _hide(self, message: Message, seconds: float) -> None:
        message.hidden_until = self._now + seconds
        self._hidden[message.handle] = message
        heapq.heappush(self._order, (message.hidden_until, message.handle))

    def _show_again(self) -> None:
        now = self._now
        while self._order and self._order[0][0] <= now:
            until, handle = heapq.heappop(self._order)
            message = self._hidden.get(handle)
            if message is not None and message.hidden_until == until:
                self._ready.append(self._hidden.pop(handle))

    @staticmethod
    def _each(request: dict[str, Any], do: Any) -> dict[str, Any]:
        told: dict[str, list[dict[str, Any]]] = {"Successful": [], "Failed": []}
        for entry in request["Entries"]:
            if do(entry):
                told["Successful"].append({"Id": entry["Id"]})
            else:
                code = "ReceiptHandleIsInvalid"
                told["Failed"].append({"Id": entry["Id"], "Code": code, "SenderFault": True})
        return told

    def delete(self, entry: dict[str, Any]) -> bool:
        self._show_again()
        return self._hidden.pop(entry["ReceiptHandle"], None) is not None

    def _change(self, entry: dict[str, Any]) -> bool:
        self._show_again()
        message = self._hidden.get(entry["ReceiptHandle"])
        if message is not None:
            self._hide(message, entry["VisibilityTimeout"])
        return message is not None


def _has_hung_up(http: web.BaseRequest) -> bool:
    return http.transport is None
