"""A dlt pipeline: 32 workers, merge by upsert, into Postgres.

    python dlt_pipeline.py IDS_FILE POSTGRES_URL

Tuned: a page of IDs per deferred call, so that the framework's cost per item is paid once a page; all columns
declared, so that nothing need be inferred; one client for all workers. Participants are merged by
delete-insert, for upsert takes no input with a key twice.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC
from itertools import islice
from pathlib import Path
from typing import Any

WORKERS, PAGE = 32, 25
os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    "EXTRACT__WORKERS": str(WORKERS),
    "EXTRACT__MAX_PARALLEL_ITEMS": str(2 * WORKERS),
    "LOAD__WORKERS": "3",
}

import boto3  # noqa: E402  (dlt reads its settings when it is imported)
import dlt  # noqa: E402
from botocore.config import Config  # noqa: E402
from dlt.destinations import postgres  # noqa: E402
from dlt.destinations.impl.postgres.configuration import PostgresCredentials  # noqa: E402

from tests.benchmarks.peers.rows import CATALOG, COLUMNS, KEYS, Latest, connection, types  # noqa: E402

UPSERT = {"disposition": "merge", "strategy": "upsert"}
DELETE_INSERT = {"disposition": "merge", "strategy": "delete-insert"}


def columns(table: str) -> dict[str, Any]:
    return {
        name: {
            "data_type": "timestamp" if name.endswith("_at") else "text",
            "nullable": name not in KEYS[table],
        }
        for name in COLUMNS[table]
    }


def version(row: dict[str, Any]) -> str:
    return f"{row['updated_at'].astimezone(UTC).isoformat(timespec='microseconds')} {row['connection_id']}"


@dlt.source(max_table_nesting=0)
def partner_central(ids: Path) -> Any:
    client = boto3.client(
        "partnercentral-account",
        region_name="us-east-1",
        config=Config(max_pool_connections=WORKERS, retries={"mode": "standard"}),
    )

    @dlt.resource(selected=False)
    def pages() -> Iterator[list[str]]:
        identifiers = iter(ids.read_text().split())
        while page := list(islice(identifiers, PAGE)):
            yield page

    @dlt.transformer(data_from=pages, selected=False)
    @dlt.defer
    def answers(page: list[str]) -> list[Any]:
        return [client.get_connection(Catalog=CATALOG, Identifier=identifier) for identifier in page]

    @dlt.transformer(
        data_from=answers,
        name="connection",
        write_disposition=UPSERT,
        primary_key=KEYS["connection"],
        columns=columns("connection"),
    )
    def connections(found: list[Any]) -> list[dict[str, Any]]:
        return [connection(answer) for answer in found]

    @dlt.transformer(
        data_from=answers,
        name="connection_type",
        write_disposition=UPSERT,
        primary_key=KEYS["connection_type"],
        columns=columns("connection_type"),
    )
    def connection_types(found: list[Any]) -> list[dict[str, Any]]:
        return [row for answer in found for row in types(answer)]

    # Which of several rows decides is told to dlt by one column, so there must be one.
    latest = columns("participant") | {"version": {"data_type": "text", "dedup_sort": "desc"}}

    @dlt.transformer(
        data_from=answers,
        name="participant",
        write_disposition=DELETE_INSERT,
        primary_key=KEYS["participant"],
        columns=latest,
    )
    def participant(found: list[Any]) -> list[dict[str, Any]]:
        return [row | {"version": version(row)} for row in Latest(found).rows()]

    return connections, connection_types, participant


def credentials(url: str) -> PostgresCredentials:
    """dlt wants a host and a password, also where the server is behind a socket that asks for none."""
    made = PostgresCredentials(url)
    made.host = made.host or "localhost"  # the socket is in the URL's query, which wins
    made.password = made.password or "none"
    return made


def main(ids: str, url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pipeline = dlt.pipeline(
            "partner_central",
            pipelines_dir=folder,
            destination=postgres(credentials=credentials(url)),
            dataset_name="partners",
        )
        pipeline.run(partner_central(Path(ids))).raise_on_failed_jobs()


if __name__ == "__main__":
    main(*sys.argv[1:])
