"""Which collections of the API server are followed, and what each is for.

Owns: the table. Policies of every kind that documents.KINDS knows; Pods, Nodes and Namespaces for whom they mean; Services and
EndpointSlices for ``toServices``. Secrets are not here: only those that rules name are read, one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

TIDEGATE_GROUP = "policy.tidegate.dev/v1alpha1"
CILIUM_GROUP = "cilium.io/v2"


class Role(Enum):
    """What a kind's objects are to us."""

    POLICY = auto()
    CIDR_GROUP = auto()
    NAMESPACE = auto()
    POD = auto()
    NODE = auto()
    SERVICE = auto()
    SLICE = auto()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """One collection. ``fallback``: the path of an older version, for API servers that lack this one."""

    role: Role
    api_version: str
    kind: str
    plural: str
    word: str
    """As in a DocumentKey."""
    optional: bool = False
    """A CRD that may not be installed."""
    has_status: bool = False
    """Whether we write its status."""
    query: Mapping[str, str] = field(default_factory=dict)
    fallback: str = ""

    @property
    def root(self) -> str:
        """``/api/v1`` or ``/apis/GROUP/VERSION``."""
        return f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"

    @property
    def path(self) -> str:
        """The path of the collection, over all namespaces."""
        return f"{self.root}/{self.plural}"

    def object_path(self, namespace: str | None, name: str) -> str:
        """The path of one object."""
        middle = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.root}{middle}/{self.plural}/{name}"


KINDS: tuple[Kind, ...] = (
    Kind(role=Role.NAMESPACE, api_version="v1", kind="Namespace", plural="namespaces", word="namespace"),
    Kind(role=Role.NODE, api_version="v1", kind="Node", plural="nodes", word="node"),
    Kind(
        role=Role.POD,
        api_version="v1",
        kind="Pod",
        plural="pods",
        word="pod",
        # A pod that has ended leaves the collection, as if deleted: its address may be another's.
        query={"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"},
    ),
    Kind(role=Role.SERVICE, api_version="v1", kind="Service", plural="services", word="service"),
    Kind(
        role=Role.SLICE,
        api_version="discovery.k8s.io/v1",
        kind="EndpointSlice",
        plural="endpointslices",
        word="endpointslice",
        # Those of Services with a selector only repeat the pods that it selects, at every change of one of them.
        query={"labelSelector": "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io"},
        fallback="/apis/discovery.k8s.io/v1beta1/endpointslices",
    ),
    Kind(role=Role.POLICY, api_version="networking.k8s.io/v1", kind="NetworkPolicy", plural="networkpolicies", word="knp"),
    *(
        Kind(role=Role.POLICY, api_version=TIDEGATE_GROUP, kind=kind, plural=plural, word=word, optional=True, has_status=True)
        for kind, plural, word in (
            ("TidegatePolicy", "tidegatepolicies", "tp"),
            ("ClusterTidegatePolicy", "clustertidegatepolicies", "ctp"),
        )
    ),
    *(
        Kind(role=Role.POLICY, api_version=CILIUM_GROUP, kind=kind, plural=plural, word=word, optional=True)
        for kind, plural, word in (
            ("CiliumNetworkPolicy", "ciliumnetworkpolicies", "cnp"),
            ("CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies", "ccnp"),
        )
    ),
    Kind(
        role=Role.CIDR_GROUP,
        api_version=CILIUM_GROUP,
        kind="CiliumCIDRGroup",
        plural="ciliumcidrgroups",
        word="cidrgroup",
        optional=True,
        fallback="/apis/cilium.io/v2alpha1/ciliumcidrgroups",
    ),
)
