"""deploy/: the dashboard and the alert rules name metrics that there are, and promtool is content with them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tidegate.metrics import CATALOGUE, Kind

DEPLOY = Path(__file__).parents[3] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "tidegate.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
ALERTS_TEST = DEPLOY / "prometheus" / "alerts_test.yaml"
VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$instance": ".*", "$destination": ".*"}


def promtool(*arguments: str) -> None:
    result = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def expressions(node: Any) -> Iterator[str]:
    """Every PromQL expression in a dashboard."""
    if isinstance(node, dict):
        if isinstance(node.get("expr"), str):
            yield node["expr"]
        for value in node.values():
            yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


def names_and_labels(text: str) -> set[tuple[str, str]]:
    """Each metric that PromQL names, with each label that its selector asks for."""
    found: set[tuple[str, str]] = set()
    for name, selector in re.findall(r"(tidegate_\w+)(?:\{([^}]*)\})?", text):
        found.add((name, ""))
        found |= {(name, label) for label in re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector)}
    return found


def check_names(text: str) -> None:
    known = {}
    for spec in CATALOGUE:
        for suffix in ("_bucket", "_sum", "_count") if spec.kind is Kind.HISTOGRAM else ("",):
            known[spec.name + suffix] = {*spec.labels, "", "instance", "job", *(("le",) if spec.kind is Kind.HISTOGRAM else ())}
    for name, label in names_and_labels(text):
        assert name in known, f"there is no metric {name}"
        assert label in known[name], f"{name} has no label {label}"


def test_dashboard_names_metrics_that_there_are_in_queries_that_parse(tmp_path: Path) -> None:
    found = list(expressions(json.loads(DASHBOARD.read_text())))
    assert len(found) > 30
    for expression in found:
        check_names(expression)
    rules = []
    for number, expression in enumerate(found):
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        rules.append({"record": f"panel:{number}", "expr": expression})
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_dashboard_has_the_shape_that_grafana_reads() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "instance", "destination"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert max(x for x, _ in cells) < 24
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells


def test_alert_rules_name_metrics_that_there_are_and_say_what_to_do() -> None:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        check_names(rule["expr"])
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description"}
    promtool("check", "rules", str(ALERTS))


def test_alert_rules_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", str(ALERTS_TEST))
    check_names(ALERTS_TEST.read_text())
