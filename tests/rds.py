"""What Amazon RDS puts before a database: TLS, and a login that takes a token in place of a password.

Source of the message formats: the PostgreSQL manual, "Frontend/Backend Protocol".
"""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.certificates import Pair

SSL_REQUEST = (80877103).to_bytes(4)
ASK_PASSWORD = b"R" + (8).to_bytes(4) + (3).to_bytes(4)
REFUSAL = b"SFATAL\0VFATAL\0C28000\0MPAM authentication failed for user\0\0"

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Rds:
    """A server on loopback before the one that `connect` reaches.

    encrypted: whether it speaks TLS. refusing: whether it lets nobody in. tokens: what has been sent to it.
    """

    def __init__(
        self, connect: Connect, pair: Pair, *, encrypted: bool = True, refusing: bool = False
    ) -> None:
        self.tokens: list[str] = []
        self.encrypted, self.refusing = encrypted, refusing
        self._connect = connect
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._open: set[asyncio.StreamWriter] = set()
        with tempfile.TemporaryDirectory() as folder:
            both = Path(folder, "pair.pem")
            both.write_bytes(pair.certificate + pair.key)
            self._tls.load_cert_chain(both)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Listen while the context lasts; the port."""
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        """End all connections."""
        for writer in self._open:
            writer.transport.abort()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._serve(reader, writer)
        self._open.discard(writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await _startup(reader)
        if first[4:] == SSL_REQUEST and self.encrypted:
            writer.write(b"S")
            await writer.start_tls(self._tls)
            first = await _startup(reader)
        elif first[4:] == SSL_REQUEST:
            writer.write(b"N")
            first = await _startup(reader)
        writer.write(ASK_PASSWORD)
        head = await reader.readexactly(5)
        password = await reader.readexactly(int.from_bytes(head[1:]) - 4)
        self.tokens.append(password.rstrip(b"\0").decode())
        if self.refusing:
            writer.write(b"E" + (4 + len(REFUSAL)).to_bytes(4) + REFUSAL)
            await writer.drain()
            return
        far_reader, far_writer = await self._connect()
        far_writer.write(first)
        await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))


async def _startup(reader: asyncio.StreamReader) -> bytes:
    """A message that has no type: what a connection begins with."""
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length) - 4)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
