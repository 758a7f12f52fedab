"""What limiters of one process share, and how their channels reach a server."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from openlimit import LimiterUnavailable, RemoteLimiter
from openlimit.operations import Cancel, Report
from openlimit.remote import connection as connections
from openlimit.remote import sharing
from openlimit.remote.address import proxy_of
from openlimit.remote.closing import close
from openlimit.remote.stream import Stream
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest, AcquireStreamResponse, GrantRun
from tests.support.calls import a_call
from tests.support.server_process import ServerProcess, serving, serving_policies
from tests.support.tcp_relay import relaying

COST = {"requests": 1, "tokens": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    policies = "policies: [{name: p, models: ['*'], limits: {requests: 100000000/minute}}]"
    with serving_policies(tmp_path_factory.mktemp("config"), policies) as running:
        yield running


def connection_of(limiter: RemoteLimiter) -> connections.Connection:
    """The one that it uses, after a call."""
    limiter.acquire(a_call("m", COST))
    connection = limiter._use.connection
    assert connection
    return connection


async def test_a_limiter_for_each_call_costs_no_connection_each(server: ServerProcess) -> None:
    """Neither threads nor descriptors pile up."""

    async def call() -> None:
        async with RemoteLimiter(server.address).limit(model="m", tokens=1):
            pass

    await call()
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        await asyncio.gather(*(call() for _ in range(20)))
    assert threading.active_count() <= threads + 1  # that which waits whether it is used again
    assert len(os.listdir("/proc/self/fd")) <= files


def test_what_shapes_a_connection_is_not_shared(server: ServerProcess) -> None:
    """Credentials are the same where they are the same object; keys share."""
    credentials = [grpc.local_channel_credentials() for _ in range(2)]
    with (
        RemoteLimiter(server.address, key="a") as one,
        RemoteLimiter(server.address, key="b") as same,
        RemoteLimiter(server.address, timeout=4) as hasty,
        RemoteLimiter(server.address, credentials=credentials[0]) as local,
        RemoteLimiter(server.address, credentials=credentials[0]) as same_local,
        RemoteLimiter(server.address, credentials=credentials[1]) as other,
    ):
        assert connection_of(one) is connection_of(same)
        assert connection_of(local) is connection_of(same_local)
        assert len({*map(connection_of, (one, hasty, local, other))}) == 4


def test_a_connection_outlives_its_limiters_for_a_while(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is closed; one that is used again by then goes on."""
    monkeypatch.setattr(sharing, "_LINGER", 0.3)
    with RemoteLimiter(server.address, timeout=7) as limiter:
        connection = connection_of(limiter)
    for _ in range(3):
        time.sleep(0.2)
        with RemoteLimiter(server.address, timeout=7) as limiter:
            assert connection_of(limiter) is connection
    time.sleep(0.2)
    assert not connection.is_closed
    for _ in range(200):
        if connection.is_closed:
            break
        time.sleep(0.02)
    assert connection.is_closed


def test_connections_that_nobody_can_share_do_not_pile_up(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as those of limiters with credentials of their own in each call."""
    monkeypatch.setattr(sharing, "_LINGER", 60)
    monkeypatch.setattr(sharing, "_MOST_LINGERING", len(sharing._shared) + 2)
    left = list[connections.Connection]()
    for _ in range(10):
        credentials = grpc.local_channel_credentials()
        with RemoteLimiter(server.address, credentials=credentials) as limiter:
            left.append(connection_of(limiter))
    for _ in range(200):
        if sum(not each.is_closed for each in left) <= 2:
            break
        time.sleep(0.02)
    assert 1 <= sum(not each.is_closed for each in left) <= 2
    for each in left:
        each.idle_since -= 60
        close(each, 1)


async def test_who_sleeps_longer_than_a_connection_gives_back(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that is cancelled once its limiter and the connection of that are closed."""
    monkeypatch.setattr(sharing, "_LINGER", 0.01)
    with RemoteLimiter(server.address, timeout=6) as limiter:
        connection = connection_of(limiter)
        limiter.penalize(60, "sleepy")
        sleeper = asyncio.create_task(limiter.wait_for_capacity(1, "sleepy"))
        await asyncio.sleep(0.2)
    for _ in range(200):
        if connection.is_closed:
            break
        await asyncio.sleep(0.02)
    told = list[tuple[object, bool]]()
    tell = connections.Connection.tell

    def record(connection: connections.Connection, each: Report) -> bool:
        told.append((each, tell(connection, each)))
        return told[-1][1]

    monkeypatch.setattr(connections.Connection, "tell", record)
    sleeper.cancel()
    await asyncio.gather(sleeper, return_exceptions=True)
    monkeypatch.undo()
    with RemoteLimiter(server.address) as limiter:
        limiter.penalize(0, "sleepy")
    assert [(type(each), is_told) for each, is_told in told] == [
        (Cancel, False),
        (Cancel, True),
    ]


def test_a_stream_that_is_silent_from_its_first_question_is_left(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the connection has answered before, and its packets are dropped since."""
    monkeypatch.setattr(connections, "_SILENT", 0.3)
    loop = asyncio.new_event_loop()
    relays = relaying(server.port)
    relay = loop.run_until_complete(relays.__aenter__())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with RemoteLimiter(relay.url.removeprefix("redis://"), timeout=5) as limiter:
            connection = connection_of(limiter)
            stream = connection.stream
            assert stream
            stream._call.cancel()  # as a proxy does after some time
            while connection.stream is stream:
                time.sleep(0.01)
            loop.call_soon_threadsafe(relay.forget)
            time.sleep(0.1)
            limiter.acquire(a_call("m", COST))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(relays.__aexit__(None, None, None))
        loop.close()


def test_a_stream_that_answers_while_it_is_opened_proves_its_channel(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a server that falls silent later would not be left."""
    start = Stream.start

    def start_slowly(stream: Stream, *how: Any) -> None:
        start(stream, *how)
        while not stream.is_useful:
            time.sleep(0.01)

    monkeypatch.setattr(Stream, "start", start_slowly)
    with RemoteLimiter(server.address, timeout=7) as limiter:  # of a connection of its own
        assert connection_of(limiter).channel.is_proven


def test_in_an_outage_nobody_who_is_allowed_waits_out_the_timeout_again() -> None:
    """Whichever attempt to reach the server is under way."""
    with (
        serving() as hanging,
        RemoteLimiter(hanging.address, timeout=10, on_unavailable="allow") as limiter,
    ):
        connection = connection_of(limiter)
        hanging.signal(signal.SIGSTOP)
        connection.outage.is_hopeless = True  # as callers find out
        began = time.monotonic()
        assert not limiter.acquire(a_call("m", COST)).reservation_id
        assert not asyncio.run(limiter.aacquire(a_call("m", COST))).reservation_id
        assert time.monotonic() - began < 5
        hanging.signal(signal.SIGCONT)


@pytest.mark.parametrize("failing", ["openlimit-stream", "other"])
def test_no_thread_to_be_had_is_an_outage_that_ends(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Neither this library's nor gRPC's: callers wait it out, and no question is left behind."""
    start, failed = threading.Thread.start, list[str]()

    def refuse(thread: threading.Thread) -> None:
        if (thread.name == "openlimit-stream") is (failing == "openlimit-stream") and not failed:
            failed.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    with RemoteLimiter(server.address, timeout=8 + len(failing)) as limiter:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        limiter.acquire(a_call("m", COST))
        monkeypatch.undo()
        assert failed
        assert not connection_of(limiter).in_flight._waiting


def test_closing_a_limiter_leaves_the_calls_of_others(server: ServerProcess) -> None:
    """They share its connection, not its end."""
    other = RemoteLimiter(server.address)
    with RemoteLimiter(server.address) as limiter:
        assert connection_of(limiter) is connection_of(other)
    with pytest.raises(RuntimeError, match="closed"):
        limiter.acquire(a_call("m", COST))
    other.acquire(a_call("m", COST))
    other.close()


class _Gateway(grpc.GenericRpcHandler):
    """Lets nobody ask for health, and answers a stream by what it was granted."""

    def service(self, handler_call_details: Any) -> Any:
        def refuse(_: bytes, context: grpc.ServicerContext) -> None:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not through here")

        def answer(messages: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
            for message in messages:
                ids = AcquireStreamRequest.FromString(message).runs[0].ids
                grants = [GrantRun(ids=ids, reservation_ids=map(str, ids))]
                yield AcquireStreamResponse(grants=grants).SerializeToString()

        if "Health" in handler_call_details.method:
            return grpc.unary_stream_rpc_method_handler(refuse)
        return grpc.stream_stream_rpc_method_handler(answer)


@pytest.mark.parametrize("gateway", [_Gateway(), None])
def test_a_server_whose_health_nobody_tells_is_asked(gateway: _Gateway | None) -> None:
    """Whether a gateway refuses to, or there is no such service at all."""
    served = grpc.server(ThreadPoolExecutor(4), handlers=[gateway or _WithoutHealth()])
    port = served.add_insecure_port("127.0.0.1:0")
    served.start()
    with RemoteLimiter(f"127.0.0.1:{port}", timeout=3) as limiter:
        limiter.acquire(a_call("m", COST))
    served.stop(None).wait()


class _WithoutHealth(_Gateway):
    def service(self, handler_call_details: Any) -> Any:
        is_health = "Health" in handler_call_details.method
        return None if is_health else super().service(handler_call_details)


PROXY = {"http_proxy": "http://user:secret@127.0.0.1:1"}


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{}", "localhost:{}", "ipv4:127.0.0.1:{}", "dns:///localhost:{}"]
)
def test_a_proxy_is_not_asked_for_what_is_on_this_machine(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Whatever the environment says."""
    monkeypatch.setenv("http_proxy", PROXY["http_proxy"])
    monkeypatch.setenv("no_proxy", "")
    with RemoteLimiter(address.format(server.port), timeout=3) as limiter:
        limiter.acquire(a_call("m", COST))


def test_a_proxy_that_fails_is_named_without_its_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the variable that names it, and what to do."""
    monkeypatch.setenv("http_proxy", PROXY["http_proxy"])
    monkeypatch.setenv("no_proxy", "")
    with (
        RemoteLimiter("limiter.invalid:50051", timeout=0.5) as limiter,
        pytest.raises(LimiterUnavailable) as caught,
    ):
        limiter.acquire(a_call("m", COST))
    assert "through the proxy 127.0.0.1:1 (http_proxy); " in str(caught.value)
    assert "no_proxy" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "environment", "expected"),
    [
        ("limiter:50051", {}, ""),
        ("limiter:50051", {"http_proxy": "http://p:8080"}, "p:8080 (http_proxy)"),
        ("limiter:50051", {"grpc_proxy": "p", "http_proxy": "http://q"}, "? (grpc_proxy)"),
        ("limiter:50051", {"https_proxy": "http://p"}, "p (https_proxy)"),
        ("limiter.corp:50051", {"http_proxy": "http://p:1", "no_proxy": "a, .corp"}, ""),
        ("10.1.2.3:50051", {"http_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, ""),
        (
            "10.1.2.3:50051",
            {"http_proxy": "http://p:1", "no_proxy": "11.0.0.0/8"},
            "p:1 (http_proxy)",
        ),
        ("ipv4:10.1.2.3:1,127.0.0.1:1", {"http_proxy": "http://p:1"}, "p:1 (http_proxy)"),
        ("unix:/run/openlimit.sock", {"http_proxy": "http://p:1"}, ""),
        ("[::1]:50051", {"http_proxy": "http://p:1"}, ""),
        ("ipv6:[::1]:50051", {"http_proxy": "http://p:1"}, ""),
        ("limiter:50051", {"http_proxy": "http://[broken"}, "? (http_proxy)"),
    ],
)
def test_which_proxy_is_taken(
    monkeypatch: pytest.MonkeyPatch, address: str, environment: dict[str, str], expected: str
) -> None:
    """As gRPC chooses it, by the environment."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(address) == expected


GREENLETS = """
import sys
{}
from openlimit import LimiterUnavailable, RemoteLimiter
from gevent import monkey; monkey.patch_all()
import gevent
with RemoteLimiter(sys.argv[1]) as limiter:
    jobs = [gevent.spawn(limiter.wait_for_capacity_sync, 1, "m") for _ in range(20)]
    gevent.joinall(jobs, timeout=10, raise_error=True)
    assert all(job.successful() for job in jobs)
with RemoteLimiter("127.0.0.1:1", timeout=0.2) as limiter:
    try:
        limiter.wait_for_capacity_sync(1, "m")
    except LimiterUnavailable:
        print("in time")
"""


def run_greenlets(first: str, address: str) -> subprocess.CompletedProcess[str]:
    code = GREENLETS.format(first)
    command = [sys.executable, "-W", "ignore", "-c", code, address]
    return subprocess.run(command, timeout=20, check=False, capture_output=True, text=True)


def test_greenlets_wait_beside_each_other(server: ServerProcess) -> None:
    """Under gevent calls are made, and outages end in time."""
    done = run_greenlets("from gevent import monkey; monkey.patch_all()", server.address)
    assert (done.stdout, done.returncode) == ("in time\n", 0), done.stderr


def test_gevent_that_comes_too_late_is_told_at_once(server: ServerProcess) -> None:
    """What was imported before would block all greenlets."""
    assert "before anything else is imported" in run_greenlets("", server.address).stderr


async def test_a_closed_limiter_asks_no_more(server: ServerProcess) -> None:
    """Blocking or not, also while its connection stays open for others."""
    async with RemoteLimiter(server.address) as other:
        limiter = RemoteLimiter(server.address)
        await limiter.aacquire(a_call("m", COST))
        await limiter.aclose()
        with pytest.raises(RuntimeError, match="this limiter was closed"):
            await limiter.aacquire(a_call("m", COST))
        with pytest.raises(RuntimeError, match="this limiter was closed"):
            limiter.acquire(a_call("m", COST))
        assert (await other.aacquire(a_call("m", COST))).reservation_id
