"""The learned request rates, shared by all workers of an account and catalog.

Can the version before this one run on it? Yes: it does not know of them.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "request_rate",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("catalog", sa.Text, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("rate", sa.Double),
        sa.Column("state", JSONB, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("learned_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "catalog", "operation", name="request_rate_pkey"),
    )


def downgrade() -> None:
    op.drop_table("request_rate")
