"""The history of connection types.

Can the version before this one run on it? Yes, but what it changes has no history: finish its runs first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "connection_type_history",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("catalog", sa.Text, nullable=False),
        sa.Column("connection_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_to", sa.DateTime(timezone=True)),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("inviter_email", sa.Text),
        sa.Column("inviter_name", sa.Text),
        sa.Column("canceled_at", sa.DateTime(timezone=True)),
        sa.Column("canceled_by", sa.Text),
        sa.Column("participant_kind", sa.Text, nullable=False),
        sa.Column("participant_id", sa.Text, nullable=False),
        sa.Column("participant_name", sa.Text),
        sa.Column("removed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint(
            "account_id",
            "catalog",
            "connection_id",
            "type",
            "valid_from",
            name="connection_type_history_pkey",
        ),
    )
    # What is stored already begins its history as it is now.
    op.execute("""
        INSERT INTO connection_type_history (
            account_id, catalog, connection_id, type, valid_from, status, created_at, inviter_email,
            inviter_name, canceled_at, canceled_by, participant_kind, participant_id, participant_name,
            removed_at
        )
        SELECT t.account_id, t.catalog, t.connection_id, t.type, c.updated_at, t.status, t.created_at,
               t.inviter_email, t.inviter_name, t.canceled_at, t.canceled_by, t.participant_kind,
               t.participant_id, p.name, coalesce(t.removed_at, c.removed_at)
        FROM connection_type AS t
        JOIN connection AS c ON (c.account_id, c.catalog, c.id) = (t.account_id, t.catalog, t.connection_id)
        JOIN participant AS p
          ON (p.account_id, p.catalog, p.kind, p.id)
             = (t.account_id, t.catalog, t.participant_kind, t.participant_id)
    """)


def downgrade() -> None:
    op.drop_table("connection_type_history")
