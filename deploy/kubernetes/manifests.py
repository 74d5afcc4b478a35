"""The objects that run Tidegate on a cluster.

Owns: what runs where, with which privileges and why. Three DaemonSets, so that each is restarted and updated alone: an update of
the agent touches no request, for Envoy and the kernel go on meanwhile.

Every privilege has its reason beside it. What all three share: the node's network (their sockets are the node's), a read-only
root, no privilege escalation, every capability dropped but those named, the runtime's seccomp profile where it allows what is
needed.
"""

from __future__ import annotations

from typing import Any

from deploy.kubernetes.crds import GROUP
from deploy.kubernetes.text import NAMESPACE
from deploy.kubernetes.values import use

Tree = dict[str, Any]
LABELS = {"app.kubernetes.io/part-of": "tidegate"}
STATE = "/run/tidegate"
CONFIG = "/etc/tidegate/node.yaml"
HOST_SYSCTLS = "/host/proc-sys-net"
METRICS_PORT = 9469
UPDATED_AT_ONCE = "10%"

AGENT_CAPABILITIES = (
    "BPF",  # loads programs, makes and reads maps
    "PERFMON",  # the verifier wants it of programs that compare pointers
    "NET_ADMIN",  # attaches programs; rules, routes, the hairpin; asks for addresses in pods' namespaces; destroys sockets
    "SYS_ADMIN",  # opens pinned programs by their number; attaches to cgroups and the network namespace (bpf(2) wants it)
)
ENVOY_CAPABILITIES = (
    "NET_ADMIN",  # transparent sockets, SO_MARK
    "NET_RAW",  # SO_MARK since Linux 5.17 with this alone; transparent sockets too
)
DNSPROXY_CAPABILITIES = (
    "BPF",  # writes the map of names
    "NET_ADMIN",  # transparent sockets, SO_MARK: answers come from the server that was asked
    "NET_RAW",
)


def _meta(name: str, **more: Any) -> Tree:
    return {"name": name, "namespace": NAMESPACE, "labels": dict(LABELS), **more}


def namespace() -> Tree:
    """The namespace; its pods need what no restricted profile allows."""
    labels = {**LABELS, "pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def service_account() -> Tree:
    """Who the agent is. Envoy and the DNS proxy never speak to the API server."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta("tidegate-agent")}


def cluster_role() -> Tree:
    """What the agent may ask for: reading, its own policies' status, Events."""
    read = ["get", "list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["namespaces", "nodes", "pods", "services"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": read},
        {
            "apiGroups": ["cilium.io"],
            "resources": ["ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies", "ciliumcidrgroups"],
            "verbs": read,
        },
        {"apiGroups": [GROUP], "resources": ["tidegatepolicies", "clustertidegatepolicies"], "verbs": read},
        {"apiGroups": [GROUP], "resources": ["tidegatepolicies/status", "clustertidegatepolicies/status"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
    ]
    metadata = {"name": "tidegate-agent", "labels": dict(LABELS)}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules}


def secrets_role() -> Tree:
    """Reading Secrets; bound by nobody: bind it in the namespaces whose Secrets rules name (docs/kubernetes.md)."""
    rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}]
    metadata = {"name": "tidegate-agent-secrets", "labels": dict(LABELS)}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules}


def cluster_role_binding() -> Tree:
    """The agent is the one who may."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "tidegate-agent", "labels": dict(LABELS)},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tidegate-agent"},
        "subjects": [{"kind": "ServiceAccount", "name": "tidegate-agent", "namespace": NAMESPACE}],
    }


def config_map() -> Tree:
    """node.yaml, one for all nodes: the node's name comes from the environment."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _meta("tidegate-node"),
        "data": {"node.yaml": use("nodeConfig") + "\n"},
    }


def _host(name: str, path: str, kind: str = "") -> Tree:
    return {"name": name, "hostPath": {"path": path} | ({"type": kind} if kind else {})}


def _mount(name: str, path: str, *, read_only: bool = False, propagation: str = "") -> Tree:
    mount: Tree = {"name": name, "mountPath": path}
    if read_only:
        mount["readOnly"] = True
    if propagation:
        mount["mountPropagation"] = propagation
    return mount


def _security(capabilities: tuple[str, ...]) -> Tree:
    return {
        "runAsUser": 0,  # capabilities of another user would need file capabilities on the interpreter
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": list(capabilities)},
        # The profiles of containerd and CRI-O allow bpf(2) to who has CAP_BPF, and setns(2) to nobody here.
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container(name: str, part: str, capabilities: tuple[str, ...], mounts: list[Tree], **more: Any) -> Tree:
    environment = [
        {"name": "TIDEGATE_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
    ]
    return {
        "name": name,
        "image": f"{use('image.repository')}:{use('image.tag')}",
        "imagePullPolicy": use("image.pullPolicy"),
        "args": ["run", "--only", part, "--config", CONFIG],
        "env": environment,
        "resources": use(f"{part}.resources"),
        "securityContext": _security(capabilities),
        "volumeMounts": [_mount("config", "/etc/tidegate", read_only=True), _mount("state", STATE), *mounts],
        **more,
    }


def _daemon_set(name: str, pod: Tree, *, update: Tree) -> Tree:
    labels = {**LABELS, "app.kubernetes.io/name": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": _meta(name, labels=labels),
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
            "updateStrategy": update,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": True,  # their sockets and programs are the node's
                    "dnsPolicy": "ClusterFirstWithHostNet",
                    "priorityClassName": use("priorityClassName"),
                    "nodeSelector": use("nodeSelector"),
                    "tolerations": use("tolerations"),
                    **pod,
                },
            },
        },
    }


def _probe(words: list[str], **timing: int) -> Tree:
    return {"exec": {"command": words}, **timing}


def bpffs_mounter() -> Tree:
    """Mounts bpffs on the host where it is missing (systemd mounts it), and ends. Only this needs a privileged container: nobody
    else may show the host a mount."""
    words = "mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf"
    return {
        "name": "bpffs",
        "image": f"{use('image.repository')}:{use('image.tag')}",
        "imagePullPolicy": use("image.pullPolicy"),
        "command": ["sh", "-c", words],
        "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
        "securityContext": {"privileged": True, "readOnlyRootFilesystem": True},
        "volumeMounts": [_mount("bpffs", "/sys/fs/bpf", propagation="Bidirectional")],
    }


def agent() -> Tree:
    """The agent. While it is away the last policy stays in force, and new pods stay closed."""
    health = {"path": "/healthz", "port": METRICS_PORT}
    container = _container(
        "agent",
        "agent",
        AGENT_CAPABILITIES,
        [
            _mount("bpffs", "/sys/fs/bpf", propagation="HostToContainer"),
            _mount("cgroup", "/sys/fs/cgroup", read_only=True),
            _mount("sysctls", HOST_SYSCTLS),
            _mount("tmp", "/tmp"),
        ],
        ports=[{"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}],
        startupProbe={"httpGet": health, "periodSeconds": 2, "failureThreshold": 60, "timeoutSeconds": 5},
        livenessProbe={"httpGet": health, "periodSeconds": 20, "failureThreshold": 4, "timeoutSeconds": 10},
    )
    # A container's own /proc/sys can't be written.
    container["env"].append({"name": "TIDEGATE_SYSCTLS", "value": HOST_SYSCTLS})
    pod = {
        "serviceAccountName": "tidegate-agent",
        "terminationGracePeriodSeconds": 15,
        "initContainers": [bpffs_mounter()],
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": "tidegate-node"}},
            _host("state", STATE, "DirectoryOrCreate"),
            _host("bpffs", "/sys/fs/bpf", "DirectoryOrCreate"),
            _host("cgroup", "/sys/fs/cgroup"),
            _host("sysctls", "/proc/sys/net"),
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        ],
    }
    update = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": UPDATED_AT_ONCE}}
    return _daemon_set("tidegate-agent", pod, update=update)


def envoy() -> Tree:
    """Envoy. An update of the DaemonSet restarts none by itself: delete its pods node by node, best while a node is drained."""
    container = _container("envoy", "envoy", ENVOY_CAPABILITIES, [_mount("tmp", "/tmp"), _mount("shm", "/dev/shm")])
    container["livenessProbe"] = _probe(
        ["python3", "-c", f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{STATE}/envoy/admin.sock')"],
        periodSeconds=20,
        failureThreshold=3,
        timeoutSeconds=10,
        initialDelaySeconds=10,
    )
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 30,
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": "tidegate-node"}},
            _host("state", STATE, "DirectoryOrCreate"),
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        ],
    }
    return _daemon_set("tidegate-envoy", pod, update={"type": "OnDelete"})


def dnsproxy() -> Tree:
    """The DNS proxy. It holds its rules and what it has learnt on disk, and is back within a second."""
    container = _container(
        "dnsproxy",
        "dnsproxy",
        DNSPROXY_CAPABILITIES,
        [_mount("bpffs", "/sys/fs/bpf", propagation="HostToContainer"), _mount("tmp", "/tmp")],
    )
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 10,
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": "tidegate-node"}},
            _host("state", STATE, "DirectoryOrCreate"),
            _host("bpffs", "/sys/fs/bpf", "DirectoryOrCreate"),
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        ],
    }
    update = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": UPDATED_AT_ONCE}}
    return _daemon_set("tidegate-dnsproxy", pod, update=update)


def cni() -> Tree:
    """Puts the CNI plugin and its place in the chain onto each node, and takes both away when the pod ends."""
    mounts = [
        _mount("config", "/etc/tidegate", read_only=True),
        _mount("binaries", "/host/bin"),
        _mount("configurations", "/host/conf"),
    ]
    container = {
        "name": "cni",
        "image": f"{use('image.repository')}:{use('image.tag')}",
        "imagePullPolicy": use("image.pullPolicy"),
        "command": ["python3", "-m", "tidegate.cni_install"],
        "args": ["--binaries", "/host/bin", "--configurations", "/host/conf", "--settings", "/etc/tidegate/cni.json"],
        "env": [{"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}],
        "resources": {"requests": {"cpu": "5m", "memory": "24Mi"}, "limits": {"memory": "64Mi"}},
        # Only files of root's are written: no capability but to write where root owns the directory.
        "securityContext": _security(("DAC_OVERRIDE",)),
        "volumeMounts": mounts,
    }
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 10,
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": "tidegate-cni"}},
            _host("binaries", use("cni.binaryDirectory"), "DirectoryOrCreate"),
            _host("configurations", use("cni.configDirectory"), "DirectoryOrCreate"),
        ],
    }
    # In the node's network like the others: it must start where no pod can, for want of what it installs.
    return _daemon_set(
        "tidegate-cni", pod, update={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": UPDATED_AT_ONCE}}
    )


def cni_config_map() -> Tree:
    """The plugin's own configuration."""
    settings = f'{{"waitSeconds": {use("cni.waitSeconds")}, "withoutAgent": "{use("cni.withoutAgent")}"}}\n'
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta("tidegate-cni"), "data": {"cni.json": settings}}


def cleanup_job_pod() -> Tree:
    """The pod that leaves a node as it was: programs, maps, rules, routes, the hairpin, sysctls, state."""
    mounts = [
        _mount("bpffs", "/sys/fs/bpf", propagation="Bidirectional"),
        _mount("binaries", "/host/bin"),
        _mount("configurations", "/host/conf"),
    ]
    container = _container("cleanup", "agent", (), mounts)
    steps = [
        "python3 -m tidegate.cni_install --remove --binaries /host/bin --configurations /host/conf",
        f"tidegate cleanup --config {CONFIG}",
        f"rm -rf {STATE}/*",
        "touch /tmp/done",
        "exec sleep infinity",
    ]
    container["command"] = ["sh", "-c", " && ".join(steps)]
    container["volumeMounts"].append(_mount("tmp", "/tmp"))
    del container["args"]
    container["securityContext"] = {"privileged": True, "readOnlyRootFilesystem": True}
    container["readinessProbe"] = _probe(["test", "-e", "/tmp/done"], periodSeconds=2)
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": "tidegate-node"}},
            _host("state", STATE, "DirectoryOrCreate"),
            _host("bpffs", "/sys/fs/bpf", "DirectoryOrCreate"),
            _host("binaries", use("cni.binaryDirectory"), "DirectoryOrCreate"),
            _host("configurations", use("cni.configDirectory"), "DirectoryOrCreate"),
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        ],
    }


def cleanup() -> Tree:
    """Run after the others are gone: `kubectl apply -f uninstall.yaml`, wait until it is ready everywhere, delete it."""
    return _daemon_set("tidegate-cleanup", cleanup_job_pod(), update={"type": "RollingUpdate"})


def always() -> list[Tree]:
    """What every installation has."""
    return [
        service_account(),
        cluster_role(),
        secrets_role(),
        cluster_role_binding(),
        config_map(),
        agent(),
        envoy(),
        dnsproxy(),
    ]


def with_cni() -> list[Tree]:
    """What ``cni.enabled`` adds."""
    return [cni_config_map(), cni()]
