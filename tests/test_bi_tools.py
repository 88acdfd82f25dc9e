"""What dbt and Superset are told of the schema `reporting` is what the database says of itself."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.superset.import_dashboard import BUNDLE, DATABASE, bundle
from tests.conftest import rows

DEPLOY = Path(__file__).parent.parent / "deploy"
# Of a view itself, the column is empty.
COMMENTS = """
    SELECT relname, '', obj_description(oid)
    FROM pg_class
    WHERE relnamespace = 'reporting'::regnamespace
    UNION ALL
    SELECT relname, attname, col_description(attrelid, attnum)
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'reporting'::regnamespace AND attnum > 0
"""


def parsed(text: str) -> Any:
    return yaml.safe_load(text)


def files(kind: str) -> list[dict[str, Any]]:
    return [parsed(path.read_text()) for path in sorted((BUNDLE / kind).rglob("*.yaml"))]


def said(url: str) -> dict[tuple[str, str], str]:
    """The database's comments, by view and column."""
    return {(view, column): comment for view, column, comment in rows(url, COMMENTS)}


def test_dbt_describes_every_view_and_column_in_the_database_s_own_words(database_url: str) -> None:
    [source] = parsed((DEPLOY / "dbt" / "models" / "sources.yml").read_text())["sources"]
    described = {
        (table["name"], part.get("name", "")): part["description"]
        for table in source["tables"]
        for part in ({"description": table["description"]}, *table["columns"])
    }
    assert described == said(database_url)


def test_superset_s_datasets_have_the_views_columns_and_their_descriptions(database_url: str) -> None:
    described = {
        (dataset["table_name"], part.get("column_name", "")): part["description"]
        for dataset in files("datasets")
        for part in ({"description": dataset["description"]}, *dataset["columns"])
        if "expression" not in part
    }
    assert described == said(database_url)


def test_every_chart_is_on_the_dashboard_and_every_dataset_in_a_chart() -> None:
    [dashboard] = files("dashboards")
    placed = [part["meta"]["uuid"] for part in dashboard["position"].values() if isinstance(part, dict)
              and part["type"] == "CHART"]  # fmt: skip
    assert sorted(placed) == sorted(chart["uuid"] for chart in files("charts"))
    assert {chart["dataset_uuid"] for chart in files("charts")} == {
        dataset["uuid"] for dataset in files("datasets")
    }


def test_what_others_typed_is_shown_as_text() -> None:
    tables = [chart for chart in files("charts") if chart["viz_type"] == "table"]
    assert tables
    assert not any(table["params"]["allow_render_html"] for table in tables)


@pytest.mark.parametrize(
    ("database", "uri", "password"),
    [
        ("postgresql://bi@db.example/partners", "postgresql+psycopg2://bi@db.example/partners", None),
        (
            "postgresql://bi:s3cret@db.example:6432/partners?sslmode=require",
            "postgresql+psycopg2://bi:XXXXXXXXXX@db.example:6432/partners?sslmode=require",
            "s3cret",
        ),
    ],
)
def test_the_bundle_names_the_user_s_database_and_never_its_password(
    monkeypatch: pytest.MonkeyPatch, database: str, uri: str, password: str | None
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    content, found = bundle(database)
    assert found == password
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert parsed(texts[f"dashboard/{DATABASE}"])["sqlalchemy_uri"] == uri
    assert not any("s3cret" in text for text in texts.values())


def test_nothing_in_deploy_asks_for_an_inviter() -> None:
    texts = {path: path.read_text() for folder in ("dbt", "superset") for path in (DEPLOY / folder).rglob("*")
             if path.suffix in {".yaml", ".yml", ".sql"}}  # fmt: skip
    assert texts
    assert not [path for path, text in texts.items() if re.search(r"inviter_(name|email)", text)]
