"""The listing as a source: what is new, changed or no longer listed is fetched, the rest is skipped.

The listing is read to its end first: its tokens do not wait for the fetching, and how much there is to do is
known from then on. Only a listing that reached its end says anything about what it does not show, and even
then absence only means *fetch it*: the API still answers for a connection that was canceled.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from syncer.identifiers import Item, item
from syncer.partner_central.errors import NotFound, Rejected, Transient
from syncer.sources.spool import Spool
from syncer.times import timestamp

# A page of the listing, as JSON has it. Raises `PartnerCentralError`.
NextPage = Callable[[str | None], Awaitable[Mapping[str, object]]]
# Of the given IDs those that are stored and live, with their `updated_at`.
Known = Callable[[Sequence[str]], Awaitable[Mapping[str, datetime]]]
# The next stored IDs after the given one, in order, with an active type and not removed; empty at the end.
LiveAfter = Callable[[str], Awaitable[Sequence[str]]]


class ListingBroken(Exception):
    """The listing did not reach its end; what it showed until then was yielded."""


class Listing:
    """The items of one account's listing in one catalog; iterated once.

    full: fetch everything that is listed or stored as active, whether it changed or not.
    complete: the listing reached its end.
    """

    def __init__(
        self, *, next_page: NextPage, known: Known, live_after: LiveAfter, catalog: str, full: bool
    ) -> None:
        self.complete = False
        self._next_page = next_page
        self._known = known
        self._live_after = live_after
        self._catalog = catalog
        self._full = full
        self._listed: int | None = None
        self._items = 0

    def describe(self) -> str:
        return "the listing"

    def expected(self) -> int | None:
        """How many items there are; known once the listing has been read."""
        return None if self._listed is None else max(self._listed, self._items)

    async def __aiter__(self) -> AsyncIterator[Item]:
        spool = Spool()
        try:
            broken = await self._read(spool)
            self._listed = len(spool)
            for identifier, fetch in spool:
                yield self._item(identifier, fetch=fetch)
            if broken is not None:
                raise broken
            self.complete = True
            after = ""
            while live := await self._live_after(after):
                for identifier in spool.without(live):
                    yield self._item(identifier, fetch=True)
                after = live[-1]
        finally:
            spool.close()

    async def _read(self, spool: Spool) -> ListingBroken | None:
        """Read all pages into `spool`; what went wrong, if anything did. Raises what stops a run."""
        token: str | None = None
        # Their hashes: a token can be long, and a listing has many.
        tokens: set[int] = set()
        while True:
            try:
                page = await self._next_page(token)
                summaries = _summaries(page)
            except (NotFound, Rejected, Transient) as error:
                return ListingBroken(f"the listing broke off: {error}")
            except ListingBroken as error:
                return error
            known = {} if self._full else await self._known([identifier for identifier, _ in summaries])
            spool.put(
                (identifier, updated_at is None or known.get(identifier) != updated_at)
                for identifier, updated_at in summaries
            )
            following = page.get("NextToken")
            if not following:
                return None
            token = str(following)
            if hash(token) in tokens:
                return ListingBroken("a page's token came back: the listing goes round in circles")
            tokens.add(hash(token))

    def _item(self, identifier: str, *, fetch: bool) -> Item:
        position, self._items = self._items, self._items + 1
        return item(position, identifier, self._catalog, "the listing", skip=not fetch)


def _summaries(page: Mapping[str, object]) -> list[tuple[str, datetime | None]]:
    """ID and `UpdatedAt` of each connection on a page. Raises `ListingBroken` for one without an ID."""
    summaries = page.get("ConnectionSummaries")
    if not isinstance(summaries, list):
        raise ListingBroken("a page of the listing holds no summaries")
    found: list[tuple[str, datetime | None]] = []
    for summary in summaries:
        identifier = summary.get("Id") if isinstance(summary, Mapping) else None
        if not isinstance(identifier, str):
            raise ListingBroken("a summary in the listing has no ID")
        found.append((identifier, _time(summary.get("UpdatedAt"))))
    return found


def _time(value: object) -> datetime | None:
    try:
        return timestamp(value)
    except ValueError:
        return None
