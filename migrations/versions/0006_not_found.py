"""What the API has said "not found" to, so that an older answer does not bring it back.

Can the version before this one run on it? Yes. Whoever writes with rights of its own needs `syncer grant
--writer` once more: there is a new table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "connection_not_found",
        sa.Column("account_id", sa.Text, comment="The AWS account whose view this is."),
        sa.Column("catalog", sa.Text, comment="Partner Central's catalog: AWS or Sandbox."),
        sa.Column("id", sa.Text, comment="The connection's ID, pac-…."),
        sa.Column(
            "asked_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it was last asked for, and not found.",
        ),
        sa.PrimaryKeyConstraint("account_id", "catalog", "id", name="connection_not_found_pkey"),
        comment="One row per ID that the API had no connection for in the last week, while none was live.",
    )


def downgrade() -> None:
    op.drop_table("connection_not_found")
