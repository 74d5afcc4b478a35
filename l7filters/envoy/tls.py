"""TLS contexts and the secrets behind them.

Owns: terminating (towards the client) and originating (towards the server) TLS, with certificates served as secrets (SDS), so
that a renewed one reaches new connections without a listener being touched. Open ones, those to servers in Envoy's pool
included, go on under what they were verified with. Must not know where secrets are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from envoy.config.core.v3.base_pb2 import DataSource, TransportSocket
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext, TlsCertificate, TlsParameters
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig, Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext
from google.protobuf.wrappers_pb2 import BoolValue

from l7filters.envoy import names
from l7filters.envoy.message import from_agent, packed
from l7filters.envoy.resource import EnvoyResource, RuleProblem, TypeUrl
from l7filters.envoy.secrets import Secrets, SecretValue
from l7filters.model import SecretRef, TlsContext

TRANSPORT_SOCKET = "envoy.transport_sockets.tls"
ALPN = ("h2", "http/1.1")


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """A transport socket and the secrets that it names."""

    socket: TransportSocket
    secrets: tuple[EnvoyResource, ...]


def terminating(context: TlsContext, secrets: Secrets) -> TlsMaterial:
    """Return TLS towards the client. With a trusted CA the client has to show a certificate. Raises RuleProblem."""
    certificate = _certificate(context, secrets)
    if certificate is None:
        raise RuleProblem("terminating TLS needs a certificate and a private key", "name both in terminatingTLS")
    common = _common([certificate])
    common.alpn_protocols.extend(ALPN)
    tls = DownstreamTlsContext(common_tls_context=common)
    used = [certificate]
    if context.trusted_ca is not None:
        anchor = _trusted_ca(context, context.trusted_ca, secrets)
        common.validation_context_sds_secret_config.CopyFrom(_by_name(anchor.name))
        tls = DownstreamTlsContext(common_tls_context=common, require_client_certificate=BoolValue(value=True))
        used.append(anchor)
    return TlsMaterial(TransportSocket(name=TRANSPORT_SOCKET, typed_config=packed(tls)), tuple(used))


def originating(context: TlsContext, secrets: Secrets) -> TlsMaterial:
    """Return TLS towards the server, whose certificate must be for the request's host. Raises RuleProblem.

    Without a trusted CA nothing would be verified: that is refused, for a policy that asks for TLS asks for a peer it knows.
    """
    if context.trusted_ca is None:
        raise RuleProblem("originating TLS needs a trusted CA: without one any server would do", "name trustedCA")
    anchor = _trusted_ca(context, context.trusted_ca, secrets)
    certificate = _certificate(context, secrets)
    common = _common([] if certificate is None else [certificate])
    common.validation_context_sds_secret_config.CopyFrom(_by_name(anchor.name))
    tls = UpstreamTlsContext(common_tls_context=common)
    used = (anchor,) if certificate is None else (anchor, certificate)
    return TlsMaterial(TransportSocket(name=TRANSPORT_SOCKET, typed_config=packed(tls)), used)


def _common(certificates: list[EnvoyResource]) -> CommonTlsContext:
    return CommonTlsContext(
        tls_params=TlsParameters(tls_minimum_protocol_version=TlsParameters.TLSv1_2),
        tls_certificate_sds_secret_configs=[_by_name(each.name) for each in certificates],
    )


def _by_name(name: str) -> SdsSecretConfig:
    return SdsSecretConfig(name=name, sds_config=from_agent())


def _certificate(context: TlsContext, secrets: Secrets) -> EnvoyResource | None:
    if context.certificate is None and context.private_key is None:
        return None
    if context.certificate is None or context.private_key is None:
        raise RuleProblem("a TLS certificate and its private key go together", "name both")
    chain, key = (_value(context, each, secrets) for each in (context.certificate, context.private_key))
    name = names.certificate_secret(context.namespace, context.secret, context.certificate, context.private_key)
    certificate = TlsCertificate(certificate_chain=_inline(chain), private_key=_inline(key))
    return EnvoyResource.of(TypeUrl.SECRET, name, Secret(name=name, tls_certificate=certificate))


def _trusted_ca(context: TlsContext, key: str, secrets: Secrets) -> EnvoyResource:
    ref = SecretRef(context.namespace, context.secret, key)
    name = names.trusted_ca_secret(ref)
    validation = CertificateValidationContext(trusted_ca=_inline(_value(context, key, secrets)))
    return EnvoyResource.of(TypeUrl.SECRET, name, Secret(name=name, validation_context=validation))


def _value(context: TlsContext, key: str, secrets: Secrets) -> SecretValue:
    found = secrets.get(SecretRef(context.namespace, context.secret, key))
    if found is None:
        raise RuleProblem(
            f"secret {context.namespace}/{context.secret} has no key {key}", "create it; until then the port is closed"
        )
    return found


def _inline(value: SecretValue) -> DataSource:
    return DataSource(inline_bytes=value.reveal())
