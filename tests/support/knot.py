"""Configuration of a real knot server: an authority for zones, on given addresses.

Owns: its files. Whoever starts it says where (a namespace, loopback).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

SOA = "@ SOA ns hostmaster 1 3600 600 86400 5\n@ NS ns\nns A 192.0.2.53\n"


def command(
    directory: Path, listen: Sequence[str], port: int, zones: Mapping[str, str], *, workers: int = 1, signed: Collection[str] = ()
) -> list[str]:
    """Write knot's files into ``directory``; return the words that start it. ``zones``: name -> records, relative to it.

    Zones in ``signed`` get DNSSEC keys and signatures of knot's own making.
    """
    for name, records in zones.items():
        (directory / f"{name}.zone").write_text(f"$ORIGIN {name}.\n$TTL 60\n{SOA}{records}\n")
    lines = [
        "server:",
        f"  rundir: {directory}",
        f"  listen: [{', '.join(f'{address}@{port}' for address in listen)}]",
        f"  udp-workers: {workers}",
        "  tcp-workers: 1",
        "  background-workers: 1",
        "database:",
        f"  storage: {directory}",
        "zone:",
    ]
    for name in zones:
        lines += [f"  - domain: {name}", f"    storage: {directory}", f"    file: {name}.zone", "    journal-content: none"]
        if name in signed:
            lines += ["    dnssec-signing: on", "    zonefile-sync: -1", "    zonefile-load: whole"]
    (directory / "knot.conf").write_text("\n".join(lines) + "\n")
    return ["knotd", "-c", str(directory / "knot.conf")]
