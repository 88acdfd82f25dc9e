"""What is in deploy/ is held to the program: commands, variables, exit codes, rights, times, versions."""

import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from syncer import __version__
from syncer.cli import app
from syncer.exits import Exit
from tests import manifests
from tests.manifests import CHECKOUT, DEPLOY, UNITS, Command

PROGRAM = get_command(app).commands  # type: ignore[attr-defined]  # a Typer app with commands is a group
README = (DEPLOY / "README.md").read_text()
# Of deploy/ only what is written for the program; the BI tools' projects have their own.
OURS = [
    path
    for name in ("compose.yaml", "Dockerfile", "kubernetes", "aws", "systemd", "README.md")
    for path in ([DEPLOY / name] if (DEPLOY / name).is_file() else sorted((DEPLOY / name).rglob("*.*")))
]

# What trying again does not help with, or what is only found again; see the exit codes in the README.
FOR_GOOD = {Exit.INCOMPLETE, Exit.USAGE, Exit.UNSOUND, Exit.DENIED, Exit.NOT_SET_UP}
STOPPED = {Exit.INTERRUPTED, Exit.TERMINATED}
# A worker ends in order within 25 s of SIGTERM.
ENDS_WITHIN = 25


@pytest.mark.parametrize("command", list(manifests.commands()), ids=str)
def test_the_program_takes_every_command(command: Command) -> None:
    name, *arguments = command.arguments
    PROGRAM[name].make_context(name, list(arguments))


def test_commands_are_found_everywhere() -> None:
    places = {command.where.partition(",")[0] for command in manifests.commands()}
    assert places >= {"compose.yaml", "kubernetes", "template.yaml", "README.md", *(p.name for p in UNITS)}


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_variable_is_one_of_the_programs(path: Path) -> None:
    known = {
        variable
        for command in PROGRAM.values()
        for option in command.params
        if isinstance(option, typer.core.TyperOption | typer.core.TyperArgument) and option.envvar
        for variable in ([option.envvar] if isinstance(option.envvar, str) else option.envvar)
    }
    assert set(re.findall(r"\bSYNCER_[A-Z_]+", path.read_text())) <= known


@pytest.mark.parametrize("job", manifests.failure_policies())
def test_a_job_is_tried_again_where_that_helps_and_nowhere_else(job: str) -> None:
    of_action: dict[str, set[int]] = {"FailJob": set(), "Ignore": set(), "Count": set()}
    for rule in manifests.failure_policies()[job]:
        of_action[rule["action"]] |= set(rule.get("onExitCodes", {}).get("values", []))
    assert of_action["FailJob"] == FOR_GOOD
    assert of_action["Ignore"] <= STOPPED
    assert Exit.TERMINATED in of_action["Ignore"]
    assert of_action["Count"] <= {Exit.LATER}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_started_again_where_that_helps_and_nowhere_else(path: Path) -> None:
    unit = manifests.unit(path)
    never = {int(code) for code in unit["RestartPreventExitStatus"][0].split()}
    # A worker that was asked to end has nothing more to say: its failed messages are the queue's.
    assert never == (FOR_GOOD if unit["Type"] == ["oneshot"] else FOR_GOOD - {Exit.INCOMPLETE})
    assert {int(code) for code in unit["SuccessExitStatus"][0].split()} == STOPPED
    assert int(unit["TimeoutStopSec"][0]) > ENDS_WITHIN


@pytest.mark.parametrize("name", manifests.pods())
def test_a_pod_has_the_least_rights_and_time_to_end(name: str) -> None:
    pod = manifests.pods()[name]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > ENDS_WITHIN
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]


def test_the_user_is_the_images() -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert {str(pod["securityContext"]["runAsUser"]) for pod in manifests.pods().values()} == {user}
    for resource in manifests.template()["Resources"].values():
        for container in resource.get("Properties", {}).get("ContainerDefinitions", []):
            assert container["User"].split(":")[0] == user


def test_probes_ask_where_the_worker_answers() -> None:
    (container,) = manifests.pods()["Deployment/syncer-worker"]["containers"]
    given = dict(zip(container["args"][1::2], container["args"][2::2], strict=True))
    (port,) = container["ports"]
    assert given["--health-port"] == str(port["containerPort"])
    # The kubelet's probes come from outside of the pod.
    assert given["--health-host"] == "0.0.0.0"
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": port["name"]}


def test_the_rights_are_the_least() -> None:
    """As in the service's authorization reference, and for SQS what the code calls."""
    resources = manifests.template()["Resources"]
    granted: dict[str, dict[str, object]] = {}
    for name in ("Policy", "LogInPolicy"):
        for statement in resources[name]["Properties"]["PolicyDocument"]["Statement"]:
            actions = statement["Action"]
            granted |= dict.fromkeys(actions if isinstance(actions, list) else [actions], statement)
    assert set(granted) == {
        "partnercentral:GetConnection", "partnercentral:ListConnections",
        "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes",
        "rds-db:connect",
    }  # fmt: skip
    catalog = {"StringEqualsIgnoreCase": {"partnercentral:Catalog": {"Ref": "Catalog"}}}
    assert granted["partnercentral:GetConnection"]["Condition"] == catalog
    assert granted["partnercentral:ListConnections"]["Condition"] == catalog
    assert granted["partnercentral:GetConnection"]["Resource"] == {
        "Fn::Sub": "arn:${AWS::Partition}:partnercentral:us-east-1::catalog/${Catalog}/connection/*"
    }
    assert [name for name, one in granted.items() if one["Resource"] == "*"] == [
        "partnercentral:ListConnections"
    ]


def test_every_exit_code_and_alarm_is_in_the_runbook() -> None:
    first_cells = [line.split("|")[1] for line in README.splitlines() if line.startswith("| ")]
    told = {int(code) for cell in first_cells for code in re.findall(r"\b\d+\b", cell)}
    assert {int(code) for code in Exit} <= told
    alarms = {
        name
        for name, resource in manifests.template()["Resources"].items()
        if "AlarmTopic" in str(resource) and resource["Type"].split("::")[1] in ("CloudWatch", "Events")
    }
    assert alarms
    assert {name for name in alarms if f"`{name}`" not in README} == set()


def test_the_runbook_says_of_each_migration_whether_the_version_before_runs_on_it() -> None:
    told = dict(re.findall(r"^\| `(\d{4})` \|[^|]*\| (\w+)", README, re.MULTILINE))
    written = {}
    for path in sorted((CHECKOUT / "migrations/versions").glob("[0-9]*.py")):
        (word,) = re.findall(r"Can the version before this one run on it\? (\w+)", path.read_text())
        written[path.name[:4]] = "first" if word == "There" else word.lower()
    assert told == written


def test_what_is_to_be_copied_from_the_runbook_is_shell() -> None:
    for block in re.findall(r"^ *```sh\n(.*?)```", README, re.DOTALL | re.MULTILINE):
        subprocess.run(["bash", "-n"], input=textwrap.dedent(block), text=True, check=True)


def test_the_image_is_of_this_version() -> None:
    for path in OURS:
        assert set(re.findall(r"syncer:(\d+\.\d+\.\d+)", path.read_text())) <= {__version__}, path
    for path in (DEPLOY / "kubernetes").rglob("kustomization.yaml"):
        assert f"newTag: {__version__}\n" in path.read_text(), path
