"""The script one writes in an afternoon: boto3 in 32 threads, psycopg's executemany, a commit per 500.

python plain.py IDS_FILE POSTGRES_URL
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import boto3
import psycopg
from botocore.config import Config

ACCOUNT, CATALOG, THREADS, BATCH = "111122223333", "AWS", 32, 500
COLUMNS = {
    "connection": ("account_id catalog id", "arn other_participant_account_id updated_at"),
    "participant": ("account_id catalog kind id", "name connection_id updated_at"),
    "connection_type": (
        "account_id catalog connection_id type",
        (
            "status created_at inviter_email inviter_name canceled_at canceled_by "
            "participant_kind participant_id"
        ),
    ),
}
# Of several connections that name one participant the latest decides, of its types the last by name.
NEWER = (
    " WHERE (participant.updated_at, participant.connection_id)"
    " <= (excluded.updated_at, excluded.connection_id)"
)


def upsert(table: str) -> str:
    key, others = (names.split() for names in COLUMNS[table])
    return (
        f"INSERT INTO {table} ({', '.join(key + others)}) VALUES ({', '.join(['%s'] * len(key + others))}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(f'{it} = excluded.{it}' for it in others)}"
        + (NEWER if table == "participant" else "")
    )


def create(table: str) -> str:
    key, others = (names.split() for names in COLUMNS[table])
    columns = [f"{name} {'timestamptz' if name.endswith('_at') else 'text'}" for name in key + others]
    return f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}, PRIMARY KEY ({', '.join(key)}))"


def rows(answers: list[Any]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for a in answers:
        other = a["OtherParticipantAccountId"]
        yield "connection", (ACCOUNT, CATALOG, a["Id"], a["Arn"], other, a["UpdatedAt"])
        for name, t in sorted(a["ConnectionTypes"].items()):
            [(kind, who)] = t["OtherParticipant"].items()
            participant = (ACCOUNT, CATALOG, kind, who.get("Id", other))
            yield "participant", (*participant, who["Name"], a["Id"], a["UpdatedAt"])
            invited = (t["Status"], t["CreatedAt"], t["InviterEmail"], t["InviterName"])
            canceled = (t.get("CanceledAt"), t.get("CanceledBy"))
            yield "connection_type", (ACCOUNT, CATALOG, a["Id"], name, *invited, *canceled, *participant[2:])


def main(ids: str, url: str) -> None:
    config = Config(max_pool_connections=THREADS, retries={"mode": "standard"})
    client = boto3.client("partnercentral-account", region_name="us-east-1", config=config)

    def get(identifier: str) -> Any:
        return client.get_connection(Catalog=CATALOG, Identifier=identifier)

    with psycopg.connect(url) as connection, ThreadPoolExecutor(THREADS) as threads:
        for table in COLUMNS:
            connection.execute(create(table).encode())
        identifiers = iter(Path(ids).read_text().split())
        while page := list(islice(identifiers, BATCH)):
            # All at once would be no faster, and nothing would be written before the last is fetched: the
            # main thread hardly gets a turn beside 32 others.
            batch = list(threads.map(get, page))
            for table in COLUMNS:
                with connection.cursor() as cursor:
                    cursor.executemany(
                        upsert(table).encode(), [row for of, row in rows(batch) if of == table]
                    )
            connection.commit()


if __name__ == "__main__":
    main(*sys.argv[1:])
