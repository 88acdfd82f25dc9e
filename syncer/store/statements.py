"""All SQL of a batch, by name. Rows arrive as arrays, one per column, and leave in the order of their keys.

The order keeps workers from deadlocking: whoever locks several rows locks them in the same order. It
stands inside the SQL because only there it is the order of the locks. Keys are compared with `=`, which can
use the primary key's index.

Each table is looked up by an array of keys, by itself, or at least so beside a join. A join alone is quick
only where the planner knows the sizes: in tables that were just filled for the first time, and not analyzed
yet, it goes through all of an account's rows for each row of a batch.
"""

# Read without locks: in most batches nothing has changed, and a lock is a write.
CONNECTIONS = """
    SELECT id, arn, other_participant_account_id, updated_at, first_seen_at, synced_at, removed_at
    FROM connection
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND id = ANY(CAST(%(ids)s AS text[]))
"""

TYPES = """
    SELECT connection_id, type, status, created_at, inviter_email, inviter_name, canceled_at, canceled_by,
           participant_kind, participant_id, removed_at
    FROM connection_type
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s
      AND connection_id = ANY(CAST(%(ids)s AS text[]))
"""

OPEN_VERSIONS = """
    SELECT connection_id, type, status, created_at, inviter_email, inviter_name, canceled_at, canceled_by,
           participant_kind, participant_id, participant_name, removed_at, valid_from
    FROM connection_type_history
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s
      AND connection_id = ANY(CAST(%(ids)s AS text[]))
      AND valid_to IS NULL
"""

# Connections of which who invited is stored, be it in an old version.
PERSONAL = """
    SELECT connection_id
    FROM connection_type
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s
      AND connection_id = ANY(CAST(%(ids)s AS text[]))
      AND (inviter_email IS NOT NULL OR inviter_name IS NOT NULL)
    UNION
    SELECT connection_id
    FROM connection_type_history
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s
      AND connection_id = ANY(CAST(%(ids)s AS text[]))
      AND (inviter_email IS NOT NULL OR inviter_name IS NOT NULL)
"""

# More than was asked for, where one ID is of two kinds: that does no harm.
PARTICIPANTS = """
    SELECT kind, id, name, connection_id, updated_at
    FROM participant
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s
      AND kind = ANY(CAST(%(kinds)s AS text[])) AND id = ANY(CAST(%(ids)s AS text[]))
"""

# Of those that are not live: when the API last said that there is no such connection.
NOT_FOUND = """
    SELECT id, asked_at
    FROM connection_not_found
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND id = ANY(CAST(%(ids)s AS text[]))
"""

# A connection that is not there has no row to be held. So each batch holds this lock together with others,
# and whoever writes down that something was not found holds it alone: none is added meanwhile. It is the
# first lock of a transaction. All would wait for a holder that vanishes: it is let go of in a minute.
OF_NOT_FOUND = """
    hashtextextended(
        'syncer not found ' || CAST(%(account_id)s AS text) || ' ' || CAST(%(catalog)s AS text), 0)
"""
LOCK_TOGETHER = f"""
    SELECT set_config('idle_in_transaction_session_timeout', '60s', true),
           pg_advisory_xact_lock_shared({OF_NOT_FOUND})
"""
LOCK_ALONE = f"""
    SELECT set_config('idle_in_transaction_session_timeout', '60s', true),
           pg_advisory_xact_lock({OF_NOT_FOUND})
"""

# Whoever changes a connection or its types holds the connection's row until it commits.
LOCK_CONNECTIONS = """
    SELECT id
    FROM connection
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND id = ANY(CAST(%(ids)s AS text[]))
    ORDER BY id
    FOR NO KEY UPDATE
"""


def _given(columns: dict[str, str]) -> str:
    """Rows that arrive as one array per column. columns: name → type."""
    arrays = ", ".join(f"CAST(%({name})s AS {kind}[])" for name, kind in columns.items())
    return f"unnest({arrays}) AS given ({', '.join(columns)})"


def _insert(table: str, columns: dict[str, str], key: tuple[str, ...], more: str = "") -> str:
    """Insert given rows in the order of their key. more: the end of the statement."""
    names = ", ".join(columns)
    return f"""
        INSERT INTO {table} (account_id, catalog, {names})
        SELECT %(account_id)s, %(catalog)s, {names} FROM {_given(columns)}
        ORDER BY {", ".join(key)}
        {more}
    """


def _update(table: str, columns: dict[str, str], key: tuple[str, ...]) -> str:
    """Update given rows. Their locks are held already: see `LOCK_CONNECTIONS`."""
    changes = ", ".join(f"{name} = given.{name}" for name in columns if name not in key)
    same = " AND ".join(f"{table}.{name} = given.{name}" for name in key)
    return f"""
        UPDATE {table} SET {changes} FROM {_given(columns)}
        WHERE {table}.account_id = %(account_id)s AND {table}.catalog = %(catalog)s AND {same}
          AND {table}.{key[0]} = ANY(CAST(%({key[0]})s AS {columns[key[0]]}[]))
    """


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

# No guard: the lock is held alone from before what is stored was looked up.
PUT_NOT_FOUND = _insert(
    "connection_not_found",
    {"id": "text", "asked_at": "timestamptz"},
    key=("id",),
    more="ON CONFLICT (account_id, catalog, id) DO UPDATE SET asked_at = excluded.asked_at",
)

# No answer waits for the database this long. Where the lock is not to be had at once, the next run does it.
CLEAR_NOT_FOUND = f"""
    DELETE FROM connection_not_found
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s
      AND asked_at < clock_timestamp() - interval '7 days'
      AND (SELECT pg_try_advisory_xact_lock({OF_NOT_FOUND}))
"""

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

END_VERSIONS = """
    UPDATE connection_type_history AS history
    SET valid_to = given.valid_to
    FROM unnest(CAST(%(connection_id)s AS text[]), CAST(%(type)s AS text[]),
                CAST(%(valid_to)s AS timestamptz[]))
         AS given (connection_id, type, valid_to)
    WHERE history.account_id = %(account_id)s AND history.catalog = %(catalog)s
      AND history.connection_id = given.connection_id AND history.type = given.type
      AND history.connection_id = ANY(CAST(%(connection_id)s AS text[])) AND history.valid_to IS NULL
"""

# Their locks are held already too.
ERASE_IN_TYPES = """
    UPDATE connection_type SET inviter_email = NULL, inviter_name = NULL
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s
      AND connection_id = ANY(CAST(%(ids)s AS text[]))
      AND (inviter_email IS NOT NULL OR inviter_name IS NOT NULL)
"""
ERASE_IN_HISTORY = """
    UPDATE connection_type_history SET inviter_email = NULL, inviter_name = NULL
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s
      AND connection_id = ANY(CAST(%(ids)s AS text[]))
      AND (inviter_email IS NOT NULL OR inviter_name IS NOT NULL)
"""

PUT_FAILURES = """
    INSERT INTO sync_failure (account_id, catalog, identifier, code, message, attempts,
                              first_failed_at, last_failed_at, run_id)
    SELECT %(account_id)s, %(catalog)s, identifier, code, message, attempts, failed_at, failed_at, %(run_id)s
    FROM unnest(CAST(%(identifier)s AS text[]), CAST(%(code)s AS text[]), CAST(%(message)s AS text[]),
                CAST(%(attempts)s AS integer[]), CAST(%(failed_at)s AS timestamptz[]))
         AS given (identifier, code, message, attempts, failed_at)
    ORDER BY identifier
    ON CONFLICT (account_id, catalog, identifier) DO UPDATE
    SET code = excluded.code, message = excluded.message,
        attempts = sync_failure.attempts + excluded.attempts,
        last_failed_at = excluded.last_failed_at, run_id = excluded.run_id
"""

# Rows are locked in their key's order here too.
CLEAR_FAILURES = """
    DELETE FROM sync_failure
    WHERE (account_id, catalog, identifier) IN (
        SELECT account_id, catalog, identifier
        FROM sync_failure
        WHERE account_id = %(account_id)s AND catalog = %(catalog)s
          AND identifier = ANY(CAST(%(ids)s AS text[]))
        ORDER BY identifier
        FOR UPDATE
    ) AND identifier = ANY(CAST(%(ids)s AS text[]))
"""

START_RUN = """
    INSERT INTO sync_run (id, source, account_id, catalog, status, started_at, input, input_digest, "full")
    VALUES (%(id)s, %(source)s, %(account_id)s, %(catalog)s, 'running', %(started_at)s, %(input)s,
        %(input_digest)s, %(full)s)
"""

CLOSE_DEAD_RUNS = """
    UPDATE sync_run SET status = 'interrupted'
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND status = 'running' AND source <> 'queue'
"""

# A worker that lives holds its run's lock. Whoever gets it knows that the row has outlived its worker.
CLOSE_DEAD_WORKERS = """
    WITH open AS MATERIALIZED (
        SELECT id FROM sync_run
        WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND status = 'running'
          AND source = 'queue' AND id <> %(id)s
    )
    UPDATE sync_run SET status = 'interrupted'
    FROM open
    WHERE sync_run.id = open.id
      AND pg_try_advisory_xact_lock(hashtextextended('syncer worker ' || open.id, 0))
"""

FETCHED_AT = """
    SELECT id, synced_at
    FROM connection
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND id = ANY(CAST(%(ids)s AS text[]))
"""

LATEST_OVER = """
    SELECT id, status, input, input_digest, checkpoint
    FROM sync_run
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND source = 'file'
      AND (input_digest = %(digest)s OR input = %(input)s)
    ORDER BY (input_digest IS NOT DISTINCT FROM %(digest)s) DESC, started_at DESC
    LIMIT 1
"""

# A run that only found everything as it was has left it in step too.
LAST_COMPLETE = """
    SELECT max(finished_at)
    FROM sync_run
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND source = 'listing'
      AND status = 'succeeded'
"""

LAST_FULL = """
    SELECT finished_at
    FROM sync_run
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND source = 'listing'
      AND "full" AND status = 'succeeded'
    ORDER BY started_at DESC
    LIMIT 1
"""

# What a run has done so far, in one place with what it did.
RECORD_RUN = """
    UPDATE sync_run
    SET read = %(read)s, written = %(written)s, unchanged = %(unchanged)s, skipped = %(skipped)s,
        stale = %(stale)s, missing = %(missing)s, duplicate = %(duplicate)s,
        invalid = %(invalid)s, failed = %(failed)s, released = %(released)s, api_calls = %(api_calls)s,
        throttled = %(throttled)s, retried = %(retried)s,
        rows_written = %(rows_written)s, checkpoint = %(checkpoint)s
    WHERE id = %(id)s
"""

FINISH_RUN = """
    UPDATE sync_run SET status = %(status)s, finished_at = %(finished_at)s,
        seconds = %(seconds)s WHERE id = %(id)s
"""

UPDATED_AT = """
    SELECT id, updated_at
    FROM connection
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND id = ANY(CAST(%(ids)s AS text[]))
      AND removed_at IS NULL
"""

# Page by page along the primary key: the next page begins after the last ID of this one.
LIVE_AFTER = """
    SELECT id
    FROM connection
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND id > %(after)s AND removed_at IS NULL
      AND 'ACTIVE' = ANY(ARRAY(
          SELECT status FROM connection_type AS type
          WHERE type.account_id = connection.account_id AND type.catalog = connection.catalog
            AND type.connection_id = connection.id AND type.removed_at IS NULL
      ))
    ORDER BY id
    LIMIT %(page)s
"""

FAILED_AFTER = """
    SELECT identifier
    FROM sync_failure
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND identifier > %(after)s
    ORDER BY identifier
    LIMIT %(page)s
"""

LIVE_COUNT = """
    SELECT count(*)
    FROM connection
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND removed_at IS NULL
"""

HELD = """
    SELECT identifier, last_failed_at
    FROM sync_failure
    WHERE account_id = %(account_id)s AND catalog = %(catalog)s AND run_id = %(run_id)s AND code = %(code)s
    ORDER BY identifier
    LIMIT %(page)s
"""

# The clock is read in any case: with the rows, or alone where there are none yet.
RATES = """
    SELECT extract(epoch FROM clock_timestamp())::double precision AS now, operation, state, version
    FROM (SELECT) AS once
    LEFT JOIN request_rate ON account_id = %(account_id)s AND catalog = %(catalog)s
"""

PUT_RATES = """
    INSERT INTO request_rate AS known (account_id, catalog, operation, rate, state, version, learned_at)
    SELECT %(account_id)s, %(catalog)s, operation, rate, CAST(state AS jsonb), version + 1, clock_timestamp()
    FROM unnest(CAST(%(operations)s AS text[]), CAST(%(rates)s AS double precision[]),
                CAST(%(states)s AS text[]), CAST(%(versions)s AS bigint[]))
         AS given (operation, rate, state, version)
    ORDER BY operation
    ON CONFLICT (account_id, catalog, operation) DO UPDATE
    SET rate = excluded.rate, state = excluded.state, version = excluded.version,
        learned_at = excluded.learned_at
    WHERE known.version = excluded.version - 1
    RETURNING operation
"""
