"""Logging in to Amazon RDS with IAM: a signed token in place of a password, made anew for each connection.

Source: the RDS user guide, "IAM database authentication". A token holds for 15 minutes, and only to log in.
"""

import os
import re
from collections.abc import Awaitable, Callable

import aioboto3
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, NoCredentialsError, ProfileNotFound

# As in partners.abc123.eu-west-1.rds.amazonaws.com, and .rds.cn-north-1.amazonaws.com.cn for China.
REGION_IN_HOST = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.rds\.|\.rds\.([a-z]{2}(?:-[a-z]+)+-\d)\.")


class NoToken(OSError):
    """No token can be made, and trying again does not help; the message is one line for a person."""


def region(host: str, configured: str | None) -> str | None:
    """The database's region: what its host name says, else what is configured for the AWS SDK."""
    found = REGION_IN_HOST.search(host)
    return (found[1] or found[2]) if found else configured


def tokens(host: str, port: int, user: str) -> Callable[[], Awaitable[str]]:
    """Makes a token for `user` at `host` and `port`, whenever it is called.

    The credentials are the SDK's own, renewed as it does. Making one asks nobody but where those come from.
    Raises `NoToken`, and `OSError` where it may work later.
    """
    sessions: list[aioboto3.Session] = []

    async def token() -> str:
        try:
            if not sessions:
                sessions.append(aioboto3.Session())
            # The SDK looks at AWS_DEFAULT_REGION only. Containers and functions have the other one.
            configured = os.environ.get("AWS_REGION") or sessions[0].region_name
            where = region(host, configured)
            if where is None:
                raise NoToken(f"{host} does not tell the database's region: set AWS_REGION")
            async with sessions[0].client("rds", region_name=where) as rds:
                made: str = await rds.generate_db_auth_token(DBHostname=host, Port=port, DBUsername=user)
        except (NoCredentialsError, ProfileNotFound) as error:
            raise NoToken(f"no AWS credentials to sign a token with: {error}") from None
        except CredentialRetrievalError as error:
            raise OSError(f"no AWS credentials to be had now: {type(error).__name__}") from None
        except BotoCoreError as error:
            raise NoToken(f"no token can be signed: {type(error).__name__}") from None
        return made

    return token
