"""What a fetch brings back, in the project's own words: the vocabulary between fetching and writing.

Account IDs are text (they have leading zeros), times are aware and in UTC.
"""

from dataclasses import dataclass
from datetime import datetime

from syncer.identifiers import Item
from syncer.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class ConnectionType:
    """One type of a connection: a row of `connection_type`.

    participant_kind: the API's member name as it stands, such as ``PartnerProfile``.
    participant_id: the profile's ID; where there is none, the other participant's account ID.
    participant_name: as this answer gives it; None where it gives none, or the kind is not known.
    """

    type: str
    status: str
    created_at: datetime
    inviter_email: str | None
    inviter_name: str | None
    canceled_at: datetime | None
    canceled_by: str | None
    participant_kind: str
    participant_id: str
    participant_name: str | None


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection as its account sees it.

    types: sorted by type, each type once.
    drift: what in the answer this version does not know, such as ``type NEW_TYPE``; never a personal value.
    """

    id: str
    arn: str
    other_participant_account_id: str
    updated_at: datetime
    types: tuple[ConnectionType, ...]
    drift: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The API answered with the connection.

    asked_at: when the answering call was made, by the database's clock.
    """

    item: Item
    asked_at: datetime
    connection: Connection


@dataclass(frozen=True, slots=True)
class Missing:
    """The API has no such connection."""

    item: Item
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class Failure:
    """The item is recorded in `sync_failure`: it was never a connection ID, or its fetch failed.

    outcome: `Outcome.INVALID` or `Outcome.FAILED`.
    attempts: calls made for the item that were not throttled.
    """

    item: Item
    outcome: Outcome
    code: str
    message: str
    attempts: int


# What the API said about the connection, and whatever an item can come back with.
Fetched = Found | Missing
Answer = Fetched | Failure
