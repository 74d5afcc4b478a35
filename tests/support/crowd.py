"""A cluster's worth of objects on an API server: pods that are nobody, and the policies about them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.control_plane import ControlPlane
from tests.support.kube import MERGE

WRITERS_COUNT = 8


class Crowd:
    """Many pods of other nodes, with so many distinct label sets."""

    def __init__(self, control: ControlPlane, pods: int, label_sets: int, nodes: int = 50) -> None:
        self.control, self.pods_count, self.label_sets, self.nodes = control, pods, label_sets, nodes

    def address(self, number: int) -> str:
        """Of one pod; unique."""
        return f"10.{100 + number // 60000}.{number // 250 % 240}.{number % 250 + 1}"

    def labels(self, number: int) -> dict[str, str]:
        """Of one pod."""
        group = number % self.label_sets
        return {"app": f"app-{group}", "tier": f"tier-{group % 7}", "pod-template-hash": f"{number % 9:x}"}

    def pod(self, number: int) -> dict[str, Any]:
        """One Pod, of about the size that a real one has."""
        container = {
            "name": "main",
            "image": "registry.example/app:1.2.3",
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "env": [{"name": f"VARIABLE_{index}", "value": f"value of {index}"} for index in range(20)],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"crowd-{number}", "namespace": "default", "labels": self.labels(number)},
            "spec": {"nodeName": f"far-{number % self.nodes}", "terminationGracePeriodSeconds": 0, "containers": [container]},
        }

    def policy(self, number: int) -> dict[str, Any]:
        """One policy: some select nobody here, and each tenth the workloads of this node."""
        group = number % self.label_sets
        subject = {"class": "deathstar"} if number % 10 == 0 else {"app": f"app-{group}"}
        rule: dict[str, Any] = {
            "fromEndpoints": [{"matchLabels": {"app": f"app-{(group + 1) % self.label_sets}"}}],
            "toPorts": [{"ports": [{"port": str(8000 + number % 20), "protocol": "TCP"}]}],
        }
        if number % 5 == 0:
            rule["toPorts"][0]["rules"] = {"http": [{"method": "GET", "path": {"prefix": f"/v{number % 50}"}}]}
        return {
            "apiVersion": "policy.tidegate.dev/v1alpha1",
            "kind": "TidegatePolicy",
            "metadata": {"name": f"policy-{number}", "namespace": "default"},
            "spec": {"endpointSelector": {"matchLabels": subject}, "ingress": [rule]},
        }

    def create(self, numbers: Iterable[int]) -> None:
        """Create these pods, running."""
        self._each(self.create_one, list(numbers))

    def create_policies(self, count: int) -> None:
        """Create so many policies."""

        def one(connection: http.client.HTTPSConnection, number: int) -> None:
            path = "/apis/policy.tidegate.dev/v1alpha1/namespaces/default/tidegatepolicies"
            _ask(self.control, connection, "POST", path, self.policy(number))

        self._each(one, list(range(count)))

    def delete_one(self, connection: http.client.HTTPSConnection, number: int) -> None:
        """Delete one pod."""
        path = f"/api/v1/namespaces/default/pods/crowd-{number}?gracePeriodSeconds=0"
        _ask(self.control, connection, "DELETE", path, None)

    def create_one(self, connection: http.client.HTTPSConnection, number: int) -> None:
        """Create one pod, running."""
        _ask(self.control, connection, "POST", "/api/v1/namespaces/default/pods", self.pod(number))
        status = {"phase": "Running", "podIP": self.address(number), "podIPs": [{"ip": self.address(number)}]}
        path = f"/api/v1/namespaces/default/pods/crowd-{number}/status"
        _ask(self.control, connection, "PATCH", path, {"status": status}, MERGE)

    def _each(self, write: Any, numbers: list[int]) -> None:
        def some(share: list[int]) -> None:
            connection = self.control.open_connection()
            try:
                for number in share:
                    write(connection, number)
            finally:
                connection.close()

        with ThreadPoolExecutor(WRITERS_COUNT) as pool:
            list(pool.map(some, _shares(numbers, WRITERS_COUNT)))


def _shares(numbers: list[int], count: int) -> Iterator[list[int]]:
    for index in range(count):
        yield numbers[index::count]


def _ask(
    control: ControlPlane,
    connection: http.client.HTTPSConnection,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    kind: str = "",
) -> None:
    headers = {"Authorization": control.authorization, "Content-Type": kind or "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    data = response.read()
    assert response.status in (200, 201), data[:500]
