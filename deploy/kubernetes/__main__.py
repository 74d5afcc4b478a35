"""``make manifests``: write the CRDs, the manifests and the chart anew. ``--check``: say whether they are as they should be."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.kubernetes.crds import definitions
from deploy.kubernetes.text import GENERATED, yaml_of

DEPLOY = Path(__file__).resolve().parents[1]


def generated() -> dict[Path, str]:
    """Every generated file and its text."""
    return {DEPLOY / "crds" / f"{name}.yaml": GENERATED + yaml_of(document) for name, document in definitions().items()}


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
