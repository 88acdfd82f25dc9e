"""A sync of one or many accounts: settings in, a report out."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import aioboto3
import anyio
import psycopg

from syncer.account_run import AccountRun
from syncer.background import background
from syncer.endings import exit_for
from syncer.exits import Exit
from syncer.partner_central import client
from syncer.partner_central.errors import PartnerCentralError
from syncer.progress import show
from syncer.report import Report, unstarted
from syncer.settings import RunSettings
from syncer.sources.files import open_files
from syncer.stopping import Stop, signals
from syncer.store import runs
from syncer.store.database import DatabaseError, meaning
from syncer.store.pool import Pool
from syncer.store.writer import Scope
from syncer.telemetry import Telemetry

# The writer, the lock, and whoever asks something beside them.
CONNECTIONS_PER_RUN = 3


async def sync(settings: RunSettings, database_url: str) -> list[Report]:
    """Fetch and write the connections that the settings' input names, for each account side by side.

    With roles to assume, what goes wrong with one account is told in its report, and stops no other's.
    Without, raises before any item is taken: `InputError`, `DatabaseError`, `PartnerCentralError`.
    """
    roles = settings.assume_roles
    pool = Pool(database_url, CONNECTIONS_PER_RUN * max(1, len(roles)))
    stops = [Stop() for _ in roles or (None,)]
    progress: list[AccountRun] = []
    try:
        with signals(stops):
            async with background(partial(show, progress)):
                account = partial(
                    _account,
                    settings,
                    pool=pool,
                    progress=progress,
                    telemetry=Telemetry(),
                )
                if not roles:
                    return [await account(client.own_session(), settings.account_id, stops[0])]
                return await _side_by_side(settings, account, stops)
    except (psycopg.Error, OSError) as error:
        raise meaning(error, database_url) from None
    finally:
        await pool.close()


async def _account(
    settings: RunSettings,
    session: aioboto3.Session,
    account_id: str | None,
    stop: Stop,
    *,
    pool: Pool,
    progress: list[AccountRun],
    telemetry: Telemetry,
) -> Report:
    # The user's mistakes first: what is wrong with the input is known before anything is asked for.
    files = await open_files(settings.paths, settings.catalog) if settings.paths else None
    clock = await runs.ready(pool)
    account_id = account_id or await client.account_of(session)
    scope = Scope(runs.new_id(clock.now()), account_id, settings.catalog)
    async with client.opened(session, catalog=settings.catalog, connections=settings.concurrency) as api:
        run = AccountRun(
            settings,
            scope,
            api=api,
            pool=pool,
            clock=clock,
            stop=stop,
            telemetry=telemetry,
        )
        progress.append(run)
        return await run.alone(files)


async def _side_by_side(
    settings: RunSettings, account: Callable[..., Awaitable[Report]], stops: Sequence[Stop]
) -> list[Report]:
    """One run per role, each with a client, lock, pace and row of its own."""
    reports: dict[str, Report] = {}

    async def one(role: str, stop: Stop) -> None:
        session = await client.assuming(role, settings.external_id)
        account_id = client.account_in(role)
        try:
            reports[role] = await account(session, account_id, stop)
        except (DatabaseError, PartnerCentralError) as error:
            reports[role] = unstarted(settings, account_id, exit_for(error) or Exit.LATER, str(error))

    async with anyio.create_task_group() as accounts:
        for role, stop in zip(settings.assume_roles, stops, strict=True):
            accounts.start_soon(one, role, stop)
    return [reports[role] for role in settings.assume_roles]
