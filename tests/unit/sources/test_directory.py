"""A real directory, watched: whatever happens to its files, no update is lost and none is taken half."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from tidegate.sources import DirectorySource, DirectoryState, watching

DEADLINE_SECONDS = 10.0
DOCUMENTS_COUNT = 10_000
READ_SECONDS_MAX = 30.0
"""For 10,000 documents on a busy machine; about 3 s on an idle one."""


def policy(name: str, path: str = "/") -> str:
    return f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}}}
spec:
  endpointSelector: {{matchLabels: {{app: {name}}}}}
  ingress:
  - toPorts:
    - ports: [{{port: "80", protocol: TCP}}]
      rules:
        http:
        - path: {path}
"""


def paths(state: DirectoryState) -> dict[str, str]:
    """Policy name -> the path of its rule."""
    found = {}
    for item in state.policies:
        l7 = item.rules[0].to_ports[0].l7
        found[item.key.rpartition("/")[2]] = "" if l7 is None else getattr(l7.allow[0], "path").value  # noqa: B009
    return found


class Follower:
    """Keeps taking states; ``until`` waits for one that satisfies a claim. ``seen`` holds all of them."""

    def __init__(self, states: AsyncIterator[DirectoryState]) -> None:
        self._states = states
        self.seen: list[DirectoryState] = []

    async def until(self, claim: Callable[[DirectoryState], bool]) -> DirectoryState:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                state = await anext(self._states)
                self.seen.append(state)
                if claim(state):
                    return state


def follow(directory: Path, scenario: Callable[[Follower], Awaitable[None]]) -> None:
    async def run() -> None:
        async with aclosing(DirectorySource(directory).watch()) as states:
            await scenario(Follower(states))

    asyncio.run(run())


def replace(path: Path, text: str) -> None:
    """Write as careful programs do: aside, then rename."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text)
    aside.rename(path)


def test_first_state_holds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(policy("a") + "---\n" + policy("b"))
    (tmp_path / "c.yml").write_text(policy("c"))
    (tmp_path / "d.json").write_text('{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"a": "b"}}}')
    (tmp_path / ".hidden.yaml").write_text(policy("hidden"))
    (tmp_path / "a.yaml~").write_text(policy("backup"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "e.yaml").write_text(policy("deeper"))

    async def scenario(follower: Follower) -> None:
        state = await follower.until(lambda state: True)
        assert paths(state) == {"a": "/", "b": "/", "c": "/"}
        assert [namespace.labels for namespace in state.namespaces] == [{"a": "b"}]
        assert state.errors == ()
        assert state.documents["cnp/default/b"].source == "a.yaml"  # type: ignore[index]

    follow(tmp_path, scenario)


def test_changes_of_every_sort_are_followed(tmp_path: Path) -> None:
    async def scenario(follower: Follower) -> None:
        assert paths(await follower.until(lambda state: True)) == {}
        (tmp_path / "a.yaml").write_text(policy("a"))
        await follower.until(lambda state: paths(state) == {"a": "/"})
        replace(tmp_path / "a.yaml", policy("a", "/two"))
        await follower.until(lambda state: paths(state) == {"a": "/two"})
        (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
        (tmp_path / "c.yaml").write_text(policy("c"))
        await follower.until(lambda state: paths(state) == {"a": "/two", "c": "/"})
        (tmp_path / "c.yaml").unlink()
        await follower.until(lambda state: paths(state) == {"a": "/two"})

    follow(tmp_path, scenario)


def test_file_written_in_pieces_is_taken_whole(tmp_path: Path) -> None:
    """Every prefix that is valid YAML would be a wider policy than the whole: none of them may ever be in force."""
    text = policy("a", "/only")
    (tmp_path / "a.yaml").write_text(policy("a"))

    async def scenario(follower: Follower) -> None:
        await follower.until(lambda state: paths(state) == {"a": "/"})
        with open(tmp_path / "a.yaml", "w", buffering=1) as file:
            for line in text.splitlines(keepends=True):
                file.write(line)
                await asyncio.sleep(0.002)
        await follower.until(lambda state: paths(state) == {"a": "/only"})
        assert [paths(state) for state in follower.seen] == [{"a": "/"}, {"a": "/only"}]

    follow(tmp_path, scenario)


def test_bad_version_keeps_the_good_one_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(policy("a") + "---\n" + policy("b"))

    async def scenario(follower: Follower) -> None:
        await follower.until(lambda state: len(state.policies) == 2)
        replace(tmp_path / "a.yaml", policy("a", "/new") + "---\n" + policy("b", '"("'))
        state = await follower.until(lambda state: bool(state.errors))
        assert paths(state) == {"a": "/new", "b": "/"}
        status = state.documents["cnp/default/b"]  # type: ignore[index]
        assert (status.stale, status.errors) == (True, state.errors)
        assert (state.errors[0].source, state.errors[0].index, state.errors[0].line) == ("a.yaml", 1, 23)
        replace(tmp_path / "a.yaml", policy("a", "/new") + "---\n" + policy("b", "/fixed"))
        state = await follower.until(lambda state: not state.errors)
        assert paths(state) == {"a": "/new", "b": "/fixed"}

    follow(tmp_path, scenario)


def test_configmap_swap_is_one_step(tmp_path: Path) -> None:
    """kubelet's way: files are links through ``..data``, which is renamed over to a new directory."""

    def publish(version: str, **texts: str) -> None:
        directory = tmp_path / f"..{version}"
        directory.mkdir()
        for name, text in texts.items():
            (directory / f"{name}.yaml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(directory.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    publish("1", a=policy("a"), b=policy("b"))
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").symlink_to(Path("..data") / f"{name}.yaml")

    async def scenario(follower: Follower) -> None:
        await follower.until(lambda state: paths(state) == {"a": "/", "b": "/"})
        publish("2", a=policy("a", "/2"), b=policy("b", "/2"))
        await follower.until(lambda state: paths(state) == {"a": "/2", "b": "/2"})
        publish("3", a=policy("a", "/3"))
        await follower.until(lambda state: paths(state) == {"a": "/3"})

    follow(tmp_path, scenario)


def test_directory_behind_a_swapped_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RESCAN_SECONDS", 0.1)
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.yaml").write_text(policy("a", f"/{version}"))
    link = tmp_path / "policies"
    link.symlink_to("1")

    async def scenario(follower: Follower) -> None:
        await follower.until(lambda state: paths(state) == {"a": "/1"})
        (tmp_path / "new").symlink_to("2")
        (tmp_path / "new").rename(link)
        await follower.until(lambda state: paths(state) == {"a": "/2"})
        replace(tmp_path / "2" / "a.yaml", policy("a", "/2b"))
        await follower.until(lambda state: paths(state) == {"a": "/2b"})

    follow(link, scenario)


def test_directory_that_vanishes_keeps_its_policies_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "RESCAN_SECONDS", 0.1)
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.05)
    directory = tmp_path / "policies"
    directory.mkdir()
    (directory / "a.yaml").write_text(policy("a"))

    async def scenario(follower: Follower) -> None:
        await follower.until(lambda state: paths(state) == {"a": "/"})
        directory.rename(tmp_path / "elsewhere")
        state = await follower.until(lambda state: not state.readable)
        assert paths(state) == {"a": "/"}
        assert state.errors[0].message == "the directory can't be read: No such file or directory"
        (tmp_path / "elsewhere").rename(directory)
        await follower.until(lambda state: state.readable and not state.errors)
        replace(directory / "a.yaml", policy("a", "/after"))
        await follower.until(lambda state: paths(state) == {"a": "/after"})

    follow(directory, scenario)


def test_directory_that_comes_later_is_read_when_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.05)
    directory = tmp_path / "policies"

    async def scenario(follower: Follower) -> None:
        state = await follower.until(lambda state: True)
        assert (state.readable, state.policies) == (False, ())
        directory.mkdir()
        (directory / "a.yaml").write_text(policy("a"))
        await follower.until(lambda state: state.readable and paths(state) == {"a": "/"})

    follow(directory, scenario)


def test_missed_events_are_made_up_by_the_rescan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link whose target is edited elsewhere makes no event in the watched directory."""
    monkeypatch.setattr(watching, "RESCAN_SECONDS", 0.1)
    directory, target = tmp_path / "policies", tmp_path / "target.yaml"
    directory.mkdir()
    target.write_text(policy("a"))
    (directory / "a.yaml").symlink_to(target)

    async def scenario(follower: Follower) -> None:
        await follower.until(lambda state: paths(state) == {"a": "/"})
        target.write_text(policy("a", "/edited"))
        await follower.until(lambda state: paths(state) == {"a": "/edited"})

    follow(directory, scenario)


def test_changes_while_the_consumer_is_busy_are_not_lost(tmp_path: Path) -> None:
    async def scenario(follower: Follower) -> None:
        await follower.until(lambda state: True)
        for number in range(20):
            replace(tmp_path / "a.yaml", policy("a", f"/{number}"))
            replace(tmp_path / f"b{number}.yaml", policy(f"b{number}"))
            await asyncio.sleep(0.005)
        state = await follower.until(lambda state: len(state.policies) == 21 and paths(state)["a"] == "/19")
        assert len(state.documents) == 21

    follow(tmp_path, scenario)


def test_reading_causes_no_further_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text(policy("a"))
    source = DirectorySource(tmp_path)
    looks = 0
    look = source.look

    def counted() -> DirectoryState:
        nonlocal looks
        looks += 1
        return look()

    monkeypatch.setattr(source, "look", counted)

    async def run() -> None:
        async with aclosing(source.watch()) as states:
            await anext(states)
            before = looks
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(states), 0.5)
            assert looks - before <= 1

    asyncio.run(run())


def test_cancelled_watch_ends_its_thread(tmp_path: Path) -> None:
    async def run() -> None:
        states = DirectorySource(tmp_path).watch()
        await anext(states)
        task = asyncio.ensure_future(anext(states))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await states.aclose()  # type: ignore[attr-defined]

    started = time.monotonic()
    asyncio.run(run())  # waits for the threads of the executor
    assert time.monotonic() - started < watching.RESCAN_SECONDS / 2


def test_ten_thousand_documents_are_read_in_time_and_a_change_costs_one_file(tmp_path: Path) -> None:
    per_file = 10
    for number in range(0, DOCUMENTS_COUNT, per_file):
        text = "---\n".join(policy(f"p{each}") for each in range(number, number + per_file))
        (tmp_path / f"{number}.yaml").write_text(text)
    source = DirectorySource(tmp_path, clock=lambda: time.time_ns() + 10**9)
    started = time.monotonic()
    state = source.look()
    read_seconds = time.monotonic() - started
    assert (len(state.policies), state.errors) == (DOCUMENTS_COUNT, ())
    assert read_seconds < READ_SECONDS_MAX
    replace(tmp_path / "0.yaml", policy("p0", "/changed"))
    started = time.monotonic()
    changed = source.look()
    change_seconds = time.monotonic() - started
    assert (len(changed.policies), paths(changed)["p0"]) == (DOCUMENTS_COUNT - per_file + 1, "/changed")
    assert change_seconds < read_seconds / 4
    assert source.look() is changed


def test_file_limit_of_a_directory_keeps_what_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidegate.sources.directory.FILES_MAX", 1)
    (tmp_path / "a.yaml").write_text(policy("a"))
    os.utime(tmp_path / "a.yaml", ns=(0, 0))
    source = DirectorySource(tmp_path)
    assert paths(source.look()) == {"a": "/"}
    (tmp_path / "b.yaml").write_text(policy("b"))
    state = source.look()
    assert paths(state) == {"a": "/"}
    assert "the limit is 1" in state.errors[0].message


def look(directory: Path, kept: Path) -> DirectoryState:
    """What a new process sees first, all files being at rest."""
    return DirectorySource(directory, clock=lambda: time.time_ns() + 10**9, kept=kept).look()


def test_last_good_version_outlives_the_process(tmp_path: Path) -> None:
    directory, kept = tmp_path / "policies", tmp_path / "state" / "documents"
    directory.mkdir()
    (directory / "a.yaml").write_text(policy("a") + "---\n" + policy("b") + "---\n" + policy("c"))
    look(directory, kept)
    (directory / "a.yaml").write_text(policy("a", "/new") + "---\n" + policy("b", '"("'))
    for _ in range(2):
        state = look(directory, kept)
        assert paths(state) == {"a": "/new", "b": "/"}
        assert state.documents["cnp/default/b"].stale  # type: ignore[index]
    (directory / "a.yaml").write_text("not: [yaml")
    assert paths(look(directory, kept)) == {"a": "/", "b": "/", "c": "/"}
    (directory / "a.yaml").write_text(policy("b", "/mended"))
    assert paths(look(directory, kept)) == {"b": "/mended"}


def test_copy_of_a_removed_file_goes(tmp_path: Path) -> None:
    directory, kept = tmp_path / "policies", tmp_path / "kept"
    directory.mkdir()
    for name in ("a", "b"):
        (directory / f"{name}.yaml").write_text(policy(name))
    look(directory, kept)
    assert sorted(os.listdir(kept)) == ["a.yaml", "b.yaml"]
    (directory / "a.yaml").unlink()
    look(directory, kept)
    assert os.listdir(kept) == ["b.yaml"]
    (directory / "a.yaml").write_text(policy("a", '"("'))
    assert paths(look(directory, kept)) == {"b": "/"}


def test_files_with_secrets_are_never_copied(tmp_path: Path) -> None:
    directory, kept = tmp_path / "policies", tmp_path / "kept"
    directory.mkdir()
    secret = "---\n{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {k: v}}\n"
    (directory / "a.yaml").write_text(policy("a"))
    look(directory, kept)
    (directory / "a.yaml").write_text(policy("a") + secret)
    assert len(look(directory, kept).secrets) == 1
    assert os.listdir(kept) == []


def test_copies_that_cannot_be_written_are_an_error_and_no_more(tmp_path: Path) -> None:
    directory, kept = tmp_path / "policies", tmp_path / "file"
    directory.mkdir()
    kept.write_text("in the way")
    (directory / "a.yaml").write_text(policy("a"))
    state = look(directory, kept)
    assert paths(state) == {"a": "/"}
    assert [error.message for error in state.errors] == ["can't be saved for a restart: File exists"]


def settle(source: DirectorySource) -> DirectoryState:
    """Look until the source wants no further look."""
    state = source.look()
    while source.again_ns is not None:
        time.sleep(source.again_ns / 1e9)
        state = source.look()
    return state


def test_a_file_emptied_in_place_takes_no_policy_away_and_says_so(tmp_path: Path) -> None:
    source = DirectorySource(tmp_path)
    path = tmp_path / "a.yaml"
    path.write_text(policy("one"))
    settle(source)
    before = source.state.policies
    assert before
    path.write_text("\n")
    state = settle(source)
    assert state.policies == before
    assert [error.message for error in state.errors] == ["the file is empty"]
    path.unlink()
    assert settle(source).policies == ()
