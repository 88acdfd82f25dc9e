"""The README's data dictionary: what the database says of the schema `reporting`, by its own comments.

    .venv/bin/python -m tests.dictionary     # writes it anew, into README.md

Tests hold the README to it.
"""

import asyncio
import re
import tempfile
from pathlib import Path

import psycopg

from syncer.store.embedded import embedded
from syncer.store.schema import migrate

README = Path(__file__).parent.parent / "README.md"
SECTION = re.compile(r"(?<=^### Data dictionary\n\n).*?(?=^##)", re.DOTALL | re.MULTILINE)

# The views as they were made: the one to start from comes first.
VIEWS = """
    SELECT oid, relname, obj_description(oid)
    FROM pg_class
    WHERE relnamespace = 'reporting'::regnamespace AND relkind = 'v'
    ORDER BY oid
"""
COLUMNS = """
    SELECT attname, format_type(atttypid, NULL), col_description(attrelid, attnum)
    FROM pg_attribute
    WHERE attrelid = %s AND attnum > 0
    ORDER BY attnum
"""
SHORT = {"timestamp with time zone": "timestamptz"}


def dictionary(url: str) -> str:
    """Markdown: each view of the database at `url`, its columns, their types and comments."""
    lines = []
    with psycopg.connect(url) as connection:
        for oid, view, meaning in connection.execute(VIEWS).fetchall():
            lines += [f"**`reporting.{view}`**: {meaning}", "", "| column | type | |", "|---|---|---|"]
            lines += [
                f"| `{column}` | {SHORT.get(kind, kind)} | {comment} |"
                for column, kind, comment in connection.execute(COLUMNS, [oid])
            ]
            lines.append("")
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, embedded(Path(folder)) as server:
        asyncio.run(migrate(server.url))
        written = dictionary(server.url)
    README.write_text(SECTION.sub(lambda _: written, README.read_text()))


if __name__ == "__main__":
    main()
