"""``tidegate doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tidegate.cli.exits import Exit
from tidegate.cli.options import ConfigOption
from tidegate.cli.output import Format, FormatOption, print_json, show, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.config.node import NodeConfig
    from tidegate.status.diagnosis import Finding


def doctor(config: ConfigOption = None, output: FormatOption = Format.TABLE) -> None:
    """Check whether this machine can enforce policy, and say how to mend what is missing.

    Looks only, changes nothing. With --config also checks what that node needs. Exits 0 only if everything required is there.

    Example:  tidegate doctor --config node.yaml
    """
    from tidegate.jsonvalue import encode
    from tidegate.status.diagnosis import Outcome, diagnose

    findings = list(diagnose(_optional_config(config)))
    missing = [finding for finding in findings if finding.outcome is Outcome.MISSING]
    if output is Format.JSON:
        print_json({"ok": not missing, "findings": encode(findings)})
    else:
        show(table(("CHECK", "RESULT", "DETAIL"), [row for finding in findings for row in _rows(finding)]))
    raise typer.Exit(Exit.NO if missing else Exit.OK)


def _rows(finding: Finding) -> Iterator[tuple[str, str, str]]:
    yield (finding.check, finding.outcome, finding.detail)
    if finding.fix:
        yield ("", "", f"  -> {finding.fix}")


def _optional_config(option: object) -> NodeConfig | None:
    from pathlib import Path

    from tidegate.config.node import load_config

    return load_config(option) if isinstance(option, Path) else None
