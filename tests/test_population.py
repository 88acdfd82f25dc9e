"""The simulated connections: computed, repeatable, and as varied as real ones."""

import hashlib
import json
import re
from collections import defaultdict
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.identifiers import CONNECTION_ARN, CONNECTION_ID
from syncer.partner_central.population import IDENTIFIERS, OWN_ACCOUNT, Population

THOUSAND = Population(1000, seed=1)
ANSWERS = [THOUSAND.connection(number) for number in range(1000)]
DETAILS = [(answer, name, detail) for answer in ANSWERS for name, detail in answer["ConnectionTypes"].items()]


def listing(population: Population, limit: int) -> list[dict[str, Any]]:
    summaries: list[dict[str, Any]] = []
    start: int | None = 0
    while start is not None:
        page, start = population.page(start, limit)
        assert len(page) <= limit
        summaries += page
    return summaries


@given(size=st.integers(1, IDENTIFIERS), seed=st.integers(), data=st.data())
def test_an_identifier_leads_back_to_its_number(size: int, seed: int, data: st.DataObject) -> None:
    population = Population(size, seed)
    number = data.draw(st.integers(0, size - 1))
    identifier = population.identifier(number)
    assert CONNECTION_ID.fullmatch(identifier)
    assert population.number(identifier) == number


def test_identifiers_are_distinct_and_those_of_other_numbers_are_unknown() -> None:
    identifiers = list(THOUSAND.identifiers())
    assert len(set(identifiers)) == 1000
    larger = Population(1001, seed=1)
    assert list(larger.identifiers())[:1000] == identifiers
    assert THOUSAND.get(larger.identifier(1000)) is None
    assert THOUSAND.get(identifiers[3]) == ANSWERS[3]


@pytest.mark.parametrize(
    "identifier",
    ["", "pac-", "pac-short", "pac-0123456789ab-", "0123456789abc", "pac-pac-012345678", "pac-" * 4],
)
def test_what_is_no_identifier_is_unknown(identifier: str) -> None:
    assert Population(IDENTIFIERS, seed=1).get(identifier) is None


def test_a_million_connections_cost_no_memory() -> None:
    population = Population(1_000_000, seed=1)
    assert population.get(population.identifier(999_999)) == population.connection(999_999)
    assert population.connection(5) == ANSWERS[5]
    assert not [
        held
        for held in vars(population).values()
        if isinstance(held, list | dict | tuple) and len(held) > 200
    ]


def test_the_same_seed_gives_the_same_answers_everywhere() -> None:
    # A digest written down: another process, Python or machine must come to the same.
    digest = hashlib.sha256(json.dumps(ANSWERS).encode()).hexdigest()
    assert digest[:16] == "63ecd81be29e6818"
    assert Population(10, seed=2).identifier(0) != THOUSAND.identifier(0)
    assert Population(10, seed=1, catalog="Sandbox").identifier(0) != THOUSAND.identifier(0)


def test_answers_have_the_form_that_the_api_documents() -> None:
    for answer in ANSWERS:
        assert set(answer) == {
            "Catalog", "Id", "Arn", "OtherParticipantAccountId", "UpdatedAt", "ConnectionTypes",
        }  # fmt: skip
        arn = CONNECTION_ARN.fullmatch(answer["Arn"])
        assert arn
        assert arn["id"] == answer["Id"]
        assert re.fullmatch("[0-9]{12}", answer["OtherParticipantAccountId"])
    for answer, _, detail in DETAILS:
        required = {"CreatedAt", "InviterEmail", "InviterName", "Status", "OtherParticipant"}
        canceled = {"CanceledAt", "CanceledBy"} if detail["Status"] == "CANCELED" else set()
        assert set(detail) == required | canceled
        times = [detail["CreatedAt"], detail.get("CanceledAt", answer["UpdatedAt"]), answer["UpdatedAt"]]
        assert all(time.endswith("Z") for time in times)
        moments = [datetime.fromisoformat(time).replace(microsecond=0) for time in times]
        assert moments == sorted(moments)
        assert re.fullmatch(r"[a-z.]+@example\.(com|org|net)", detail["InviterEmail"])
        assert len(detail["InviterName"]) <= 80
        ((kind, participant),) = detail["OtherParticipant"].items()
        pattern = {"PartnerProfile": "pprofile-[A-Za-z0-9]{13}", "SellerProfile": "[a-zA-Z0-9-]{1,50}"}.get(
            kind
        )
        assert set(participant) == ({"Id", "Name"} if pattern else {"Name"})
        assert not pattern or re.fullmatch(pattern, participant["Id"])
        assert 0 < len(participant["Name"]) <= 80


def test_a_thousand_connections_show_what_real_ones_do() -> None:
    assert 1.2 < len(DETAILS) / 1000 < 1.4
    assert {name for _, name, _ in DETAILS} == {"OPPORTUNITY_COLLABORATION", "SUBSIDIARY"}
    kinds = {next(iter(detail["OtherParticipant"])) for _, _, detail in DETAILS}
    assert kinds == {"PartnerProfile", "SellerProfile", "Account"}
    canceled = [(answer, detail) for answer, _, detail in DETAILS if detail["Status"] == "CANCELED"]
    assert 0.07 < len(canceled) / len(DETAILS) < 0.13
    assert {detail["CanceledBy"] == OWN_ACCOUNT for _, detail in canceled} == {True, False}
    fractions = {len(answer["UpdatedAt"].removesuffix("Z").partition(".")[2]) for answer in ANSWERS}
    assert fractions == {0, 1, 2, 3, 6}
    assert any(answer["OtherParticipantAccountId"].startswith("000") for answer in ANSWERS)


def test_participants_are_shared_and_some_appear_under_two_names() -> None:
    names: dict[tuple[str, str], set[str]] = defaultdict(set)
    shown: dict[tuple[str, str], int] = defaultdict(int)
    for answer, _, detail in DETAILS:
        ((kind, participant),) = detail["OtherParticipant"].items()
        key = kind, participant.get("Id", answer["OtherParticipantAccountId"])
        names[key].add(participant["Name"])
        shown[key] += 1
    assert 200 < len(names) < 450
    assert max(shown.values()) > 10
    assert 10 < sum(len(different) > 1 for different in names.values()) < len(names) / 2


def test_names_are_of_all_scripts() -> None:
    names = "".join(json.dumps(detail["OtherParticipant"], ensure_ascii=False) for _, _, detail in DETAILS)
    for wanted in (
        "é",
        "\N{COMBINING ACUTE ACCENT}",
        "東",
        "🚀",
        "\N{ZERO WIDTH JOINER}",
        "ش",
        "O'N",
        '\\"',
        "\\\\",
        "%",
    ):
        assert wanted in names


def test_the_listing_has_each_active_connection_once_whatever_the_page() -> None:
    active = [
        answer["Id"]
        for answer in ANSWERS
        if any(detail["Status"] == "ACTIVE" for detail in answer["ConnectionTypes"].values())
    ]
    assert 900 < len(active) < 1000
    for limit in (1, 7, 100, len(active), 5000):
        assert [summary["Id"] for summary in listing(THOUSAND, limit)] == active


def test_a_summary_has_neither_inviter_nor_dates_of_a_type() -> None:
    for summary in listing(THOUSAND, 100):
        answer = THOUSAND.get(summary["Id"])
        assert answer
        assert summary == answer | {
            "ConnectionTypes": {
                name: {"Status": detail["Status"], "OtherParticipant": detail["OtherParticipant"]}
                for name, detail in answer["ConnectionTypes"].items()
            }
        }


def test_the_last_page_has_no_next_one_even_if_only_canceled_ones_follow() -> None:
    population = Population(10, seed=1)
    for number in range(5, 10):
        answer = population.connection(number)
        for detail in answer["ConnectionTypes"].values():
            detail["Status"] = "CANCELED"
        population.overrides[answer["Id"]] = answer
    first, following = population.page(0, 5)
    assert following is None
    assert {summary["Id"] for summary in first} <= {population.identifier(number) for number in range(5)}
    assert Population(0, seed=1).page(0, 100) == ([], None)


def test_overrides_replace_remove_and_add() -> None:
    population = Population(3, seed=4)
    replaced, removed, _ = identifiers = list(population.identifiers())
    added = "pac-added00000000"
    assert population.get(added) is None
    changed = population.connection(0) | {"UpdatedAt": "2027-01-01T00:00:00Z"}
    population.overrides = {added: changed | {"Id": added}, replaced: changed, removed: None}
    assert population.get(replaced) == changed
    assert population.get(removed) is None
    assert list(population.identifiers()) == [replaced, identifiers[2], added]
    summaries = listing(population, 1)
    assert [summary["Id"] for summary in summaries] == [replaced, identifiers[2], added]
    assert summaries[0]["UpdatedAt"] == "2027-01-01T00:00:00Z"
    population.overrides[added] = None
    assert [summary["Id"] for summary in listing(population, 2)] == [replaced, identifiers[2]]
