"""Questions about traffic, put to the evaluator.

Owns: how a person writes a question (ends, ports, requests), and which secrets a world's policies ask for. Must not know how
anything is decided: l7filters.explain does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from l7filters.decision import Flow as JudgedFlow
from l7filters.envoy.secrets import SecretValue
from l7filters.explain import Explanation, explain
from l7filters.fqdn import DnsQuestion, canonical_name
from l7filters.http import HttpRequest
from l7filters.model import PORT_PROTOCOLS, HttpRule, Policy, Protocol, SecretRef
from l7filters.parties import UnknownPartyError
from l7filters.predicates import SecretTexts
from l7filters.world import Address, World
from tidegate.config.settings import close_match
from tidegate.kafka.question import HINT, read_kafka_request

DEFAULT_NAMESPACE = "default"
PORT_MAX = 65535
PROTOCOLS = {protocol.name.lower(): protocol for protocol in Protocol if protocol is not Protocol.ANY}
_ECHO_REQUEST = {Protocol.ICMP: 8, Protocol.ICMPV6: 128}


class QuestionError(ValueError):
    """A question that makes no sense; the asker's fault. ``hint`` says how to write it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a person asks, as written: may ``source`` say this to ``destination``? Empty text: not stated."""

    source: str
    destination: str
    protocol: str = ""
    """Empty: UDP for a question to DNS, else TCP."""
    http: str = ""
    headers: tuple[str, ...] = ()
    """Each ``Name: value`` or ``name=value``."""
    host: str = ""
    server_name: str = ""
    kafka: str = ""
    """As ``kafka.question`` reads it."""
    dns: str = ""
    """The name that is asked for."""
    query_type: str = ""
    names: tuple[str, ...] = ()
    """For which DNS gave ``source`` the destination's address."""

    def to_flow(self, world: World) -> JudgedFlow:
        """Return the flow that this asks about, in ``world``. Raises QuestionError."""
        protocol = PROTOCOLS.get((self.protocol or ("udp" if self.dns else "tcp")).lower())
        if protocol is None:
            raise QuestionError(f"{self.protocol!r} is not a protocol", f"one of {', '.join(PROTOCOLS)}")
        whom, port_text = split_port(self.destination)
        destination = read_end(whom, world)
        request = None
        if self.http:
            try:
                request = HttpRequest.parse(
                    self.http, authority=self.host, headers=tuple(read_header(text) for text in self.headers)
                )
            except ValueError as error:
                raise QuestionError(str(error), "e.g. --http 'GET /status'") from error
        elif self.headers or self.host:
            raise QuestionError("headers and host need a request", "add --http 'GET /path'")
        kafka = None
        if self.kafka:
            if request is not None:
                raise QuestionError("one message at a time: HTTP or Kafka", HINT)
            try:
                kafka = read_kafka_request(self.kafka)
            except ValueError as error:
                raise QuestionError(str(error), HINT) from error
        if kafka is not None and protocol is not Protocol.TCP:
            raise QuestionError(f"a Kafka request over {self.protocol} can't be judged", "leave out --protocol")
        if request is not None and protocol is not Protocol.TCP:
            raise QuestionError(f"an HTTP request over {self.protocol} can't be judged", "leave out --protocol")
        if self.dns and (request is not None or protocol not in (Protocol.UDP, Protocol.TCP)):
            raise QuestionError("a question for a name goes by UDP or TCP, without a request", "leave out --http and --protocol")
        if self.query_type and not self.dns:
            raise QuestionError("a query type needs a name", "add --dns NAME")
        return JudgedFlow(
            source=read_end(split_port(self.source)[0], world),
            destination=destination,
            protocol=protocol,
            destination_port=read_port(port_text or ("53" if self.dns else ""), destination, protocol, world),
            http=request,
            server_name=self.server_name or None,
            kafka=kafka,
            dns=DnsQuestion(canonical_name(self.dns), self.query_type.upper() or "A") if self.dns else None,
            names=tuple(map(canonical_name, self.names)),
        )


def answer(world: World, question: Question, secrets: SecretTexts) -> Explanation:
    """Explain what becomes of what ``question`` asks about. Raises QuestionError."""
    flow = question.to_flow(world)
    try:
        return explain(world, flow, secrets)
    except UnknownPartyError as error:
        raise QuestionError(str(error), "ends are namespace/name, an address, or host") from error


def split_port(text: str) -> tuple[str, str]:
    """Split ``end:port``; an IPv6 address with a port is in brackets. The port is empty where there is none."""
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        return address, rest.removeprefix(":")
    if text.count(":") > 1:
        return text, ""
    who, _, port = text.partition(":")
    return who, port


def read_end(text: str, world: World) -> Address | str:
    """Return an end of a flow: an address, ``host``, or the key of an endpoint of ``world``. Raises QuestionError."""
    try:
        return ip_address(text)
    except ValueError:
        pass
    if text == "host":
        return text
    key = text if "/" in text else f"{DEFAULT_NAMESPACE}/{text}"
    keys = [endpoint.key for endpoint in world.endpoints]
    if key in keys:
        return key
    namesakes = [other for other in keys if other.rpartition("/")[2] == key.rpartition("/")[2]]
    near = f"did you mean {namesakes[0]}?" if namesakes else close_match(key, keys)
    hint = near or f"known: {', '.join(sorted(keys)[:8]) or 'no endpoint at all'}"
    raise QuestionError(f"there is no endpoint {key}", hint)


def read_port(text: str, destination: Address | str, protocol: Protocol, world: World) -> int:
    """Return a port by number or by a name that the destination gives it; for ICMP the type. Raises QuestionError."""
    if protocol in _ECHO_REQUEST and not text:
        return _ECHO_REQUEST[protocol]
    if protocol not in PORT_PROTOCOLS and protocol not in _ECHO_REQUEST:
        return 0
    if not text:
        raise QuestionError("to which port?", "write --to namespace/name:port")
    if text.isascii() and text.isdigit() and int(text) <= (PORT_MAX if protocol in PORT_PROTOCOLS else 255):
        return int(text)
    for endpoint in world.endpoints:
        if destination == endpoint.key or destination in endpoint.addresses:
            for named in endpoint.named_ports:
                if named.name == text and named.protocol == protocol:
                    return named.port
            names = ", ".join(sorted(named.name for named in endpoint.named_ports)) or "none"
            raise QuestionError(f"{text!r} is no port of {endpoint.key}", f"a number, or a named port; named here: {names}")
    raise QuestionError(f"{text!r} is no port number", "a number from 0 to 65535")


def read_header(text: str) -> tuple[str, str]:
    """Read ``Name: value`` or ``name=value``, whichever sign comes first. Raises QuestionError."""
    found = re.fullmatch(r"([^:=\s]+)\s*[:=]\s*(.*?)\s*", text, re.DOTALL)
    if found is None:
        raise QuestionError(f"{text!r} is no header", "write --header 'Name: value' or --header name=value")
    return found[1], found[2]


def secret_texts(policies: Iterable[Policy], secrets: Mapping[SecretRef, SecretValue]) -> SecretTexts:
    """Return the header values that ``policies`` refer to, as far as ``secrets`` has them and a header can carry them."""
    found: dict[SecretRef, str] = {}
    for ref in _header_secrets(policies):
        try:
            text = secrets[ref].reveal_header_value()
        except KeyError:
            continue
        if text is not None:
            found[ref] = text
    return found


def _header_secrets(policies: Iterable[Policy]) -> Iterable[SecretRef]:
    for policy in policies:
        for rule in policy.rules:
            for port_rule in rule.to_ports:
                for one in (*port_rule.l7.allow, *port_rule.l7.deny) if port_rule.l7 is not None else ():
                    for header in one.headers if isinstance(one, HttpRule) else ():
                        if header.secret is not None:
                            yield header.secret
