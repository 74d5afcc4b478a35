"""Every denial that a scenario saw says why: it names the policy and rule that denied it, or the nearest miss; and the evaluator,
asked about it while the same policy is in force, says the same.

Owns: that check. It looks at the records that a running node has kept since the last look.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tidegate.admin.client import NodeClient, NodeError, NodeUnreachable
from tidegate.flows.nearest import NOT_KNOWN, NOT_LOOKED_FOR

EXPLAINED_MAX = 25
"""Different denials of one look that the evaluator is asked about; each costs some milliseconds."""


GRACE = timedelta(seconds=60)
"""Of an agent's life: until its first policy is in force (programs are compiled before that) Envoy judges by that of the agent
before it, which this one can't know."""


class DenialCheck:
    """Looks at one node again and again; a record is looked at once."""

    def __init__(self, admin_socket: Path) -> None:
        self._client = NodeClient(admin_socket)
        self._seen: set[str] = set()

    def look(self) -> None:
        """Check the denials recorded since the last look. A node that is down has nothing to tell."""
        try:
            lines = list(self._client.stream("/v1/flows", {"verdict": "denied"}))
            status = self._client.status()
        except NodeUnreachable:
            return
        fresh = [line["flow"] for line in lines if line["flow"]["uuid"] not in self._seen]
        self._seen.update(flow["uuid"] for flow in fresh)
        settled = f"{datetime.fromisoformat(status['started_at']) + GRACE:%Y-%m-%dT%H:%M:%S}"
        unexplained = [_shown(flow) for flow in fresh if not _says_why(flow, may_be_unknown=flow["time"] < settled)]
        assert not unexplained, f"{len(unexplained)} of {len(fresh)} denials don't say why:\n" + "\n".join(unexplained[:10])
        different = {_key(flow): flow for flow in fresh if flow["tidegate"].get("revision") == status["revision"]}
        different = {
            key: flow
            for key, flow in different.items()
            if flow["tidegate"].get("nearest_miss") not in (NOT_KNOWN, NOT_LOOKED_FOR)
        }
        for flow in list(different.values())[:EXPLAINED_MAX]:
            self._check_explanation(flow)

    def _check_explanation(self, flow: Mapping[str, Any]) -> None:
        try:
            report = self._client.get(f"/v1/flows/{quote(flow['uuid'], safe='')}/explain")
        except NodeError:
            return  # forgotten meanwhile, or the node is stopping
        if report["revision"] != flow["tidegate"]["revision"]:
            return  # the policy has just changed
        assert report["verdict"] == "denied", (
            f"recorded as denied, judged as {report['verdict']}: {_shown(flow)}\n{report['text']}"
        )
        assert report["record"]["agrees"], f"the record and the evaluator differ: {_shown(flow)}\n{report['text']}"


def _says_why(flow: Mapping[str, Any], *, may_be_unknown: bool) -> bool:
    ours = flow["tidegate"]
    miss = ours.get("nearest_miss", "")
    return bool(ours.get("policy") and ours.get("rule")) or (bool(miss) and (miss != NOT_KNOWN or may_be_unknown))


def _key(flow: Mapping[str, Any]) -> tuple[str, ...]:
    ends = flow["IP"]
    port = str(next(iter(flow.get("l4", {}).values()), {}).get("destination_port", ""))
    return (ends.get("source", ""), ends.get("destination", ""), port, flow.get("Summary", ""))


def _shown(flow: Mapping[str, Any]) -> str:
    source, destination, port, summary = _key(flow)
    why = f"{flow.get('drop_reason_desc')} {flow['tidegate']}"
    return f"{flow['traffic_direction']} {source} -> {destination}:{port} {summary} {why}"
