"""What a run's input was, to go on from it; whether it fetched everything.

Can the version before this one run on it? Yes: what it does not name has defaults.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sync_run", sa.Column("input", sa.Text))
    op.add_column("sync_run", sa.Column("input_digest", sa.Text))
    op.add_column("sync_run", sa.Column("full", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index(
        "sync_run_latest", "sync_run", ["account_id", "catalog", "source", sa.text("started_at DESC")]
    )


def downgrade() -> None:
    op.drop_index("sync_run_latest", "sync_run")
    op.drop_column("sync_run", "full")
    op.drop_column("sync_run", "input_digest")
    op.drop_column("sync_run", "input")
