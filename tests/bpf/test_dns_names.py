"""What the DNS proxy writes for the kernel, in a real map."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from bpf_redirect import bpf
from bpf_redirect.pins import mount_bpffs
from proxylib.dns.message import Address
from proxylib.dns.policy import Subject
from proxylib.dns.settings import SECOND_NS
from proxylib.errors import PublishError
from tidegate.dns.names import GRANTS_MAX, KEY_BYTES, SCAN_NS, VALUE_BYTES, NamesPublisher, decode_grants, encode_key

pytestmark = [pytest.mark.root]

ENTRIES_MAX = 64
POD = Subject("default/pod", ("10.0.0.2",), 300, 7)
OTHER = Subject("default/other", ("10.0.0.3",), 300, 8)
ONE, TWO = (Address(ip_address(text).packed) for text in ("10.1.0.1", "fd00::1"))


@pytest.fixture
def pin() -> Iterator[str]:
    directory = Path("/sys/fs/bpf") / f"tgdns-{uuid.uuid4().hex[:8]}"
    mount_bpffs(str(directory))
    directory.mkdir()
    try:
        make_map(str(directory / "tg_names"))
        yield str(directory / "tg_names")
    finally:
        shutil.rmtree(directory)


def make_map(pin: str) -> None:
    fd = bpf.map_create("tg_names", bpf.MapType.HASH, KEY_BYTES, VALUE_BYTES, ENTRIES_MAX, bpf.MapFlag.NO_PREALLOC)
    try:
        bpf.pin_replacing(fd, pin)
    finally:
        os.close(fd)


def held(pin: str) -> dict[bytes, dict[int, int]]:
    """The map as somebody else reads it."""
    fd = bpf.get(pin)
    try:
        return {key: decode_grants(raw) for key, raw in bpf.map_lookup_batch(fd, KEY_BYTES, VALUE_BYTES, 16)}
    finally:
        os.close(fd)


def test_grants_are_written_whole_for_one_pod(pin: str) -> None:
    publisher = NamesPublisher(pin)
    publisher.publish(POD, {ONE: {31: 5 * SECOND_NS, 32: 7 * SECOND_NS + 1}, TWO: {31: 5 * SECOND_NS}})
    assert held(pin) == {encode_key(7, ONE): {31: 5, 32: 8}, encode_key(7, TWO): {31: 5}}
    publisher.publish(POD, {ONE: {33: 9 * SECOND_NS}, TWO: {}})
    assert held(pin) == {encode_key(7, ONE): {33: 9}}
    publisher.publish(OTHER, {ONE: {}})
    assert held(pin) == {encode_key(7, ONE): {33: 9}}, "another pod's, and none that was there"


def test_of_too_many_names_those_that_expire_first_go(pin: str) -> None:
    publisher = NamesPublisher(pin)
    publisher.publish(POD, {ONE: {number: number * SECOND_NS for number in range(100, 100 + GRANTS_MAX + 3)}})
    assert held(pin)[encode_key(7, ONE)] == {number: number for number in range(103, 100 + GRANTS_MAX + 3)}
    assert publisher.status()["evicted_grants"] == 3


def test_a_full_map_is_an_error_that_says_what_to_do(pin: str) -> None:
    publisher = NamesPublisher(pin)
    addresses = [Address(bytes([10, 1, 0, n])) for n in range(ENTRIES_MAX + 1)]
    publisher.publish(POD, {address: {31: SECOND_NS} for address in addresses[:-1]})
    with pytest.raises(PublishError, match=r"full \(64 entries\): raise maps.nameEntries"):
        publisher.publish(POD, {addresses[-1]: {31: SECOND_NS}})
    publisher.publish(POD, {addresses[0]: {31: 2 * SECOND_NS}})
    assert publisher.status()["full"] == 1


def test_what_has_expired_is_cleared_away(pin: str) -> None:
    publisher = NamesPublisher(pin)
    publisher.publish(POD, {ONE: {31: 5 * SECOND_NS, 32: 9 * SECOND_NS}, TWO: {31: 5 * SECOND_NS}})
    assert not publisher.tick(6 * SECOND_NS)
    assert held(pin) == {encode_key(7, ONE): {31: 5, 32: 9}}
    publisher.tick(7 * SECOND_NS)
    assert (publisher.status()["entries"], publisher.status()["cleared"]) == (1, 1)
    publisher.tick(6 * SECOND_NS + SCAN_NS)
    assert held(pin) == {}


def test_a_new_proxy_keeps_only_what_is_still_its_pods(pin: str) -> None:
    before = NamesPublisher(pin)
    before.publish(POD, {ONE: {31: 5 * SECOND_NS, 32: 5 * SECOND_NS}, TWO: {32: 5 * SECOND_NS}})
    before.publish(OTHER, {ONE: {31: 5 * SECOND_NS}})
    NamesPublisher(pin).retain({7: frozenset({31})})
    assert held(pin) == {encode_key(7, ONE): {31: 5}}


def test_a_map_that_is_not_there_yet_withholds_answers_and_one_that_comes_is_filled(pin: str) -> None:
    os.unlink(pin)
    publisher = NamesPublisher(pin)
    with pytest.raises(PublishError, match="is not there"):
        publisher.publish(POD, {ONE: {31: SECOND_NS}})
    make_map(pin)
    publisher.publish(POD, {ONE: {31: SECOND_NS}})
    assert held(pin).keys() == {encode_key(7, ONE)}
    assert (publisher.tick(0), publisher.tick(0)) == (True, False), "all is to be told once"
    make_map(pin)
    publisher.publish(POD, {TWO: {31: SECOND_NS}})
    assert held(pin).keys() == {encode_key(7, TWO)}, "never to the map that was"
    assert publisher.tick(0)


def test_a_pod_without_an_interface_has_nothing_written(pin: str) -> None:
    NamesPublisher(pin).publish(Subject("default/c", ("10.0.0.4",), 300), {ONE: {31: SECOND_NS}})
    assert held(pin) == {}
