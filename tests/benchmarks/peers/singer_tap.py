"""A Singer tap on singer-sdk: three streams, 32 calls at once.

    python singer_tap.py --config FILE

Tuned: the first stream fetches, in 32 threads; the rows of the two others are made from the same answers, and
kept until it is their turn, so that no stream calls the API again and none is a child with an own message of
state per connection.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import boto3
from botocore.config import Config
from singer_sdk import Stream, Tap
from singer_sdk import typing as th

from tests.benchmarks.peers.rows import CATALOG, COLUMNS, KEYS, Latest, connection, types

THREADS = 32


def schema(table: str) -> dict[str, Any]:
    return th.PropertiesList(
        *(
            th.Property(
                name,
                th.DateTimeType if name.endswith("_at") else th.StringType,
                required=name in KEYS[table],
            )
            for name in COLUMNS[table]
        )
    ).to_dict()


class Connections(Stream):
    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:  # noqa: ARG002
        client = boto3.client(
            "partnercentral-account",
            region_name="us-east-1",
            config=Config(max_pool_connections=THREADS, retries={"mode": "standard"}),
        )

        def get(identifier: str) -> Any:
            return client.get_connection(Catalog=CATALOG, Identifier=identifier)

        tap: PartnerCentral = self._tap
        with ThreadPoolExecutor(THREADS) as threads:
            for answer in threads.map(get, Path(self.config["ids"]).read_text().split()):
                tap.types.extend(types(answer))
                tap.latest.see(answer)
                yield connection(answer)


class ConnectionTypes(Stream):
    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:  # noqa: ARG002
        return self._tap.types


class Participants(Stream):
    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:  # noqa: ARG002
        return self._tap.latest.rows()


class PartnerCentral(Tap):
    name = "tap-partnercentral"
    config_jsonschema: ClassVar[dict[str, Any]] = th.PropertiesList(
        th.Property("ids", th.StringType, required=True)
    ).to_dict()

    def discover_streams(self) -> list[Stream]:
        self.types: list[dict[str, Any]] = []
        self.latest = Latest([])
        streams = []
        # They are synced in the order of their names.
        for name, kind in (
            ("connection", Connections),
            ("connection_type", ConnectionTypes),
            ("participant", Participants),
        ):
            stream = kind(self, name=name, schema=schema(name))
            stream.primary_keys = KEYS[name]
            streams.append(stream)
        return streams


if __name__ == "__main__":
    PartnerCentral.cli()
