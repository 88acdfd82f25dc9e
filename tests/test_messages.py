"""Bodies of messages, as tables: read as what they are."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.sources.messages import Elsewhere, Ids, Ignored, Meaning, Unreadable, meaning

A, B = "pac-AAAAAAAAAAAAA", "pac-BBBBBBBBBBBBB"
ARN = f"arn:aws:partnercentral:us-east-1::catalog/AWS/connection/{A}"


def event(detail: object, kind: str = "Partner Connection Invitation Accepted", **more: object) -> Any:
    return {"source": "aws.partnercentral-account", "detail-type": kind, "detail": detail} | more


def sns(body: object) -> Any:
    return {"Type": "Notification", "Message": body if isinstance(body, str) else json.dumps(body)}


ACCEPTED = {"catalog": "AWS", "connection": {"id": A}, "connectionInvitation": {"id": "pacinv-1"}}
# The example of the guide: the ARN is that of the invitation.
CANCELED = {"catalog": "AWS", "connection": {"id": A, "arn": "arn:aws:x::connection-invitation/pacinv-1"}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (A, Ids((A,))),
        (f"  {A}\n", Ids((A,))),
        (ARN, Ids((ARN,))),
        (json.dumps(A), Ids((A,))),
        ({"id": A}, Ids((A,))),
        ({"connection_id": A, "id": "17"}, Ids((A,))),
        ({"identifier": A}, Ids((A,))),
        ({"Identifier": A, "Catalog": "aws"}, Ids((A,))),
        ({"arn": ARN, "catalog": None}, Ids((ARN,))),
        ([A, {"id": B}], Ids((A, B))),
        ([A] * 100, Ids((A,) * 100)),
        (event(ACCEPTED), Ids((A,))),
        (event(CANCELED, "Partner Connection Cancelled"), Ids((A,))),
        (sns(event(ACCEPTED)), Ids((A,))),
        (sns(A), Ids((A,))),
        # What is no ID becomes an item, that says so in the end.
        ("pac-1;drop table", Ids(("pac-1;drop table",))),
        ("", Ids(("",))),
        ({"id": "pacinv-1"}, Ids(("pacinv-1",))),
        # Another worker's.
        ({"id": A, "catalog": "Sandbox"}, Elsewhere("Sandbox")),
        (ARN.replace("/AWS/", "/Sandbox/"), Elsewhere("Sandbox")),
        (event(ACCEPTED | {"catalog": "Sandbox"}), Elsewhere("Sandbox")),
        ([A, {"id": B, "catalog": "Sandbox"}], Elsewhere("Sandbox")),
        # About invitations.
        *(
            (event({"connectionInvitation": {"id": "pacinv-1"}}, kind), Ignored(kind))
            for kind in (
                "Partner Connection Invitation Received",
                "Partner Connection Invitation Rejected",
                "Partner Connection Invitation Cancelled",
                "Partner Connection Invitation Expired",
            )
        ),
        # Of no use to anybody.
        ("two\nlines", Unreadable("neither a connection ID nor JSON")),
        ("x" * 300, Unreadable("neither a connection ID nor JSON")),
        (f"{{'id': '{A}'}}", Unreadable("the body begins as JSON, but is none")),
        ([], Unreadable("an empty list")),
        ([A] * 101, Unreadable("a list of 101 IDs; 100 are allowed in one message")),
        (sns(sns(A)), Unreadable("an SNS envelope in an SNS envelope")),
        (
            event(ACCEPTED) | {"source": "aws.s3"},
            Unreadable("an event, but not of Partner Central's accounts"),
        ),
        (event("x"), Unreadable("an event without its detail")),
        *(
            (body, Unreadable("JSON, but without a connection ID under id, connection_id, identifier or arn"))
            for body in (
                {"nothing": A},
                {"id": 17},
                [None],
                [[A]],
                {"id": A, "catalog": 7},
                event({"connection": {}}),
            )
        ),
        ("[" * 100_000, Unreadable("the body begins as JSON, but is none")),
    ],
)
def test_what_a_body_means(body: object, expected: Meaning) -> None:
    assert meaning(body if isinstance(body, str) else json.dumps(body), "AWS") == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20) | st.sampled_from([A, ARN]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["id", "catalog", "detail", "detail-type", "source", "Type", "Message", "connection"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.text(max_size=300) | JSON.map(json.dumps))
def test_no_body_trips_the_parser(body: str) -> None:
    assert isinstance(meaning(body, "AWS"), Ids | Elsewhere | Ignored | Unreadable)
