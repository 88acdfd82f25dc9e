"""The names of all log events: a closed list. What varies is in an event's fields, never in its name.

Fields hold counts, codes, connection IDs and places in the input; never a name or an address of a person.
"""

from enum import StrEnum


class Event(StrEnum):
    """What the program tells about itself while it runs."""

    DATABASE_EMBEDDED = "database_embedded"
    DATABASE_MIGRATED = "database_migrated"
    RUN_STARTED = "run_started"
    PROGRESS = "progress"
    ITEM_INVALID = "item_invalid"
    ITEM_FAILED = "item_failed"
    SCHEMA_DRIFT = "schema_drift"
    WRITE_REPLAYED = "write_replayed"
    WORKER_STARTED = "worker_started"
    WORKER_STOPPED = "worker_stopped"
    QUEUE_FAILING = "queue_failing"
    QUEUE_WITHOUT_REDRIVE = "queue_without_redrive"
    RECEIVING_PAUSED = "receiving_paused"
    RECEIVING_RESUMED = "receiving_resumed"
    MESSAGE_IGNORED = "message_ignored"
    MESSAGE_LEFT = "message_left"
    DELETE_FAILED = "delete_failed"
    RUN_STOPPING = "run_stopping"
    RUN_FINISHED = "run_finished"
    TELEMETRY_OFF = "telemetry_off"
    TELEMETRY_FAILING = "telemetry_failing"
    UNKNOWN_VARIABLE = "unknown_variable"
    SIMULATOR_LISTENING = "simulator_listening"
