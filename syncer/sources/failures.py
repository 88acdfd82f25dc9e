"""The recorded failures as a source: each connection ID among them once more."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from syncer.identifiers import CONNECTION_ID, Item, item

# The next recorded identifiers after the given one, in order; empty at the end.
FailedAfter = Callable[[str], Awaitable[Sequence[str]]]


class Failures:
    """The connection IDs in `sync_failure`; iterated once.

    What never was an ID stays there: trying again would not make it one.
    """

    def __init__(self, failed_after: FailedAfter, catalog: str) -> None:
        self._failed_after = failed_after
        self._catalog = catalog

    def describe(self) -> str:
        return "the recorded failures"

    def expected(self) -> int | None:
        return None

    async def __aiter__(self) -> AsyncIterator[Item]:
        position, after = 0, ""
        while failed := await self._failed_after(after):
            for identifier in failed:
                if CONNECTION_ID.fullmatch(identifier):
                    yield item(position, identifier, self._catalog)
                    position += 1
            after = failed[-1]
