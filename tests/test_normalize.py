from datetime import UTC, datetime
from typing import Any

import pytest

from syncer.answers import ConnectionType
from syncer.normalize import Unreadable, normalized

ID = "pac-0000000000001"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
TEXT = "2026-01-02T03:04:05.678901Z"


def detail(**changes: Any) -> dict[str, Any]:
    return {
        "CreatedAt": TEXT,
        "InviterEmail": "ines@partner.example",
        "InviterName": "Inês Ødegård",
        "Status": "ACTIVE",
        "OtherParticipant": {"PartnerProfile": {"Id": "pprofile-0000000000001", "Name": "Öko & Söhne"}},
    } | changes


def answer(**changes: Any) -> dict[str, Any]:
    return {
        "Catalog": "AWS",
        "Id": ID,
        "Arn": f"arn:aws:partnercentral:us-east-1::catalog/AWS/connection/{ID}",
        "OtherParticipantAccountId": "000123456789",
        "UpdatedAt": TEXT,
        "ConnectionTypes": {"SUBSIDIARY": detail()},
    } | changes


def read(**changes: Any) -> Any:
    return normalized(answer(**changes), identifier=ID, catalog="AWS")


def test_every_value_arrives_as_it_was_served() -> None:
    connection = read()
    assert connection.arn.endswith(ID)
    assert connection.other_participant_account_id == "000123456789"
    assert connection.updated_at == MOMENT
    assert connection.drift == ()
    assert connection.types == (
        ConnectionType(
            type="SUBSIDIARY",
            status="ACTIVE",
            created_at=MOMENT,
            inviter_email="ines@partner.example",
            inviter_name="Inês Ødegård",
            canceled_at=None,
            canceled_by=None,
            participant_kind="PartnerProfile",
            participant_id="pprofile-0000000000001",
            participant_name="Öko & Söhne",
        ),
    )


@pytest.mark.parametrize(
    ("union", "kind", "participant_id", "name"),
    [
        ({"PartnerProfile": {"Id": "pprofile-a", "Name": "A"}}, "PartnerProfile", "pprofile-a", "A"),
        ({"SellerProfile": {"Id": "seller-1", "Name": "S"}}, "SellerProfile", "seller-1", "S"),
        ({"Account": {"Name": "Acme"}}, "Account", "000123456789", "Acme"),
        ({"__type": "Account", "Account": {"Name": "Acme"}}, "Account", "000123456789", "Acme"),
        ({"PartnerProfile": None, "Account": {"Name": "Acme"}}, "Account", "000123456789", "Acme"),
        ({"Account": {}}, "Account", "000123456789", None),
        # Nobody knows yet what its members mean, nor of what shape it is.
        ({"Guild": {"Id": "g-1", "Name": "The Guild"}}, "Guild", "000123456789", None),
        ({"Guild": ["g-1"]}, "Guild", "000123456789", None),
    ],
)
def test_the_other_participant_is_keyed_by_its_profile_or_else_by_its_account(
    union: dict[str, Any], kind: str, participant_id: str, name: str | None
) -> None:
    (each,) = read(ConnectionTypes={"SUBSIDIARY": detail(OtherParticipant=union)}).types
    assert (each.participant_kind, each.participant_id, each.participant_name) == (kind, participant_id, name)


def test_what_aws_may_extend_passes_through_and_is_counted() -> None:
    connection = read(
        ConnectionTypes={
            "RESALE": detail(Status="PAUSED", OtherParticipant={"Guild": {"Name": "The Guild"}})
        },
        NewMember={"anything": 1},
    )
    (each,) = connection.types
    assert (each.type, each.status, each.participant_kind) == ("RESALE", "PAUSED", "Guild")
    assert sorted(connection.drift) == ["participant Guild", "status PAUSED", "type RESALE"]


def test_types_are_sorted_whatever_their_order_in_the_answer() -> None:
    connection = read(ConnectionTypes={"SUBSIDIARY": detail(), "OPPORTUNITY_COLLABORATION": detail()})
    assert [each.type for each in connection.types] == ["OPPORTUNITY_COLLABORATION", "SUBSIDIARY"]


@pytest.mark.parametrize("bad", [chr(0), chr(0xD800), chr(0xDFFF)])
def test_what_postgres_cannot_store_is_replaced_and_counted(bad: str) -> None:
    connection = read(ConnectionTypes={"SUBSIDIARY": detail(InviterName=f"a{bad}b")})
    assert connection.types[0].inviter_name == "a\ufffdb"
    assert connection.drift == ("unstorable characters in InviterName",)


def test_astral_characters_are_no_surrogates() -> None:
    connection = read(ConnectionTypes={"SUBSIDIARY": detail(InviterName="👩‍🚀 𐍈")})
    assert connection.types[0].inviter_name == "👩‍🚀 𐍈"
    assert connection.drift == ()


def test_an_inviter_that_is_missing_costs_nothing_but_a_note() -> None:
    connection = read(ConnectionTypes={"SUBSIDIARY": detail(InviterName=None, InviterEmail=None)})
    assert connection.types[0].inviter_name is None
    assert connection.drift == ("no InviterEmail", "no InviterName")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Id": None}, "Id is missing"),
        ({"Id": "pac-0000000000002"}, "Id is not the one that was asked for"),
        ({"Catalog": "Sandbox"}, "Catalog is not the one that was asked for"),
        ({"Arn": None}, "Arn is missing"),
        ({"UpdatedAt": None}, "UpdatedAt is missing"),
        ({"UpdatedAt": "yesterday"}, "UpdatedAt is not a time"),
        ({"OtherParticipantAccountId": 123456789}, "OtherParticipantAccountId is not text"),
        ({"ConnectionTypes": None}, "ConnectionTypes is missing"),
        ({"ConnectionTypes": []}, "ConnectionTypes is not a structure"),
        ({"ConnectionTypes": {"X": {}}}, "ConnectionTypes.X.OtherParticipant is missing"),
        (
            {"ConnectionTypes": {"X": detail(OtherParticipant={})}},
            "ConnectionTypes.X.OtherParticipant has 0 members, not one",
        ),
        (
            {"ConnectionTypes": {"X": detail(OtherParticipant={"Account": {}, "Guild": {}})}},
            "ConnectionTypes.X.OtherParticipant has 2 members, not one",
        ),
        (
            {"ConnectionTypes": {"X": detail(OtherParticipant={"PartnerProfile": {"Name": "n"}})}},
            "ConnectionTypes.X.OtherParticipant.PartnerProfile.Id is missing",
        ),
        ({"ConnectionTypes": {"X": detail(Status=None)}}, "ConnectionTypes.X.Status is missing"),
        ({"ConnectionTypes": {"X": detail(CreatedAt=None)}}, "ConnectionTypes.X.CreatedAt is missing"),
    ],
)
def test_what_a_row_cannot_do_without_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unreadable) as refused:
        read(**changes)
    assert str(refused.value) == message


def test_the_guides_spell_the_catalog_in_two_ways() -> None:
    connection = normalized(answer(Catalog="sandbox"), identifier=ID, catalog="Sandbox")
    assert connection.id == ID
