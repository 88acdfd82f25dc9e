"""All SQL of a batch, by name. Rows arrive as arrays, one per column, and leave in the order of their keys.

The order keeps workers from deadlocking: whoever locks several rows locks them in the same order. It
stands inside the SQL because only there it is the order of the locks. Keys are compared with `=`, which can
use the primary key's index.

Each table is looked up by an array of keys, by itself, or at least so beside a join. A join alone is quick
only where the planner knows the sizes: in tables that were just filled for the first time, and not analyzed
yet, it goes through all of an account's rows for each row of a batch.
"""

from sqlalchemy import TextClause, text

# Read without locks: in most batches nothing has changed, and a lock is a write.
CONNECTIONS = text("""
    SELECT id, arn, other_participant_account_id, updated_at, first_seen_at, synced_at, removed_at
    FROM connection
    WHERE account_id = :account_id AND catalog = :catalog AND id = ANY(CAST(:ids AS text[]))
""")

TYPES = text("""
    SELECT connection_id, type, status, created_at, inviter_email, inviter_name, canceled_at, canceled_by,
           participant_kind, participant_id, removed_at
    FROM connection_type
    WHERE account_id = :account_id AND catalog = :catalog AND connection_id = ANY(CAST(:ids AS text[]))
""")

OPEN_VERSIONS = text("""
    SELECT connection_id, type, status, created_at, inviter_email, inviter_name, canceled_at, canceled_by,
           participant_kind, participant_id, participant_name, removed_at, valid_from
    FROM connection_type_history
    WHERE account_id = :account_id AND catalog = :catalog AND connection_id = ANY(CAST(:ids AS text[]))
      AND valid_to IS NULL
""")

# Connections of which who invited is stored, be it in an old version.
PERSONAL = text("""
    SELECT connection_id
    FROM connection_type
    WHERE account_id = :account_id AND catalog = :catalog AND connection_id = ANY(CAST(:ids AS text[]))
      AND (inviter_email IS NOT NULL OR inviter_name IS NOT NULL)
    UNION
    SELECT connection_id
    FROM connection_type_history
    WHERE account_id = :account_id AND catalog = :catalog AND connection_id = ANY(CAST(:ids AS text[]))
      AND (inviter_email IS NOT NULL OR inviter_name IS NOT NULL)
""")

# More than was asked for, where one ID is of two kinds: that does no harm.
PARTICIPANTS = text("""
    SELECT kind, id, name, connection_id, updated_at
    FROM participant
    WHERE account_id = :account_id AND catalog = :catalog
      AND kind = ANY(CAST(:kinds AS text[])) AND id = ANY(CAST(:ids AS text[]))
""")

# Whoever changes a connection or its types holds the connection's row until it commits.
LOCK_CONNECTIONS = text("""
    SELECT id
    FROM connection
    WHERE account_id = :account_id AND catalog = :catalog AND id = ANY(CAST(:ids AS text[]))
    ORDER BY id
    FOR NO KEY UPDATE
""")


def _given(columns: dict[str, str]) -> str:
    """Rows that arrive as one array per column. columns: name → type."""
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in columns.items())
    return f"unnest({arrays}) AS given ({', '.join(columns)})"


def _insert(table: str, columns: dict[str, str], key: tuple[str, ...], more: str = "") -> TextClause:
    """Insert given rows in the order of their key. more: the end of the statement."""
    names = ", ".join(columns)
    return text(f"""
        INSERT INTO {table} (account_id, catalog, {names})
        SELECT :account_id, :catalog, {names} FROM {_given(columns)}
        ORDER BY {", ".join(key)}
        {more}
    """)


def _update(table: str, columns: dict[str, str], key: tuple[str, ...]) -> TextClause:
    """Update given rows. Their locks are held already: see `LOCK_CONNECTIONS`."""
    changes = ", ".join(f"{name} = given.{name}" for name in columns if name not in key)
    same = " AND ".join(f"{table}.{name} = given.{name}" for name in key)
    return text(f"""
        UPDATE {table} SET {changes} FROM {_given(columns)}
        WHERE {table}.account_id = :account_id AND {table}.catalog = :catalog AND {same}
          AND {table}.{key[0]} = ANY(CAST(:{key[0]} AS {columns[key[0]]}[]))
    """)


CONNECTION = {
    "id": "text",
    "arn": "text",
    "other_participant_account_id": "text",
    "updated_at": "timestamptz",
    "first_seen_at": "timestamptz",
    "synced_at": "timestamptz",
    "removed_at": "timestamptz",
}
TYPE = {
    "connection_id": "text",
    "type": "text",
    "status": "text",
    "created_at": "timestamptz",
    "inviter_email": "text",
    "inviter_name": "text",
    "canceled_at": "timestamptz",
    "canceled_by": "text",
    "participant_kind": "text",
    "participant_id": "text",
    "removed_at": "timestamptz",
}
PARTICIPANT = {
    "kind": "text",
    "id": "text",
    "name": "text",
    "connection_id": "text",
    "updated_at": "timestamptz",
}
VERSION = {name: kind for name, kind in TYPE.items() if name != "removed_at"} | {
    "participant_name": "text",
    "removed_at": "timestamptz",
    "valid_from": "timestamptz",
    "valid_to": "timestamptz",
    "previous_status": "text",
    "previous_participant_name": "text",
    "previous_removed_at": "timestamptz",
}

# Another worker may insert the same connection between our look and our insert. It is plain, so that this
# is an error then, and everything is looked at again: cheaper than to expect it of every row.
ADD_CONNECTIONS = _insert("connection", CONNECTION, key=("id",))
CHANGE_CONNECTIONS = _update("connection", CONNECTION, key=("id",))
SAME_CONNECTION = "connection_pkey"

# Nobody else adds types to a connection, or versions to its history, while we hold its row.
ADD_TYPES = _insert("connection_type", TYPE, key=("connection_id", "type"))
CHANGE_TYPES = _update("connection_type", TYPE, key=("connection_id", "type"))
ADD_VERSIONS = _insert("connection_type_history", VERSION, key=("connection_id", "type", "valid_from"))

# Participants are everybody's. The guard: another worker may have named one from a newer connection since we
# looked. Compared as in Python, by code points: the database's own collation may hold b for greater than C.
PUT_PARTICIPANTS = _insert(
    "participant",
    PARTICIPANT,
    key=("kind", "id"),
    more="""
        ON CONFLICT (account_id, catalog, kind, id) DO UPDATE
        SET name = excluded.name, connection_id = excluded.connection_id, updated_at = excluded.updated_at
        WHERE (participant.updated_at, participant.connection_id COLLATE "C")
              <= (excluded.updated_at, excluded.connection_id COLLATE "C")
    """,
)

END_VERSIONS = text("""
    UPDATE connection_type_history AS history
    SET valid_to = given.valid_to
    FROM unnest(CAST(:connection_id AS text[]), CAST(:type AS text[]), CAST(:valid_to AS timestamptz[]))
         AS given (connection_id, type, valid_to)
    WHERE history.account_id = :account_id AND history.catalog = :catalog
      AND history.connection_id = given.connection_id AND history.type = given.type
      AND history.connection_id = ANY(CAST(:connection_id AS text[])) AND history.valid_to IS NULL
""")

# Their locks are held already too.
ERASE_IN_TYPES = text("""
    UPDATE connection_type SET inviter_email = NULL, inviter_name = NULL
    WHERE account_id = :account_id AND catalog = :catalog AND connection_id = ANY(CAST(:ids AS text[]))
      AND (inviter_email IS NOT NULL OR inviter_name IS NOT NULL)
""")
ERASE_IN_HISTORY = text("""
    UPDATE connection_type_history SET inviter_email = NULL, inviter_name = NULL
    WHERE account_id = :account_id AND catalog = :catalog AND connection_id = ANY(CAST(:ids AS text[]))
      AND (inviter_email IS NOT NULL OR inviter_name IS NOT NULL)
""")

PUT_FAILURES = text("""
    INSERT INTO sync_failure (account_id, catalog, identifier, code, message, attempts,
                              first_failed_at, last_failed_at, run_id)
    SELECT :account_id, :catalog, identifier, code, message, attempts, failed_at, failed_at, :run_id
    FROM unnest(CAST(:identifier AS text[]), CAST(:code AS text[]), CAST(:message AS text[]),
                CAST(:attempts AS integer[]), CAST(:failed_at AS timestamptz[]))
         AS given (identifier, code, message, attempts, failed_at)
    ORDER BY identifier
    ON CONFLICT (account_id, catalog, identifier) DO UPDATE
    SET code = excluded.code, message = excluded.message,
        attempts = sync_failure.attempts + excluded.attempts,
        last_failed_at = excluded.last_failed_at, run_id = excluded.run_id
""")

# Rows are locked in their key's order here too.
CLEAR_FAILURES = text("""
    DELETE FROM sync_failure
    WHERE (account_id, catalog, identifier) IN (
        SELECT account_id, catalog, identifier
        FROM sync_failure
        WHERE account_id = :account_id AND catalog = :catalog AND identifier = ANY(CAST(:ids AS text[]))
        ORDER BY identifier
        FOR UPDATE
    ) AND identifier = ANY(CAST(:ids AS text[]))
""")

START_RUN = text("""
    INSERT INTO sync_run (id, source, account_id, catalog, status, started_at, input, input_digest, "full")
    VALUES (:id, :source, :account_id, :catalog, 'running', :started_at, :input, :input_digest, :full)
""")

CLOSE_DEAD_RUNS = text("""
    UPDATE sync_run SET status = 'interrupted'
    WHERE account_id = :account_id AND catalog = :catalog AND status = 'running' AND source <> 'queue'
""")

# A worker that lives holds its run's lock. Whoever gets it knows that the row has outlived its worker.
CLOSE_DEAD_WORKERS = text("""
    WITH open AS MATERIALIZED (
        SELECT id FROM sync_run
        WHERE account_id = :account_id AND catalog = :catalog AND status = 'running' AND source = 'queue'
          AND id <> :id
    )
    UPDATE sync_run SET status = 'interrupted'
    FROM open
    WHERE sync_run.id = open.id
      AND pg_try_advisory_xact_lock(hashtextextended('syncer worker ' || open.id, 0))
""")

FETCHED_AT = text("""
    SELECT id, synced_at
    FROM connection
    WHERE account_id = :account_id AND catalog = :catalog AND id = ANY(CAST(:ids AS text[]))
""")

LATEST_OVER = text("""
    SELECT id, status, input, input_digest, checkpoint
    FROM sync_run
    WHERE account_id = :account_id AND catalog = :catalog AND source = 'file'
      AND (input_digest = :digest OR input = :input)
    ORDER BY (input_digest IS NOT DISTINCT FROM :digest) DESC, started_at DESC
    LIMIT 1
""")

# A run that only found everything as it was has left it in step too.
LAST_COMPLETE = text("""
    SELECT max(finished_at)
    FROM sync_run
    WHERE account_id = :account_id AND catalog = :catalog AND source = 'listing' AND status = 'succeeded'
""")

LAST_FULL = text("""
    SELECT finished_at
    FROM sync_run
    WHERE account_id = :account_id AND catalog = :catalog AND source = 'listing'
      AND "full" AND status = 'succeeded'
    ORDER BY started_at DESC
    LIMIT 1
""")

# What a run has done so far, in one place with what it did.
RECORD_RUN = text("""
    UPDATE sync_run
    SET read = :read, written = :written, unchanged = :unchanged, skipped = :skipped, stale = :stale,
        missing = :missing, duplicate = :duplicate, invalid = :invalid, failed = :failed,
        released = :released, api_calls = :api_calls, throttled = :throttled, retried = :retried,
        rows_written = :rows_written, checkpoint = :checkpoint
    WHERE id = :id
""")

FINISH_RUN = text("""
    UPDATE sync_run SET status = :status, finished_at = :finished_at, seconds = :seconds WHERE id = :id
""")

UPDATED_AT = text("""
    SELECT id, updated_at
    FROM connection
    WHERE account_id = :account_id AND catalog = :catalog AND id = ANY(CAST(:ids AS text[]))
      AND removed_at IS NULL
""")

# Page by page along the primary key: the next page begins after the last ID of this one.
LIVE_AFTER = text("""
    SELECT id
    FROM connection
    WHERE account_id = :account_id AND catalog = :catalog AND id > :after AND removed_at IS NULL
      AND 'ACTIVE' = ANY(ARRAY(
          SELECT status FROM connection_type AS type
          WHERE type.account_id = connection.account_id AND type.catalog = connection.catalog
            AND type.connection_id = connection.id AND type.removed_at IS NULL
      ))
    ORDER BY id
    LIMIT :page
""")

FAILED_AFTER = text("""
    SELECT identifier
    FROM sync_failure
    WHERE account_id = :account_id AND catalog = :catalog AND identifier > :after
    ORDER BY identifier
    LIMIT :page
""")

LIVE_COUNT = text("""
    SELECT count(*)
    FROM connection
    WHERE account_id = :account_id AND catalog = :catalog AND removed_at IS NULL
""")

HELD = text("""
    SELECT identifier, last_failed_at
    FROM sync_failure
    WHERE account_id = :account_id AND catalog = :catalog AND run_id = :run_id AND code = :code
    ORDER BY identifier
    LIMIT :page
""")

# The clock is read in any case: with the rows, or alone where there are none yet.
RATES = text("""
    SELECT extract(epoch FROM clock_timestamp())::double precision AS now, operation, state, version
    FROM (SELECT) AS once
    LEFT JOIN request_rate ON account_id = :account_id AND catalog = :catalog
""")

PUT_RATES = text("""
    INSERT INTO request_rate AS known (account_id, catalog, operation, rate, state, version, learned_at)
    SELECT :account_id, :catalog, operation, rate, CAST(state AS jsonb), version + 1, clock_timestamp()
    FROM unnest(CAST(:operations AS text[]), CAST(:rates AS double precision[]), CAST(:states AS text[]),
                CAST(:versions AS bigint[])) AS given (operation, rate, state, version)
    ORDER BY operation
    ON CONFLICT (account_id, catalog, operation) DO UPDATE
    SET rate = excluded.rate, state = excluded.state, version = excluded.version,
        learned_at = excluded.learned_at
    WHERE known.version = excluded.version - 1
    RETURNING operation
""")
