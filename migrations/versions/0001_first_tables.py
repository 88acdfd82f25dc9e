"""Connections, their types and participants; runs and failures.

Can the version before this one run on it? There is none.
"""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null)


def _time(name: str, *, null: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    op.create_table(
        "connection",
        _text("account_id"),
        _text("catalog"),
        _text("id"),
        _text("arn"),
        _text("other_participant_account_id"),
        _time("updated_at"),
        _time("first_seen_at"),
        _time("synced_at"),
        _time("removed_at", null=True),
        sa.PrimaryKeyConstraint("account_id", "catalog", "id", name="connection_pkey"),
    )
    op.create_table(
        "participant",
        _text("account_id"),
        _text("catalog"),
        _text("kind"),
        _text("id"),
        _text("name", null=True),
        _text("connection_id"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("account_id", "catalog", "kind", "id", name="participant_pkey"),
    )
    op.create_table(
        "connection_type",
        _text("account_id"),
        _text("catalog"),
        _text("connection_id"),
        _text("type"),
        _text("status"),
        _time("created_at"),
        _text("inviter_email", null=True),
        _text("inviter_name", null=True),
        _time("canceled_at", null=True),
        _text("canceled_by", null=True),
        _text("participant_kind"),
        _text("participant_id"),
        _time("removed_at", null=True),
        sa.PrimaryKeyConstraint(
            "account_id", "catalog", "connection_id", "type", name="connection_type_pkey"
        ),
        sa.ForeignKeyConstraint(
            ["account_id", "catalog", "connection_id"],
            ["connection.account_id", "connection.catalog", "connection.id"],
            name="connection_type_connection_fkey",
        ),
        sa.ForeignKeyConstraint(
            ["account_id", "catalog", "participant_kind", "participant_id"],
            ["participant.account_id", "participant.catalog", "participant.kind", "participant.id"],
            name="connection_type_participant_fkey",
        ),
    )
    op.create_table(
        "sync_run",
        _text("id"),
        _text("source"),
        _text("account_id"),
        _text("catalog"),
        _text("status"),
        _time("started_at"),
        _time("finished_at", null=True),
        _count("read"),
        _count("written"),
        _count("unchanged"),
        _count("skipped"),
        _count("stale"),
        _count("missing"),
        _count("duplicate"),
        _count("invalid"),
        _count("failed"),
        _count("released"),
        _count("api_calls"),
        _count("throttled"),
        _count("retried"),
        _count("rows_written"),
        sa.Column("seconds", sa.Double, nullable=True),
        _count("checkpoint"),
        sa.PrimaryKeyConstraint("id", name="sync_run_pkey"),
    )
    op.create_table(
        "sync_failure",
        _text("account_id"),
        _text("catalog"),
        _text("identifier"),
        _text("code"),
        _text("message"),
        sa.Column("attempts", sa.Integer, nullable=False),
        _time("first_failed_at"),
        _time("last_failed_at"),
        _text("run_id"),
        sa.PrimaryKeyConstraint("account_id", "catalog", "identifier", name="sync_failure_pkey"),
    )


def downgrade() -> None:
    for table in ("sync_failure", "sync_run", "connection_type", "participant", "connection"):
        op.drop_table(table)
