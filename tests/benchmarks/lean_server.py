"""GetConnection as fast as one core serves it: for measuring clients, so that the server is never the limit.

    .venv/bin/python -m tests.benchmarks.lean_server [--port 0] [--ceiling]

It speaks as much HTTP as the clients that are measured here do, looks at nothing of a request but the ID in
its body, and answers any ID: with one of some thousand connections, rendered before the first call, in which
it puts the ID that was asked for. So it has answers for a million IDs in the memory of a few, the same ones
in every process. `GET /` tells how many calls there were since the last `GET /`, and when the first of them
came.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvloop

from syncer.partner_central.population import Population

SEED = 1
BODIES = 10_000
ID_LENGTH = len("pac-") + 13
SPAWN = multiprocessing.get_context("spawn")

UNKNOWN = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.0\r\n"
    b"x-amzn-errortype: UnknownOperationException\r\nContent-Length: 2\r\n\r\n{}"
)


def bodies() -> list[list[bytes]]:
    """Whole responses, each in parts between which the ID belongs."""
    population = Population(BODIES, SEED)
    return [_parts(population.connection(number)) for number in range(BODIES)]


def _parts(answer: dict[str, Any]) -> list[bytes]:
    body = json.dumps(answer).encode()
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n"
        f"x-amzn-RequestId: 00000000-0000-0000-0000-000000000000\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return (head.encode() + body).split(answer["Id"].encode())


@dataclass(slots=True)
class Count:
    """calls: since it was told last. first: the monotonic time of the first of them."""

    calls: int = 0
    first: float = 0.0

    def told(self) -> bytes:
        body = json.dumps({"calls": self.calls, "first": self.first}).encode()
        self.calls = 0
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Answering(asyncio.Protocol):
    """One connection."""

    def __init__(self, answers: list[list[bytes]], count: Count) -> None:
        self._answers = answers
        self._count = count
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        while (end := received.find(b"\r\n\r\n")) >= 0:
            head = received[:end]
            start = head.lower().find(b"\r\ncontent-length:")
            length = int(head[start + 17 :].partition(b"\r\n")[0]) if start >= 0 else 0
            end += 4
            if len(received) < end + length:
                break
            self._answer(head, received[end : end + length])
            received = received[end + length :]
        self._received = received

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET "):
            self._transport.write(self._count.told())
            self._transport.close()
            return
        count = self._count
        if not count.calls:
            count.first = time.monotonic()
        count.calls += 1
        at = body.find(b'"pac-') + 1
        if not at:
            self._transport.write(UNKNOWN)
            return
        identifier = body[at : at + ID_LENGTH]
        answers = self._answers
        self._transport.write(identifier.join(answers[zlib.crc32(identifier) % len(answers)]))


async def serve(port: int, announce: Any) -> None:
    """Serve until cancelled; `announce` is told the base URL."""
    answers, count = bodies(), Count()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(answers, count), "127.0.0.1", port, backlog=1024)
    announce(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await server.serve_forever()


@dataclass(frozen=True, slots=True)
class Lean:
    """A lean server in a process of its own."""

    url: str
    pid: int

    def calls(self) -> tuple[int, float]:
        """Calls since this was asked last, and the monotonic time of the first of them."""
        with urllib.request.urlopen(self.url) as answer:
            told = json.load(answer)
        return told["calls"], told["first"]

    def cpu(self) -> float:
        """CPU seconds so far."""
        with open(f"/proc/{self.pid}/stat") as stat:  # noqa: PTH123  (a pseudo-file)
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving() -> Iterator[Lean]:
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield Lean(here.recv(), process.pid or 0)
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Any) -> None:
    uvloop.run(serve(0, pipe.send))


def ids(count: int) -> Iterator[str]:
    """`count` connection IDs, always the same."""
    return Population(count, SEED).identifiers()


# --- What the server can do at all: a caller that only sends what is prepared, and counts what comes back.

HEAD = (
    "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Amz-Target: PartnerCentralAccount.GetConnection\r\n"
    "Content-Type: application/x-amz-json-1.0\r\nUser-Agent: {filler:x<60}\r\n"
    "X-Amz-Date: 20260101T000000Z\r\n"
    "Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/partnercentral-account/aws4_request, "
    "SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature={filler:x<64}\r\n"
    "Content-Length: {length}\r\n\r\n"
)


class Calling(asyncio.Protocol):
    def __init__(self, work: Iterator[bytes], done: asyncio.Event) -> None:
        self._work = work
        self._done = done

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.data_received(b"}}")

    def data_received(self, data: bytes) -> None:
        # The only braces that end an answer; this caller has one call at a time on a connection.
        if data.endswith(b"}}"):
            request = next(self._work, None)
            if request is None:
                self._done.set()
            else:
                self._transport.write(request)


def ceiling(server: Lean, calls: int = 50_000, slots: int = 32) -> dict[str, float]:
    """calls_per_s that a caller gets who does nothing with the answers, and the server's CPU s per 1,000."""

    async def main() -> float:
        identifiers = [f'{{"Catalog": "AWS", "Identifier": "{each}"}}' for each in ids(1000)]
        head = HEAD.format(filler="x", length=len(identifiers[0]))
        requests = [(head + body).encode() for body in identifiers]
        work = (requests[number % len(requests)] for number in range(calls))
        loop, done = asyncio.get_running_loop(), [asyncio.Event() for _ in range(slots)]
        port = int(server.url.rpartition(":")[2])
        began = time.perf_counter()
        for each in done:
            await loop.create_connection(lambda each=each: Calling(work, each), "127.0.0.1", port)  # type: ignore[misc]  # the default binds the loop's variable
        for each in done:
            await each.wait()
        return calls / (time.perf_counter() - began)

    before = server.cpu()
    rate = uvloop.run(main())
    return {"calls_per_s": rate, "server_cpu_s_per_1000": (server.cpu() - before) / calls * 1000}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ceiling", action="store_true", help="tell what it can do, and end")
    given = parser.parse_args()
    if given.ceiling:
        with serving() as lean:
            print(ceiling(lean))
    else:
        uvloop.run(serve(given.port, lambda url: print(url, flush=True)))
