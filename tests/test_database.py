"""What is said of a database: never a part of a password, however its URL is written."""

import pytest

from syncer.store.database import BadDatabaseUrl, described

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://syncer:{SECRET}@db.example/partners",
        f"postgresql://syncer:a@{SECRET}@db.example/partners",
        f"postgresql://syncer:{SECRET}@@db.example/partners",
        f"postgresql://syncer:a/{SECRET}@db.example/partners",
        f"postgresql://syncer:a?{SECRET}@db.example/partners",
        f"postgresql://syncer:a#{SECRET}@db.example/partners",
        f"postgresql://syncer:a%{SECRET}@db.example/partners",
        f"postgresql://syncer:[{SECRET}]@db.example/partners",
        f"postgresql://db.example/partners?user=syncer&password={SECRET}",
        f"postgresql://syncer:{SECRET}",
        f"postgresql://syncer@db.example:{SECRET}/partners",
        f"mysql://syncer:{SECRET}@db.example/partners",
        f"postgres//syncer:{SECRET}@db.example/partners",
        f"syncer:{SECRET}@db.example",
        SECRET,
    ],
)
def test_no_part_of_a_password_is_told(url: str) -> None:
    try:
        told = described(url)
    except BadDatabaseUrl as error:
        told = str(error)
    assert SECRET not in told
    assert told


@pytest.mark.parametrize(
    "url", ["postgresql://u@h/x?syncer_auth=nonsense", "postgresql://u@h/x?sslmod=require"]
)
def test_a_parameter_that_nobody_knows_is_named(url: str) -> None:
    with pytest.raises(BadDatabaseUrl, match=r"does not exist: (syncer_auth|sslmod)$"):
        described(url)
