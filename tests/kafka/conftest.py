"""Two Apache Kafka brokers: an open one behind Tidegate, and one that authorizes by itself, beside it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.kafka import ADMIN, KAFKA, Client, apache_kafka
from tests.support.netns import Cluster, Pod
from tests.support.node import Node
from tests.support.stage import Document

TOPICS = ("orders", "payments", "secrets")
BROKER = {"app": "broker"}
SHOP = {"app": "shop"}


@dataclass
class Brokers:
    """Where both are, and the node that stands before the open one."""

    cluster: Cluster
    node: Node
    shop: Pod
    behind: Pod
    strict: Pod
    _enforced: dict[str, str] = field(default_factory=dict)

    def enforce(self, document: Document) -> None:
        """Put a policy in force before the open broker."""
        if self._enforced != {document.name: document.text}:
            self._enforced = {document.name: document.text}
            self.node.set_policies(self._enforced)

    def administrator(self, pod: Pod) -> Client:
        """A client that no one restricts: of the strict broker by its own login, of the other from the broker's own pod."""
        if pod is self.strict:
            login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}
            login |= {"sasl.username": "admin", "sasl.password": "admin"}
            return Client(pod, "confluent", pod.authority(ADMIN), **login)
        return Client(pod, "confluent", pod.authority(KAFKA))


@pytest.fixture(scope="session")
def brokers() -> Iterator[Brokers]:
    subprocess.run([Path(__file__).parents[2] / "deploy" / "setup" / "kafka.sh"], check=True, stdin=subprocess.DEVNULL)
    cluster = Cluster(prefix="tgauth")
    node = Node(cluster)
    with cluster:
        found = Brokers(
            cluster, node, shop=cluster.pod("shop", SHOP), behind=cluster.pod("broker", BROKER), strict=cluster.pod("strict", {})
        )
        running: list[Any] = [
            apache_kafka(pod, cluster.directory, strict=pod is found.strict) for pod in (found.behind, found.strict)
        ]
        try:
            for broker in running:
                broker.wait_started()
            for pod in (found.behind, found.strict):
                with found.administrator(pod) as admin:
                    assert admin.ask("create", topics=list(TOPICS)) == {"ok": dict.fromkeys(TOPICS, "ok")}
                    assert admin.ask("produce", topics=list(TOPICS), count=3) == {"ok": dict.fromkeys(TOPICS, "ok")}
            with node:
                yield found
        finally:
            for broker in running:
                broker.close()
