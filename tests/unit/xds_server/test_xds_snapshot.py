"""Snapshots: versions by content, consistency by construction, edits that cost what they change."""

from __future__ import annotations

import subprocess
import sys

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Metadata
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_envoy import resource
from xds_server import (
    BadReference,
    InconsistentSnapshot,
    Resource,
    ResourceKey,
    ResourceTooLarge,
    Snapshot,
    SnapshotTooLarge,
    TypeUrl,
)
from xds_server.shared_map import SHARDS, SharedMap
from xds_server.snapshot import MAY_REFER_TO, RESOURCE_BYTES_MAX, RESOURCES_MAX

CLUSTER_A = ResourceKey(TypeUrl.CLUSTER, "a")
ROUTE_R = ResourceKey(TypeUrl.ROUTE, "r")


def labelled(name: str, labels: list[str]) -> Cluster:
    """A message with a map in it, filled in the given order."""
    message = Cluster(name=name, metadata=Metadata())
    for label in labels:
        message.metadata.filter_metadata[label]["key"] = label
    return message


def test_versions_depend_on_content_alone_not_on_the_order_in_which_maps_were_filled() -> None:
    labels = [f"label-{number}" for number in range(20)]
    one = Resource.of(TypeUrl.CLUSTER, "a", labelled("a", labels))
    two = Resource.of(TypeUrl.CLUSTER, "a", labelled("a", labels[::-1]))
    assert one == two
    assert one.version != Resource.of(TypeUrl.CLUSTER, "a", labelled("a", labels[:-1])).version


def test_versions_are_the_same_in_another_process() -> None:
    here = Resource.of(TypeUrl.CLUSTER, "a", labelled("a", ["x", "y"])).version
    code = (
        "from tests.unit.xds_server.test_xds_snapshot import labelled\nfrom xds_server import Resource, TypeUrl\n"
        "print(Resource.of(TypeUrl.CLUSTER, 'a', labelled('a', ['y', 'x'])).version)"
    )
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert there == here


def test_a_reference_that_does_not_resolve_is_refused_with_both_ends_named() -> None:
    with pytest.raises(InconsistentSnapshot) as caught:
        Snapshot([resource(TypeUrl.LISTENER, "l", 1, [ROUTE_R, CLUSTER_A])])
    listener = ResourceKey(TypeUrl.LISTENER, "l")
    assert caught.value.faults == (
        BadReference(listener, CLUSTER_A, "it is not in the snapshot"),
        BadReference(listener, ROUTE_R, "it is not in the snapshot"),
    )
    assert str(caught.value).startswith("Listener 'l' refers to Cluster 'a': it is not in the snapshot; ")


def test_a_reference_against_the_order_of_types_is_refused() -> None:
    with pytest.raises(InconsistentSnapshot, match="can't refer to that type"):
        Snapshot([resource(TypeUrl.CLUSTER, "a", 1, [ROUTE_R]), resource(TypeUrl.ROUTE, "r", 1)])


def test_types_can_not_refer_to_each_other_in_a_circle() -> None:
    done: set[TypeUrl] = set()
    while len(done) < len(TypeUrl):
        free = {type_url for type_url in TypeUrl if type_url not in done and MAY_REFER_TO[type_url] <= done}
        assert free
        done |= free


def test_an_edit_is_checked_as_the_whole_would_be() -> None:
    snapshot = Snapshot([resource(TypeUrl.ROUTE, "r", 1, [CLUSTER_A]), resource(TypeUrl.CLUSTER, "a", 1)])
    with pytest.raises(InconsistentSnapshot, match="it is not in the snapshot any more"):
        snapshot.edited(drop=[CLUSTER_A])
    without = snapshot.edited(put=[resource(TypeUrl.ROUTE, "r", 2)], drop=[CLUSTER_A])
    assert set(without) == {ROUTE_R}
    assert snapshot.edited(drop=[CLUSTER_A, ROUTE_R]).versions() == {}


def test_an_edit_that_changes_nothing_is_the_same_snapshot() -> None:
    snapshot = Snapshot([resource(TypeUrl.CLUSTER, "a", 1)])
    assert snapshot.edited(put=[resource(TypeUrl.CLUSTER, "a", 1)], drop=[ROUTE_R]) is snapshot
    assert snapshot.replaced_by([resource(TypeUrl.CLUSTER, "a", 1)]) is snapshot


def test_changing_one_of_a_thousand_resources_copies_one_shard() -> None:
    before = Snapshot(resource(TypeUrl.ROUTE, f"r{number}", 1) for number in range(1000))
    after = before.edited(put=[resource(TypeUrl.ROUTE, "r500", 2)])
    shared = sum(mine is theirs for mine, theirs in zip(before._resources._shards, after._resources._shards, strict=True))
    assert shared == SHARDS - 1
    assert before.changed_keys(after) == {ResourceKey(TypeUrl.ROUTE, "r500")}
    assert before[ResourceKey(TypeUrl.ROUTE, "r500")].version == "v1"


def test_limits_hold() -> None:
    with pytest.raises(ResourceTooLarge):
        Resource(type_url=TypeUrl.CLUSTER, name="a", version="1", body=bytes(RESOURCE_BYTES_MAX + 1))
    full = [resource(TypeUrl.CLUSTER, str(number), 1) for number in range(RESOURCES_MAX)]
    snapshot = Snapshot(full)
    with pytest.raises(SnapshotTooLarge):
        snapshot.edited(put=[resource(TypeUrl.ROUTE, "one more", 1)])


@given(
    st.dictionaries(st.integers(0, 600), st.integers(0, 3)),
    st.dictionaries(st.integers(0, 600), st.integers(0, 3)),
    st.sets(st.integers(0, 600)),
)
def test_a_shared_map_behaves_like_a_dict_and_knows_its_differences(
    first: dict[int, int], put: dict[int, int], drop: set[int]
) -> None:
    empty: SharedMap[int, int] = SharedMap()
    before = empty.edited(first)
    after = before.edited(put, drop)
    expected = {key: value for key, value in first.items() if key not in drop} | put
    assert dict(before) == first
    assert dict(after) == expected
    assert (len(before), len(after)) == (len(first), len(expected))
    assert dict(empty) == {}
    changed = {key for key in first.keys() | expected.keys() if first.get(key) != expected.get(key)}
    assert before.changed_keys(after) == after.changed_keys(before) == changed
