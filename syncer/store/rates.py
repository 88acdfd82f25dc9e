"""The learned rates, kept and shared: one row per account, catalog and operation.

Workers exchange what they saw for a share of the rate about once a second. Reading and writing the row are
two statements of their own, the second one only if nobody was faster: no transaction is held, no lock is left
behind by the dead, and a call never waits for the database.
"""

import json
from collections.abc import Mapping

from syncer.partner_central.pacing import Report, Row, Share, Start, exchange
from syncer.store import statements
from syncer.store.pool import Pool
from syncer.store.writer import Scope

# Somebody was faster: look again. Never more often, for a share is no more than advice.
TRIES = 5


class Rates:
    """The rows of one account and catalog."""

    def __init__(self, pool: Pool, scope: Scope) -> None:
        self._pool = pool
        self._scope = scope

    async def exchange(self, reports: Mapping[str, Report]) -> Mapping[str, Share | Start | None]:
        """Hand in a report per operation; the share of each: None where nothing is known yet.

        Raises the database's error.
        """
        shares: dict[str, Share | Start | None] = {}
        open_reports = dict(reports)
        async with self._pool.connection() as connection:
            for _ in range(TRIES):
                found = await connection.execute(statements.RATES, self._scope.keys)
                rows = await found.fetchall()
                now = rows[0].now
                states: dict[str, Row] = {row.operation: row.state for row in rows if row.operation}
                seen = {row.operation: row.version for row in rows if row.operation}
                changed: dict[str, Row] = {}
                for operation, report in open_reports.items():
                    changed[operation], shares[operation] = exchange(states.get(operation), report, now)
                put = await connection.execute(
                    statements.PUT_RATES,
                    {
                        **self._scope.keys,
                        "operations": [*changed],
                        "rates": [_quota(row) for row in changed.values()],
                        "states": [json.dumps(row) for row in changed.values()],
                        "versions": [seen.get(operation, 0) for operation in changed],
                    },
                )
                for row in await put.fetchall():
                    del open_reports[row.operation]
                if not open_reports:
                    break
        return shares


def _quota(row: Row) -> float | None:
    return None if row["learner"] is None else row["learner"]["quota"]
