"""Is everything there that a run needs: one finding per part, each with what to do about it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import typer

from syncer.endings import exit_for
from syncer.exits import Exit
from syncer.exporters import missing
from syncer.partner_central import client
from syncer.partner_central.errors import PartnerCentralError
from syncer.settings import RunSettings
from syncer.sqs import client as sqs
from syncer.store import schema
from syncer.store.database import DatabaseError
from syncer.store.fitness import fitness
from syncer.variables import known_to, unknown, unusable


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check. exit: `Exit.OK` where all is well."""

    part: str
    exit: Exit
    message: str


def settings(variables: Mapping[str, str], context: typer.Context) -> list[Finding]:
    """What is wrong with the environment's variables, for whichever command. No value is repeated."""
    wrong = [
        f"{name}: no command knows it"
        + (f"; is {nearest} meant?" if nearest else "; see syncer COMMAND --help")
        for name, nearest in unknown(variables, known_to(context))
    ] + [f"{name}: its value is not of the kind {kind}" for name, kind in unusable(variables, context)]
    found = [Finding("settings", Exit.NOT_SET_UP, each) for each in wrong]
    lacking = missing(variables)
    if lacking:
        found.append(Finding("telemetry", Exit.NOT_SET_UP, lacking))
    return found


async def findings(settings: RunSettings, database_url: str, queue_url: str | None) -> list[Finding]:
    """Try each part in turn; a part whose ground is missing is not tried. queue_url: None: none is used."""
    found = [await _found("database", lambda: fitness(database_url))]
    if found[-1].exit is Exit.OK:
        found.append(await _schema(database_url))
    found.append(await _found("credentials", lambda: _credentials(settings)))
    if found[-1].exit is Exit.OK:
        found.append(await _found("API", lambda: _api(settings)))
    found.append(await _found("queue", lambda: _queue(queue_url)))
    return found


async def _found(part: str, attempt: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(part, Exit.OK, await attempt())
    except (DatabaseError, PartnerCentralError, sqs.QueueError) as error:
        return Finding(part, exit_for(error) or Exit.LATER, str(error))


async def _schema(url: str) -> Finding:
    wrong = schema.difference(await schema.current(url))
    if wrong:
        return Finding("schema", Exit.NOT_SET_UP, wrong)
    return Finding("schema", Exit.OK, f"version {schema.VERSION}, current")


async def _credentials(settings: RunSettings) -> str:
    session = client.own_session()
    if settings.account_id:
        return f"account {settings.account_id}, as configured"
    return f"account {await client.account_of(session)}, as STS tells"


async def _queue(url: str | None) -> str:
    if url is None:
        return "none configured; only `syncer work` and `syncer enqueue` need one"
    async with sqs.opened(client.own_session(), url, connections=1) as queue:
        about, depth = await queue.about(), await queue.depth()
    redrive = (
        f"to the dead-letter queue after {about.redrive} receipts"
        if about.redrive
        else "no dead-letter queue: give it one"
    )
    return f"{url}: about {depth.visible:,} messages, visibility timeout {about.visibility} s, {redrive}"


async def _api(settings: RunSettings) -> str:
    async with client.opened(client.own_session(), catalog=settings.catalog, connections=1) as api:
        page = await api.list_connections(limit=1)
    some = "at least one connection" if page.get("ConnectionSummaries") else "no active connection"
    return f"Partner Central answers for catalog {settings.catalog}: {some}"
