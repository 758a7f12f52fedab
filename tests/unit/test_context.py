"""Labels, and the block that gives them to all calls inside."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import copy_context
from typing import Any

import pytest

import openlimit.context
from openlimit.context import added, labels, labels_inside
from openlimit.errors import InvalidRequest


def test_nested_blocks_add_and_end() -> None:
    """Inner labels come on top of the outer ones, and go with their block."""
    with labels(team="search"):
        with labels(run="7", team="ads"):
            assert labels_inside() == (("run", "7"), ("team", "ads"))
        assert labels_inside() == (("team", "search"),)
    assert labels_inside() == ()


def test_they_go_when_the_block_fails() -> None:
    """An error in the block leaves none of its labels behind."""
    with pytest.raises(ZeroDivisionError), labels(team="search"):
        raise ZeroDivisionError
    assert labels_inside() == ()


async def test_tasks_inherit_them() -> None:
    """A task has the labels of where it was started, whatever its parent does afterwards."""

    async def child() -> object:
        await asyncio.sleep(0)
        return labels_inside()

    with labels(run="1"):
        task = asyncio.create_task(child())
    with labels(run="2"):
        assert await task == (("run", "1"),)


def test_threads_have_their_own() -> None:
    """A thread has labels only if it runs in a copy of the context."""
    seen: list[object] = []
    with labels(run="1"):
        context = copy_context()
        threads = [
            threading.Thread(target=lambda: seen.append(labels_inside())),
            threading.Thread(target=lambda: seen.append(context.run(labels_inside))),
        ]
        for thread in threads:
            thread.start()
            thread.join()
    assert seen == [(), (("run", "1"),)]


def test_it_decorates_functions() -> None:
    """What a decorated function calls has the labels."""
    assert labels(team="search")(labels_inside)() == (("team", "search"),)


def test_the_last_value_of_a_name_holds() -> None:
    """Labels are in the order of their names, each name once."""
    assert added((("b", "1"), ("c", "2")), {"b": "3", "a": "4"}) == (
        ("a", "4"),
        ("b", "3"),
        ("c", "2"),
    )


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        ({"Team": "x"}, "labels", "not 'Team'"),
        ({"": "x"}, "labels", "not ''"),
        ({"a" * 65: "x"}, "labels", "1 to 64"),
        ({7: "x"}, "labels", "not 7"),
        ({"model": "x"}, "labels", "pass it as model="),
        ({"key": "x"}, "labels", "pass it as key= to RemoteLimiter"),
        ({"team": ""}, "labels.team", "1 to 256 bytes, not 0"),
        ({"team": "é" * 129}, "labels.team", "not 258"),
        ({"team": 7}, "labels.team", "must be a text, not 7"),
        ({"team": "\ud800"}, "labels.team", "valid Unicode"),
        ({f"l{i}": "x" for i in range(17)}, "labels", "at most 16, not 17"),
        (["team"], "labels", "must be a mapping"),
    ],
)
def test_what_is_no_label_is_refused(given: Any, field: str, reason: str) -> None:
    """Each fault has its own message, which names the label."""
    with pytest.raises(InvalidRequest, match=reason) as refused:
        added((), given)
    assert refused.value.field == field
    assert not isinstance(given, Mapping) or openlimit.context.labels_inside() == ()


async def test_they_decorate_coroutine_functions() -> None:
    """They hold while the coroutine runs, not only while it is made, and in it alone."""

    @labels(team="search")
    async def child(run: str) -> object:
        """Says whose calls are made in it."""
        await asyncio.sleep(0)
        with labels(run=run):
            return labels_inside()

    assert [*await asyncio.gather(child("1"), child(run="2"))] == [
        (("run", "1"), ("team", "search")),
        (("run", "2"), ("team", "search")),
    ]
    assert child.__doc__
    assert labels_inside() == ()


async def test_they_decorate_what_returns_a_coroutine() -> None:
    """As the SDKs' methods do, which are wrapped in functions, and objects that can be called."""

    async def create() -> object:
        return labels_inside()

    class Client:
        async def __call__(self) -> object:
            return await create()

    def wrapper() -> Awaitable[object]:
        return create()

    kinds: list[Callable[[], Awaitable[object]]] = [wrapper, Client()]
    for kind in kinds:
        assert await labels(team="search")(kind)() == (("team", "search"),)


async def test_tasks_share_one_block() -> None:
    """Each task enters and leaves it in its own context, in whatever order."""
    block, left = labels(team="search"), asyncio.Event()

    async def first() -> object:
        with block:
            await left.wait()
        return labels_inside()

    async def second() -> object:
        with block:
            await asyncio.sleep(0)
        left.set()
        return labels_inside()

    assert [*await asyncio.gather(first(), second())] == [(), ()]


async def test_another_task_can_close_a_generator_inside() -> None:
    """As event loops do with one that nobody reads any more; that task keeps its own labels."""

    async def stream() -> AsyncIterator[object]:
        with labels(team="search"):
            yield labels_inside()

    async def close() -> object:
        with labels(run="1"):
            await began.aclose()
            return labels_inside()

    began: Any = stream()
    assert await asyncio.create_task(anext(began)) == (("team", "search"),)
    assert await asyncio.create_task(close()) == (("run", "1"),)


def test_the_decorator_refuses_what_is_no_label() -> None:
    """Where it is written, and not at the first call."""
    with pytest.raises(InvalidRequest, match="must have names of"):
        labels(Team="search")(len)


def test_they_decorate_no_generators() -> None:
    """Whose body runs when nobody holds them any more: that is said where it is written."""
    with pytest.raises(TypeError, match="pass labels= to"):

        @labels(team="search")
        def child() -> Iterator[object]:
            yield labels_inside()
