"""Slots to Envoy configuration: one file per Envoy noun. Pure: values in, values out.

``settings`` is what the operator decides, ``names`` what things are called (and how to read verdicts back), ``translate`` the
entry point, ``bootstrap`` what Envoy is started with.
"""

from l7filters.envoy.bootstrap import BootstrapSettings, bootstrap, bootstrap_json
from l7filters.envoy.listener import MARK_FROM_PROXY, proxy_port
from l7filters.envoy.names import (
    HeaderMismatch,
    Stage,
    StageVerdict,
    read_mismatches,
    read_verdicts,
    slot_id_of,
    slot_name,
)
from l7filters.envoy.resource import EnvoyResource, ResourceName, SlotError, Translation, TypeUrl
from l7filters.envoy.secrets import Secrets, SecretValue
from l7filters.envoy.settings import EnvoySettings, EscapedSlashes, UnderscoreHeaders
from l7filters.envoy.translate import shared_resources, translate, translate_slot

__all__ = [
    "MARK_FROM_PROXY",
    "BootstrapSettings",
    "EnvoyResource",
    "EnvoySettings",
    "EscapedSlashes",
    "HeaderMismatch",
    "ResourceName",
    "SecretValue",
    "Secrets",
    "SlotError",
    "Stage",
    "StageVerdict",
    "Translation",
    "TypeUrl",
    "UnderscoreHeaders",
    "bootstrap",
    "bootstrap_json",
    "proxy_port",
    "read_mismatches",
    "read_verdicts",
    "shared_resources",
    "slot_id_of",
    "slot_name",
    "translate",
    "translate_slot",
]
