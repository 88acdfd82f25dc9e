import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.identifiers import LONGEST_KEPT, item

ID = "pac-AAAAAAAAAAAA1"
ARN = f"arn:aws:partnercentral:us-east-1::catalog/AWS/connection/{ID}"


@pytest.mark.parametrize(
    "text",
    [
        ID,
        f"  {ID}\r\n",
        ARN,
        ARN.replace("/AWS/", "/aws/"),
        ARN.replace("arn:aws:", "arn:aws-us-gov:"),
        ARN.replace("us-east-1::", ":123456789012:"),
    ],
)
def test_an_id_or_an_arn_of_the_catalog_is_an_id(text: str) -> None:
    read = item(7, text, "AWS", "ids:8")
    assert (read.position, read.identifier, read.problem, read.where) == (7, ID, None, "ids:8")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" \t", "empty"),
        (ID.lower().replace("pac-", "PAC-"), "begins with pac-"),
        (ID.replace("pac", "Pac"), "begins with pac-"),
        ("x" + ID, "begins with pac-"),
        (ID[:-1], "13 characters after pac-, this has 12"),
        (ID + "1", "13 characters after pac-, this has 14"),
        (f"{ID},{ID}", "13 characters"),
        ("pac-1;drop table", "13 characters after pac-, this has 12"),
        (ID[:-1] + "\N{FULLWIDTH DIGIT ONE}", "only the letters"),
        (ID[:-1] + "\N{ARABIC-INDIC DIGIT ONE}", "only the letters"),
        (ID[:-1] + "ü", "only the letters"),
        (ID[:-1] + "\0", "only the letters"),
        (ID[:-2] + "\n1", "only the letters"),
        ("pacinv-AAAAAAAAAAAA1", "invitation"),
        (ARN.replace("/AWS/", "/Sandbox/"), "of catalog Sandbox, this run is of catalog AWS"),
        (ARN.replace("connection/pac-", "connection-invitation/pacinv-"), "not the ARN of a connection"),
        (ARN + "x", "not the ARN of a connection"),
        (ARN.replace("partnercentral", "s3"), "not the ARN of a connection"),
    ],
)
def test_what_is_none_says_why(text: str, why: str) -> None:
    read = item(0, text, "AWS")
    assert read.problem is not None
    assert why in read.problem


def test_a_reason_known_already_is_not_second_guessed() -> None:
    assert item(0, ID, "AWS", wrong="the line was cut").problem == "the line was cut"


@given(st.text())
def test_anything_can_be_recorded(text: str) -> None:
    for long in (text, text * LONGEST_KEPT):
        kept = item(0, long, "AWS", wrong="wrong").identifier
        assert "\0" not in kept
        # Storable, and small enough for an index entry.
        assert len(kept.encode()) < 2700


def test_two_long_ones_stay_two() -> None:
    one, other = (item(0, "x" * 10_000 + end, "AWS").identifier for end in "12")
    assert one != other
    assert one.startswith("x" * LONGEST_KEPT)
