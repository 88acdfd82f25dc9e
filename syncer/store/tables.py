"""The tables, as SQLModel classes: what the migrations are checked against, and a schema to read.

All text is `text`, all times `timestamptz`; no enum and no check on what AWS may extend. The keys begin
with the account and the catalog because the API's answers are relative to the account that asks.
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


def _text(*, key: bool = False, null: bool = False) -> Column[str]:
    return Column(Text, primary_key=key, nullable=null)


def _time(*, null: bool = False) -> Column[datetime]:
    return Column(DateTime(timezone=True), nullable=null)


def _count() -> Column[int]:
    return Column(BigInteger, nullable=False, server_default="0")


class Connection(SQLModel, table=True):
    """A connection with another partner, as `account_id` sees it.

    synced_at: when the answer that last changed this row, or one of its types, was asked for.
    removed_at: when the API no longer had it; the other columns keep their last values.
    """

    __tablename__ = "connection"

    account_id: str = Field(sa_column=_text(key=True))
    catalog: str = Field(sa_column=_text(key=True))
    id: str = Field(sa_column=_text(key=True))
    arn: str = Field(sa_column=_text())
    other_participant_account_id: str = Field(sa_column=_text())
    updated_at: datetime = Field(sa_column=_time())
    first_seen_at: datetime = Field(sa_column=_time())
    synced_at: datetime = Field(sa_column=_time())
    removed_at: datetime | None = Field(default=None, sa_column=_time(null=True))


class Participant(SQLModel, table=True):
    """The other side of a connection type.

    connection_id, updated_at: where the name is from. Several connections can show one participant under
    different names; the one with the greatest (updated_at, connection_id) decides.
    """

    __tablename__ = "participant"

    account_id: str = Field(sa_column=_text(key=True))
    catalog: str = Field(sa_column=_text(key=True))
    kind: str = Field(sa_column=_text(key=True))
    id: str = Field(sa_column=_text(key=True))
    name: str | None = Field(default=None, sa_column=_text(null=True))
    connection_id: str = Field(sa_column=_text())
    updated_at: datetime = Field(sa_column=_time())


class ConnectionType(SQLModel, table=True):
    """One type of a connection. removed_at: the type is no longer in the answer."""

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
    )

    account_id: str = Field(sa_column=_text(key=True))
    catalog: str = Field(sa_column=_text(key=True))
    connection_id: str = Field(sa_column=_text(key=True))
    type: str = Field(sa_column=_text(key=True))
    status: str = Field(sa_column=_text())
    created_at: datetime = Field(sa_column=_time())
    inviter_email: str | None = Field(default=None, sa_column=_text(null=True))
    inviter_name: str | None = Field(default=None, sa_column=_text(null=True))
    canceled_at: datetime | None = Field(default=None, sa_column=_time(null=True))
    canceled_by: str | None = Field(default=None, sa_column=_text(null=True))
    participant_kind: str = Field(sa_column=_text())
    participant_id: str = Field(sa_column=_text())
    removed_at: datetime | None = Field(default=None, sa_column=_time(null=True))


class ConnectionTypeHistory(SQLModel, table=True):
    """One version of a connection type: as it was from `valid_from` until before `valid_to`.

    valid_from: AWS's time where that is later than the version before, else the time it was seen.
    valid_to: null for the open version, of which each type has exactly one.
    removed_at: the version says that the type, or its connection, was not there any more.
    """

    __tablename__ = "connection_type_history"
    account_id: str = Field(sa_column=_text(key=True))
    catalog: str = Field(sa_column=_text(key=True))
    connection_id: str = Field(sa_column=_text(key=True))
    type: str = Field(sa_column=_text(key=True))
    valid_from: datetime = Field(sa_column=Column(DateTime(timezone=True), primary_key=True))
    valid_to: datetime | None = Field(default=None, sa_column=_time(null=True))
    status: str = Field(sa_column=_text())
    created_at: datetime = Field(sa_column=_time())
    inviter_email: str | None = Field(default=None, sa_column=_text(null=True))
    inviter_name: str | None = Field(default=None, sa_column=_text(null=True))
    canceled_at: datetime | None = Field(default=None, sa_column=_time(null=True))
    canceled_by: str | None = Field(default=None, sa_column=_text(null=True))
    participant_kind: str = Field(sa_column=_text())
    participant_id: str = Field(sa_column=_text())
    participant_name: str | None = Field(default=None, sa_column=_text(null=True))
    removed_at: datetime | None = Field(default=None, sa_column=_time(null=True))


class SyncRun(SQLModel, table=True):
    """One run, there from its start; what it did so far is committed with the rows it wrote.

    checkpoint: so many items from the beginning of the input are settled, all of them.
    input, input_digest: the files' names and a digest of what was in them, if the source was files.
    full: everything was fetched, whether it had changed or not.
    """

    __tablename__ = "sync_run"
    __table_args__ = (Index("sync_run_latest", "account_id", "catalog", "source", text("started_at DESC")),)

    id: str = Field(sa_column=_text(key=True))
    source: str = Field(sa_column=_text())
    account_id: str = Field(sa_column=_text())
    catalog: str = Field(sa_column=_text())
    status: str = Field(sa_column=_text())
    started_at: datetime = Field(sa_column=_time())
    finished_at: datetime | None = Field(default=None, sa_column=_time(null=True))
    read: int = Field(default=0, sa_column=_count())
    written: int = Field(default=0, sa_column=_count())
    unchanged: int = Field(default=0, sa_column=_count())
    skipped: int = Field(default=0, sa_column=_count())
    stale: int = Field(default=0, sa_column=_count())
    missing: int = Field(default=0, sa_column=_count())
    duplicate: int = Field(default=0, sa_column=_count())
    invalid: int = Field(default=0, sa_column=_count())
    failed: int = Field(default=0, sa_column=_count())
    released: int = Field(default=0, sa_column=_count())
    api_calls: int = Field(default=0, sa_column=_count())
    throttled: int = Field(default=0, sa_column=_count())
    retried: int = Field(default=0, sa_column=_count())
    rows_written: int = Field(default=0, sa_column=_count())
    seconds: float | None = Field(default=None, sa_column=Column(Double, nullable=True))
    checkpoint: int = Field(default=0, sa_column=_count())
    input: str | None = Field(default=None, sa_column=_text(null=True))
    input_digest: str | None = Field(default=None, sa_column=_text(null=True))
    full: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))


class RequestRate(SQLModel, table=True):
    """What is known of the quota of one operation, and which workers share it.

    rate: calls/s; null while nobody was throttled yet. state: the pacer's own notes.
    """

    __tablename__ = "request_rate"

    account_id: str = Field(sa_column=_text(key=True))
    catalog: str = Field(sa_column=_text(key=True))
    operation: str = Field(sa_column=_text(key=True))
    rate: float | None = Field(default=None, sa_column=Column(Double, nullable=True))
    state: dict[str, object] = Field(sa_column=Column(JSONB, nullable=False))
    version: int = Field(sa_column=Column(BigInteger, nullable=False))
    learned_at: datetime = Field(sa_column=_time())


class SyncFailure(SQLModel, table=True):
    """An ID that could not be had, until it settles. attempts: calls made for it, over all runs."""

    __tablename__ = "sync_failure"

    account_id: str = Field(sa_column=_text(key=True))
    catalog: str = Field(sa_column=_text(key=True))
    identifier: str = Field(sa_column=_text(key=True))
    code: str = Field(sa_column=_text())
    message: str = Field(sa_column=_text())
    attempts: int = Field(sa_column=Column(Integer, nullable=False))
    first_failed_at: datetime = Field(sa_column=_time())
    last_failed_at: datetime = Field(sa_column=_time())
    run_id: str = Field(sa_column=_text())
