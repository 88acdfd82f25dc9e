"""Files and stdin as a source of items, streamed: the thin edge around `formats`.

Every input is opened before the first item, and files are looked at, so that a mistake in the third file's
name is not found out after an hour. A pipe is not waited for: it may have nothing to say for a while.
"""

import hashlib
import os
import stat
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import anyio
import anyio.to_thread

from syncer.identifiers import Item
from syncer.sources.formats import BrokenGzip, InputError, Parser

__all__ = ["Files", "InputError", "digest", "open_files"]

CHUNK = 64 * 1024
# So much of a file is looked at before its turn comes.
BEGINNING = 8 * 1024
# Read to be digested only.
MANY_CHUNKS = 1024 * 1024
STDIN = "-"


@dataclass(slots=True)
class _Input:
    """One open input. name: as people know it. size: None where that is not known."""

    name: str
    descriptor: int
    size: int | None
    waits: bool
    consumed: int = field(default=0)

    async def chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self.read(CHUNK):
            self.consumed += len(chunk)
            yield chunk

    async def read(self, most: int) -> bytes:
        """The next chunk; empty at the end. A pipe hands on what it has, and is never blocked upon."""
        if not self.waits:
            return await anyio.to_thread.run_sync(os.read, self.descriptor, most)
        while True:
            await anyio.wait_readable(self.descriptor)
            try:
                return os.read(self.descriptor, most)
            except BlockingIOError:
                continue  # somebody else who has the same pipe was quicker

    def close(self) -> None:
        if self.name != STDIN_SHOWN:
            os.close(self.descriptor)


class Files:
    """The items of several inputs, one after the other; iterated once.

    skip_below: items before this position need not be fetched: an earlier run has settled them.
    """

    def __init__(self, inputs: Sequence[_Input], catalog: str) -> None:
        self.skip_below = 0
        self._inputs = inputs
        self._catalog = catalog
        self._items = 0
        self._done = False

    def describe(self) -> str:
        """The inputs' names, for people."""
        more = len(self._inputs) - 1
        name = "stdin" if self._inputs[0].name == STDIN else self._inputs[0].name
        return f"{name} and {more} more" if more else name

    def expected(self) -> int | None:
        """How many items there are in all, as far as the part that was read tells; None if it does not."""
        if self._done:
            return self._items
        sizes = [each.size for each in self._inputs]
        consumed = sum(each.consumed for each in self._inputs)
        if not consumed or None in sizes:
            return None
        return round(self._items * sum(size or 0 for size in sizes) / consumed)

    async def __aiter__(self) -> AsyncIterator[Item]:
        try:
            for each in self._inputs:
                async for items in self._of(each):
                    self._items += len(items)
                    for item in items:
                        yield item if item.position >= self.skip_below else replace(item, skip=True)
            self._done = True
        finally:
            for each in self._inputs:
                each.close()

    async def _of(self, source: _Input) -> AsyncIterator[list[Item]]:
        parser: Parser | None = None
        gunzip = Gunzip() if source.beginning.startswith(GZIP) else None
        decode: io.IncrementalNewlineDecoder | None = None
        try:
            async for chunk in source.chunks():
                for plain in gunzip.feed(chunk) if gunzip else (chunk,):
                    decode = decode or decoder(plain)
                    text = decode.decode(plain)
                    parser = parser or Parser(_shown(source.name), self._catalog, text)
                    yield parser.feed(text, self._items)
            if gunzip:
                gunzip.end()
            if parser and decode:
                yield parser.feed(decode.decode(b"", final=True), self._items)
                yield parser.end(self._items)
        except BrokenGzip as error:
            line = parser.line if parser else 0
            raise InputError(
                f"{_shown(source.name)}: {error}, after line {line}: what came before was read; "
                "get the file again"
            ) from None
        except InputError as error:
            raise InputError(f"{_shown(source.name)} {error}") from None
        except OSError as error:
            raise InputError(f"{_shown(source.name)} cannot be read: {error.strerror}") from None


async def digest(paths: Sequence[str]) -> str | None:
    """A digest of what is in the files at `paths`; None where something can be read only once.

    Raises `InputError`.
    """
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        if path == STDIN or not stat.S_ISREG((await anyio.Path(path).stat()).st_mode):
            return None
        async with await anyio.open_file(path, "rb") as file:
            while chunk := await file.read(MANY_CHUNKS):
                total.update(chunk)
        total.update(b"\0")
    return total.hexdigest()


async def open_files(paths: Sequence[str], catalog: str) -> Files:
    """The files at `paths`, open and looked at. Raises `InputError` for the first that cannot be used."""
    if paths.count(STDIN) > 1:
        raise InputError("- (stdin) is named twice, but it can be read only once")
    return Files([await _opened(path, catalog) for path in paths], catalog)


async def _opened(path: str, catalog: str) -> _Input:
    try:
        descriptor = sys.stdin.fileno() if path == STDIN else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{_shown(path)} cannot be read: {getattr(error, 'strerror', error)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder: name the files in it")
    regular = stat.S_ISREG(status.st_mode)
    source = _Input(path, descriptor, status.st_size if regular else None, b"")
    while len(source.beginning) < BEGINNING:
        chunk = await source.read()
        if not chunk:
            source.ended = True
            break
        source.beginning += chunk
        if source.size is None and b"\n" in source.beginning:
            break  # a pipe may be slow: one line is enough to look at
    _look(source, catalog)
    return source


def _look(source: _Input, catalog: str) -> None:
    """Refuse what is no list of IDs at all. Raises `InputError`."""
    name, plain = _shown(source.name), source.beginning
    if plain.startswith(GZIP):
        try:
            plain = next(Gunzip().feed(plain), b"")
        except BrokenGzip as error:
            raise InputError(f"{name}: {error}: get the file again") from None
    elif source.name.endswith(".gz") and plain:
        raise InputError(f"{name} is named .gz, but it holds no gzip data")
    if b"\0" in plain[:BEGINNING] and not plain.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name} is a binary file, not a list of connection IDs")
    text = decoder(plain).decode(plain)
    try:
        # The header of a CSV file is refused now, not when its turn comes.
        Parser(name, catalog, text).feed(text, 0)
    except InputError as error:
        raise InputError(f"{name} {error}") from None


def _shown(name: str) -> str:
    return "stdin" if name == STDIN else name
