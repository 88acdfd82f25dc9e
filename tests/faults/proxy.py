"""A TCP proxy that gets in the way: between the program and a server, on loopback.

It knows nothing of what is said. What it does to the connections may change at any moment, also to those that
are open.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

PIECE = 64 * 1024
# With this, closing a socket resets the connection: the other side gets an error, not an end.
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What becomes of answers.

    latency: seconds that each piece of an answer takes longer. drip: seconds between its bytes.
    silent: nothing comes through, either way, and nothing is closed: as a host that has vanished.
    cut_after: the connection is reset after so many bytes of answers. cut_before: it is reset instead of
        handing on a piece with these bytes in it. ends: it is closed instead, as if all had been said.
    times: so many cuts, then no more.
    """

    latency: float = 0.0
    drip: float = 0.0
    silent: bool = False
    cut_after: int | None = None
    cut_before: bytes | None = None
    ends: bool = False
    times: int | None = None


NONE = Trouble()
Address = tuple[str, int] | str


class Proxy:
    """Hands everything on to `upstream`: host and port, or the path of a Unix socket.

    port: where it listens; the same each time. cuts: connections that it has cut. connections: ever made.
    """

    def __init__(self, upstream: Address) -> None:
        self.port = 0
        self.cuts = 0
        self.connections = 0
        self._upstream = upstream
        self._trouble = NONE
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def trouble(self) -> Trouble:
        return self._trouble

    @trouble.setter
    def trouble(self, trouble: Trouble) -> None:
        self._trouble = trouble
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Proxy"]:
        await self.accept()
        try:
            yield self
        finally:
            await self.refuse()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def accept(self) -> None:
        """Listen, again if need be."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections, and cut those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Reset all connections that are open."""
        for writer in [*self._open]:
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            answers, there = await self._connected()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ask(reader, there))
                both.create_task(self._answer(answers, writer))
        except (OSError, ExceptionGroup):
            _reset(writer)
        except asyncio.CancelledError:
            _reset(writer)
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            for each in (writer, there):
                if each is not None:
                    each.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, str):
            return await asyncio.open_unix_connection(self._upstream)
        return await asyncio.open_connection(*self._upstream)

    async def _ask(self, reader: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE):
            await self._speaks()
            there.write(data)
            await there.drain()
        raise ConnectionResetError  # the caller has hung up: nobody waits for the answer

    async def _answer(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handed_on = 0
        while data := await answers.read(PIECE):
            await self._speaks()
            trouble = self._trouble
            if trouble.latency:
                await asyncio.sleep(trouble.latency)
            if trouble.cut_before is not None and trouble.cut_before in data:
                self._cut(writer)
                return
            if trouble.cut_after is not None and handed_on + len(data) > trouble.cut_after:
                writer.write(data[: max(0, trouble.cut_after - handed_on)])
                await writer.drain()
                self._cut(writer)
                return
            handed_on += len(data)
            await self._hand_on(data, writer)
        raise ConnectionResetError  # the server has hung up

    async def _hand_on(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        while data:
            drip = self._trouble.drip
            piece, data = (data[:1], data[1:]) if drip else (data, b"")
            writer.write(piece)
            await writer.drain()
            if drip:
                await asyncio.sleep(drip)

    def _cut(self, writer: asyncio.StreamWriter) -> None:
        trouble = self._trouble
        self.cuts += 1
        if trouble.times is not None:
            self.trouble = replace(trouble, times=trouble.times - 1) if trouble.times > 1 else NONE
        if trouble.ends:
            writer.close()
        else:
            _reset(writer)
        raise ConnectionResetError

    async def _speaks(self) -> None:
        while self._trouble.silent:
            await self._changed.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset the connection. What was written already arrives first, if the other side is quick."""
    raw = writer.get_extra_info("socket")
    if raw is not None and not writer.is_closing():
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
