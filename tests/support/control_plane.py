"""A real API server and its etcd, in a network namespace of the test cluster.

They are reached as in a real cluster: through the uplink of each node. The test itself is in no namespace of the cluster; its
client opens its sockets in the control plane's. ``deploy/setup/kubernetes.sh`` makes the programs; without them the tests fail
and say so. There is no scheduler, no kubelet and no controller: tests write Pods, and their status, as those would
(``tests/support/kube.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import http.client
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import yaml

from tests.support.netns import NETNS_DIRECTORY, Cluster, Pod
from tests.support.pod import REPOSITORY

SECURE_PORT = 6443
START_SECONDS_MAX = 90.0
REQUEST_SECONDS_MAX = 30.0
IDLE_SECONDS_MAX = 30.0
"""The server closes a connection that nobody used for 90 s; ours is given up before."""
ADMIN = "admin"
ADDRESS_V4, ADDRESS_V6 = "172.30.0.1", "fd00:30::1"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

Tree = dict[str, Any]


class ApiFailure(Exception):
    """The API server refused."""

    def __init__(self, status: int, body: Any) -> None:
        message = body.get("message", "") if isinstance(body, dict) else str(body)
        super().__init__(f"{status} {message}")
        self.status, self.body = status, body


@functools.cache
def programs() -> Path:
    """Where kube-apiserver and etcd are; made at first use, which takes minutes where they are not cached."""
    made = subprocess.run([str(REPOSITORY / "deploy/setup/kubernetes.sh")], capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"deploy/setup/kubernetes.sh can't make the API server:\n{made.stderr}"
    return Path(made.stdout.strip())


@contextlib.contextmanager
def inside(netns: str) -> Iterator[None]:
    """Have this thread open sockets in another network namespace."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    other = os.open(NETNS_DIRECTORY / netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(other)
        try:
            yield
        finally:
            _set_namespace(own)
    finally:
        os.close(own)
        os.close(other)


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class _Connection(http.client.HTTPSConnection):
    netns = ""

    def connect(self) -> None:
        with inside(self.netns):
            plain = socket.create_connection((self.host, self.port), self.timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._context.wrap_socket(plain, server_hostname=self.host)  # type: ignore[attr-defined]
        except BaseException:
            plain.close()
            raise


class ControlPlane:
    """One API server. Use it as a context manager, within its cluster's."""

    def __init__(self, cluster: Cluster, flags: tuple[str, ...] = ()) -> None:
        self._cluster = cluster
        self._flags = flags
        self._etcd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: _Connection | None = None
        self._used_s = 0.0
        self._tokens = {ADMIN: (secrets.token_hex(16), "system:masters")}

    @property
    def directory(self) -> Path:
        """Its files: keys, logs, etcd's data."""
        return self._cluster.directory / "control-plane"

    @property
    def pod(self) -> Pod:
        """The namespace it is in."""
        return self._cluster.worlds["control"]

    # ---- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        binaries = programs()
        self.directory.mkdir()
        self._cluster.world("control", ADDRESS_V4, ADDRESS_V6)
        key = self.directory / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        self._binaries = binaries
        try:
            self._start_etcd()
            self.start()
        except BaseException:
            print(self.log_tail())
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End both."""
        self.stop()
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()
            self._etcd = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start_etcd(self) -> None:
        urls = {"listen-client": 2379, "advertise-client": 2379, "listen-peer": 2380, "initial-advertise-peer": 2380}
        self._etcd = self._popen(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            "--unsafe-no-fsync",
            "--initial-cluster=default=http://127.0.0.1:2380",
            *(f"--{name}-urls=http://127.0.0.1:{port}" for name, port in urls.items()),
        )

    def start(self, wait: bool = True) -> None:
        """Start the API server (again)."""
        self._write_tokens()
        key = self.directory / "sa.key"
        self._server = self._popen(
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=0.0.0.0",
            f"--advertise-address={ADDRESS_V4}",
            f"--secure-port={SECURE_PORT}",
            f"--cert-dir={self.directory / 'certificates'}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={key}",
            # Pods are written without the service accounts that a controller would make.
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
            *self._flags,
        )
        if wait:
            self.wait_ready()

    def stop(self) -> None:
        """End the API server at once; etcd keeps what it had."""
        self._disconnect()
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def compact(self) -> None:
        """Have etcd forget all but the present: whoever wants to resume from before gets 410 Gone."""
        with inside(self.pod.netns):
            etcd = http.client.HTTPConnection("127.0.0.1", 2379, timeout=REQUEST_SECONDS_MAX)
            etcd.connect()
        try:
            key = {"key": "AA==", "range_end": "AA==", "limit": "1"}
            etcd.request("POST", "/v3/kv/range", json.dumps(key))
            revision = json.loads(etcd.getresponse().read())["header"]["revision"]
            etcd.request("POST", "/v3/kv/compaction", json.dumps({"revision": revision, "physical": True}))
            answer = etcd.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
        finally:
            etcd.close()

    def wait_ready(self) -> None:
        """Return when the API server says that it is ready."""
        deadline = time.monotonic() + START_SECONDS_MAX
        last = ""
        while time.monotonic() < deadline:
            assert self._server is not None
            assert self._server.poll() is None, f"kube-apiserver has ended:\n{self.log_tail()}"
            try:
                self.request("GET", "/readyz")
                self.request("GET", "/api/v1/namespaces/default")
                return
            except (OSError, http.client.HTTPException, ApiFailure) as error:
                last = str(error)
                self._disconnect()
                time.sleep(0.1)
        raise AssertionError(f"the API server is not ready after {START_SECONDS_MAX} s: {last}\n{self.log_tail()}")

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{program}.log").open("ab") as log:
            return self.pod.popen([str(self._binaries / program), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log_tail(self) -> str:
        """The last of what both printed."""
        parts = []
        for path in sorted(self.directory.glob("*.log")):
            parts.append(f"---- {path.name}\n{path.read_bytes()[-6000:].decode(errors='replace')}")
        return "\n".join(parts)

    # ---- who may ask ----------------------------------------------------------------------------------------------

    def _write_tokens(self) -> None:
        lines = [f'{token},{user},{user},"{group}"' for user, (token, group) in self._tokens.items()]
        (self.directory / "tokens.csv").write_text("\n".join(lines) + "\n")

    def add_user(self, name: str, group: str) -> None:
        """Make a user known from the next start on: the file of tokens is read once."""
        self._tokens[name] = (secrets.token_hex(16), group)

    def kubeconfig(self, user: str = ADMIN) -> Path:
        """A kubeconfig for a user."""
        path = self.directory / f"kubeconfig-{user.replace(':', '-')}"  # a colon separates files, as in $KUBECONFIG
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.certificate)}}],
            "users": [{"name": user, "user": {"token": self._tokens[user][0]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(document))
        return path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://{ADDRESS_V4}:{SECURE_PORT}"

    @property
    def certificate(self) -> Path:
        """What its certificate is verified with."""
        return self.directory / "certificates" / "apiserver.crt"

    # ---- asking ---------------------------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, body: Tree | None = None, query: Mapping[str, str] | None = None, kind: str = ""
    ) -> Any:
        """Ask as the administrator; raises ApiFailure for what is no success."""
        if time.monotonic() - self._used_s > IDLE_SECONDS_MAX:
            self._disconnect()
        connection = self._connection or self._connect()
        self._connection, self._used_s = connection, time.monotonic()
        headers = {"Authorization": f"Bearer {self._tokens[ADMIN][0]}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = kind or "application/json"
        url = path + (f"?{urlencode(query)}" if query else "")
        try:
            connection.request(method, url, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            data = response.read()
        except BaseException:
            self._disconnect()
            raise
        answer = json.loads(data) if response.headers.get_content_type() == "application/json" else data.decode()
        if not 200 <= response.status < 300:
            raise ApiFailure(response.status, answer)
        return answer

    @property
    def authorization(self) -> str:
        """The administrator's header."""
        return f"Bearer {self._tokens[ADMIN][0]}"

    def open_connection(self) -> http.client.HTTPSConnection:
        """A connection of one's own."""
        connection = self._connect()
        connection.connect()
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> _Connection:
        context = ssl.create_default_context(cafile=str(self.certificate))
        connection = _Connection(ADDRESS_V4, SECURE_PORT, timeout=REQUEST_SECONDS_MAX, context=context)
        connection.netns = self.pod.netns
        return connection
