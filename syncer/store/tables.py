"""The tables, as SQLModel classes: what the migrations are checked against, and a schema to read.

All text is `text`, all times `timestamptz`; no enum and no check on what AWS may extend. The keys begin
with the account and the catalog because the API's answers are relative to the account that asks. What each
column means stands in the database too, as its comment.
"""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    Text,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

ACCOUNT = "The AWS account whose view this is."
CATALOG = "Partner Central's catalog: AWS or Sandbox."
CONNECTION_ID = "The connection's ID, pac-…."
TYPE = "What the connection is for, in the API's words: OPPORTUNITY_COLLABORATION, SUBSIDIARY."
STATUS = "ACTIVE or CANCELED, as the API has it."
CREATED_AT = "When the type was agreed on, by AWS."
INVITER_EMAIL = "Personal data: the address of who sent the invitation."
INVITER_NAME = "Personal data: the name of who sent the invitation."
CANCELED_AT = "When it was canceled, by AWS; null while it is not."
CANCELED_BY = "The AWS account that canceled it."
PARTICIPANT_KIND = "What the other side is: PartnerProfile, SellerProfile or Account."
PARTICIPANT_ID = "The ID of its profile; of an Account, which has none, its AWS account."


def _text(comment: str, *, key: bool = False, null: bool = False) -> Column[str]:
    return Column(Text, primary_key=key, nullable=null, comment=comment)


def _time(comment: str, *, key: bool = False, null: bool = False) -> Column[datetime]:
    return Column(DateTime(timezone=True), primary_key=key, nullable=null, comment=comment)


def _count(comment: str) -> Column[int]:
    return Column(BigInteger, nullable=False, server_default="0", comment=comment)


class Connection(SQLModel, table=True):
    """A connection with another partner, as `account_id` sees it."""

    __tablename__ = "connection"
    __table_args__ = (
        # Few of many: whoever asks which are gone need not go through all that are there.
        Index(
            "connection_removed",
            "account_id",
            "catalog",
            "id",
            postgresql_where=text("removed_at IS NOT NULL"),
        ),
        {"comment": "One row per connection with another partner, as the account sees it."},
    )

    account_id: str = Field(sa_column=_text(ACCOUNT, key=True))
    catalog: str = Field(sa_column=_text(CATALOG, key=True))
    id: str = Field(sa_column=_text(CONNECTION_ID, key=True))
    arn: str = Field(sa_column=_text("The connection's ARN."))
    other_participant_account_id: str = Field(sa_column=_text("The other side's AWS account."))
    updated_at: datetime = Field(sa_column=_time("When the connection last changed, by AWS."))
    first_seen_at: datetime = Field(sa_column=_time("When it was first fetched."))
    synced_at: datetime = Field(
        sa_column=_time("When the answer was asked for that last changed this row, or one of its types.")
    )
    removed_at: datetime | None = Field(
        default=None,
        sa_column=_time(
            "When the API no longer had it: the other columns keep their last values.", null=True
        ),
    )


class ConnectionNotFound(SQLModel, table=True):
    """An ID that the API had no connection for, while none was live here.

    An answer that was asked for earlier, and arrives later, must not bring the connection back.
    """

    __tablename__ = "connection_not_found"
    __table_args__ = (
        {
            "comment": "One row per ID that the API had no connection for in the last week, "
            "while none was live."
        },
    )

    account_id: str = Field(sa_column=_text(ACCOUNT, key=True))
    catalog: str = Field(sa_column=_text(CATALOG, key=True))
    id: str = Field(sa_column=_text(CONNECTION_ID, key=True))
    asked_at: datetime = Field(sa_column=_time("When it was last asked for, and not found."))


class Participant(SQLModel, table=True):
    """The other side of a connection type.

    connection_id, updated_at: where the name is from. Several connections can show one participant under
    different names; the one with the greatest (updated_at, connection_id) decides, and of two types of one
    connection the last by name.
    """

    __tablename__ = "participant"
    __table_args__ = ({"comment": "One row per participant: the other side of connections."},)

    account_id: str = Field(sa_column=_text(ACCOUNT, key=True))
    catalog: str = Field(sa_column=_text(CATALOG, key=True))
    kind: str = Field(sa_column=_text(PARTICIPANT_KIND, key=True))
    id: str = Field(sa_column=_text(PARTICIPANT_ID, key=True))
    name: str | None = Field(
        default=None,
        sa_column=_text(
            "The name that its last updated connection shows; null where none is told.", null=True
        ),
    )
    connection_id: str = Field(sa_column=_text("The connection that the name is from."))
    updated_at: datetime = Field(sa_column=_time("That connection's updated_at."))


class ConnectionType(SQLModel, table=True):
    """One type of a connection."""

    __tablename__ = "connection_type"
    __table_args__ = (
        ForeignKeyConstraint(
            ["account_id", "catalog", "connection_id"],
            ["connection.account_id", "connection.catalog", "connection.id"],
            name="connection_type_connection_fkey",
        ),
        ForeignKeyConstraint(
            ["account_id", "catalog", "participant_kind", "participant_id"],
            ["participant.account_id", "participant.catalog", "participant.kind", "participant.id"],
            name="connection_type_participant_fkey",
        ),
        # Has all that `reporting.participants` counts, in the order in which it counts.
        Index(
            "connection_type_by_participant",
            "account_id",
            "catalog",
            "participant_kind",
            "participant_id",
            "connection_id",
            postgresql_include=["type", "status", "created_at", "removed_at"],
        ),
        {"comment": "One row per connection and type: what is agreed on, with whom, whether it is active."},
    )

    account_id: str = Field(sa_column=_text(ACCOUNT, key=True))
    catalog: str = Field(sa_column=_text(CATALOG, key=True))
    connection_id: str = Field(sa_column=_text(CONNECTION_ID, key=True))
    type: str = Field(sa_column=_text(TYPE, key=True))
    status: str = Field(sa_column=_text(STATUS))
    created_at: datetime = Field(sa_column=_time(CREATED_AT))
    inviter_email: str | None = Field(default=None, sa_column=_text(INVITER_EMAIL, null=True))
    inviter_name: str | None = Field(default=None, sa_column=_text(INVITER_NAME, null=True))
    canceled_at: datetime | None = Field(default=None, sa_column=_time(CANCELED_AT, null=True))
    canceled_by: str | None = Field(default=None, sa_column=_text(CANCELED_BY, null=True))
    participant_kind: str = Field(sa_column=_text(PARTICIPANT_KIND))
    participant_id: str = Field(sa_column=_text(PARTICIPANT_ID))
    removed_at: datetime | None = Field(
        default=None,
        sa_column=_time("When the type was no longer in the connection's answer; else null.", null=True),
    )


# What a version changed, in SQL: for the indexes and the view that tell of changes, which must agree.
STATUS_CHANGED = "status IS DISTINCT FROM previous_status"
RENAMED = "previous_status IS NOT NULL AND participant_name IS DISTINCT FROM previous_participant_name"
REMOVED_OR_RESTORED = "removed_at IS NOT NULL OR previous_removed_at IS NOT NULL"


class ConnectionTypeHistory(SQLModel, table=True):
    """One version of a connection type: as it was from `valid_from` until before `valid_to`.

    Without gaps, and exactly one version of each type is open. What the version before said is in each
    version: what changed can be read off the row, where looking for its neighbour would cost a sort of all.
    """

    __tablename__ = "connection_type_history"
    __table_args__ = (
        Index(
            "connection_type_history_when_status_changed",
            "valid_from",
            postgresql_where=text(STATUS_CHANGED),
        ),
        Index("connection_type_history_when_renamed", "valid_from", postgresql_where=text(RENAMED)),
        Index(
            "connection_type_history_when_removed", "valid_from", postgresql_where=text(REMOVED_OR_RESTORED)
        ),
        {"comment": "One row per version of a connection type: without gaps, and the last one is open."},
    )
    account_id: str = Field(sa_column=_text(ACCOUNT, key=True))
    catalog: str = Field(sa_column=_text(CATALOG, key=True))
    connection_id: str = Field(sa_column=_text(CONNECTION_ID, key=True))
    type: str = Field(sa_column=_text(TYPE, key=True))
    valid_from: datetime = Field(
        sa_column=_time(
            "AWS's time (updated_at) where later than the version before, else when seen.",
            key=True,
        )
    )
    valid_to: datetime | None = Field(
        default=None, sa_column=_time("When the next version begins; null: it is the open one.", null=True)
    )
    status: str = Field(sa_column=_text(STATUS))
    created_at: datetime = Field(sa_column=_time(CREATED_AT))
    inviter_email: str | None = Field(default=None, sa_column=_text(INVITER_EMAIL, null=True))
    inviter_name: str | None = Field(default=None, sa_column=_text(INVITER_NAME, null=True))
    canceled_at: datetime | None = Field(default=None, sa_column=_time(CANCELED_AT, null=True))
    canceled_by: str | None = Field(default=None, sa_column=_text(CANCELED_BY, null=True))
    participant_kind: str = Field(sa_column=_text(PARTICIPANT_KIND))
    participant_id: str = Field(sa_column=_text(PARTICIPANT_ID))
    participant_name: str | None = Field(
        default=None, sa_column=_text("The participant's name as that very answer gave it.", null=True)
    )
    removed_at: datetime | None = Field(
        default=None,
        sa_column=_time(
            "Set where the version says that type or connection were not there any more.", null=True
        ),
    )
    previous_status: str | None = Field(
        default=None,
        sa_column=_text("The status in the version before; null: this is the first version.", null=True),
    )
    previous_participant_name: str | None = Field(
        default=None, sa_column=_text("The participant's name in the version before.", null=True)
    )
    previous_removed_at: datetime | None = Field(
        default=None, sa_column=_time("removed_at of the version before.", null=True)
    )


class SyncRun(SQLModel, table=True):
    """One run, there from its start; what it did so far is committed with the rows it wrote."""

    __tablename__ = "sync_run"
    __table_args__ = (
        Index("sync_run_latest", "account_id", "catalog", "source", text("started_at DESC")),
        Index("sync_run_last", "account_id", "catalog", text("started_at DESC")),
        Index(
            "sync_run_last_complete",
            "account_id",
            "catalog",
            text("finished_at DESC"),
            postgresql_where=text("source = 'listing' AND status = 'succeeded'"),
        ),
        {"comment": "One row per run, there from its start; of a worker, one per hour."},
    )

    id: str = Field(sa_column=_text("The run's ID; sorts by time.", key=True))
    source: str = Field(sa_column=_text("Where its items came from: listing, file, failures or queue."))
    account_id: str = Field(sa_column=_text(ACCOUNT))
    catalog: str = Field(sa_column=_text(CATALOG))
    status: str = Field(
        sa_column=_text("running, succeeded, partial (some items failed), interrupted or aborted.")
    )
    started_at: datetime = Field(sa_column=_time("When it began."))
    finished_at: datetime | None = Field(
        default=None, sa_column=_time("When it ended; null: it is on, or died.", null=True)
    )
    read: int = Field(
        default=0, sa_column=_count("Items read from the source: the sum of the nine outcomes.")
    )
    written: int = Field(default=0, sa_column=_count("Items whose rows were inserted or changed."))
    unchanged: int = Field(default=0, sa_column=_count("Items fetched that were the same as stored."))
    skipped: int = Field(default=0, sa_column=_count("Items that need not be fetched."))
    stale: int = Field(default=0, sa_column=_count("Items whose answer was older than what is stored."))
    missing: int = Field(default=0, sa_column=_count("Items that the API has no connection for."))
    duplicate: int = Field(default=0, sa_column=_count("Items whose ID was in flight already."))
    invalid: int = Field(default=0, sa_column=_count("Items that are no connection ID."))
    failed: int = Field(default=0, sa_column=_count("Items that could not be had."))
    released: int = Field(default=0, sa_column=_count("Items not settled when the run stopped."))
    api_calls: int = Field(default=0, sa_column=_count("Calls made."))
    throttled: int = Field(default=0, sa_column=_count("Calls that the API throttled."))
    retried: int = Field(default=0, sa_column=_count("Calls repeated after a transient error."))
    rows_written: int = Field(
        default=0, sa_column=_count("Rows written to connection, connection_type and participant.")
    )
    seconds: float | None = Field(
        default=None, sa_column=Column(Double, nullable=True, comment="How long it took.")
    )
    checkpoint: int = Field(
        default=0,
        sa_column=_count("So many items from the beginning of the input are settled, all of them."),
    )
    input: str | None = Field(
        default=None, sa_column=_text("The names of the files, or the queue.", null=True)
    )
    input_digest: str | None = Field(
        default=None, sa_column=_text("A digest of what was in the files.", null=True)
    )
    full: bool = Field(
        default=False,
        sa_column=Column(
            Boolean,
            nullable=False,
            server_default=false(),
            comment="Everything listed was fetched, changed or not.",
        ),
    )


class RequestRate(SQLModel, table=True):
    """What is known of the quota of one operation, and which workers share it."""

    __tablename__ = "request_rate"
    __table_args__ = ({"comment": "One row per operation of the API: what is known of its request quota."},)

    account_id: str = Field(sa_column=_text(ACCOUNT, key=True))
    catalog: str = Field(sa_column=_text(CATALOG, key=True))
    operation: str = Field(sa_column=_text("GetConnection or ListConnections.", key=True))
    rate: float | None = Field(
        default=None,
        sa_column=Column(
            Double, nullable=True, comment="Calls/s, as learned; null while nobody was throttled yet."
        ),
    )
    state: dict[str, object] = Field(
        sa_column=Column(
            JSONB, nullable=False, comment="The pacers' own notes, and which workers share the rate."
        )
    )
    version: int = Field(
        sa_column=Column(
            BigInteger, nullable=False, comment="Counts the writes: of two at once, one tries again."
        )
    )
    learned_at: datetime = Field(sa_column=_time("When it was last written."))


class SyncFailure(SQLModel, table=True):
    """An ID that could not be had, until it settles."""

    __tablename__ = "sync_failure"
    __table_args__ = (
        # To count them by: the key's own index is as large as the table.
        Index("sync_failure_open", "account_id", "catalog"),
        {"comment": "One row per ID that could not be had, until it settles."},
    )

    account_id: str = Field(sa_column=_text(ACCOUNT, key=True))
    catalog: str = Field(sa_column=_text(CATALOG, key=True))
    identifier: str = Field(
        sa_column=_text("The connection's ID; where the input was none, the text that was read.", key=True)
    )
    code: str = Field(sa_column=_text("What went wrong: the API's error code, or one of syncer's own."))
    message: str = Field(sa_column=_text("What went wrong, in words."))
    attempts: int = Field(
        sa_column=Column(Integer, nullable=False, comment="Calls made for it, over all runs.")
    )
    first_failed_at: datetime = Field(sa_column=_time("When it first failed."))
    last_failed_at: datetime = Field(sa_column=_time("When it last failed."))
    run_id: str = Field(sa_column=_text("The run in which it last failed."))
