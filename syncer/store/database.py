"""How a database is named, and what its errors mean for a run."""

import os
import re
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict

from syncer.rds import NoToken
from syncer.settings import DatabaseAuth

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


@dataclass(frozen=True, slots=True)
class Target:
    """A database, as a URL names it. parameters: libpq's, by their names. auth: how to log in."""

    parameters: dict[str, str]
    auth: DatabaseAuth

    @property
    def host(self) -> str:
        """Its name, or names; a folder for a local socket; empty where libpq's own default is meant."""
        return self.parameters.get("host", "")

    @property
    def port(self) -> str:
        """Its number, or numbers; empty where libpq's own default is meant."""
        return self.parameters.get("port", "").strip(",")

    @property
    def user(self) -> str:
        """Empty where libpq's own default is meant."""
        return self.parameters.get("user", "")


def target(url: str) -> Target:
    """What `url` (``postgresql://…``, as psql takes it) names.

    Raises `BadDatabaseUrl`, without repeating the URL: there may be a password in it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[a-z0-9+]+", scheme):
        raise BadDatabaseUrl("DATABASE_URL is no URL such as postgresql://user@host/database")
    if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise BadDatabaseUrl(
            f"DATABASE_URL begins with {scheme}://, but syncer needs Postgres: postgresql://…"
        )
    place, _, query = rest.partition("?")
    options = [option for option in query.split("&") if option]
    iam = f"{AUTH}={DatabaseAuth.IAM}"
    plain = "&".join(option for option in options if option != iam)
    try:
        found = conninfo_to_dict(f"postgresql://{place}?{plain}")
    except psycopg.ProgrammingError as error:
        unknown = re.search(r'invalid URI query parameter: "(\w+)"', str(error))
        if unknown and "@" not in query:
            raise BadDatabaseUrl(f"DATABASE_URL has a parameter that does not exist: {unknown[1]}") from None
        raise BadDatabaseUrl(
            "DATABASE_URL is no URL such as postgresql://user@host/database; "
            "in user and password write %25 for %, %2F for /, %3F for ?"
        ) from None
    parameters = {name: str(value) for name, value in found.items() if value is not None}
    # What is taken for a host, a port or a database may be the end of a password: nobody must be shown it.
    if "@" in parameters.get("host", "") or "@" in place.partition("@")[2] or "@" in place.partition("/")[2]:
        raise BadDatabaseUrl("DATABASE_URL has an @ in its user or password: write it as %40")
    if not re.fullmatch(r"[0-9,]*", parameters.get("port", "")):
        raise BadDatabaseUrl(
            "DATABASE_URL: the port is no number; in user and password write %3A for :, %2F for /, %3F for ?"
        )
    return Target(parameters, DatabaseAuth.IAM if iam in options else DatabaseAuth.PASSWORD)


def with_auth(url: str, auth: DatabaseAuth) -> str:
    """`url`, for connections that log in like this. Raises `BadDatabaseUrl` where that cannot be."""
    if auth is DatabaseAuth.PASSWORD:
        return url
    named = target(url)
    if not re.fullmatch("[^/,][^,]*", named.host) or "," in named.port or not named.user:
        raise BadDatabaseUrl("--db-auth iam: DATABASE_URL has to name one host and a user")
    if "password" in named.parameters:
        raise BadDatabaseUrl("--db-auth iam makes its own password: leave the one in DATABASE_URL away")
    mode = named.parameters.get("sslmode") or os.environ.get("PGSSLMODE") or ENCRYPTED[-1]
    if mode not in ENCRYPTED:
        raise BadDatabaseUrl(f"--db-auth iam sends a token over the wire: sslmode={ENCRYPTED[-1]}, please")
    more = f"{AUTH}={auth}" if "sslmode" in named.parameters else f"sslmode={mode}&{AUTH}={auth}"
    return f"{url}{'&' if '?' in url else '?'}{more}"


def described(url: str) -> str:
    """Host and database of `url`, for people; never its password. Raises `BadDatabaseUrl`."""
    named = target(url)
    port = f":{named.port}" if named.port else ""
    return (
        f"database {named.parameters.get('dbname', 'postgres')} on {named.host or 'the local socket'}{port}"
    )


# SQLSTATEs, by class or whole: https://www.postgresql.org/docs/current/errcodes-appendix.html
# A standby, or a primary that is being failed over.
READ_ONLY = "25006"
# Of class 25 there is what is read-only, and transactions that were idle, or open, for longer than allowed.
PASSING_CLASSES = ("08", "25", "40", "53", "57", "58")
PASSING = frozenset(
    {
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
    return error.sqlstate if isinstance(error, psycopg.Error) else None


def violated(error: BaseException) -> str | None:
    """The name of the constraint that `error` is about, if it is about one."""
    return error.diag.constraint_name if isinstance(error, psycopg.Error) else None


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may well succeed on a fresh connection: lost, deadlock, failover."""
    if isinstance(error, NoToken):
        return False
    if isinstance(error, OSError | TimeoutError):
        return True
    if not isinstance(error, psycopg.Error):
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
        if target(url).auth is DatabaseAuth.IAM:
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
    text = str(error)
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
    code = sqlstate(error)
    if code:
        return f"{type(error).__name__}, {code}"
    # No server spoke: these are the client library's own words about the connection.
    return str(error).partition("\n")[0] or type(error).__name__
