"""The `SYNCER_` variables that the commands know, and what is wrong with those that are set.

Known is what the commands' own parameters name. Values are never repeated: there may be a password in one.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import typer

PREFIX = "SYNCER_"


def known_to(context: typer.Context) -> dict[str, list[Any]]:
    """The variables that any command reads, each with the parameters that it sets."""
    commands: Mapping[str, Any] = getattr(context.find_root().command, "commands", {})
    known: dict[str, list[Any]] = {}
    for command in commands.values():
        for parameter in command.params:
            for name in _names(parameter.envvar):
                known.setdefault(name, []).append(parameter)
    return known


def _names(envvar: str | list[str] | None) -> Iterable[str]:
    return [envvar] if isinstance(envvar, str) else envvar or ()


def unknown(variables: Iterable[str], known: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """The `SYNCER_` variables that mean nothing, each with the known name that is most like it."""
    names = sorted(name.removeprefix(PREFIX) for name in known if name.startswith(PREFIX))
    for variable in sorted(variables):
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            yield variable, f"{PREFIX}{near[0]}" if near else None


def unusable(variables: Mapping[str, str], context: typer.Context) -> Iterator[tuple[str, str]]:
    """The variables whose values no command could use, each with the option that it stands for."""
    for name, parameters in sorted(known_to(context).items()):
        if not variables.get(name):
            continue
        for parameter in parameters:
            try:
                parameter.process_value(context, parameter.value_from_envvar(context))
            except Exception:  # noqa: BLE001  (whatever it says may quote the value)
                yield name, parameter.opts[0]
                break
