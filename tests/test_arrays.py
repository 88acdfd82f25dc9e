"""Array literals, read back by a real Postgres."""

from datetime import UTC, datetime, timedelta, timezone

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncer.store.arrays import columns, literal

STORABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.mark.parametrize(
    "values",
    [
        [""],
        [None],
        ["", None, ""],
        [None, None, "x", None],
        ["NULL", "null", None, '"NULL"'],
        ['"', "\\", '\\"', '"\\', "\\\\", '""'],
        ["{", "}", "{}", ",", '","', '"},{"', " x ", "\n", "\t", "\r\n"],
        ["a,b", "{a,b}", "'; DROP TABLE connection; --", "$1", "%s", ":x"],
        ["Öko & Söhne", "日本", "🤝", "\ufffd", "\x01\x1f\x7f"],
    ],
)
def test_texts_come_back_as_they_were(server_url: str, values: list[str | None]) -> None:
    with psycopg.connect(server_url) as connection:
        assert connection.execute("SELECT %s::text[]", (literal(values),)).fetchone() == (values,)


def test_any_storable_texts_come_back_as_they_were(server_url: str) -> None:
    with psycopg.connect(server_url) as connection:

        @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(st.none() | STORABLE | st.text('"\\{},NUL'), min_size=1))
        def come_back(values: list[str | None]) -> None:
            assert connection.execute("SELECT %s::text[]", (literal(values),)).fetchone() == (values,)

        come_back()


def test_rows_come_back_by_column_and_type(server_url: str) -> None:
    offset = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    rows = [("a", 1, offset), (None, None, None), ("c", -3, datetime(1, 1, 1, tzinfo=UTC))]
    arrays = columns(("name", "number", "time"), rows)
    with psycopg.connect(server_url) as connection:
        connection.execute("SET timezone TO 'UTC'")
        found = connection.execute(
            "SELECT * FROM unnest(%(name)s::text[], %(number)s::bigint[], %(time)s::timestamptz[])", arrays
        ).fetchall()
    assert found == rows
