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
from dataclasses import dataclass, replace

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
# A named pipe is opened before anybody writes to it: waiting for that is for later, too.
OPENING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(slots=True)
class _Input:
    """One open input.

    name: as people know it. size: in bytes; None where that is not known. waits: it may have nothing to say
    for a while. ours: to be closed when it has been read.
    """

    name: str
    descriptor: int
    size: int | None
    waits: bool
    ours: bool
    consumed: int = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self._read():
            self.consumed += len(chunk)
            yield chunk

    async def _read(self) -> bytes:
        """The next chunk; empty at the end. A pipe hands on what it has, and is never blocked upon."""
        while self.waits:
            await anyio.wait_readable(self.descriptor)
            try:
                return os.read(self.descriptor, CHUNK)
            except BlockingIOError:
                pass  # another reader of the same pipe was quicker
        return await anyio.to_thread.run_sync(os.read, self.descriptor, CHUNK)

    def close(self) -> None:
        if self.ours:
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
        name = self._inputs[0].name
        return f"{name} and {more} more" if more else name

    def expected(self) -> int | None:
        """How many items there are in all, as far as the part that was read tells; None if it does not."""
        if self._done:
            return self._items
        sizes = [each.size for each in self._inputs]
        consumed = sum(each.consumed for each in self._inputs)
        if not self._items or None in sizes:
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
        parser = Parser(source.name, self._catalog, self._items)
        try:
            async for chunk in source.chunks():
                for items in parser.feed(chunk):
                    yield items
            for items in parser.end():
                yield items
        except BrokenGzip as error:
            raise InputError(
                f"{source.name}: {error}, after line {parser.line}: what came before was read; "
                "get the file again"
            ) from None
        except InputError as error:
            raise InputError(f"{source.name} {error}") from None
        except OSError as error:
            raise InputError(f"{source.name} cannot be read: {error.strerror}") from None


async def digest(paths: Sequence[str]) -> str | None:
    """A digest of what is in the files at `paths`; None where something can be read only once.

    Raises `InputError`.
    """
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            if path == STDIN or not stat.S_ISREG((await anyio.Path(path).stat()).st_mode):
                return None
            async with await anyio.open_file(path, "rb") as file:
                while chunk := await file.read(MANY_CHUNKS):
                    total.update(chunk)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        total.update(b"\0")
    return total.hexdigest()


async def open_files(paths: Sequence[str], catalog: str) -> Files:
    """The files at `paths`, open and looked at. Raises `InputError` for the first that cannot be used."""
    if paths.count(STDIN) > 1:
        raise InputError("- (stdin) is named twice, but it can be read only once")
    inputs: list[_Input] = []
    with ExitStack() as opened:
        for path in paths:
            inputs.append(_opened(path))
            opened.callback(inputs[-1].close)
            await anyio.to_thread.run_sync(_look, inputs[-1], catalog)
        opened.pop_all()
    return Files(inputs, catalog)


def _opened(path: str) -> _Input:
    name = "stdin" if path == STDIN else path
    try:
        descriptor = _stdin() if path == STDIN else os.open(path, OPENING)
        status = os.fstat(descriptor)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name} is a folder: name the files in it")
    return _Input(
        name,
        descriptor,
        size=status.st_size if stat.S_ISREG(status.st_mode) else None,
        # Other devices, such as /dev/null, cannot be waited for, and need not be.
        waits=stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode) or os.isatty(descriptor),
        ours=path != STDIN,
    )


def _stdin() -> int:
    if sys.stdin is None:  # as Python has it when the descriptor was closed before the start
        raise ValueError("it is closed")
    return sys.stdin.fileno()


def _look(source: _Input, catalog: str) -> None:
    """Refuse what is no list of IDs at all, as far as that shows already. Raises `InputError`."""
    if source.size is None:
        return
    parser = Parser(source.name, catalog)
    try:
        beginning = os.pread(source.descriptor, BEGINNING, os.lseek(source.descriptor, 0, os.SEEK_CUR))
        for _ in parser.feed(beginning):
            pass
        if len(beginning) < BEGINNING:
            for _ in parser.end():
                pass
    except BrokenGzip as error:
        raise InputError(f"{source.name}: {error}: get the file again") from None
    except InputError as error:
        raise InputError(f"{source.name} {error}") from None
    except OSError as error:
        raise InputError(f"{source.name} cannot be read: {error.strerror}") from None
