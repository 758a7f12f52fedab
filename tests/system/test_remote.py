"""RemoteLimiter against a real server: sharing, giving back, outages, forks, closing."""

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status

from openlimit import (
    CostExceedsLimit,
    InvalidRequest,
    LimiterUnavailable,
    OpenLimitError,
    PermissionDenied,
    RemoteLimiter,
    Reservation,
    UnknownModel,
    WaitTooLong,
)
from tests.support.calls import a_call
from tests.support.server_process import ServerProcess, serving, serving_policies

POLICIES = """
policies:
  - name: fast
    models: ["fast"]
    limits: {requests: 1000000/minute}
  - name: each
    models: ["m-*"]
    split_by: [model, key]
    limits: {requests: 6000/minute burst 60s, tokens: 6000/minute}
"""
DEAD = "127.0.0.1:1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_policies(tmp_path_factory.mktemp("config"), POLICIES) as running:
        yield running


@pytest.fixture
def limiter(server: ServerProcess) -> Iterator[RemoteLimiter]:
    with RemoteLimiter(server.address) as connected:
        yield connected


def wait_of(limiter: RemoteLimiter, model: str, tokens: int) -> float:
    """The wait that a call would have now, without having it."""
    probe = RemoteLimiter(limiter._address, key=limiter._key, max_wait=0)
    with probe:
        try:
            probe.limit(model=model, tokens=tokens).__enter__()
        except WaitTooLong as error:
            return error.retry_after
    return 0.0


def test_sync_and_async_share_a_bucket(limiter: RemoteLimiter) -> None:
    """with and async with reserve in the same bucket, and say how long they waited and why."""

    async def call() -> Reservation:
        async with limiter.limit(model="m-share", tokens=10) as reservation:
            return reservation

    with limiter.limit(model="m-share", tokens=160) as first:
        assert (first.wait, first.limited_by) == (0, "")
    second = asyncio.run(call())
    assert second.wait is not None
    assert 0 < second.wait <= 0.7
    assert second.limited_by == "tokens"


def test_limiters_share_what_the_server_holds(server: ServerProcess) -> None:
    """Two limiters are one queue, and keys split it where the policy says so."""
    with RemoteLimiter(server.address, key="a") as one, RemoteLimiter(server.address) as other:
        one.limit(model="m-two", tokens=6000).__enter__()
        assert wait_of(other, "m-two", 1) == 0
        other._key = "a"
        assert wait_of(other, "m-two", 1) > 50


@pytest.mark.parametrize(
    ("params", "error", "attributes"),
    [
        ({"model": "other"}, UnknownModel, {"model": "other"}),
        ({}, UnknownModel, {"model": ""}),
        ({"model": "x" * 257}, InvalidRequest, {"field": "model"}),
        ({"model": "\ud800"}, InvalidRequest, {"field": "model"}),
        ({"model": "é" * 129}, InvalidRequest, {"field": "model"}),
        (
            {"model": "m", "tokens": 6001},
            CostExceedsLimit,
            {"unit": "tokens", "cost": 6001, "amount": 6000},
        ),
    ],
)
async def test_errors_carry_their_data(
    limiter: RemoteLimiter, params: dict[str, Any], error: type[OpenLimitError], attributes: Any
) -> None:
    """Each refusal arrives as its own error, with the data and what to do, sync and async."""
    if params.get("model") == "m":
        params = {**params, "model": "m-errors"}
    reservation = limiter.limit(**{"tokens": 1, **params})
    with pytest.raises(error) as caught:
        reservation.__enter__()
    assert attributes.items() <= vars(caught.value).items()
    with pytest.raises(error) as caught:
        await reservation.__aenter__()
    assert attributes.items() <= vars(caught.value).items()


def test_max_wait(server: ServerProcess, limiter: RemoteLimiter) -> None:
    """A longer wait raises WaitTooLong with the wait, at once, and charges nothing."""
    limiter.limit(model="m-max", tokens=6000).__enter__()
    with RemoteLimiter(server.address, max_wait=0.5) as impatient:
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(WaitTooLong, match="longer than max_wait") as caught:
                impatient.limit(model="m-max", tokens=6000).__enter__()
            assert 50 < caught.value.retry_after <= 60
            assert caught.value.limited_by == "tokens"
        assert time.monotonic() - began < 5
    with RemoteLimiter(server.address, max_wait=float("inf")) as patient:
        patient.limit(model="m-patient", tokens=1).__enter__()


async def test_a_call_may_have_a_longest_wait_of_its_own(
    server: ServerProcess, limiter: RemoteLimiter
) -> None:
    """Shorter or longer than the limiter's, also none at all; a refused try changes nothing."""
    limiter.limit(model="m-own", tokens=6000, max_wait=0).__enter__()
    for max_wait in (0, 0.5):
        for _ in range(3):
            with pytest.raises(WaitTooLong) as caught:
                limiter.limit(model="m-own", tokens=6000, max_wait=max_wait).__enter__()
            assert 50 < caught.value.retry_after <= 60
            with pytest.raises(WaitTooLong):
                await limiter.limit(model="m-own", tokens=6000, max_wait=max_wait).__aenter__()
    with RemoteLimiter(server.address, max_wait=0) as impatient:
        impatient.limit(model="m-longer", tokens=160).__enter__()
        with pytest.raises(WaitTooLong):
            impatient.limit(model="m-longer", tokens=1).__enter__()
        for max_wait in (5, float("inf")):
            async with impatient.limit(model="m-longer", tokens=1, max_wait=max_wait) as call:
                assert (call.wait or 0) < 0.7


async def test_what_needs_a_model_says_so(server: ServerProcess, limiter: RemoteLimiter) -> None:
    """At the call, not in the log alone; so does what the server would refuse about it."""
    told: list[tuple[str, Callable[[], None]]] = [
        ("model", lambda: limiter.penalize(30)),
        ("model", lambda: limiter.penalize(30, "m" * 257)),
        ("model", lambda: limiter.observe({"tokens": 5})),
        ("model", lambda: limiter.observe({})),
        ("model", lambda: limiter.observe({"tokens": 5}, "\ud800")),
        ("remaining", lambda: limiter.observe({"Tokens!": 5}, "m-told")),
        ("remaining", lambda: limiter.observe({5: 5}, "m-told")),  # type: ignore[dict-item] # on purpose
        ("remaining", lambda: limiter.observe([("tokens", 5)], "m-told")),  # type: ignore[arg-type] # on purpose
    ]
    for field, tell in told:
        with pytest.raises(InvalidRequest) as caught:
            tell()
        assert caught.value.field == field
    with pytest.raises(UnknownModel, match='pass the model, or list ""'):
        await limiter.wait_for_capacity(1)
    limiter.penalize(30, "m-told")
    limiter.observe({"tokens": 5}, model="m-told")
    assert 28 < wait_of(limiter, "m-told", 1) <= 30


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_wait", -1),
        ("max_wait", float("nan")),
        ("timeout", 0),
        ("timeout", float("inf")),
        ("timeout", float("nan")),
        ("on_unavailable", "ignore"),
        ("timeout", "5"),
        ("timeout", None),
        ("timeout", True),
        ("max_wait", "5"),
        ("max_wait", True),
        ("address", 5),
        ("address", "http://localhost:50051"),
        ("address", " localhost:50051"),
        ("credentials", "secret"),
        ("key", None),
        ("key", 5),
    ],
)
def test_bad_options_are_refused_at_once(option: str, value: Any) -> None:
    """Construction fails with the parameter's name."""
    with pytest.raises(InvalidRequest, match=f"^{option}: .* not {value!r}"):
        RemoteLimiter(**{option: value})


async def test_a_cancelled_wait_gives_the_reservation_back(limiter: RemoteLimiter) -> None:
    """The server's bucket is as if the cancelled caller had never asked."""
    await limiter.wait_for_capacity(6000, model="m-cancel")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), limiter.limit(model="m-cancel", tokens=6000):
            pytest.fail("it had to wait")
    await asyncio.sleep(0.2)
    assert 50 < await asyncio.to_thread(wait_of, limiter, "m-cancel", 1) < 60


async def test_cancelled_before_the_answer_gives_back_what_it_grants(
    limiter: RemoteLimiter,
) -> None:
    """Callers cancelled at any moment of the question leave nothing behind."""
    await limiter.wait_for_capacity(6000, model="m-early")
    for i in range(200):
        task = asyncio.create_task(limiter.limit(model="m-early", tokens=6000).__aenter__())
        await asyncio.sleep(i * 1e-5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await limiter.aclose()
    assert 50 < await asyncio.to_thread(wait_of, limiter, "m-early", 1) < 60


def test_a_loop_that_ends_in_a_wait_gives_the_reservation_back(limiter: RemoteLimiter) -> None:
    """asyncio.run cancels what still waits, and that is given back too."""

    async def leave() -> None:
        await limiter.wait_for_capacity(6000, model="m-loop")
        task = asyncio.create_task(limiter.wait_for_capacity(6000, model="m-loop"))
        await asyncio.sleep(0.1)
        assert not task.done()

    asyncio.run(leave())
    time.sleep(0.2)
    assert 50 < wait_of(limiter, "m-loop", 1) < 60


def test_threads_and_several_loops_share_one_limiter(limiter: RemoteLimiter) -> None:
    """Each of a thousand calls from eight threads and four loops is charged exactly once."""

    def from_thread() -> None:
        for _ in range(100):
            limiter.wait_for_capacity_sync(0, model="m-many")

    async def from_loop() -> None:
        await asyncio.gather(*(limiter.wait_for_capacity(0, model="m-many") for _ in range(100)))

    targets = [from_thread] * 6 + [lambda: asyncio.run(from_loop())] * 4
    threads = [threading.Thread(target=target) for target in targets]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The burst is 6,000 requests, of which 100 a second leak; what is left tells how many came.
    free = 0
    last = RemoteLimiter(limiter._address, key=limiter._key, max_wait=0)
    with last as probe, suppress(WaitTooLong):
        while True:
            probe.wait_for_capacity_sync(0, model="m-many")
            free += 1
    leaked = (time.monotonic() - began) * 100
    assert 5000 <= free <= 5000 + leaked + 1


async def test_an_unavailable_server_is_an_error_that_says_what_to_do() -> None:
    """LimiterUnavailable within the timeout, with the address, sync and async."""
    async with RemoteLimiter(DEAD, timeout=0.5) as limiter:
        began = time.monotonic()
        with pytest.raises(LimiterUnavailable, match="check that it runs") as caught:
            await limiter.wait_for_capacity(1, model="m")
        with pytest.raises(LimiterUnavailable):
            limiter.wait_for_capacity_sync(1, model="m")
        assert time.monotonic() - began < 4
        assert caught.value.address == DEAD
        assert "UNAVAILABLE" in caught.value.reason


async def test_allow_lets_calls_through_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a server the first waits out its timeout, and the others start at once; one warning
    tells of the outage."""
    with caplog.at_level(logging.WARNING):
        async with (
            asyncio.timeout(2),
            RemoteLimiter(DEAD, timeout=0.4, on_unavailable="allow") as limiter,
        ):
            for _ in range(5):
                async with limiter.limit(model="m", tokens=1) as reservation:
                    assert reservation.wait == 0
                with limiter.limit(model="m", tokens=1):
                    pass
    [record] = caplog.records
    assert DEAD in record.getMessage()


def test_allow_waits_for_a_hanging_server_once() -> None:
    """Then calls start at once, until it answers again."""
    with (
        serving() as server,
        RemoteLimiter(server.address, timeout=0.6, on_unavailable="allow") as limiter,
    ):
        limiter.wait_for_capacity_sync(1, model="gpt-4o")
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        for _ in range(20):
            limiter.wait_for_capacity_sync(1, model="gpt-4o")
        assert 0.5 < time.monotonic() - began < 3
        server.signal(signal.SIGCONT)
        while not limiter.acquire(a_call("gpt-4o", {"requests": 1, "tokens": 1})).reservation_id:
            assert time.monotonic() - began < 10


def test_a_hanging_server_costs_the_timeout_at_most() -> None:
    """A server that accepts and does not answer is given up after the timeout."""
    with serving() as server, RemoteLimiter(server.address, timeout=0.5) as limiter:
        limiter.wait_for_capacity_sync(1, model="gpt-4o")
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(LimiterUnavailable, match=r"no answer within 0\.5 s"):
            limiter.wait_for_capacity_sync(1, model="gpt-4o")
        assert 0.4 < time.monotonic() - began < 2
        server.signal(signal.SIGCONT)
        limiter.wait_for_capacity_sync(1, model="gpt-4o")


def test_a_limiter_is_back_when_its_server_is() -> None:
    """After an outage that was longer than the timeout the same limiter goes on, by itself."""
    with serving() as server:
        port = server.port
        limiter = RemoteLimiter(server.address, timeout=0.3)
        limiter.wait_for_capacity_sync(1, model="gpt-4o")
    with pytest.raises(LimiterUnavailable, match="refused"):
        limiter.wait_for_capacity_sync(1, model="gpt-4o")
    with serving(port=port), limiter:
        deadline = time.monotonic() + 5
        while True:
            try:
                limiter.wait_for_capacity_sync(1, model="gpt-4o")
                break
            except LimiterUnavailable:
                assert time.monotonic() < deadline, "it did not come back"


def _child(limiter: RemoteLimiter, answers: "multiprocessing.Queue[Any]") -> None:
    async def both() -> None:
        limiter.wait_for_capacity_sync(1, model="fast")
        await limiter.wait_for_capacity(1, model="fast")

    try:
        asyncio.run(both())
        limiter.close()
        answers.put((os.getpid(), None))
    except BaseException as error:
        answers.put((os.getpid(), repr(error)))


def test_a_forked_child_opens_its_own_channel(limiter: RemoteLimiter) -> None:
    """The same limiter goes on in forked children and in the parent, beside each other."""
    limiter.wait_for_capacity_sync(1, model="fast")
    forks = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[Any] = forks.Queue()
    children = [forks.Process(target=_child, args=[limiter, answers]) for _ in range(8)]
    for child in children:
        child.start()
        limiter.wait_for_capacity_sync(1, model="fast")
    assert {answers.get(timeout=20) for _ in children} == {(c.pid, None) for c in children}
    for child in children:
        child.join(10)
        assert child.exitcode == 0
    limiter.wait_for_capacity_sync(1, model="fast")


async def test_closing(server: ServerProcess) -> None:
    """A closed limiter says so, can be closed again, and leaves no thread behind."""
    before = threading.active_count()
    limiter = RemoteLimiter(server.address)
    await limiter.wait_for_capacity(1, model="fast")
    await limiter.aclose()
    limiter.close()
    with pytest.raises(RuntimeError, match="closed"):
        limiter.wait_for_capacity_sync(1, model="fast")
    for _ in range(100):
        if threading.active_count() <= before + 1:  # the loop's own, for aclose
            break
        await asyncio.sleep(0.01)
    assert threading.active_count() <= before + 1


def test_nothing_is_connected_before_the_first_call() -> None:
    """Constructing, showing and closing a limiter need no server."""
    with RemoteLimiter(DEAD, key="k") as limiter:
        assert repr(limiter) == f"<RemoteLimiter at {DEAD}>"


async def test_closing_lets_a_call_under_way_end(limiter: RemoteLimiter) -> None:
    """A caller whose question is out when the limiter is closed gets its answer."""
    await limiter.wait_for_capacity(1, model="fast")
    calls = [asyncio.create_task(limiter.wait_for_capacity(1, model="fast")) for _ in range(50)]
    await asyncio.sleep(0)
    await limiter.aclose()
    await asyncio.gather(*calls)


async def test_sleepers_that_outlive_their_limiter_give_back(server: ServerProcess) -> None:
    """A task group around the limiter cancels its callers when the limiter is closed already."""
    limiter = RemoteLimiter(server.address)
    await limiter.wait_for_capacity(6000, model="m-outlive")

    async def fail_among_sleepers() -> None:
        async with asyncio.TaskGroup() as group, limiter:
            for _ in range(10):
                group.create_task(limiter.wait_for_capacity(6000, model="m-outlive"))
            await asyncio.sleep(0.1)
            raise ValueError("enough")

    with pytest.raises(ExceptionGroup):
        await fail_among_sleepers()
    for _ in range(100):
        wait = await asyncio.to_thread(wait_of, limiter, "m-outlive", 1)
        if wait < 60:
            break
        await asyncio.sleep(0.02)
    assert 50 < wait < 60


async def test_a_grant_that_nobody_reads_any_more_is_given_back(server: ServerProcess) -> None:
    """Answers came while close() blocked the loop, and their callers were cancelled next."""
    limiter = RemoteLimiter(server.address)
    await limiter.wait_for_capacity(6000, model="m-unread")

    async def close_among_askers() -> None:
        async with asyncio.TaskGroup() as group:
            with limiter:
                for _ in range(3):
                    group.create_task(limiter.wait_for_capacity(6000, model="m-unread"))
                await asyncio.sleep(0)
                raise ValueError("enough")

    with pytest.raises(ExceptionGroup):
        await close_among_askers()
    for _ in range(100):
        wait = await asyncio.to_thread(wait_of, limiter, "m-unread", 1)
        if wait < 60:
            break
        await asyncio.sleep(0.02)
    assert 50 < wait < 60


async def test_closing_waits_for_no_thread_of_the_loop(server: ServerProcess) -> None:
    """The loop's own threads may all be asleep in this very limiter."""
    executor = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(executor)
    asleep = threading.Event()
    busy = asyncio.create_task(asyncio.to_thread(asleep.wait))
    async with asyncio.timeout(5), RemoteLimiter(server.address) as limiter:
        await limiter.wait_for_capacity(1, model="fast")
    asleep.set()
    await busy


class _Refusing(grpc.GenericRpcHandler):
    """A real server that answers every call with one status."""

    code = grpc.StatusCode.UNAVAILABLE
    trailers: tuple[tuple[str, bytes], ...] = ()

    def service(self, handler_call_details: Any) -> Any:
        def refuse(request: bytes, context: Any) -> None:
            context.set_trailing_metadata(self.trailers)
            context.abort(self.code, "message")

        return grpc.stream_stream_rpc_method_handler(refuse)


def test_a_timeout_of_ages_is_none(server: ServerProcess) -> None:
    """What is too far away for gRPC does not end at once."""
    for timeout in (1e10, 1e300, 10**400):
        with RemoteLimiter(server.address, timeout=timeout) as limiter:
            limiter.wait_for_capacity_sync(1, model="fast")


@pytest.fixture
def refusing() -> Iterator[tuple[_Refusing, str]]:
    handler = _Refusing()
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_allow_is_for_outages_only(refusing: tuple[_Refusing, str]) -> None:
    """Calls go on without a server that is away, not without one that refuses the client."""
    handler, address = refusing
    outages = {"CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"}
    outages |= {"INTERNAL", "UNAVAILABLE"}
    for n, handler.code in enumerate(set(grpc.StatusCode) - {grpc.StatusCode.OK}):
        timeout = 0.4 + n / 100  # another for each: they share no connection
        with RemoteLimiter(address, timeout=timeout, on_unavailable="allow") as limiter:
            if handler.code.name in outages:
                limiter.wait_for_capacity_sync(1, model="m")
                continue
            refused = handler.code.name in ("UNAUTHENTICATED", "PERMISSION_DENIED")
            expected = PermissionDenied if refused else InvalidRequest
            with pytest.raises(expected, match=handler.code.name) as caught:
                limiter.wait_for_capacity_sync(1, model="m")
            assert refused or caught.value.args[0] == "address"


@pytest.mark.parametrize(
    "details",
    [
        b"\xff\xff\xff",
        Status(code=14, message="another").SerializeToString(),
        Status(code=8, message="message").SerializeToString(),
    ],
)
def test_details_that_are_garbage(refusing: tuple[_Refusing, str], details: bytes) -> None:
    """The status itself counts where its details cannot be read."""
    handler, address = refusing
    handler.trailers = (("grpc-status-details-bin", details),)
    with (
        RemoteLimiter(address, timeout=5) as limiter,
        pytest.raises(LimiterUnavailable, match="message"),
    ):
        limiter.wait_for_capacity_sync(1, model="m")
