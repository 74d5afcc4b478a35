"""``make manifests``: write the CRDs, the manifests and the chart anew. ``--check``: say whether they are as they should be."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.kubernetes import manifests
from deploy.kubernetes.crds import definitions
from deploy.kubernetes.text import GENERATED, template_of, values_yaml, with_defaults, yaml_of

DEPLOY = Path(__file__).resolve().parents[1]
CHART = DEPLOY / "kubernetes/chart"
PLAIN = DEPLOY / "kubernetes/plain"
CHART_YAML = """apiVersion: v2
name: tidegate
description: L7 network policy per node, without sidecars
type: application
version: 0.1.0
appVersion: 0.1.0
kubeVersion: ">=1.21.0-0"
"""


def generated() -> dict[Path, str]:
    """Every generated file and its text."""
    crds = {f"{name}.yaml": GENERATED + yaml_of(document) for name, document in definitions().items()}
    always, with_cni = manifests.always(), manifests.with_cni()
    plain = yaml_of(manifests.namespace(), *(with_defaults(one) for one in (*always, *with_cni)))
    uninstall = yaml_of(with_defaults(manifests.config_map()), with_defaults(manifests.cleanup()))
    chart = {
        "Chart.yaml": GENERATED + CHART_YAML,
        "values.yaml": GENERATED + values_yaml(),
        "templates/tidegate.yaml": GENERATED + template_of(*always),
        "templates/cni.yaml": GENERATED + "{{- if .Values.cni.enabled }}\n" + template_of(*with_cni) + "{{- end }}\n",
    }
    return {
        **{DEPLOY / "crds" / name: text for name, text in crds.items()},
        **{CHART / "crds" / name: text for name, text in crds.items()},
        **{CHART / name: text for name, text in chart.items()},
        PLAIN / "tidegate.yaml": GENERATED + plain,
        PLAIN / "uninstall.yaml": GENERATED + uninstall,
    }


def main() -> int:
    """Write, or check."""
    wanted = generated()
    stale = [path for path, content in wanted.items() if not path.exists() or path.read_text() != content]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path}: not as deploy/kubernetes makes it; run `make manifests`", file=sys.stderr)
        return 1 if stale else 0
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
