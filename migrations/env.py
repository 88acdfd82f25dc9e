"""How Alembic reaches the database: always over a connection that is handed to it, or DATABASE_URL.

`syncer migrate` hands one over. `alembic check` and `alembic revision`, in a checkout, take DATABASE_URL.
"""

import os

import psycopg
from alembic import context
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, create_engine, text
from sqlmodel import SQLModel

from syncer.store import tables  # noqa: F401  (so that SQLModel knows the tables)
from syncer.store.database import target

# Any number, as long as nobody else takes it: two migrations at once wait for each other.
MIGRATING = 7_232_069_001


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=SQLModel.metadata, compare_server_default=True)
    # One transaction for all steps: a migration that dies half-way has not happened.
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATING})
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    conninfo = make_conninfo(**target(os.environ["DATABASE_URL"]).parameters)
    with create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo)).connect() as own:
        run(own)
