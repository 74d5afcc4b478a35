"""TLS: judged by server name without opening it, and opened where the policy brings the keys."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.certificates import Authority
from tests.support.pod import Failed
from tests.support.stage import XWING, Stage, cnp

pytestmark = [pytest.mark.root, pytest.mark.envoy]
TLS = 8443
SERVER, OTHER = "api.empire.example", "cantina.example"


class TlsStage:
    """A stage whose ``internet`` speaks TLS, with the CAs that sign for it and for the pods."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        directory = stage.cluster.directory / "certificates"
        self.public, self.internal = (
            Authority(directory / "public", "Public CA"),
            Authority(directory / "internal", "Internal CA"),
        )
        issued = self.public.issue(SERVER, OTHER, f"*.{SERVER}")
        stage.internet.serve_http(TLS, issued.certificate, issued.key)

    def status(
        self, server_name: str | None, authority: Path | None = None, family: int = 4, path: str = "/", protocol: str = "h1"
    ) -> int | str:
        """The status of a request over TLS, or how it failed."""
        url = self.stage.internet.url(TLS, family=family, scheme="https")
        try:
            response = self.stage.xwing.http(
                url,
                headers={"host": server_name} if server_name else {},
                path=path,
                server_name=server_name,
                authority=str(authority or self.public.certificate),
                protocol=protocol,
                timeout=2,
            )
        except Failed as failed:
            return failed.kind
        return int(response.status)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsStage]:
    secrets = tmp_path_factory.mktemp("secrets")
    with Stage(prefix="tgtls", config={"secrets": str(secrets)}) as stage:
        tls = TlsStage(stage)
        write_secrets(secrets, tls)
        yield tls


def write_secrets(directory: Path, tls: TlsStage) -> None:
    """The certificate shown to pods, and the CA by which Envoy knows the real server."""
    shown = tls.internal.issue(SERVER)
    for name, keys in {
        "shown": {"tls.crt": shown.certificate, "tls.key": shown.key},
        "trusted": {"ca.crt": tls.public.certificate},
        "mistrusted": {"ca.crt": tls.internal.certificate},
    }.items():
        data = {key: base64.b64encode(path.read_bytes()).decode() for key, path in keys.items()}
        document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"}, "data": data}
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(document))


def to_tls(**rest: object) -> list[dict[str, object]]:
    return [{"toEntities": ["world"], "toPorts": [{"ports": [{"port": str(TLS), "protocol": "TCP"}], **rest}]}]


def test_server_name_decides_without_opening_the_connection(tls: TlsStage, family: int) -> None:
    tls.stage.enforce(cnp("sni", XWING, egress=to_tls(serverNames=[SERVER])))
    # The client verifies the server's own certificate: nobody stands between.
    assert tls.status(SERVER, family=family) == 200
    assert tls.status(SERVER, family=family, protocol="h2") == 200
    assert tls.status(OTHER, family=family) in ("reset", "eof")
    assert tls.status(None, family=family) in ("reset", "eof")


def test_server_name_pattern_covers_one_label(tls: TlsStage) -> None:
    tls.stage.enforce(cnp("sni", XWING, egress=to_tls(serverNames=[f"*.{SERVER}"])))
    assert tls.status(f"v1.{SERVER}") == 200
    assert tls.status(SERVER) in ("reset", "eof")


def test_bytes_that_are_no_tls_do_not_pass_a_server_name_rule(tls: TlsStage) -> None:
    tls.stage.enforce(cnp("sni", XWING, egress=to_tls(serverNames=[SERVER])))
    before = tls.stage.internet.server_counts(TLS)
    answer = tls.stage.xwing.raw(tls.stage.internet.ipv4, TLS, b"GET / HTTP/1.1\r\nhost: api.empire.example\r\n\r\n")
    assert answer == b""
    assert tls.stage.internet.server_counts(TLS) == before


@pytest.mark.parametrize("protocol", ["h1", "h2"])
def test_terminated_tls_is_judged_request_by_request(tls: TlsStage, protocol: str, family: int) -> None:
    opened = {
        "terminatingTLS": {"secret": {"namespace": "default", "name": "shown"}},
        "originatingTLS": {"secret": {"namespace": "default", "name": "trusted"}},
        "rules": {"http": [{"method": "GET", "path": "/ok"}]},
    }
    tls.stage.enforce(cnp("opened", XWING, egress=to_tls(**opened)))
    inside = tls.internal.certificate
    assert tls.status(SERVER, inside, family, path="/ok", protocol=protocol) == 200
    assert tls.status(SERVER, inside, family, path="/no", protocol=protocol) == 403
    assert str(tls.status(SERVER, None, family, path="/ok", protocol=protocol)).startswith("tls:")


def test_server_that_the_trusted_ca_did_not_sign_is_refused(tls: TlsStage) -> None:
    opened = {
        "terminatingTLS": {"secret": {"namespace": "default", "name": "shown"}},
        "originatingTLS": {"secret": {"namespace": "default", "name": "mistrusted"}},
        "rules": {"http": [{}]},
    }
    tls.stage.enforce(cnp("opened", XWING, egress=to_tls(**opened)))
    before = tls.stage.internet.server_counts(TLS)["requests"]
    assert tls.status(SERVER, tls.internal.certificate) == 503
    assert tls.stage.internet.server_counts(TLS)["requests"] == before


def test_policy_whose_secret_is_missing_is_closed_and_says_so(tls: TlsStage) -> None:
    tls.stage.enforce()
    tls.stage.forget()
    opened = {"terminatingTLS": {"secret": {"namespace": "default", "name": "absent"}}, "rules": {"http": [{}]}}
    tls.stage.node.write_policy("absent", cnp("absent", XWING, egress=to_tls(**opened)).text)
    try:
        result = tls.stage.node.cli("status", "--wait", "3")
        assert result.returncode != 0
        assert "default/absent" in result.stdout + result.stderr
        assert tls.status(SERVER, tls.internal.certificate) in ("reset", "eof", "timeout", "refused")
    finally:
        tls.stage.node.remove_policy("absent")
    tls.stage.node.wait_ready()
