"""One item, fetched: from a connection ID to what the API says about it, retries and all."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from syncer.answers import Answer, Failure, Found, Missing
from syncer.events import Event
from syncer.identifiers import Item
from syncer.ledger import Calls
from syncer.normalize import Unreadable, normalized
from syncer.outcomes import Outcome
from syncer.partner_central.client import PartnerCentral
from syncer.partner_central.errors import (
    NotFound,
    PartnerCentralError,
    Rejected,
    Throttled,
    Transient,
    Unreachable,
)
from syncer.partner_central.retry import Retrying
from syncer.partner_central.turns import Turns

log = structlog.get_logger()


class Fetcher:
    """Fetches items, many at a time.

    turns, retrying: when a call may go, and what becomes of it when it fails. They may raise to end the
    waiting when the run is stopping. now: the database's time. calls: counted here.
    personal_data: False leaves away who invited.
    """

    def __init__(
        self,
        api: PartnerCentral,
        *,
        turns: Turns,
        retrying: Retrying,
        now: Callable[[], datetime],
        calls: Calls,
        personal_data: bool = True,
    ) -> None:
        self.drift: Counter[str] = Counter()
        self._api = api
        self._turns = turns
        self._retrying = retrying
        self._now = now
        self._calls = calls
        self._personal_data = personal_data
        self._answered_at = 0.0

    async def __call__(self, item: Item) -> Answer:
        """What the API says about `item`.

        Raises `Denied`, which is about the run, and `Unreachable` when nothing at all has answered since
        the first attempt: then it is not the item that fails.
        """
        began = time.monotonic()
        attempts = 0
        asked_at = self._now()

        async def ask() -> Answer:
            nonlocal attempts, asked_at
            asked_at = self._now()
            attempts += 1
            self._calls.made += 1
            try:
                answer = await self._api.get_connection(item.identifier)
            except PartnerCentralError as error:
                attempts -= isinstance(error, Throttled)
                if not isinstance(error, Unreachable):
                    self._answered_at = time.monotonic()
                raise
            self._answered_at = time.monotonic()
            return self._read(item, asked_at, answer)

        try:
            return await self._retrying(lambda: self._turns(ask))
        except NotFound:
            return Missing(item, asked_at)
        except Unreachable as error:
            if self._answered_at < began:
                raise
            return self._failed(item, error.code, error.message, attempts)
        except (Rejected, Transient) as error:
            return self._failed(item, error.code, error.message, attempts)

    def _read(self, item: Item, asked_at: datetime, answer: Mapping[str, object]) -> Answer:
        try:
            connection = normalized(
                answer,
                identifier=item.identifier,
                catalog=self._api.catalog,
                personal_data=self._personal_data,
            )
        except Unreadable as error:
            raise Rejected("UnreadableAnswer", str(error)) from None
        for strange in connection.drift:
            self.drift[strange] += 1
            if self.drift[strange] == 1:
                log.warning(Event.SCHEMA_DRIFT, what=strange, first_seen_in=item.identifier)
        return Found(item, asked_at, connection)

    @staticmethod
    def _failed(item: Item, code: str, message: str, attempts: int) -> Failure:
        log.warning(Event.ITEM_FAILED, id=item.identifier, code=code, attempts=attempts)
        return Failure(item, Outcome.FAILED, code, message, attempts)


class Pages:
    """Asks for pages of the listing, paced and retried like any call."""

    def __init__(self, api: PartnerCentral, *, turns: Turns, retrying: Retrying, calls: Calls) -> None:
        self._api = api
        self._turns = turns
        self._retrying = retrying
        self._calls = calls

    async def __call__(self, token: str | None) -> Mapping[str, object]:
        """The page that `token` stands for, None for the first. Raises `PartnerCentralError`."""

        async def ask() -> Mapping[str, object]:
            self._calls.made += 1
            return await self._api.list_connections(token)

        return await self._retrying(lambda: self._turns(ask))


def invalid(item: Item) -> Failure:
    """The failure for an item that is no connection ID: no call is made for it."""
    log.warning(Event.ITEM_INVALID, where=item.where, why=item.problem)
    return Failure(
        item, Outcome.INVALID, "InvalidIdentifier", f"{item.where}: {item.problem}".lstrip(": "), 0
    )
