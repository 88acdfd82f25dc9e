"""The README is held to the code: commands, flags, variables, exit codes, columns, outcomes."""

import re
from pathlib import Path

import pytest
import typer
from sqlmodel import SQLModel
from typer.main import get_command

from syncer.cli import app
from syncer.exits import Exit
from syncer.outcomes import Outcome
from syncer.store import tables  # noqa: F401  (so that SQLModel knows the tables)
from syncer.telemetry import INSTRUMENTS, Span
from tests.dictionary import SECTION, dictionary
from tests.trust.mutations import MUTATIONS

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]  # a Typer app with commands is a group
# Of the commands that do the work; the others' flags are in their --help.
RUNS = ("sync", "work", "enqueue")


def section(title: str) -> str:
    """The text below the heading `title`, up to the next one of its rank."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    assert found, f"README has no section {title}"
    return found[1]


def rows_of_table(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_commands_are_those_of_the_program() -> None:
    named = {re.match(r"`syncer (\w+)", row[0])[1] for row in rows_of_table(section("Commands"))}  # type: ignore[index]  # a row without a command is an error here
    assert named == set(COMMANDS)


def test_the_settings_are_those_of_the_program() -> None:
    documented = {
        (re.findall(r"`(--[a-z-]+)`", flag)[0], tuple(re.findall(r"`([A-Z_]+)`", variable)))
        for flag, variable, *_ in rows_of_table(section("Settings"))
    }
    offered = set()
    for command in RUNS:
        for option in COMMANDS[command].params:
            if isinstance(option, typer.core.TyperOption | typer.core.TyperArgument) and option.envvar:
                variables = [option.envvar] if isinstance(option.envvar, str) else option.envvar
                # What is an argument of work is an option of enqueue and check.
                name = option.opts[0] if option.opts[0].startswith("--") else "--queue-url"
                offered.add((name, tuple(variables)))
    assert documented == offered


def test_the_defaults_are_those_of_the_program() -> None:
    documented = {row[0].strip("`"): row[2].strip("`") for row in rows_of_table(section("Settings"))}
    for name in RUNS:
        for option in COMMANDS[name].params:
            if isinstance(option.default, int | str) and not isinstance(option.default, bool):
                assert documented[option.opts[0]] == str(option.default), option.opts[0]


def test_the_exit_codes_are_those_of_the_program() -> None:
    documented = {int(code) for row in rows_of_table(section("Exit codes")) for code in row[0].split(",")}
    assert documented == {int(code) for code in Exit}


def test_the_outcomes_are_those_of_the_program() -> None:
    documented = [row[0].strip("`") for row in rows_of_table(section("Outcomes"))]
    assert documented == [outcome.value for outcome in Outcome]


def test_the_metrics_are_those_of_the_program() -> None:
    documented = {
        row[0].strip("`"): (row[1], row[2].strip("`"), tuple(re.findall(r"`([a-z_.]+)`", row[4])))
        for row in rows_of_table(section("See what it does").partition("| span |")[0])
    }
    assert documented == {each.name: (each.kind, each.unit, each.attributes) for each in INSTRUMENTS}


def test_the_spans_are_those_of_the_program() -> None:
    assert set(attributes_of_spans()) == set(Span)


def attributes_of_spans() -> dict[str, set[str]]:
    """By the span's name, what the README says that it has; `error.type` beside."""
    table = section("See what it does").partition("Of calls,")[2]
    return {row[0].strip("`"): set(re.findall(r"`([a-z_.]+)`", row[2])) for row in rows_of_table(table)}


@pytest.mark.parametrize("table", sorted(SQLModel.metadata.tables))
def test_every_column_is_named(table: str) -> None:
    found = re.search(
        rf"\*\*`{table}`\*\*(.*?)(?=\n\*\*`|\Z)", section("What lands in the tables"), re.DOTALL
    )
    assert found, f"README does not tell of the table {table}"
    named = set(re.findall(r"`(\w+)`", found[1]))
    assert {column.name for column in SQLModel.metadata.tables[table].columns} <= named


def test_the_data_dictionary_is_the_database_s_own(database_url: str) -> None:
    told = dictionary(database_url)
    assert "None" not in told
    assert SECTION.findall(README) == [told], "python -m tests.dictionary writes it anew"


@pytest.mark.parametrize("title", ["Try it", "Run the tests"])
def test_the_two_commands_are_one_line_each(title: str) -> None:
    block = re.search(r"```sh\n(.*?)```", section(title), re.DOTALL)
    assert block
    assert len(block[1].splitlines()) == 1


def test_the_removals_are_those_that_are_tried() -> None:
    documented = rows_of_table(section("What is promised, and what tries to break it"))
    assert documented == [[each.removed, f"`{each.test_name}`"] for each in MUTATIONS]
