"""Dashboard and alerts ask only for what the program tells: names, labels, and the values they match."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from syncer.outcomes import Outcome
from syncer.partner_central import errors
from syncer.settings import Input
from syncer.sqs.client import Depth
from tests.test_readme import section
from tests.test_telemetry import exposed  # noqa: F401  (a fixture)

FOLDER = Path(__file__).parent.parent / "deploy" / "grafana"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
QUERIES = [*PANELS, *((rule["alert"], rule["expr"]) for rule in RULES)]

CALL_OUTCOMES = {"ok", "throttled", "transient", "unreachable", "not_found", "rejected", "denied"}
VALUES = {
    "syncer_outcome": {*Outcome, *CALL_OUTCOMES},
    "syncer_source": {*Input},
    "syncer_status": {"succeeded", "partial", "interrupted", "aborted", "locked"},
    "syncer_state": {*Depth.__annotations__},
}


def parsed(query: str) -> Any:
    """`query`, as Prometheus's grammar has it; Grafana's own variables stand for what it puts there."""
    return promql_parser.parse(query.replace("$__rate_interval", "5m").replace("$account", ".*"))


def nodes(node: Any) -> Iterator[Any]:
    yield node
    for name in ("expr", "lhs", "rhs", "param", "args", "vector_selector", "vs"):
        inner = getattr(node, name, None)
        for each in inner if isinstance(inner, list) else [inner]:
            if each is not None and not isinstance(each, str):
                yield from nodes(each)


def selectors(query: str) -> list[Any]:
    return [node for node in nodes(parsed(query)) if isinstance(node, promql_parser.VectorSelector)]


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_every_name_and_label_is_one_that_the_program_emits(
    title: str,
    query: str,
    exposed: dict[str, set[str]],  # noqa: F811  (the fixture)
) -> None:
    found = selectors(query)
    assert found, title
    labels: set[str] = set()
    for selector in found:
        assert selector.name in exposed, f"{title}: {selector.name}"
        labels |= exposed[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in exposed[selector.name], f"{title}: {matcher.name} of {selector.name}"
            if matcher.name in VALUES:
                assert set(matcher.value.split("|")) <= VALUES[matcher.name], f"{title}: {matcher.value}"
    for node in nodes(parsed(query)):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= labels, title


def test_every_metric_is_on_the_dashboard(exposed: dict[str, set[str]]) -> None:  # noqa: F811  (the fixture)
    shown = {selector.name for _, query in PANELS for selector in selectors(query)}
    endings = ("_bucket", "_count", "_sum")
    families = {name.removesuffix(next((e for e in endings if name.endswith(e)), "")) for name in exposed}
    assert {family for family in families if not any(name.startswith(family) for name in shown)} == set()


def test_the_outcomes_of_calls_are_the_kinds_of_errors() -> None:
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.PartnerCentralError)
    } - {"PartnerCentralError"}
    assert {each.replace("_", "") for each in CALL_OUTCOMES - {"ok"}} == {kind.lower() for kind in kinds}
    (told,) = re.findall(r"Of calls, `syncer.outcome` is (.*)", section("See what it does"))
    assert set(re.findall(r"`(\w+)`", told)) == CALL_OUTCOMES


def test_each_panel_and_each_alert_says_what_it_means() -> None:
    assert all(panel["description"] for panel in DASHBOARD["panels"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("warning", "critical")
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
