"""A proxy before Postgres that reads along: of each statement it tells before the server hears it,
and of each commit before the client does.

Source of the message formats: the PostgreSQL manual, "Frontend/Backend Protocol".
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol


class Watch(Protocol):
    """What is told; an exception of type `Severed` from it ends the connection, and nothing is passed on."""

    def __call__(self, what: str, sql: str, transaction: "Transaction") -> Awaitable[None]: ...


class Severed(Exception):
    """Nothing passes any more."""


@dataclass(slots=True)
class Transaction:
    """The statements of a connection since its last BEGIN."""

    statements: list[str] = field(default_factory=list)

    def has(self, text: str) -> bool:
        return any(text in statement for statement in self.statements)


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

STATEMENT, COMMITTED = "statement", "committed"


@asynccontextmanager
async def wire(connect: Connect, watch: Watch) -> AsyncIterator[int]:
    """Listen on loopback while the context lasts, passing everything on to whom `connect` reaches."""
    transports: set[asyncio.WriteTransport] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer.transport}
        transports.add(writer.transport)
        transaction = Transaction()

        async def pass_on(passing: Awaitable[None]) -> None:
            # Whichever side ends, the other one hears of it, as it would without anybody between.
            with suppress(OSError, asyncio.IncompleteReadError, Severed):
                await passing
            for transport in ends:
                transport.abort()

        try:
            far_reader, far_writer = await connect()
        except OSError:
            writer.transport.abort()
            return
        ends.add(far_writer.transport)
        transports.update(ends)
        await asyncio.gather(
            pass_on(_to_server(reader, far_writer, watch, transaction)),
            pass_on(_to_client(far_reader, writer, watch, transaction)),
        )
        transports.difference_update(ends)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for transport in transports:
            transport.abort()


async def _to_server(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: Watch, transaction: Transaction
) -> None:
    # What comes first has no type. Nobody asks for encryption: `sslmode=disable&gssencmode=disable`.
    length = await reader.readexactly(4)
    writer.write(length + await reader.readexactly(int.from_bytes(length) - 4))
    while True:
        head = await reader.readexactly(5)
        body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
        if head[:1] in (b"Q", b"P"):
            text = body if head[:1] == b"Q" else body.partition(b"\0")[2]
            sql = text.partition(b"\0")[0].decode()
            if sql.startswith("BEGIN"):
                transaction.statements.clear()
            transaction.statements.append(sql)
            await watch(STATEMENT, sql, transaction)
        writer.write(head + body)
        await writer.drain()


async def _to_client(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: Watch, transaction: Transaction
) -> None:
    while True:
        head = await reader.readexactly(5)
        body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
        if head[:1] == b"C" and body == b"COMMIT\0":
            await watch(COMMITTED, "COMMIT", transaction)
        writer.write(head + body)
        await writer.drain()
