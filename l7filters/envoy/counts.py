"""The access logger that counts: every request of a slot, by whom, to whom and with what verdict, in a BPF map.

Owns: what the module's part ``counts`` is told (``proxylib/native/src/report.rs`` reads it). No filter stands before it: counts
are exact. Records of single requests are the other logger's, ``access_log.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog

from l7filters.envoy import names
from l7filters.envoy.native import dynamic_module, part_text, typed_struct
from l7filters.envoy.settings import EnvoySettings
from l7filters.model import Direction

LOGGER = "counts"
MESSAGE = "envoy.extensions.access_loggers.dynamic_modules.v3.DynamicModuleAccessLog"
ABI_VERSION = 2
"""ABI: TG_ABI_VERSION in bpf_redirect/include/abi.h. The module counts nothing in maps of another."""


def counts_log(name: str, judged: Sequence[Direction], settings: EnvoySettings) -> list[AccessLog]:
    """Return the logger of a slot; none where the module or the maps are not to be had (or it is no slot)."""
    slot_id = names.slot_id_of(name)
    if settings.native_module is None or settings.maps_directory is None or slot_id is None:
        return []
    config = {
        "dynamic_module_config": dynamic_module(settings.native_module),
        "logger_name": LOGGER,
        "logger_config": part_text(counts_settings(slot_id, judged, settings)),
    }
    return [AccessLog(name="tidegate.counts", typed_config=typed_struct(MESSAGE, config))]


def counts_settings(slot_id: int, judged: Sequence[Direction], settings: EnvoySettings) -> str:
    """Return what a part of the module must know to count in a slot, a line each."""
    assert settings.maps_directory is not None
    return "\n".join(
        [
            f"abi {ABI_VERSION}",
            f"slot {slot_id}",
            f"port {settings.proxy_port_min + slot_id}",
            f"judges {','.join(judged)}",
            f"maps {settings.maps_directory}",
        ]
    )
