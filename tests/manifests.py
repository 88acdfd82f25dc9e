"""What is in deploy/, as values: the manifests, and the commands and variables in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parent.parent
DEPLOY = CHECKOUT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


@dataclass(frozen=True, slots=True)
class Command:
    """A call of the program, as some file has it."""

    where: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where}: syncer {shlex.join(self.arguments)}"


class _CloudFormation(yaml.SafeLoader):  # type: ignore[misc]  # no types are published for it
    """YAML with CloudFormation's short forms, such as !Ref."""


def _long_form(loader: _CloudFormation, name: str, node: Any) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if name == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


_CloudFormation.add_multi_constructor("!", _long_form)


def template() -> dict[str, Any]:
    """The CloudFormation template, in long form."""
    text = (DEPLOY / "aws/template.yaml").read_text()
    parsed: dict[str, Any] = yaml.load(text, _CloudFormation)
    return parsed


def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return parsed


def resources() -> dict[str, dict[str, Any]]:
    """Kubernetes' resources by kind and name, as they are in the files."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        for resource in yaml.safe_load_all(path.read_text()):
            if "metadata" in resource:
                found[f"{resource['kind']}/{resource['metadata']['name']}"] = resource
    return found


def pods() -> dict[str, dict[str, Any]]:
    """The pods' specs, by kind and name of what makes them."""
    found = {}
    for name, resource in resources().items():
        match resource:
            case (
                {"spec": {"jobTemplate": {"spec": {"template": {"spec": pod}}}}}
                | {"spec": {"jobTargetRef": {"template": {"spec": pod}}}}
                | {"spec": {"template": {"spec": pod}}}
            ):
                found[name] = pod
            case _:
                pass
    return found


def failure_policies() -> dict[str, list[dict[str, Any]]]:
    """The jobs' podFailurePolicy rules, by kind and name."""
    found = {}
    for name, resource in resources().items():
        spec = resource.get("spec", {})
        job = spec.get("jobTemplate", {}).get("spec") or spec.get("jobTargetRef") or spec
        if "podFailurePolicy" in job:
            found[name] = job["podFailurePolicy"]["rules"]
    return found


def unit(path: Path) -> dict[str, list[str]]:
    """A systemd unit's settings, each with all its values; its sections do not matter here."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def commands() -> Iterator[Command]:
    """Every call of the program in deploy/."""
    for name, service in compose()["services"].items():
        if service.get("image", "").startswith("syncer:") and "entrypoint" not in service:
            yield Command(f"compose.yaml, {name}", tuple(service["command"]))
    for name, pod in pods().items():
        for container in pod["containers"]:
            yield Command(f"kubernetes, {name}", tuple(container["args"]))
    for name, resource in template()["Resources"].items():
        properties = resource.get("Properties", {})
        for container in properties.get("ContainerDefinitions", []):
            yield Command(f"template.yaml, {name}", tuple(container["Command"]))
        given = yaml.safe_load(properties.get("Target", {}).get("Input", "{}"))
        for override in given.get("containerOverrides", []):
            yield Command(f"template.yaml, {name}", tuple(override["command"]))
    for path in UNITS:
        for line in unit(path)["ExecStart"]:
            program, *arguments = shlex.split(line)
            assert program == "/opt/syncer/bin/syncer"
            yield Command(path.name, tuple(arguments))
    yield from in_shell_blocks(DEPLOY / "README.md")


def in_shell_blocks(path: Path) -> Iterator[Command]:
    """The calls in a page's sh and cron blocks, whatever stands before the program's name."""
    for block in re.findall(r"```(?:sh|cron)\n(.*?)```", path.read_text(), re.DOTALL):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            for call in re.findall(r"(?:^|bin/|(?<!-n)\s)(?:syncer|cron) ([a-z]+\b[^|&;>#)]*)", line):
                yield Command(path.name, tuple(shlex.split(call)))
