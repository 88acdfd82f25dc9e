"""The database engine, and what its errors mean for a run.

The driver is psycopg 3: set-wise statements are as quick with it as with asyncpg, and it lives well with
PgBouncer in transaction mode and with cancellation.
"""

import os
from typing import Any

from sqlalchemy import URL, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from syncer.rds import NoToken, tokens
from syncer.settings import DatabaseAuth

CONNECT_TIMEOUT = 10
PORT = 5432
# In a URL, beside what libpq knows: how to log in. So that a URL says all that a connection needs.
AUTH = "syncer_auth"
# A token is as good as a password: only these keep it from whoever listens, and only the last from whoever
# answers in the server's place.
ENCRYPTED = ("require", "verify-ca", "verify-full")
RDS_BUNDLE = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"


class DatabaseError(Exception):
    """The database cannot be used; the message is one line for a person and holds no secret."""


class BadDatabaseUrl(DatabaseError):
    """The setting itself is wrong."""


class DatabaseUnavailable(DatabaseError):
    """Not now: it may well work later."""


class DatabaseDenied(DatabaseError):
    """Wrong credentials or missing rights."""


class DatabaseUntrusted(DatabaseError):
    """The server does not prove that it is the one that is meant, or does not encrypt."""


class DatabaseNotSetUp(DatabaseError):
    """There is no such database, or not with this program's schema."""


def sqlalchemy_url(url: str) -> URL:
    """`url` (``postgresql://…``, as psql takes it) for SQLAlchemy and psycopg.

    Raises `BadDatabaseUrl`, without repeating the URL: there may be a password in it.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise BadDatabaseUrl("DATABASE_URL is no URL such as postgresql://user@host/database") from None
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise BadDatabaseUrl(
            f"DATABASE_URL begins with {parsed.drivername}://, but syncer needs Postgres: postgresql://…"
        )
    if parsed.host and "@" in parsed.host:
        # What stands before it belongs to a password: the host must not be shown to anybody.
        raise BadDatabaseUrl("DATABASE_URL has an @ in its user or password: write it as %40")
    return parsed.set(drivername="postgresql+psycopg").difference_update_query([AUTH])


def with_auth(url: str, auth: DatabaseAuth) -> str:
    """`url`, for connections that log in like this. Raises `BadDatabaseUrl` where that cannot be."""
    if auth is DatabaseAuth.PASSWORD:
        return url
    parsed = sqlalchemy_url(url)
    if not parsed.host or not parsed.username or "," in parsed.host:
        raise BadDatabaseUrl("--db-auth iam: DATABASE_URL has to name one host and a user")
    if parsed.password:
        raise BadDatabaseUrl("--db-auth iam makes its own password: leave the one in DATABASE_URL away")
    mode = parsed.query.get("sslmode") or os.environ.get("PGSSLMODE") or ENCRYPTED[-1]
    if mode not in ENCRYPTED:
        raise BadDatabaseUrl(f"--db-auth iam sends a token over the wire: sslmode={ENCRYPTED[-1]}, please")
    parsed = parsed.update_query_dict({"sslmode": mode, AUTH: auth})
    return parsed.set(drivername="postgresql").render_as_string(hide_password=False)


def described(url: str) -> str:
    """Host and database of `url`, for people; never its password."""
    parsed = sqlalchemy_url(url)
    host = parsed.host or parsed.query.get("host") or "the local socket"
    port = f":{parsed.port}" if parsed.port else ""
    return f"database {parsed.database or 'postgres'} on {host}{port}"


def engine_for(url: str, connections: int = 3) -> AsyncEngine:
    """An engine for `url` with up to `connections`; it connects when first used. 0: one for each use.

    Raises `BadDatabaseUrl`.
    """
    parsed = sqlalchemy_url(url)
    pool: dict[str, Any] = (
        {"pool_size": connections, "max_overflow": 1} if connections else {"poolclass": NullPool}
    )
    engine = create_async_engine(
        parsed,
        **pool,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT,
            # Prepared statements outlive a transaction, which PgBouncer in transaction mode does not.
            "prepare_threshold": None,
            "application_name": "syncer",
            # A database host that vanishes is noticed in half a minute, not after two hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )
    event.listen(engine.sync_engine, "handle_error", _leave_read_only)
    if make_url(url).query.get(AUTH) == DatabaseAuth.IAM:
        token = tokens(parsed.host or "", parsed.port or PORT, parsed.username or "")

        @event.listens_for(engine.sync_engine, "do_connect")
        def log_in(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
            parameters["password"] = await_only(token())

    return engine


def _leave_read_only(context: ExceptionContext) -> None:
    """Let go of connections to a server that only reads.

    After a failover the old ones may lead to the former primary for ever; a fresh one finds the new one.
    """
    if sqlstate(context.original_exception) == READ_ONLY:
        context.is_disconnect = True


# SQLSTATEs, by class or whole: https://www.postgresql.org/docs/current/errcodes-appendix.html
# A standby, or a primary that is being failed over.
READ_ONLY = "25006"
PASSING_CLASSES = ("08", "40", "53", "57", "58")
PASSING = frozenset(
    {
        READ_ONLY,
        "55P03",  # lock not available
        "55006",  # object in use
    }
)
DENIED_CLASSES = ("28",)
DENIED = frozenset({"42501"})
NOT_SET_UP = frozenset(
    {
        "3D000",  # no such database
        "3F000",  # no such schema
        "42P01",  # no such table
        "42703",  # no such column
        "42704",  # no such object
        "42883",  # no such function
    }
)


def sqlstate(error: BaseException) -> str | None:
    """The five-character code of a database error; None where the server sent none."""
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlstate", None)
    return code if isinstance(code, str) else None


def violated(error: BaseException) -> str | None:
    """The name of the constraint that `error` is about, if it is about one."""
    original = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(getattr(original, "diag", None), "constraint_name", None)
    return name if isinstance(name, str) else None


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may well succeed on a fresh connection: lost, deadlock, failover."""
    if isinstance(error, NoToken):
        return False
    if isinstance(error, OSError | TimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    code = sqlstate(error)
    if code is None:
        # No answer from the server: the connection broke, or could not be made. What could not be made
        # because of a wrong password or database name says so in words only.
        return _words(error) is None
    return code in PASSING or code.startswith(PASSING_CLASSES)


def is_refusal(error: BaseException) -> bool:
    """Whether the database refused a row: too long for an index, a constraint, a trigger.

    What is left when it is neither about the connection nor about rights or the schema (class 42).
    """
    code = sqlstate(error)
    if code is None or is_passing(error):
        return False
    return not code.startswith(("42", *DENIED_CLASSES)) and code not in NOT_SET_UP


def meaning(error: BaseException, url: str) -> DatabaseError:
    """What `error` means for the whole run, in one line for a person."""
    where = described(url)
    code = sqlstate(error)
    words = _words(error)
    if words == "no such option":
        return BadDatabaseUrl(
            f"{where}: DATABASE_URL has a parameter that is not known there ({_named(error)}): correct it or "
            "leave it out; behind PgBouncer, `alter role … set …` does what options=… would"
        )
    if words == "untrusted":
        return DatabaseUntrusted(f"{where}: {_named(error)}: {_remedy(str(error))}")
    if isinstance(error, NoToken):
        return DatabaseDenied(f"{where}: {error}")
    if (code and (code in DENIED or code.startswith(DENIED_CLASSES))) or words == "denied":
        remedy = "check user, password and rights"
        if make_url(url).query.get(AUTH) == DatabaseAuth.IAM:
            remedy = "may the AWS role rds-db:connect as this user, and has the user the role rds_iam?"
        elif "no encryption" in str(error):
            remedy = f"the server wants TLS: add ?sslmode={ENCRYPTED[-1]} to DATABASE_URL"
        return DatabaseDenied(f"{where}: not allowed ({_named(error)}): {remedy}")
    if code in NOT_SET_UP or words == "not set up":
        return DatabaseNotSetUp(
            f"{where}: not set up ({_named(error)}): run `syncer migrate`, or check the name"
        )
    remedy = "" if code else ": is it running, is that its host and port, and is there a way to it?"
    return DatabaseUnavailable(f"{where}: not available now ({_named(error)}){remedy}")


NOT_ITS_CA = f"sslrootcert, or PGSSLROOTCERT, is not this server's CA: take its own; of RDS: {RDS_BUNDLE}"

# What libpq and OpenSSL say about a server that they do not trust, and what there is to be done.
UNTRUSTED = {
    "root certificate file": "name a file with the CA: sslrootcert=… in DATABASE_URL, or PGSSLROOTCERT; "
    f"of RDS: {RDS_BUNDLE}",
    "certificate verify failed": NOT_ITS_CA,
    # A CA of the same name, with another key: the one before, say.
    "signature failure": NOT_ITS_CA,
    "does not match host name": "the certificate is another server's: connect by a name that it has",
    "server does not support SSL": "switch TLS on at the server; sslmode=prefer does without it",
}


# The client's words, and PgBouncer's.
NO_SUCH_OPTION = ("invalid connection option", "invalid sslmode value", "unsupported startup parameter")


def _remedy(text: str) -> str:
    return next(remedy for said, remedy in UNTRUSTED.items() if said in text)


def _words(error: BaseException) -> str | None:
    """What libpq tells only in words when a connection cannot be made (it passes no SQLSTATE on)."""
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    if any(each in text for each in NO_SUCH_OPTION):
        return "no such option"
    if any(each in text for each in UNTRUSTED):
        return "untrusted"
    if "authentication failed" in text or "no password supplied" in text or "no pg_hba.conf entry" in text:
        return "denied"
    if ("role " in text or "database " in text) and "does not exist" in text:
        return "not set up" if "database " in text.partition("FATAL:")[2][:12] else "denied"
    return None


def _named(error: BaseException) -> str:
    """The error's name and code. Not the server's text: that may quote values of the rows."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    code = sqlstate(error)
    if code:
        return f"{type(original).__name__}, {code}"
    # No server spoke: these are the client library's own words about the connection.
    return str(original).partition("\n")[0] or type(original).__name__
