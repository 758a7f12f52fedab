"""Callers that a server knows by API keys: what they may do, and for whom."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from openlimit import PermissionDenied, RemoteLimiter, UnknownModel, UnknownReservation
from openlimit.operations import Acquire, Observe, Penalize, Settle
from openlimit.remote.stream import error_of_call
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving

POLICIES = """
policies:
  - {name: of-search, models: [own], match: {team: search}, limits: {requests: 100000/minute}}
  - {name: of-key, models: [own], match: {key: b}, limits: {requests: 100000/minute}}
  - {name: one-by-one, models: [slots], concurrent: 1, lease: 1h, limits: {requests: 9000/minute}}
  - {name: for-all, models: [all], limits: {requests: 600000/minute burst 1h}}
"""
COST = {"requests": 1, "tokens": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("config")
    (made / "limits.yaml").write_text(POLICIES)
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    keys = folder / "keys.yaml"
    write_keys(
        keys,
        a_key("search", team="search"),
        a_key("twin", team="search"),
        a_key("batch", "acquire", "penalize", team="batch", key="b"),
        a_key("watcher", "penalize"),
    )
    with serving("--config", str(folder / "limits.yaml"), "--keys", str(keys)) as running:
        yield running


def ask(server: ServerProcess, key: str | None, method: str, request: Any, **metadata: str) -> Any:
    """By a call of its own; raises what the client would."""
    said = {**({"authorization": f"Bearer {token_of(key)}"} if key else {}), **metadata}
    with grpc.insecure_channel(server.address) as channel:
        call: Any = getattr(RateLimitServiceStub(channel), method)
        try:
            return call(request, metadata=tuple(said.items()), timeout=5)
        except grpc.RpcError as error:
            raise error_of_call(error, server.address) from error


def acquire(model: str = "all", **fields: Any) -> messages.AcquireRequest:
    return messages.AcquireRequest(model=model, tokens=1, **fields)


def limiter_of(server: ServerProcess, key: str, **options: Any) -> RemoteLimiter:
    return RemoteLimiter(server.address, api_key=token_of(key), **options)


def call(model: str, **labels: str) -> Acquire:
    return Acquire(model, "", COST, None, "", tuple(sorted(labels.items())))


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic eDp5"])
def test_a_caller_without_a_known_key_is_unauthenticated(
    server: ServerProcess, authorization: str
) -> None:
    """By every call of the service, streams included; the error does not repeat what was sent."""
    for method, request in (
        ("Acquire", acquire()),
        ("AcquireBatch", messages.AcquireBatchRequest()),
        ("Settle", messages.SettleRequest(reservation_id="a")),
        ("Penalize", messages.PenalizeRequest(model="all")),
    ):
        with pytest.raises(PermissionDenied, match="API key") as caught:
            ask(server, None, method, request, authorization=authorization)
        assert caught.value.key == ""
        assert isinstance(caught.value.__cause__, grpc.RpcError)
        assert caught.value.__cause__.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "wrong" not in str(caught.value)


async def test_a_limiter_with_a_wrong_key_fails_at_once(server: ServerProcess) -> None:
    """It does not wait as in an outage, and does not let calls go on without limits."""
    for key in ("", "wrong" * 9):
        async with RemoteLimiter(
            server.address, api_key=key, timeout=60, on_unavailable="allow"
        ) as limiter:
            began = time.monotonic()
            for _ in range(2):
                with pytest.raises(PermissionDenied, match="API key"):
                    await limiter.aacquire(call("all"))
                with pytest.raises(PermissionDenied, match="API key"):
                    await asyncio.to_thread(limiter.acquire, call("all"))
            assert time.monotonic() < began + 10


def test_health_and_reflection_stay_open(server: ServerProcess) -> None:
    """For probes and tools, which have no keys."""
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = HealthStub(channel)
        answer = stub.Check(HealthCheckRequest(service="openlimit.v1.RateLimitService"), timeout=5)
        assert answer.status == HealthCheckResponse.SERVING
        services = list(ProtoReflectionDescriptorDatabase(channel).get_services())
        assert "openlimit.v1.RateLimitService" in services


def test_labels_of_a_key_are_given_to_its_calls(server: ServerProcess) -> None:
    """Where they claim none, or the same; by single calls, in batches and over streams."""
    own = {"team": "search"}
    batch = messages.AcquireBatchRequest(acquisitions=[acquire("own"), acquire("own", labels=own)])
    for key in ("search", "batch"):  # which its key lets in, in place of its team
        assert ask(server, key, "Acquire", acquire("own")).reservation_id
    assert ask(server, "search", "Acquire", acquire("own", labels=own)).reservation_id
    results = ask(server, "search", "AcquireBatch", batch).results
    assert [result.WhichOneof("result") for result in results] == ["granted"] * 2
    with limiter_of(server, "search") as limiter:
        for each in (call("own"), call("own", team="search"), call("own", user="ann")):
            assert limiter.acquire(each).reservation_id
    with limiter_of(server, "watcher") as limiter, pytest.raises(PermissionDenied):
        limiter.acquire(call("own"))


def test_other_labels_than_those_of_the_key_are_refused(server: ServerProcess) -> None:
    """One by one: the others of a batch or a stream are decided."""
    with pytest.raises(PermissionDenied, match="the API key search is for team=search") as caught:
        ask(server, "search", "Acquire", acquire(labels={"team": "batch"}))
    assert caught.value.key == "search"
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert caught.value.__cause__.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(PermissionDenied, match="is for key=b"):
        ask(server, "batch", "Acquire", acquire(key="a"))
    batch = messages.AcquireBatchRequest(
        acquisitions=[acquire(labels={"team": "batch"}), acquire(labels={"team": "search"})]
    )
    results = ask(server, "search", "AcquireBatch", batch).results
    assert [result.WhichOneof("result") for result in results] == ["error", "granted"]
    with limiter_of(server, "search") as limiter:
        with pytest.raises(PermissionDenied):
            limiter.acquire(call("all", team="batch"))
        assert limiter.acquire(call("all")).reservation_id


def test_too_many_labels_beside_those_of_the_key(server: ServerProcess) -> None:
    """The bound is for all of them together."""
    labels = {f"l{i}": "x" for i in range(16)}
    with pytest.raises(Exception, match="must be at most 16 beside those of the API key search"):
        ask(server, "search", "Acquire", acquire(labels=labels))


def test_nobody_settles_what_another_key_has_reserved(server: ServerProcess) -> None:
    """Not even one with the same labels, by no operation, and no repeat of its request."""
    granted = ask(server, "search", "Acquire", acquire(request_id="r"))
    name = granted.reservation_id
    for other in ("twin", "batch"):
        for method, request in (
            ("Cancel", messages.CancelRequest(reservation_id=name)),
            ("Settle", messages.SettleRequest(reservation_id=name, tokens=9)),
        ):
            with pytest.raises(UnknownReservation):
                ask(server, other, method, request)
        assert ask(server, other, "Acquire", acquire(request_id="r")).reservation_id != name
    assert ask(server, "search", "Acquire", acquire(request_id="r")).reservation_id == name
    settle = messages.SettleRequest(reservation_id=name, tokens=9)
    assert ask(server, "search", "Settle", settle).settled


def test_over_a_stream_nobody_settles_anothers_either(
    server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it is told so, and by runs."""
    caplog.set_level(logging.INFO, "openlimit")
    name = ask(server, "search", "Acquire", acquire()).reservation_id
    with limiter_of(server, "twin") as limiter:
        limiter.acquire(call("all"))
        limiter.tell(Settle(name, "", {"tokens": 1}))
    assert "has no reservation" in caplog.text
    assert ask(server, "search", "Settle", messages.SettleRequest(reservation_id=name)).settled


def test_only_keys_that_may_penalize_pause_models(
    server: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are told so once, by a warning, since nobody waits for it; and a key that may do
    nothing else acquires nothing."""
    pause = Penalize("all", "", 60)
    with limiter_of(server, "search") as limiter:
        limiter.acquire(call("all"))  # closing waits for what its connection has to tell
        for report in (pause, pause, Observe("all", "", {"requests": 0})):
            limiter.tell(report)
    assert caplog.text.count("the API key search may not penalize") == 1
    assert ask(server, "search", "Acquire", acquire()).wait.seconds < 1
    with limiter_of(server, "watcher") as limiter:
        limiter.tell(pause)
        with pytest.raises(PermissionDenied, match="watcher may not acquire"):
            limiter.acquire(call("all"))
    assert ask(server, "search", "Acquire", acquire()).wait.seconds > 50
    ask(server, "batch", "Penalize", messages.PenalizeRequest(model="all", retry_after={}))


def said(server: ServerProcess, text: str, times: int = 1) -> None:
    """Wait until the server has logged a text so often."""
    until = time.monotonic() + 20
    while server.said().count(text) < times:
        assert time.monotonic() < until, server.said()
        time.sleep(0.01)


async def test_a_revoked_key_ends_its_streams_and_no_others(folder: Path, tmp_path: Path) -> None:
    """Whoever waits in line is told at once; its place goes to the next."""
    keys = tmp_path / "keys.yaml"
    write_keys(keys, a_key("good"), a_key("bad"))
    with serving("--config", str(folder / "limits.yaml"), "--keys", str(keys)) as server:
        async with limiter_of(server, "good") as good, limiter_of(server, "bad") as bad:
            async with good.limit(model="slots", tokens=1):
                waiting = asyncio.create_task(bad.aacquire(call("slots")))
                after = asyncio.create_task(good.aacquire(call("slots")))
                await asyncio.sleep(1)
                write_keys(keys, a_key("good"), a_key("new"))
                with pytest.raises(PermissionDenied, match="it was revoked"):
                    await asyncio.wait_for(waiting, 10)
                assert not after.done()
            assert (await asyncio.wait_for(after, 10)).reservation_id
            with pytest.raises(PermissionDenied):
                await bad.aacquire(call("all"))
        async with limiter_of(server, "new") as new:
            assert (await new.aacquire(call("all"))).reservation_id


def test_new_labels_of_a_key_hold_for_its_open_streams(folder: Path, tmp_path: Path) -> None:
    """And a bad file changes nothing."""
    keys = tmp_path / "keys.yaml"
    write_keys(keys, a_key("k", team="batch"))
    options = ("--config", str(folder / "limits.yaml"), "--keys", str(keys))
    with serving(*options) as server, limiter_of(server, "k") as limiter:
        with pytest.raises(UnknownModel):
            limiter.acquire(call("own"))
        write_keys(keys, a_key("k", team="search"))
        said(server, "loaded the keys k")
        assert limiter.acquire(call("own")).reservation_id
        keys.write_text("keys: []")
        said(server, "the keys from before go on")
        assert limiter.acquire(call("own")).reservation_id


def test_all_workers_know_the_keys_and_none_is_told_of(folder: Path, tmp_path: Path) -> None:
    """Also a worker that starts while the file is bad. No token is in a log or a list of
    processes."""
    keys = tmp_path / "keys.yaml"
    write_keys(keys, a_key("old"))
    options = ("--config", str(folder / "limits.yaml"), "--keys", str(keys))
    with (
        serving_redis() as redis,
        serving(*options, "--workers", "2", "--store", redis.url + "?timeout=5") as server,
    ):
        said(server, "serving on", 2)
        write_keys(keys, a_key("new"))
        said(server, "loaded the keys new", 3)  # the supervisor's too
        keys.write_text("keys: [")
        said(server, "the keys from before go on")
        for child in _children(server):
            assert token_of("new") not in Path(f"/proc/{child}/cmdline").read_text()
        os.kill(_children(server)[0], signal.SIGKILL)
        said(server, "serving on", 3)
        for _ in range(20):
            assert ask(server, "new", "Acquire", acquire()).reservation_id
            with pytest.raises(PermissionDenied):
                ask(server, "old", "Acquire", acquire())
        assert "refused a call from ipv4:127.0.0.1" in server.said()
        assert "olk_" not in server.said()


def _children(server: ServerProcess) -> list[int]:
    return [
        int(child)
        for child in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    ]


def test_the_environment_gives_address_and_key(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless they are passed; limiters of different keys share no connection."""
    monkeypatch.setenv("OPENLIMIT_ADDRESS", server.address)
    monkeypatch.setenv("OPENLIMIT_API_KEY", token_of("search"))
    with (
        RemoteLimiter() as limiter,
        RemoteLimiter(server.address, api_key=token_of("search")) as same,
        RemoteLimiter(api_key=token_of("batch")) as other,
        RemoteLimiter("127.0.0.1:1", timeout=0.1) as elsewhere,
        RemoteLimiter(api_key="") as anonymous,
    ):
        assert limiter.acquire(call("own")).reservation_id
        assert same.acquire(call("all", team="search")).reservation_id
        assert other.acquire(call("all", team="batch")).reservation_id
        assert limiter._use.connection is same._use.connection is not other._use.connection
        with pytest.raises(PermissionDenied):
            anonymous.acquire(call("all"))
        with pytest.raises(Exception, match=r"no decision from 127\.0\.0\.1:1"):
            elsewhere.acquire(call("all"))


@pytest.mark.parametrize("api_key", ["with space", "ümlaut", "a\n", 5, "x" * 1025])
def test_what_is_no_key_is_refused_without_being_repeated(api_key: Any) -> None:
    """It may be one in a wrong form."""
    with pytest.raises(Exception, match=r"^api_key: must be a text of 1 to ") as caught:
        RemoteLimiter(api_key=api_key)
    assert str(api_key) not in str(caught.value).partition(":")[2].replace("1,024", "")


def test_a_key_in_plain_text_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where it leaves the machine without encryption; and it is not in the warning."""
    local = ("127.0.0.1:1", "unix:/tmp/x", "localhost:1", "[::1]:1")
    for address in (*local, "limiter.example:1", "limiter.example:1"):
        RemoteLimiter(address, api_key="a-secret").close()
    RemoteLimiter(
        "other.example:1", api_key="a-secret", credentials=grpc.ssl_channel_credentials()
    ).close()
    assert caplog.text.count("in plain text") == 1
    assert "limiter.example:1" in caplog.text
    assert "a-secret" not in caplog.text
