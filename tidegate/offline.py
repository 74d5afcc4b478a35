"""A node's files, read once: what ``policy validate`` and ``explain`` judge without a node.

Owns: turning paths that a person names into documents, and files into a world. The reading and the rules of precedence among
documents are those of the running node (sources/), so the answers are, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from l7filters.compile import compile as compile_world
from l7filters.documents import DocumentError, parse_documents
from l7filters.identity import IdentityTable
from l7filters.ir import PolicyProblem
from l7filters.world import DEFAULT_FQDN_PORTS, Enforcement, FqdnPorts, Node, World
from tidegate.config.node import NodeConfig
from tidegate.sources.directory import SUFFIXES
from tidegate.sources.endpoints import EndpointEntry, parse_endpoints, with_backends, with_namespaces
from tidegate.sources.files import FILE_BYTES_MAX, SETTLE_NS_MAX
from tidegate.sources.ledger import DirectoryState, FileLedger, merge, record, record_unreadable
from tidegate.sources.secrets import SecretsSource, SecretsState


def read_paths(paths: Iterable[Path]) -> DirectoryState:
    """Return all documents of files and directories as they would count on a node; what is wrong is in ``errors``.

    A directory stands for the files that a node would read from it.
    """
    ledgers: dict[str, FileLedger] = {}
    problems: list[DocumentError] = []
    for path in paths:
        if not path.is_dir():
            ledgers[str(path)] = _read(path)
            continue
        try:
            files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and not file.name.startswith("."))
        except OSError as error:
            problems.append(DocumentError("", f"can't be listed: {error.strerror}", "check its permissions", str(path)))
            continue
        if not files:
            hint = f"files end in {', '.join(SUFFIXES)}; sub-directories are not read"
            problems.append(DocumentError("", "the directory holds no documents", hint, str(path)))
        ledgers |= {str(file): _read(file) for file in files}
    for index, problem in enumerate(problems):
        ledgers[f"{problem.source}#{index}"] = FileLedger(errors=(problem,))
    return merge(ledgers, DirectoryState(), None)


def read_endpoints(path: Path) -> tuple[tuple[EndpointEntry, ...], tuple[DocumentError, ...]]:
    """Return the good entries of endpoints.yaml, and what is wrong with the others."""
    source = str(path)
    text = _text(path)
    if isinstance(text, _Unreadable):
        return (), (DocumentError("", text.problem, text.hint, source),)
    parsed = parse_endpoints(text, source)
    return parsed.entries, parsed.errors


def read_secrets(directory: Path) -> SecretsState:
    """Return the secrets of a directory as a node would read them. Files that were written just now are read, too."""
    return SecretsSource(directory, clock=lambda: time.time_ns() + SETTLE_NS_MAX).look()


def build_world(
    state: DirectoryState,
    entries: Iterable[EndpointEntry],
    node: Node,
    enforcement: Enforcement = Enforcement.DEFAULT,
    fqdn_ports: FqdnPorts = DEFAULT_FQDN_PORTS,
) -> World:
    """Return the world that a node would make of these files."""
    listed = tuple(entries)
    return World(
        revision=1,
        node=node,
        endpoints=with_namespaces((entry.endpoint for entry in listed), state.namespaces),
        policies=state.policies,
        services=with_backends(state.services, listed),
        cidr_groups=state.cidr_groups,
        enforcement=enforcement,
        fqdn_ports=fqdn_ports,
    )


def node_of(config: NodeConfig | None) -> Node:
    """Return the node that files are judged for; without a configuration it has no addresses."""
    if config is None:
        return Node(name="offline")
    from tidegate.surroundings import node_addresses

    addresses = node_addresses() if config.node.addresses is None else config.node.addresses
    return Node(name=config.node.name, labels=config.node.labels, addresses=addresses)


def problems_of(world: World) -> tuple[PolicyProblem, ...]:
    """Return what of the policies could not be realised in ``world``."""
    return compile_world(world, IdentityTable()).problems


@dataclass(frozen=True, slots=True)
class _Unreadable:
    problem: str
    hint: str


def _read(path: Path) -> FileLedger:
    text = _text(path)
    if isinstance(text, _Unreadable):
        return record_unreadable(FileLedger(), str(path), text.problem, text.hint)
    return record(FileLedger(), parse_documents(text, str(path)))


def _text(path: Path) -> str | _Unreadable:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        return _Unreadable(f"can't be read: {error.strerror}", "check the path and its permissions")
    if len(data) > FILE_BYTES_MAX:
        return _Unreadable(f"is larger than {FILE_BYTES_MAX} bytes", "split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _Unreadable(f"is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}", "save it as UTF-8")
