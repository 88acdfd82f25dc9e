"""Is everything there that a run needs: one finding per part, each with what to do about it."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass

import typer

from syncer.endings import exit_for
from syncer.exits import Exit
from syncer.exporters import wrong
from syncer.partner_central import client
from syncer.partner_central.errors import PartnerCentralError, Rejected, Transient, Unreachable
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


SIGN_IN = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
SIGN_IN_ANEW = "they have expired: sign in anew, or let a role renew them"
CLOCK = "is the secret key the one of this access key, and is the machine's clock right?"
UNKNOWN_KEY = "AWS does not know the access key: has it been deleted, or is it for another part of AWS?"
ALLOW = "the policy has to allow {actions}: see Policy in deploy/aws/template.yaml"

# What is to be done about what AWS or its SDK says, by its own name for it.
REMEDIES = {
    "NoCredentialsError": SIGN_IN,
    "ProfileNotFound": "AWS_PROFILE names one of ~/.aws/config",
    "ExpiredToken": SIGN_IN_ANEW,
    "ExpiredTokenException": SIGN_IN_ANEW,
    "InvalidSignatureException": CLOCK,
    "SignatureDoesNotMatch": CLOCK,
    "RequestExpired": CLOCK,
    "InvalidClientTokenId": UNKNOWN_KEY,
    "UnrecognizedClientException": UNKNOWN_KEY,
    "AccessDenied": ALLOW,
    "AccessDeniedException": ALLOW,
    "ValidationException": "is SYNCER_CATALOG, or --catalog, AWS or Sandbox, spelt like that?",
}
NO_WAY = (
    "is there a way to port 443 there (network policy, proxy), and no AWS_ENDPOINT_URL that leads elsewhere?"
)
FAILING = "AWS fails, and may not in a while; or an AWS_ENDPOINT_URL leads to somebody else"
# What each part asks for.
ASKED = {
    "API": "partnercentral:ListConnections, and partnercentral:GetConnection",
    "credentials": "sts:GetCallerIdentity (or set SYNCER_ACCOUNT_ID)",
}


def settings(variables: MutableMapping[str, str], context: typer.Context) -> list[Finding]:
    """What is wrong with the environment's variables, for whichever command. No value is repeated."""
    unfit = [
        f"{name}: no command knows it"
        + (f"; is {nearest} meant?" if nearest else "; see syncer COMMAND --help")
        for name, nearest in unknown(variables, known_to(context))
    ] + [
        f"{name}: its value is none that {option} takes: see syncer COMMAND --help"
        for name, option in unusable(variables, context)
    ]
    found = [Finding("settings", Exit.NOT_SET_UP, each) for each in unfit]
    untold = wrong(variables)
    if untold:
        found.append(Finding("telemetry", Exit.NOT_SET_UP, untold))
    return found


async def findings(settings: RunSettings, database_url: str | None, queue_url: str | None) -> list[Finding]:
    """Try each part in turn; a part whose ground is missing is not tried.

    database_url: None: there is none to try. queue_url: None: none is used.
    """
    found: list[Finding] = []
    if database_url is not None:
        found.append(await _found("database", lambda: fitness(database_url)))
        if found[-1].exit is Exit.OK:
            found.append(await _schema(database_url))
    if settings.account_id and not re.fullmatch(r"[0-9]{12}", settings.account_id):
        # It is a part of every key: with a digit missing it would be an account of its own, for ever.
        found.append(Finding("settings", Exit.NOT_SET_UP, "SYNCER_ACCOUNT_ID: an AWS account has 12 digits"))
    found.append(await _found("credentials", lambda: _credentials(settings)))
    if found[-1].exit is Exit.OK:
        found.append(await _found("API", lambda: _api(settings)))
    found.append(await _found("queue", lambda: _queue(queue_url)))
    return found


async def _found(part: str, attempt: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(part, Exit.OK, await attempt())
    except PartnerCentralError as error:
        # Asked for a page of a list, and not for an ID that may be wrong: it is the question that is.
        exit_code = Exit.NOT_SET_UP if isinstance(error, Rejected) else exit_for(error) or Exit.LATER
        return Finding(part, exit_code, f"{error}{_remedy(error, part)}")
    except (DatabaseError, sqs.QueueError) as error:
        return Finding(part, exit_for(error) or Exit.LATER, str(error))


def _remedy(error: PartnerCentralError, part: str) -> str:
    remedy = REMEDIES.get(error.code, "")
    if not remedy and isinstance(error, Transient):
        remedy = NO_WAY if isinstance(error, Unreachable) else FAILING
    if not remedy:
        return ""
    return f": {remedy.format(actions=ASKED[part])}"


async def _schema(url: str) -> Finding:
    wrong = schema.difference(await schema.current(url))
    if wrong:
        return Finding("schema", Exit.NOT_SET_UP, wrong)
    return Finding("schema", Exit.OK, f"version {schema.VERSION}, current")


async def _credentials(settings: RunSettings) -> str:
    session = client.own_session()
    await client.signs(session)
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
