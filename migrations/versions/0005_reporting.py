"""Schema `reporting`: views for BI, without personal data; what every table and column means, as comments.

Can the version before this one run on it? Yes, but what it changes does not say what it was before, and looks
like a first version in `reporting.status_changes`: finish its runs first.

Who migrates may create a schema, or finds one of that name that it may create views in.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

HISTORY = "connection_type_history"

ACCOUNT = "The AWS account whose view this is."
CATALOG = "Partner Central's catalog: AWS or Sandbox."
TYPE = "What the connection is for, in the API's words: OPPORTUNITY_COLLABORATION, SUBSIDIARY."
KIND = "What the other side is: PartnerProfile, SellerProfile or Account."

# By view: its comment, its columns' comments, its query. Joins are outer ones although the keys are always
# there: a query that wants no column of the other table does not read it then.
VIEWS = {
    "connections": (
        "One row per account, catalog, connection and type, as it is now: the table to start from.",
        {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "connection_id": "The connection's ID.",
            "type": TYPE,
            "status": "ACTIVE or CANCELED, as the API has it, or had it last.",
            "participant_kind": KIND,
            "participant_id": "The other side's profile; of an Account, its AWS account.",
            "participant_name": "The other side's present name.",
            "other_participant_account_id": "The other side's AWS account.",
            "created_at": "When the type was agreed on, by AWS.",
            "canceled_at": "When it was canceled, by AWS; null while it is not.",
            "canceled_by": "The AWS account that canceled it.",
            "days_active": "Whole days from created_at until canceled_at or removed_at, or until now.",
            "is_active": "The status is ACTIVE, and neither the type nor the connection is removed.",
            "is_removed": "The API no longer has the connection, or no longer this type of it.",
            "removed_at": "When that was found out; null while it is there.",
            "updated_at": "When the connection last changed, by AWS.",
            "first_seen_at": "When the connection was first fetched.",
            "synced_at": "When the answer was asked for that last changed what is stored of the connection.",
        },
        """
        SELECT type.account_id, type.catalog, type.connection_id, type.type, type.status,
               type.participant_kind, type.participant_id, participant.name AS participant_name,
               connection.other_participant_account_id, type.created_at, type.canceled_at, type.canceled_by,
               greatest(0, date_part('day', coalesce(
                   least(type.canceled_at, type.removed_at, connection.removed_at), now()
               ) - type.created_at)::integer) AS days_active,
               type.status = 'ACTIVE' AND type.removed_at IS NULL AND connection.removed_at IS NULL
                   AS is_active,
               type.removed_at IS NOT NULL OR connection.removed_at IS NOT NULL AS is_removed,
               least(type.removed_at, connection.removed_at) AS removed_at,
               connection.updated_at, connection.first_seen_at, connection.synced_at
        FROM connection_type AS type
        LEFT JOIN connection
          ON connection.account_id = type.account_id AND connection.catalog = type.catalog
             AND connection.id = type.connection_id
        LEFT JOIN participant
          ON participant.account_id = type.account_id AND participant.catalog = type.catalog
             AND participant.kind = type.participant_kind AND participant.id = type.participant_id
        """,
    ),
    "participants": (
        "One row per participant: the other side of connections, with its first, last and active ones.",
        {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "participant_kind": KIND,
            "participant_id": "Its profile; of an Account, its AWS account.",
            "participant_name": "Its present name.",
            "first_connection_id": "The connection with the earliest created_at, and of these the least ID.",
            "first_connected_at": "That created_at.",
            "last_connection_id": "The connection with the latest created_at, and of these the greatest ID.",
            "last_connected_at": "That created_at.",
            "connections": "How many connections it has or had, canceled and removed ones among them.",
            "active_connections": "How many of them have an active type with it now.",
            "active_types": "The types active now, sorted, separated by a comma and a blank; null if none.",
        },
        """
        SELECT participant.account_id, participant.catalog, participant.kind AS participant_kind,
               participant.id AS participant_id, participant.name AS participant_name,
               its.first_connection_id, its.first_connected_at, its.last_connection_id,
               its.last_connected_at, coalesce(its.connections, 0) AS connections,
               coalesce(its.active_connections, 0) AS active_connections, its.active_types
        FROM participant
        LEFT JOIN (
            SELECT account_id, catalog, participant_kind, participant_id,
                   (array_agg(connection_id ORDER BY created_at, connection_id COLLATE "C"))[1]
                       AS first_connection_id,
                   min(created_at) AS first_connected_at,
                   (array_agg(connection_id ORDER BY created_at DESC, connection_id COLLATE "C" DESC))[1]
                       AS last_connection_id,
                   max(created_at) AS last_connected_at,
                   count(DISTINCT connection_id) AS connections,
                   count(DISTINCT connection_id) FILTER (WHERE is_active) AS active_connections,
                   string_agg(DISTINCT type COLLATE "C", ', ' ORDER BY type COLLATE "C")
                       FILTER (WHERE is_active) AS active_types
            FROM (
                SELECT *, status = 'ACTIVE' AND removed_at IS NULL
                       AND (account_id, catalog, connection_id) NOT IN (
                           SELECT account_id, catalog, id FROM connection WHERE removed_at IS NOT NULL
                       ) AS is_active
                FROM connection_type
            ) AS type
            GROUP BY account_id, catalog, participant_kind, participant_id
        ) AS its
          ON its.account_id = participant.account_id AND its.catalog = participant.catalog
             AND its.participant_kind = participant.kind AND its.participant_id = participant.id
        """,
    ),
    "status_changes": (
        "One row per change of a connection type. What was canceled when first seen was never activated.",
        {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "connection_id": "The connection's ID.",
            "type": TYPE,
            "changed_at": "Since when: the valid_from of the version in connection_type_history.",
            "change": "activated, canceled, status_changed (to one not known yet), removed (the API no "
            "longer has it), restored (has it again) or renamed (shows the other side under another name).",
            "previous_status": "The status before; null where nothing was known before.",
            "status": "The status since then; of what is removed, its last.",
            "participant_kind": KIND,
            "participant_id": "Its profile; of an Account, its AWS account.",
            "participant_name": "Its name since then, as this connection shows it.",
            "previous_participant_name": "Its name before; null where nothing was known before.",
        },
        """
        SELECT account_id, catalog, connection_id, type, valid_from AS changed_at,
               CASE status WHEN 'ACTIVE' THEN 'activated' WHEN 'CANCELED' THEN 'canceled'
                    ELSE 'status_changed' END AS change,
               previous_status, status, participant_kind, participant_id, participant_name,
               previous_participant_name
        FROM connection_type_history
        WHERE status IS DISTINCT FROM previous_status
        UNION ALL
        SELECT account_id, catalog, connection_id, type, valid_from, 'renamed',
               previous_status, status, participant_kind, participant_id, participant_name,
               previous_participant_name
        FROM connection_type_history
        WHERE previous_status IS NOT NULL AND participant_name IS DISTINCT FROM previous_participant_name
        UNION ALL
        SELECT account_id, catalog, connection_id, type, valid_from, 'removed',
               previous_status, status, participant_kind, participant_id, participant_name,
               previous_participant_name
        FROM connection_type_history
        WHERE removed_at IS NOT NULL AND previous_removed_at IS NULL
        UNION ALL
        SELECT account_id, catalog, connection_id, type, valid_from, 'restored',
               previous_status, status, participant_kind, participant_id, participant_name,
               previous_participant_name
        FROM connection_type_history
        WHERE removed_at IS NULL AND previous_removed_at IS NOT NULL
        """,
    ),
    "active_by_day": (
        "One row per day, type and kind, from the first version in connection_type_history until today.",
        {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "day": "The day, in UTC.",
            "type": "What the connections are for, in the API's words.",
            "participant_kind": KIND,
            "active_connections": "Connections of which a version holds, at the day's last moment or today "
            "now, that is ACTIVE and not removed. What was before a first version is not known.",
        },
        # What begins counts from its day on, what ends no more: each version is looked at once, however long
        # it held. The days without a change join in with nothing.
        """
        WITH change AS (
            SELECT version.account_id, version.catalog, version.type, version.participant_kind,
                   (event.at AT TIME ZONE 'UTC')::date AS day,
                   sum(CASE WHEN version.status = 'ACTIVE' AND version.removed_at IS NULL
                            THEN event.more ELSE 0 END) AS more
            FROM connection_type_history AS version
            CROSS JOIN LATERAL (VALUES (version.valid_from, 1), (version.valid_to, -1)) AS event (at, more)
            WHERE event.at <= now()
            GROUP BY version.account_id, version.catalog, version.type, version.participant_kind,
                     (event.at AT TIME ZONE 'UTC')::date
        ), every_day AS (
            SELECT account_id, catalog, type, participant_kind, generate_series(
                       min(day), (now() AT TIME ZONE 'UTC')::date, interval '1 day'
                   )::date AS day, 0 AS more
            FROM change
            GROUP BY account_id, catalog, type, participant_kind
        )
        SELECT account_id, catalog, day, type, participant_kind,
               (sum(sum(more)) OVER (
                   PARTITION BY account_id, catalog, type, participant_kind ORDER BY day
               ))::bigint AS active_connections
        FROM (SELECT * FROM change UNION ALL SELECT * FROM every_day) AS each
        GROUP BY account_id, catalog, type, participant_kind, day
        """,
    ),
    "sync_freshness": (
        "One row per account and catalog that has any run: how far behind AWS this database may be.",
        {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "last_complete_at": "When a sync from the listing last succeeded, with or without a change.",
            "lag_seconds": "Seconds since then.",
            "last_run_id": "The run that began last, of any source.",
            "last_run_source": "Where its items came from: listing, file, failures or queue.",
            "last_run_status": "running, succeeded, partial (some items failed), interrupted or aborted.",
            "last_run_started_at": "When it began.",
            "last_run_finished_at": "When it ended; null: it is on, or died.",
            "open_failures": "IDs that could not be had, and have not settled since.",
        },
        # The accounts are found by skipping along an index: their number counts, not that of their runs.
        """
        WITH RECURSIVE known AS (
            (SELECT account_id, catalog FROM sync_run ORDER BY account_id, catalog LIMIT 1)
            UNION ALL
            SELECT following.account_id, following.catalog
            FROM known
            CROSS JOIN LATERAL (
                SELECT run.account_id, run.catalog
                FROM sync_run AS run
                WHERE (run.account_id, run.catalog) > (known.account_id, known.catalog)
                ORDER BY run.account_id, run.catalog
                LIMIT 1
            ) AS following
        )
        SELECT known.account_id, known.catalog, complete.finished_at AS last_complete_at,
               date_part('epoch', now() - complete.finished_at) AS lag_seconds,
               last_run.id AS last_run_id, last_run.source AS last_run_source,
               last_run.status AS last_run_status, last_run.started_at AS last_run_started_at,
               last_run.finished_at AS last_run_finished_at,
               (SELECT count(*) FROM sync_failure AS failure
                WHERE failure.account_id = known.account_id AND failure.catalog = known.catalog)
                   AS open_failures
        FROM known
        CROSS JOIN LATERAL (
            SELECT run.id, run.source, run.status, run.started_at, run.finished_at
            FROM sync_run AS run
            WHERE run.account_id = known.account_id AND run.catalog = known.catalog
            ORDER BY run.started_at DESC
            LIMIT 1
        ) AS last_run
        LEFT JOIN LATERAL (
            SELECT run.finished_at
            FROM sync_run AS run
            WHERE run.account_id = known.account_id AND run.catalog = known.catalog
              AND run.source = 'listing' AND run.status = 'succeeded' AND run.finished_at IS NOT NULL
            ORDER BY run.finished_at DESC
            LIMIT 1
        ) AS complete ON true
        """,
    ),
}

# By table: its comment, its columns' comments.
TABLES = {
    "connection": (
        "One row per connection with another partner, as the account sees it.",
        {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "id": "The connection's ID, pac-….",
            "arn": "The connection's ARN.",
            "other_participant_account_id": "The other side's AWS account.",
            "updated_at": "When the connection last changed, by AWS.",
            "first_seen_at": "When it was first fetched.",
            "synced_at": "When the answer was asked for that last changed this row, or one of its types.",
            "removed_at": "When the API no longer had it: the other columns keep their last values.",
        },
    ),
    "connection_type_history": (
        "One row per version of a connection type: without gaps, and the last one is open.",
        {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "connection_id": "The connection's ID, pac-….",
            "type": TYPE,
            "valid_from": "AWS's time (updated_at) where later than the version before, else when seen.",
            "valid_to": "When the next version begins; null: it is the open one.",
            "status": "ACTIVE or CANCELED, as the API has it.",
            "created_at": "When the type was agreed on, by AWS.",
            "inviter_email": "Personal data: the address of who sent the invitation.",
            "inviter_name": "Personal data: the name of who sent the invitation.",
            "canceled_at": "When it was canceled, by AWS; null while it is not.",
            "canceled_by": "The AWS account that canceled it.",
            "participant_kind": KIND,
            "participant_id": "The ID of its profile; of an Account, which has none, its AWS account.",
            "participant_name": "The participant's name as that very answer gave it.",
            "removed_at": "Set where the version says that type or connection were not there any more.",
            "previous_status": "The status in the version before; null: this is the first version.",
            "previous_participant_name": "The participant's name in the version before.",
            "previous_removed_at": "removed_at of the version before.",
        },
    ),
    "participant": (
        "One row per participant: the other side of connections.",
        {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "kind": KIND,
            "id": "The ID of its profile; of an Account, which has none, its AWS account.",
            "name": "The name that its last updated connection shows; null where none is told.",
            "connection_id": "The connection that the name is from.",
            "updated_at": "That connection's updated_at.",
        },
    ),
    "request_rate": (
        "One row per operation of the API: what is known of its request quota.",
        {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "operation": "GetConnection or ListConnections.",
            "rate": "Calls/s, as learned; null while nobody was throttled yet.",
            "state": "The pacers' own notes, and which workers share the rate.",
            "version": "Counts the writes: of two at once, one tries again.",
            "learned_at": "When it was last written.",
        },
    ),
    "sync_failure": (
        "One row per ID that could not be had, until it settles.",
        {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "identifier": "The connection's ID; where the input was none, the text that was read.",
            "code": "What went wrong: the API's error code, or one of syncer's own.",
            "message": "What went wrong, in words.",
            "attempts": "Calls made for it, over all runs.",
            "first_failed_at": "When it first failed.",
            "last_failed_at": "When it last failed.",
            "run_id": "The run in which it last failed.",
        },
    ),
    "sync_run": (
        "One row per run, there from its start; of a worker, one per hour.",
        {
            "id": "The run's ID; sorts by time.",
            "source": "Where its items came from: listing, file, failures or queue.",
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "status": "running, succeeded, partial (some items failed), interrupted or aborted.",
            "started_at": "When it began.",
            "finished_at": "When it ended; null: it is on, or died.",
            "read": "Items read from the source: the sum of the nine outcomes.",
            "written": "Items whose rows were inserted or changed.",
            "unchanged": "Items fetched that were the same as stored.",
            "skipped": "Items that need not be fetched.",
            "stale": "Items whose answer was older than what is stored.",
            "missing": "Items that the API has no connection for.",
            "duplicate": "Items whose ID was in flight already.",
            "invalid": "Items that are no connection ID.",
            "failed": "Items that could not be had.",
            "released": "Items not settled when the run stopped.",
            "api_calls": "Calls made.",
            "throttled": "Calls that the API throttled.",
            "retried": "Calls repeated after a transient error.",
            "rows_written": "Rows written to connection, connection_type and participant.",
            "seconds": "How long it took.",
            "checkpoint": "So many items from the beginning of the input are settled, all of them.",
            "input": "The names of the files, or the queue.",
            "input_digest": "A digest of what was in the files.",
            "full": "Everything listed was fetched, changed or not.",
        },
    ),
    "connection_type": (
        "One row per connection and type: what is agreed on, with whom, whether it is active.",
        {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "connection_id": "The connection's ID, pac-….",
            "type": TYPE,
            "status": "ACTIVE or CANCELED, as the API has it.",
            "created_at": "When the type was agreed on, by AWS.",
            "inviter_email": "Personal data: the address of who sent the invitation.",
            "inviter_name": "Personal data: the name of who sent the invitation.",
            "canceled_at": "When it was canceled, by AWS; null while it is not.",
            "canceled_by": "The AWS account that canceled it.",
            "participant_kind": KIND,
            "participant_id": "The ID of its profile; of an Account, which has none, its AWS account.",
            "removed_at": "When the type was no longer in the connection's answer; else null.",
        },
    ),
}


def upgrade() -> None:
    op.add_column(HISTORY, sa.Column("previous_status", sa.Text))
    op.add_column(HISTORY, sa.Column("previous_participant_name", sa.Text))
    op.add_column(HISTORY, sa.Column("previous_removed_at", sa.DateTime(timezone=True)))
    op.execute("""
        UPDATE connection_type_history AS version
        SET previous_status = before.status, previous_participant_name = before.participant_name,
            previous_removed_at = before.removed_at
        FROM connection_type_history AS before
        WHERE before.account_id = version.account_id AND before.catalog = version.catalog
          AND before.connection_id = version.connection_id AND before.type = version.type
          AND before.valid_to = version.valid_from
    """)
    op.create_index(
        "connection_type_history_when_status_changed",
        HISTORY,
        ["valid_from"],
        postgresql_where=sa.text("status IS DISTINCT FROM previous_status"),
    )
    op.create_index(
        "connection_type_history_when_renamed",
        HISTORY,
        ["valid_from"],
        postgresql_where=sa.text(
            "previous_status IS NOT NULL AND participant_name IS DISTINCT FROM previous_participant_name"
        ),
    )
    op.create_index(
        "connection_type_history_when_removed",
        HISTORY,
        ["valid_from"],
        postgresql_where=sa.text("removed_at IS NOT NULL OR previous_removed_at IS NOT NULL"),
    )
    op.create_index(
        "connection_removed",
        "connection",
        ["account_id", "catalog", "id"],
        postgresql_where=sa.text("removed_at IS NOT NULL"),
    )
    op.create_index(
        "connection_type_by_participant",
        "connection_type",
        ["account_id", "catalog", "participant_kind", "participant_id", "connection_id"],
        postgresql_include=["type", "status", "created_at", "removed_at"],
    )
    op.create_index("sync_failure_open", "sync_failure", ["account_id", "catalog"])
    op.create_index("sync_run_last", "sync_run", ["account_id", "catalog", sa.text("started_at DESC")])
    op.create_index(
        "sync_run_last_complete",
        "sync_run",
        ["account_id", "catalog", sa.text("finished_at DESC")],
        postgresql_where=sa.text("source = 'listing' AND status = 'succeeded'"),
    )
    for table, (comment, columns) in TABLES.items():
        _comment("TABLE", table, comment, columns)
    # Somebody else may have made it for us: then this needs no right to make schemas.
    op.execute(
        "DO $$ BEGIN IF to_regnamespace('reporting') IS NULL THEN CREATE SCHEMA reporting; END IF; END $$"
    )
    op.execute(
        "COMMENT ON SCHEMA reporting IS 'Connections of AWS Partner Central, for BI: no personal data.'"
    )
    for view, (comment, columns, query) in VIEWS.items():
        op.execute(f"CREATE VIEW reporting.{view} AS {query}")
        _comment("VIEW", f"reporting.{view}", comment, columns)


def _comment(kind: str, name: str, comment: str | None, columns: dict[str, str]) -> None:
    op.execute(f"COMMENT ON {kind} {name} IS {_quoted(comment)}")
    for column, meaning in columns.items():
        op.execute(f'COMMENT ON COLUMN {name}."{column}" IS {_quoted(meaning if comment else None)}')


def _quoted(text: str | None) -> str:
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def downgrade() -> None:
    for view in reversed(VIEWS):
        op.execute(f"DROP VIEW reporting.{view}")
    op.execute("""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'reporting'::regnamespace) THEN
                DROP SCHEMA reporting;
            END IF;
        END $$
    """)
    for table, (_, columns) in TABLES.items():
        _comment("TABLE", table, None, columns)
    op.drop_index("sync_run_last_complete", "sync_run")
    op.drop_index("sync_failure_open", "sync_failure")
    op.drop_index("sync_run_last", "sync_run")
    op.drop_index("connection_type_by_participant", "connection_type")
    op.drop_index("connection_removed", "connection")
    for question in ("removed", "renamed", "status_changed"):
        op.drop_index(f"connection_type_history_when_{question}", HISTORY)
    for column in ("previous_removed_at", "previous_participant_name", "previous_status"):
        op.drop_column(HISTORY, column)
