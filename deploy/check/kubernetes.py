"""Validate manifests: Kubernetes' own kinds in the oldest and the newest version, KEDA's by its CRDs."""

import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1

# The first in which podFailurePolicy is stable, and the newest that there are schemas of.
VERSIONS = ("1.31", "1.37")


def wrong_with(resource: dict[str, Any]) -> list[str]:
    """What is wrong with one resource, in the validators' words."""
    if resource["apiVersion"].startswith("keda.sh/"):
        model = getattr(v1alpha1, resource["kind"])
        try:
            known = model.model_validate(resource).model_dump(by_alias=True, exclude_unset=True, mode="json")
        except ValueError as error:
            return [str(error)]
        # The models leave out what they do not know.
        return [] if known == resource else ["has fields that the CRD has not"]
    wrong = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            wrong.append(f"{version}: {error.message}")
    return wrong


def main() -> int:
    failed = 0
    for resource in yaml.safe_load_all(Path(sys.argv[1]).read_text()):
        wrong = wrong_with(resource)
        print(f"{'FAILED' if wrong else 'ok    '} {resource['kind']} {resource['metadata']['name']}", *wrong)
        failed |= bool(wrong)
    return failed


if __name__ == "__main__":
    sys.exit(main())
