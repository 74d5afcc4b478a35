"""The copy of one collection, against a server that is scripted: what a real one does only when it is unwell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from tidegate.sources.kubernetes import reflector as module
from tidegate.sources.kubernetes.reflector import BACKOFF_S_MAX, BACKOFF_S_MIN, Backoff, Changes, Reflector
from tidegate.sources.kubernetes.server import OPENED, ApiAbsent, ApiError, ApiGone, ApiUnavailable, Tree


def thing(name: str, version: int, **more: Any) -> Tree:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, **more}


def listing(version: int, *items: Tree, more: str = "") -> Tree:
    return {"items": list(items), "metadata": {"resourceVersion": str(version), **({"continue": more} if more else {})}}


def event(kind: str, tree: Tree) -> Tree:
    return {"type": kind, "object": tree}


class Server:
    """Gives the scripted answers one after the other; when they are used up, the reflector is cancelled."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.asked: list[tuple[str, str]] = []
        self.done = asyncio.Event()

    def _next(self) -> Any:
        if not self.script:
            self.done.set()
            raise ApiUnavailable("test", "the script has ended")
        answer = self.script.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def get(self, path: str, query: Mapping[str, str] | None = None, accept: str = "") -> Tree:
        self.asked.append(("list", (query or {}).get("continue", "")))
        answer: Tree = self._next()
        return answer

    async def watch(self, path: str, query: Mapping[str, str], seconds_max: int) -> AsyncGenerator[Tree, None]:
        assert query["allowWatchBookmarks"] == "true"
        self.asked.append(("watch", query["resourceVersion"]))
        for item in self._next():
            if isinstance(item, ApiError):
                raise item
            yield item


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses themselves are Backoff's business."""
    monkeypatch.setattr(module, "BACKOFF_S_MIN", 0.0)
    monkeypatch.setattr(module, "ABSENT_S", 0.0)
    monkeypatch.setattr(module.Backoff, "next_s", lambda self, retry_after_s=None: 0.0)


def follow(*script: Any, known: tuple[str, ...] = (), **options: Any) -> tuple[list[Changes], Server, Reflector]:
    """Run a reflector through a script; return what it told, what it asked for, and itself."""
    told: list[Changes] = []

    async def run() -> tuple[list[Changes], Server, Reflector]:
        server = Server(*script)
        one = Reflector(server, "/things", told.append, **options)
        one.assume(known)
        task = asyncio.ensure_future(one.run())
        await server.done.wait()
        task.cancel()
        return told, server, one

    return asyncio.run(run())


def names(changes: Changes) -> tuple[set[str], set[str]]:
    return set(changes.present), set(changes.gone)


def test_pages_are_one_list_and_the_watch_goes_on_from_its_version() -> None:
    told, server, _ = follow(listing(5, thing("a", 1), more="x"), listing(7, thing("b", 2)), [OPENED])
    assert names(told[0]) == ({"a", "b"}, set())
    assert server.asked[:3] == [("list", ""), ("list", "x"), ("watch", "7")]


def test_a_watch_is_resumed_from_the_last_version_seen_bookmarks_included() -> None:
    first = [OPENED, event("ADDED", thing("a", 8)), event("BOOKMARK", {"metadata": {"resourceVersion": "20"}})]
    told, server, _ = follow(listing(7), first, [OPENED, event("DELETED", thing("a", 21))], [OPENED])
    assert [names(changes) for changes in told] == [(set(), set()), ({"a"}, set()), (set(), {"a"})]
    assert [asked for asked in server.asked if asked[0] == "watch"] == [
        ("watch", "7"),
        ("watch", "20"),
        ("watch", "21"),
        ("watch", "21"),
    ]


@pytest.mark.parametrize("when", ["at the request", "in the stream"])
def test_gone_lists_anew_and_tells_the_differences_in_one_step(when: str) -> None:
    gone = ApiGone("watch", "too old", 410)
    watch: Any = gone if when == "at the request" else [OPENED, gone]
    told, server, _ = follow(
        listing(7, thing("a", 1), thing("b", 2)), watch, listing(30, thing("b", 25), thing("c", 26)), [OPENED]
    )
    assert names(told[-1]) == ({"b", "c"}, {"a"})
    assert len(told) == 2, "nothing is told between the lists"
    assert server.asked[-2:] == [("watch", "30"), ("watch", "30")]


def test_a_server_that_is_away_changes_nothing() -> None:
    away = ApiUnavailable("watch", "connection refused")
    told, _, one = follow(listing(7, thing("a", 1)), away, away, [OPENED, away], away)
    assert len(told) == 1
    assert one.health.synced
    assert "the script has ended" in one.health.problem


def test_what_was_saved_and_is_not_listed_is_told_as_gone() -> None:
    told, _, _ = follow(listing(7, thing("a", 1)), [OPENED], known=("a", "old"))
    assert names(told[0]) == ({"a"}, {"old"})


def test_an_unknown_kind_is_an_empty_collection_if_it_is_optional() -> None:
    absent = ApiAbsent("list", "404", 404)
    told, _, one = follow(absent, optional=True)
    assert [names(changes) for changes in told] == [(set(), set())]
    assert one.health.synced
    assert one.health.absent


def test_objects_of_an_optional_kind_are_gone_only_when_it_was_unknown_twice() -> None:
    absent = ApiAbsent("list", "404", 404)
    first, gone = listing(7, thing("a", 1)), ApiGone("watch", "", 410)
    told, _, _ = follow(first, gone, absent, listing(8, thing("a", 1)), [OPENED], optional=True)
    assert all(not changes.gone for changes in told)
    told, _, _ = follow(first, gone, absent, absent, optional=True)
    assert names(told[-1]) == (set(), {"a"})


def test_an_unknown_kind_that_must_be_there_is_a_problem() -> None:
    _, _, one = follow(ApiAbsent("list", "404", 404))
    assert not one.health.synced
    assert one.health.problem


def test_an_older_version_of_the_kind_is_used_where_this_one_is_unknown() -> None:
    paths: list[str] = []

    class Old(Server):
        async def get(self, path: str, query: Mapping[str, str] | None = None, accept: str = "") -> Tree:
            paths.append(path)
            return await super().get(path, query, accept)

    async def run() -> None:
        server = Old(ApiAbsent("list", "404", 404), listing(3, thing("a", 1)), [OPENED])
        task = asyncio.ensure_future(Reflector(server, "/v1/things", lambda _: None, fallback="/v1beta1/things").run())
        await server.done.wait()
        task.cancel()

    asyncio.run(run())
    assert paths == ["/v1/things", "/v1beta1/things"]


def test_catching_up_waits_for_edits_and_for_deletions() -> None:
    async def run() -> list[str]:
        order: list[str] = []
        release = asyncio.Event()

        class Slow(Server):
            async def watch(self, path: str, query: Mapping[str, str], seconds_max: int) -> AsyncGenerator[Tree, None]:
                yield OPENED
                await release.wait()
                order.append("events")
                yield event("MODIFIED", thing("a", 9))
                yield event("DELETED", thing("b", 10))
                await asyncio.Event().wait()

        server = Slow(listing(7, thing("a", 1), thing("b", 2)), listing(10, thing("a", 9)))
        one = Reflector(server, "/things", lambda _: None)
        task = asyncio.ensure_future(one.run())
        while not one.health.synced:
            await asyncio.sleep(0)
        waiting = asyncio.ensure_future(one.catch_up())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        release.set()
        await waiting
        order.append("caught up")
        task.cancel()
        return order

    assert asyncio.run(run()) == ["events", "caught up"]


def test_pauses_double_up_to_a_bound_and_are_drawn_from_the_upper_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    least, most = Backoff(lambda: 0.0), Backoff(lambda: 1.0)
    pauses = [(least.next_s(), most.next_s()) for _ in range(12)]
    assert pauses[0] == (BACKOFF_S_MIN / 2, BACKOFF_S_MIN)
    assert pauses[-1] == (BACKOFF_S_MAX / 2, BACKOFF_S_MAX)
    most.reset()
    assert most.next_s() == BACKOFF_S_MIN
    assert most.next_s(retry_after_s=7.0) == 7.0
