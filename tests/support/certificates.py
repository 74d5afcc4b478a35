"""A certificate authority and certificates for the TLS scenarios, made with the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A CA that lives in a directory."""

    def __init__(self, directory: Path, name: str = "Test CA") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.certificate, self._key = directory / "ca.crt", directory / "ca.key"
        _openssl("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.certificate, "-days", "2", "-subj", f"/CN={name}")

    def issue(self, *names: str) -> Certificate:
        """A server certificate for DNS names, signed by this CA."""
        stem = names[0].replace("*", "_")
        issued = Certificate(self.directory / f"{stem}.crt", self.directory / f"{stem}.key")
        alternatives = ",".join(f"DNS:{name}" for name in names)
        _openssl(
            "req", "-x509", *_KEY, "-CA", self.certificate, "-CAkey", self._key, "-keyout", issued.key,
            "-out", issued.certificate, "-days", "2", "-subj", f"/CN={names[0]}", "-addext", f"subjectAltName={alternatives}",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip
        return issued


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    result = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
