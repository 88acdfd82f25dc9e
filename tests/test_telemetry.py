"""Telemetry, as a receiver on loopback and a scraper get it: what is told, and what never is."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from syncer.exporters import Signals, wanted
from syncer.partner_central.population import OWN_ACCOUNT, Population
from syncer.partner_central.simulator import Faults
from syncer.telemetry import INSTRUMENTS, Kind, Span
from tests.collector import Collector, attributes
from tests.conftest import Program, Queues, finished, ids_file, rows, served, until
from tests.test_readme import attributes_of_spans

BY_NAME = {instrument.name: instrument for instrument in INSTRUMENTS}
NEVER = Signals(traces=False, metrics=False)


@pytest.mark.parametrize(
    ("variables", "signals"),
    [
        ({}, NEVER),
        ({"OTEL_SERVICE_NAME": "x"}, NEVER),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, Signals(traces=True, metrics=True)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/t"}, Signals(traces=True, metrics=False)),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, Signals(traces=False, metrics=True)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, Signals(traces=True, metrics=False)),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}, NEVER),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"},
            Signals(traces=False, metrics=True),
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, NEVER),
        ({"OTEL_CONFIG_FILE": "otel.yaml"}, Signals(traces=True, metrics=True)),
    ],
)
def test_only_the_standard_variables_turn_it_on(variables: dict[str, str], signals: Signals) -> None:
    assert wanted(variables) == signals


async def test_a_run_is_told_with_its_batches_and_fetches(program: Program) -> None:
    population = Population(60, seed=300)
    ids = [*population.identifiers()]
    population.overrides[ids[0]] = None
    population.overrides[ids[1]] = {"Id": ids[1]}
    (program.folder / "ids.txt").write_text("\n".join([*ids, ids[2], "nonsense"]))
    collector = Collector()
    async with served(program, population, Faults(rate=30, burst=10)), collector.receiving() as endpoint:
        program.environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
        done = await program("sync", "ids.txt", "--json", "--batch-size", "20")
    assert (done.exit, done.result["failed"], done.result["missing"]) == (1, 1, 1), done.stderr
    result = done.result

    assert all(
        (each["service.name"], each["deployment.environment.name"]) == ("syncer", "test")
        for each in collector.resources()
    )
    (run,) = collector.spans(Span.RUN)
    assert not run.parent_span_id
    assert attributes(run)["syncer.status"] == "partial"
    batches, fetches = collector.spans(Span.BATCH), collector.spans(Span.FETCH)
    assert len(batches) >= 3
    assert {each.parent_span_id for each in (*batches, *fetches)} == {run.span_id}
    documented = attributes_of_spans()
    for span in (run, *batches, *fetches):
        assert set(attributes(span)) - {"error.type"} == documented[span.name]
    assert sum(attributes(each)["syncer.answers"] for each in batches) == (
        result["read"] - result["duplicate"]
    )
    # A bad answer is always told; the others as they come, no more than so many a second.
    assert 20 <= len(fetches) <= result["api_calls"]
    assert {attributes(each).get("error.type") for each in fetches} == {None, "UnreadableAnswer"}
    (unreadable,) = [each for each in fetches if "error.type" in attributes(each)]
    assert attributes(unreadable)["syncer.connection.id"] == ids[1]
    assert unreadable.end_time_unix_nano >= unreadable.start_time_unix_nano

    told = {each["syncer.outcome"]: point.as_int for each, point in collector.points("syncer.items")}
    outcomes = ("written", "missing", "duplicate", "invalid", "failed", "unchanged", "stale", "released")
    assert told == {name: result[name] for name in outcomes if result[name]}
    calls: dict[str, int] = {}
    for each, point in collector.points("syncer.calls"):
        assert each["rpc.method"] == "PartnerCentralAccount/GetConnection"
        calls[each["syncer.outcome"]] = point.as_int
    assert sum(calls.values()) == result["api_calls"]
    assert calls["throttled"] == result["throttled"] > 0
    assert (calls["not_found"], calls["rejected"]) == (1, 1)
    # At such a pace the duration of each is told.
    durations = collector.points("rpc.client.call.duration")
    assert {each["syncer.outcome"]: point.count for each, point in durations} == calls
    ((_, written),) = collector.points("syncer.rows")
    assert written.as_int == result["rows_written"]
    ((whose, rate),) = [
        each
        for each in collector.points("syncer.request.rate")
        if each[0]["rpc.method"] == "PartnerCentralAccount/GetConnection"
    ]
    assert whose["cloud.account.id"] == OWN_ACCOUNT
    assert 5 < rate.as_double < 60
    ((ended, duration),) = collector.points("syncer.run.duration")
    assert (ended["syncer.status"], ended["syncer.source"], duration.count) == ("partial", "file", 1)


async def test_the_instruments_are_those_of_the_list(program: Program, queue: Queues) -> None:
    """Every one of them is told in a day's work, as it is declared, and no other."""
    population = Population(30, seed=301)
    collector = Collector()
    async with served(program, population), collector.receiving() as endpoint:
        program.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_EXPORTER": "none"}
        assert (await program("sync", "--json")).exit == 0
        queue.send(*population.identifiers())
        done = await program("work", "--drain", "--json")
        assert done.exit == 0, done.stderr
    assert not collector.traces
    seen = collector.latest()
    assert set(seen) == set(BY_NAME)
    kinds = {"sum": Kind.COUNTER, "gauge": Kind.GAUGE, "histogram": Kind.HISTOGRAM}
    for name, metric in seen.items():
        declared = BY_NAME[name]
        data = metric.WhichOneof("data")
        assert (kinds[data], metric.unit, metric.description) == (
            declared.kind,
            declared.unit,
            declared.description,
        )
        for each, point in collector.points(name):
            assert set(each) <= set(declared.attributes), name
            if declared.kind is Kind.HISTOGRAM:
                assert tuple(point.explicit_bounds) == declared.bounds
    ((_, in_step),) = collector.points("syncer.in_step.timestamp")
    ((finished_at,),) = rows(
        program.environment["DATABASE_URL"],
        "SELECT extract(epoch FROM max(finished_at))::float FROM sync_run WHERE source = 'listing'",
    )
    assert in_step.as_double == pytest.approx(finished_at)
    ((_, age),) = collector.points("syncer.queue.message.age")
    assert age.count == 30


def named_in(population: Population) -> set[str]:
    """The names and addresses that are served."""
    people: set[str] = set()
    for identifier in population.identifiers():
        answer: Any = population.get(identifier)
        for detail in answer["ConnectionTypes"].values():
            people |= {detail["InviterName"], detail["InviterEmail"]}
            people |= {content["Name"] for content in detail["OtherParticipant"].values()}
    return people


async def test_nobodys_name_and_no_secret_is_exported_or_logged(program: Program, queue: Queues) -> None:
    population = Population(80, seed=302)
    people = named_in(population)
    unlucky = min(people)
    with psycopg.connect(program.environment["DATABASE_URL"]) as connection:
        # Rows that the database refuses: its errors quote all of them.
        connection.execute("ALTER TABLE connection_type ADD CHECK (inviter_email NOT LIKE '%a%@%')")
    secrets = {
        "AWS_ACCESS_KEY_ID": "AKIAVERYSECRETKEYID0",
        "AWS_SECRET_ACCESS_KEY": "very/secret/access+key",
        "AWS_SESSION_TOKEN": "very-secret-session-token",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20very-secret-bearer,broken very-secret-header",
    }
    queue.send(*population.identifiers(), f"no ID: {unlucky}")
    collector, told = Collector(), ""
    async with (
        served(program, population, Faults(error_rate=0.2, unknown_rate=0.1)),
        collector.receiving() as endpoint,
    ):
        program.environment |= secrets | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        for arguments in (("sync", "--full"), ("work", "--drain", "--max-attempts", "1")):
            done = await program(*arguments)
            told += done.stdout + done.stderr
        assert done.exit == 1, told
    assert {attributes(each).get("error.type") for each in collector.spans(Span.FETCH)} > {None}
    assert "RefusedByDatabase" in {
        code for (code,) in rows(program.environment["DATABASE_URL"], "SELECT code FROM sync_failure")
    }
    assert "telemetry_failing" in told  # the header that is none
    told += collector.text
    assert "syncer.items" in told
    for each in (*people, *secrets.values(), "very-secret", "very/secret"):
        assert each not in told, each


MODULES = """
import atexit, sys
atexit.register(lambda: print("MODULES", sorted(sys.modules), file=sys.stderr))
from syncer.cli import main
main(sys.argv[1:])
"""


async def test_nothing_of_it_is_loaded_when_nobody_configured_it(program: Program) -> None:
    population = Population(3, seed=303)
    async with served(program, population):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MODULES, "sync", ids_file(program.folder, population), "--json",
            env=program.environment, cwd=program.folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        done = await finished(process)
    assert done.exit == 0
    loaded = done.stderr.partition("MODULES")[2]
    assert "'syncer.telemetry'" in loaded
    assert "opentelemetry.sdk" not in loaded
    assert "opentelemetry.exporter" not in loaded


async def test_configured_but_not_installed_is_one_line(program: Program, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "opentelemetry" / "sdk"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('there is no extra')")
    program.environment |= {
        "PYTHONPATH": str(hidden.parent.parent),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:very-secret@127.0.0.1:9",
    }
    population = Population(3, seed=304)
    async with served(program, population):
        done = await program("sync", ids_file(program.folder, population), "--json")
        checked = await program("check")
    assert (done.exit, done.result["written"]) == (0, 3), done.stderr
    (off,) = done.events("telemetry_off")
    assert "pip install 'partnercentral-syncer[otel]'" in off["why"]
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in off["why"]
    assert checked.exit == 78
    assert "FAILED telemetry: OTEL_EXPORTER_OTLP_ENDPOINT" in checked.stdout
    assert "very-secret" not in done.stderr + checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"OTEL_METRICS_EXPORTER": "carrier-pigeon"}, "carrier-pigeon"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "morse"},
            "morse",
        ),
        ({"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "much"}, "ValueError"),
    ],
)
async def test_what_cannot_be_set_up_stops_no_run(
    program: Program, variables: dict[str, str], why: str
) -> None:
    program.environment |= variables
    population = Population(3, seed=305)
    async with served(program, population):
        done = await program("sync", ids_file(program.folder, population), "--json")
    assert (done.exit, done.result["written"]) == (0, 3), done.stderr
    (off,) = done.events("telemetry_off")
    assert why in off["why"]
    assert "Traceback" not in done.stderr


async def test_a_collector_that_refuses_stops_no_run_and_is_not_quoted(program: Program) -> None:
    collector, population = Collector(status=400), Population(3, seed=306)
    async with served(program, population), collector.receiving() as endpoint:
        program.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        done = await program("sync", ids_file(program.folder, population), "--json")
    assert (done.exit, done.result["written"]) == (0, 3), done.stderr
    assert collector.metrics
    assert {each["why"] for each in done.events("telemetry_failing")} >= {
        "Failed to export metrics batch code: 400, reason: …"
    }
    assert all(line.startswith("{") for line in done.stderr.splitlines())


async def test_a_collector_that_hangs_does_not_hold_up_the_end(program: Program, database_url: str) -> None:
    connected = asyncio.Event()
    never = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await never.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    program.environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        # It would wait for ten minutes, and try again.
        "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
    }
    population = Population(500, seed=307)
    async with served(program, population, Faults(latency=0.05)):
        process = await program.start(
            "sync", ids_file(program.folder, population), "--json", "--batch-size", "10"
        )
        await until(lambda: rows(database_url, "SELECT count(*) > 0 FROM connection") == [(True,)])
        process.send_signal(signal.SIGTERM)
        done = await finished(process)
    assert connected.is_set()
    never.set()
    server.close()
    assert (done.exit, done.result["status"]) == (143, "interrupted"), done.stderr


# What the Prometheus exporter makes of every instrument with all of its attributes.
EXPOSED = """
import os, sys, urllib.request
from syncer.exporters import start
from syncer.telemetry import INSTRUMENTS, Telemetry

stop = start(os.environ)
telemetry = Telemetry()
for each in INSTRUMENTS:
    tell = {"counter": telemetry.add, "gauge": telemetry.set, "histogram": telemetry.record}
    tell[each.kind](each, 1, {name: "x" for name in each.attributes})
port = os.environ["OTEL_EXPORTER_PROMETHEUS_PORT"]
sys.stdout.write(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
stop()
"""


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def samples(exposition: str) -> dict[str, set[str]]:
    """The names of our samples in a scrape, each with the names of its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name.startswith(("syncer_", "rpc_")):
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    variables = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": free_port()}
    done = subprocess.run(
        [sys.executable, "-c", EXPOSED],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return samples(done.stdout)


async def test_a_worker_can_be_scraped(
    program: Program, database_url: str, queue: Queues, exposed: dict[str, set[str]]
) -> None:
    population, port = Population(20, seed=308), free_port()
    secret = "very/secret/access+key"
    program.environment |= {
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_PORT": port,
        "AWS_SECRET_ACCESS_KEY": secret,
    }
    async with served(program, population):
        queue.send(*population.identifiers())
        process = await program.start("work", "--json")
        await until(lambda: rows(database_url, "SELECT count(*) FROM connection") == [(20,)])
        await until(lambda: queue.left() == 0)
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"http://127.0.0.1:{port}/metrics") as response,
        ):
            text = await response.text()
        taken = await program("sync", "--json")
        process.send_signal(signal.SIGTERM)
        assert (await finished(process)).exit == 143
    assert not [each for each in (*named_in(population), secret, *population.identifiers()) if each in text]
    scraped = samples(text)
    assert {"syncer_items_total", "syncer_queue_messages", "rpc_client_call_duration_seconds_bucket"} <= set(
        scraped
    )
    for name, labels in scraped.items():
        assert labels <= exposed[name], name
    # Two on one machine want two ports: said in one line, and it stops nothing.
    assert taken.exit == 0, taken.stderr
    assert "OTEL_EXPORTER_PROMETHEUS_HOST" in taken.events("telemetry_off")[0]["why"]
