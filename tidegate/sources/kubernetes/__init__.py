"""A Kubernetes API server as a source."""

from tidegate.sources.kubernetes.cluster import ClusterState
from tidegate.sources.kubernetes.people import Unmanaged
from tidegate.sources.kubernetes.source import ClusterSettings, KubernetesSource

__all__ = ["ClusterSettings", "ClusterState", "KubernetesSource", "Unmanaged"]
