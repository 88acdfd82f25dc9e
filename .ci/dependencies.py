"""What is installed with the program: its licences, and its known vulnerabilities.

    .venv/bin/python .ci/dependencies.py licences
    .venv/bin/python .ci/dependencies.py audit

`licences` lists them, and fails for one that is not allowed. `audit` looks up the lock file with pip-audit,
and fails for a vulnerability. Where there was no audit, because the advisory service cannot be reached or
does not know a package, it says so and ends with 75: that is no pass.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).parent.parent
PROJECT, EXTRA = "partnercentral-syncer", "embedded"
NOT_AUDITED = 75

# May be used and handed on with a program under the Apache License. The LGPL's are libraries of their own,
# which whoever installs us may replace: that is all it asks for.
ALLOWED = {
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "LGPL-3.0-only",
    "MIT",
    "PSF-2.0",
    "PostgreSQL",
}
# As packages without a licence expression word it.
WORDINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}
# What names no licence that can be read by a machine, as somebody has read it.
READ = {"python-dateutil": "Apache-2.0 OR BSD-3-Clause"}


def installed(name: str, extras: frozenset[str] = frozenset()) -> Iterator[Distribution]:
    """The distribution, and all that it needs here, each once."""
    seen: set[str] = set()

    def walk(name: str, extras: frozenset[str]) -> Iterator[Distribution]:
        found = distribution(name)
        key = _key(name)
        if key not in seen:
            yield found
        elif not extras:
            return
        seen.add(key)
        for each in map(Requirement, found.requires or []):
            marker = each.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                yield from walk(each.name, frozenset(each.extras))

    yield from walk(name, extras)


def licence(of: Distribution) -> str:
    """Its licence as an expression; empty where it tells none."""
    told = of.metadata
    for expression in told.get_all("License-Expression", []):
        return str(expression)
    if known := READ.get(_key(told["Name"])):
        return known
    for text in map(str, told.get_all("License", [])):
        if "\n" not in text:
            return WORDINGS.get(text, text)
    kinds = [each for each in map(str, told.get_all("Classifier", [])) if each.startswith("License")]
    named = [each.rpartition(" :: ")[2] for each in kinds]
    return " AND ".join(WORDINGS.get(each, each) for each in named)


def is_allowed(expression: str) -> bool:
    """All that apply, or one of those that may be chosen from."""
    choices = re.split(r" OR ", expression)
    return any(all(each.strip(" ()") in ALLOWED for each in choice.split(" AND ")) for choice in choices)


def licences() -> int:
    wrong = 0
    needed = {_key(each.metadata["Name"]): each for each in installed(PROJECT, frozenset({EXTRA}))}
    for name, each in sorted(needed.items()):
        expression = licence(each)
        allowed = is_allowed(expression)
        wrong += not allowed
        print(
            f"{name:24} {each.version:14} {expression or '(none told)'}{'' if allowed else '   NOT ALLOWED'}"
        )
    print(f"{len(needed)} packages, {wrong} with a licence that is not allowed")
    return 1 if wrong else 0


def audit() -> int:
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(  # noqa: S603  (this interpreter, and nobody's input)
        [*command, "--disable-pip", "--requirement", str(HERE / "requirements.lock")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"NOT AUDITED: pip-audit could not look anything up: {why[:300]}")
        return NOT_AUDITED
    vulnerable = [each for each in dependencies if each.get("vulns")]
    for each in vulnerable:
        for found in each["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "nowhere yet"
            print(f"{each['name']} {each['version']}: {found['id']}, fixed in {fixed}")
    skipped = [each["name"] for each in dependencies if "skip_reason" in each]
    if vulnerable:
        return 1
    if skipped or not dependencies:
        print(f"NOT AUDITED: of {len(dependencies)} packages the service does not know {len(skipped)}: "
              f"{', '.join(skipped[:5])}…")  # fmt: skip
        return NOT_AUDITED
    print(f"{len(dependencies)} packages, no known vulnerability")
    return 0


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit({"licences": licences, "audit": audit}[sys.argv[1]]())
