"""The directory of secrets: documents and key files."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing
from pathlib import Path

from l7filters.documents import SecretStore
from l7filters.model import SecretRef
from tidegate.sources import SecretsSource

DEADLINE_SECONDS = 10.0


def document(name: str, value: str) -> str:
    return f"{{apiVersion: v1, kind: Secret, metadata: {{name: {name}, namespace: prod}}, stringData: {{k: {value}}}}}"


def key_file(directory: Path, place: str, value: bytes) -> Path:
    path = directory / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value)
    return path


def source(directory: Path) -> SecretsSource:
    """As if a second had passed since everything was written."""
    return SecretsSource(directory, clock=lambda: time.time_ns() + 10**9)


def value(store: SecretStore, namespace: str, name: str, key: str) -> bytes | None:
    return store.value(SecretRef(namespace, name, key))


def test_documents_and_key_files_stand_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(document("a", "one"))
    key_file(tmp_path, "prod/tls/tls.crt", b"PEM")
    key_file(tmp_path, "prod/tls/tls.key", b"\xff\x00")
    key_file(tmp_path, "prod/.hidden/x", b"no")
    key_file(tmp_path, "prod/stray", b"no")
    state = source(tmp_path).look()
    assert state.errors == ()
    assert len(state.secrets) == 2
    assert value(state.secrets, "prod", "a", "k") == b"one"
    assert value(state.secrets, "prod", "tls", "tls.crt") == b"PEM"
    assert value(state.secrets, "prod", "tls", "tls.key") == b"\xff\x00"


def test_unchanged_files_give_the_same_state(tmp_path: Path) -> None:
    key_file(tmp_path, "prod/tls/tls.crt", b"PEM")
    secrets = source(tmp_path)
    assert secrets.look() is secrets.look()


def test_mounted_secret_is_read_through_its_links(tmp_path: Path) -> None:
    mounted = tmp_path / "prod" / "tls"
    key_file(mounted, "..1/tls.crt", b"one")
    (mounted / "..data").symlink_to("..1")
    (mounted / "tls.crt").symlink_to("..data/tls.crt")
    secrets = source(tmp_path)
    assert value(secrets.look().secrets, "prod", "tls", "tls.crt") == b"one"
    key_file(mounted, "..2/tls.crt", b"two")
    (mounted / "..next").symlink_to("..2")
    (mounted / "..next").rename(mounted / "..data")
    state = secrets.look()
    assert value(state.secrets, "prod", "tls", "tls.crt") == b"two"
    assert len(state.secrets) == 1


def test_document_stands_over_key_files_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(document("a", "document"))
    key_file(tmp_path, "prod/a/k", b"file")
    state = source(tmp_path).look()
    assert value(state.secrets, "prod", "a", "k") == b"document"
    assert [error.source for error in state.errors] == ["prod/a"]


def test_unreadable_key_file_keeps_its_last_value_and_tells_no_content(tmp_path: Path) -> None:
    path = key_file(tmp_path, "prod/a/k", b"hunter2")
    secrets = source(tmp_path)
    secrets.look()
    path.unlink()
    os.mkfifo(path)
    state = secrets.look()
    assert value(state.secrets, "prod", "a", "k") == b"hunter2"
    assert [error.message for error in state.errors] == ["is not a regular file"]
    assert "hunter2" not in repr(state)


def test_changes_below_are_followed(tmp_path: Path) -> None:
    async def run() -> None:
        async with aclosing(SecretsSource(tmp_path).watch()) as states, asyncio.timeout(DEADLINE_SECONDS):
            assert len((await anext(states)).secrets) == 0
            path = key_file(tmp_path, "prod/a/k", b"one")
            async for state in states:
                if value(state.secrets, "prod", "a", "k") == b"one":
                    break
            path.write_bytes(b"two")
            async for state in states:
                if value(state.secrets, "prod", "a", "k") == b"two":
                    break
            path.unlink()
            async for state in states:
                if len(state.secrets) == 0:
                    return

    asyncio.run(run())
