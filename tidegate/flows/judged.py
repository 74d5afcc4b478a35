"""A recorded flow as the evaluator takes it: the bridge from records to questions.

Owns: which parts of a record decide. Must not know who asks. What a record doesn't hold (request headers, a redacted query
string) the evaluator doesn't see either; see flows/nearest.py for what may then be said.
"""

from __future__ import annotations

from l7filters.decision import Flow as JudgedFlow
from l7filters.fqdn import DnsQuestion
from l7filters.http import HttpRequest
from l7filters.kafka import API_BY_NAME, KafkaRequest
from l7filters.model import Protocol
from tidegate.flows.record import DnsPart, Flow, FlowEnd, HttpPart, KafkaPart, L7Part, TlsPart

ICMP = (Protocol.ICMP, Protocol.ICMPV6)


def judged(source: FlowEnd, destination: FlowEnd, protocol: int, port: int, message: L7Part | None) -> JudgedFlow:
    """Return the question that was decided: ``source`` opened the connection; for ICMP ``port`` is the message type."""
    request = None
    if isinstance(message, HttpPart):
        request = HttpRequest(method=message.method, path=message.path, authority=message.host, headers=message.headers)
    question = None
    if isinstance(message, DnsPart):
        question = DnsQuestion(message.query, next(iter(message.query_types), "A"))
    return JudgedFlow(
        source=source.key if source.is_workload else source.address or "",
        destination=destination.address or "",
        protocol=protocol,
        destination_port=port,
        http=request,
        dns=question,
        server_name=message.server_name if isinstance(message, TlsPart) else None,
        kafka=_kafka(message) if isinstance(message, KafkaPart) else None,
    )


def _kafka(part: KafkaPart) -> KafkaRequest | None:
    api = API_BY_NAME.get(part.api_key.lower())
    number = api.number if api is not None else int(part.api_key) if part.api_key.isdigit() else None
    if number is None:
        return None
    groups = (part.group,) if part.group else ()
    return KafkaRequest(api=number, version=part.api_version, client_id=part.client_id, topics=part.topics, groups=groups)


def judged_flow(flow: Flow) -> JudgedFlow:
    """Return the question that ``flow`` is the answer to."""
    source, destination = (flow.destination, flow.source) if flow.is_reply else (flow.source, flow.destination)
    port = flow.icmp_type if flow.protocol in ICMP else destination.port
    return judged(source, destination, flow.protocol, port, flow.l7)
