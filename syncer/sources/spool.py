"""What a listing said, kept aside: in memory while it is small, in a temporary file when it grows.

SQLite's private database does just that. It holds a listing of any length without the program's memory
growing with it, and nothing of it stays behind.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

# KiB of pages in memory, before SQLite spills to its temporary file.
CACHE = 2048


class Spool:
    """IDs, each once, in the order of the alphabet, and whether each needs to be fetched."""

    def __init__(self) -> None:
        # The empty name is SQLite's own word for a private database that spills to disk.
        self._rows = sqlite3.connect("", isolation_level=None)
        self._rows.execute(f"PRAGMA cache_size = -{CACHE}")
        self._rows.execute("CREATE TABLE listed (id TEXT PRIMARY KEY, fetch INTEGER) WITHOUT ROWID")

    def put(self, rows: Iterable[tuple[str, bool]]) -> None:
        """Add IDs. One that is there already needs to be fetched if either listing of it says so."""
        self._rows.execute("BEGIN")
        self._rows.executemany(
            "INSERT INTO listed VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET fetch = max(fetch, excluded.fetch)",
            rows,
        )
        self._rows.execute("COMMIT")

    def __len__(self) -> int:
        count: int = self._rows.execute("SELECT count(*) FROM listed").fetchone()[0]
        return count

    def __iter__(self) -> Iterator[tuple[str, bool]]:
        for identifier, fetch in self._rows.execute("SELECT id, fetch FROM listed ORDER BY id"):
            yield identifier, bool(fetch)

    def without(self, identifiers: Sequence[str]) -> list[str]:
        """Those of `identifiers` that are not here."""
        return [
            identifier
            for identifier in identifiers
            if self._rows.execute("SELECT 1 FROM listed WHERE id = ?", (identifier,)).fetchone() is None
        ]

    def close(self) -> None:
        self._rows.close()
