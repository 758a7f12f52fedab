"""What a server tells of itself over HTTP, read by Prometheus's own parsers."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from math import ceil, log2
from pathlib import Path
from typing import Any

import grpc
import pytest

from openlimit import OpenLimitError, PermissionDenied, RemoteLimiter
from openlimit.operations import Acquire
from openlimit.v1.rate_limit_pb2 import (
    AcquireBatchRequest,
    AcquireRequest,
    CountTokensRequest,
    PenalizeRequest,
    SettleRequest,
)
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.engine.histogram import SCHEMA
from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.calls import a_call
from tests.support.redis_process import serving_redis
from tests.support.scraping import (
    HTTP,
    OPENMETRICS,
    PROTOBUF,
    scrape,
    scrape_native,
    scrape_until,
    value,
)
from tests.support.server_process import ServerProcess, serving_policies

FAST, SLOW = "600000/minute burst 1h", "60/minute burst 1s"


def policy(name: str, requests: str = FAST, **fields: object) -> str:
    """One, of its own model, in the JSON that is YAML."""
    limits = {"requests": requests, "tokens": "60000000/minute burst 1h"}
    return json.dumps({"name": name, "models": [name], "limits": limits, **fields})


POLICIES = [
    policy("fast"),
    policy("slow", SLOW),
    policy("shadow", SLOW, mode="shadow"),
    policy("unlimited", mode="unlimited"),
    policy("slots", concurrent=1),
    policy("split", SLOW, split_by=["key"]),
    policy("learned", reserve_output="learned"),
]


def file_of(*policies: str) -> str:
    return f"policies: [{', '.join(policies)}]"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving_policies(tmp_path, file_of(*POLICIES), *HTTP) as server:
        yield server


def call(model: str, requests: int = 1, **fields: Any) -> Acquire:
    return a_call(model, {"requests": requests, "tokens": 10})._replace(**fields)


def test_decisions_are_counted_by_policy_and_outcome(server: ServerProcess) -> None:
    """Each once, in the words of the wire, with the unit that is short."""
    with RemoteLimiter(server.address) as limiter:
        for _ in range(3):
            limiter.acquire(call("fast"))
            limiter.acquire(call("unlimited"))
            limiter.acquire(call("shadow"))
            limiter.acquire(call("slow"))
        for refused in (
            call("slow", max_wait=0.1),
            call("slow", 61),
            call("no-such-model"),
        ):
            with pytest.raises(OpenLimitError):
                limiter.acquire(refused)
    samples = scrape(server)

    def decisions(policy: str, outcome: str, **labels: str) -> float:
        return value(samples, "decisions_total", policy=policy, outcome=outcome, **labels)

    assert decisions("fast", "granted", reason="", unit="") == 3
    assert decisions("unlimited", "unlimited") == 3
    assert decisions("shadow", "granted") == 1
    assert decisions("shadow", "shadow", reason="WAIT_TOO_LONG", unit="requests") == 2
    assert decisions("slow", "granted") == 1
    assert decisions("slow", "waited", unit="requests") == 2
    assert decisions("slow", "refused", reason="WAIT_TOO_LONG", unit="requests") == 1
    assert decisions("slow", "refused", reason="COST_EXCEEDS_LIMIT", unit="requests") == 1
    assert value(samples, "decisions_total") == 14
    assert value(samples, "errors_total", reason="UNKNOWN_MODEL") == 1
    assert value(samples, "errors_total") == 3


async def test_every_way_to_ask_is_counted(server: ServerProcess) -> None:
    """Unary, batch and stream; a repeat is no second decision, and charges nothing."""
    once = AcquireRequest(model="fast", tokens=10, request_id="once")
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = RateLimitServiceStub(channel)
        for _ in range(2):
            await stub.Acquire(once)
        await stub.Acquire(AcquireRequest(model="fast", tokens=10))
        batch = [AcquireRequest(model="fast", tokens=10)] * 5 + [AcquireRequest(model="none")]
        await stub.AcquireBatch(AcquireBatchRequest(acquisitions=batch))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Settle(SettleRequest(reservation_id="strange"))
    async with RemoteLimiter(server.address) as limiter:
        await asyncio.gather(*(limiter.aacquire(call("fast")) for _ in range(300)))
        samples = await asyncio.to_thread(scrape, server)
        assert value(samples, "streams") == 1
    assert value(samples, "decisions_total", policy="fast", outcome="granted") == 307
    assert value(samples, "decisions_total", policy="fast", outcome="repeated") == 1
    assert value(samples, "reserved_units_total", policy="fast", unit="requests") == 307
    assert value(samples, "reserved_units_total", policy="fast", unit="tokens") == 3070
    assert value(samples, "wait_seconds_count", policy="fast") == 307
    assert value(samples, "errors_total", reason="UNKNOWN_MODEL") == 1
    assert value(samples, "errors_total") == 2


def test_waits_and_levels_are_told(server: ServerProcess) -> None:
    """As the bucket has them: what three calls make of a bucket that starts one a second."""
    with RemoteLimiter(server.address) as limiter:
        waits = [limiter.acquire(call("slow")).wait / 1e6 for _ in range(3)]
        for key in ("a", "a", "a", "b"):
            limiter.acquire(call("split", key=key))
    samples = scrape(server)
    assert value(samples, "wait_seconds_count", policy="slow") == 3
    assert value(samples, "wait_seconds_sum", policy="slow") == pytest.approx(sum(waits))
    for bound, below in (("0.005", 1), ("0.5", 1), ("1.0", 2), ("2.5", 3), ("+Inf", 3)):
        assert value(samples, "wait_seconds_bucket", policy="slow", le=bound) == below
    for name in ("slow", "split"):
        assert value(samples, "level_units", policy=name, unit="requests", period="60") == 1
        assert value(samples, "capacity_units", policy=name, unit="requests") == 1
        assert 0 < value(samples, "delay_seconds", policy=name) <= 2


def test_settlements_and_estimates_are_told(server: ServerProcess) -> None:
    """What calls have cost in the end, once each, and how far the reservation was off."""
    with RemoteLimiter(server.address) as limiter:
        for _ in range(2):
            with limiter.limit(model="learned", tokens=100) as reservation:
                reservation.settle({"tokens": 60})
    samples = scrape_until(
        server, lambda found: value(found, "estimate_ratio_count", policy="learned") == 2
    )
    assert value(samples, "settled_units_total", policy="learned", unit="tokens") == 120
    assert value(samples, "settled_units_total", policy="learned", unit="requests") == 2
    assert value(samples, "estimate_ratio_bucket", policy="learned", le="0.5") == 0
    assert value(samples, "estimate_ratio_bucket", policy="learned", le="0.75") == 2


async def test_lines_and_pauses_are_told(server: ServerProcess) -> None:
    """How many wait, since when those waited that got their turn, and each pause."""
    async with RemoteLimiter(server.address) as limiter:

        async def use_slot() -> None:
            async with limiter.limit(model="slots", tokens=1):
                pass

        async with limiter.limit(model="slots", tokens=1):
            waiting = [asyncio.create_task(use_slot()) for _ in range(4)]
            await asyncio.to_thread(
                scrape_until, server, lambda found: value(found, "line_calls", policy="slots") == 4
            )
            await asyncio.sleep(0.3)
        await asyncio.gather(*waiting)
        async with grpc.aio.insecure_channel(server.address) as channel:
            pause = PenalizeRequest(model="fast")
            pause.retry_after.FromSeconds(60)
            await RateLimitServiceStub(channel).Penalize(pause)
    samples = await asyncio.to_thread(scrape, server)
    assert value(samples, "line_calls", policy="slots") == 0
    assert value(samples, "decisions_total", policy="slots", outcome="waited") == 4
    assert value(samples, "wait_seconds_sum", policy="slots") > 4 * 0.3
    assert value(samples, "pauses_total", policy="fast") == 1
    assert 50 < value(samples, "delay_seconds", policy="fast") <= 60


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_nodes_that_the_file_names_are_told(store: str, tmp_path: Path) -> None:
    """Their levels, lines and slots, also before they are used; others are in the sums only."""
    teams = {"label": "team", "limits": {"requests": "60/hour burst 10m"}, "concurrent": 1}
    tree = policy(
        "tree",
        "600/hour burst 1h",
        levels=[{**teams, "weights": {"search": 4, "batch": 1}}],
        lease="1h",
    )
    with ExitStack() as stack:
        url = "memory://" if store == "memory" else stack.enter_context(serving_redis()).url
        server = stack.enter_context(
            serving_policies(tmp_path, file_of(tree), *HTTP, "--store", url)
        )
        channel = stack.enter_context(grpc.insecure_channel(server.address))
        stub = RateLimitServiceStub(channel)
        for team in ("search", "nobody"):
            stub.Acquire(AcquireRequest(model="tree", labels={"team": team}), timeout=5)
        waiting = stub.Acquire.future(AcquireRequest(model="tree", labels={"team": "search"}))
        samples = scrape_until(server, lambda found: value(found, "node_line_calls") == 1)
        told = [
            (dict(labels)["value"], round(number, 1))
            for (name, labels), number in samples.items()
            if name == "openlimit_node_level_units"
        ]
        assert sorted(told) == [("batch", 0), ("search", 1)]
        search = {"policy": "tree", "label": "team", "value": "search"}
        assert value(samples, "node_capacity_units", **search, period="3600") == 10
        assert value(samples, "node_line_calls", **search) == 1
        assert value(samples, "node_running_calls", **search) == 1
        assert value(samples, "node_running_calls") == 1
        assert 1 < value(samples, "level_units", policy="tree", unit="requests") <= 2
        waiting.cancel()


def test_counted_bodies_are_told(server: ServerProcess) -> None:
    """Whichever call brings them, and what came of each; to count alone is no decision."""
    body = b'{"model": "fast", "messages": [{"role": "user", "content": "a"}]}'
    with grpc.insecure_channel(server.address) as channel:
        stub = RateLimitServiceStub(channel)
        stub.CountTokens(CountTokensRequest(body=body))
        stub.Acquire(AcquireRequest(body=body))
        both = [AcquireRequest(body=body), AcquireRequest(body=b"{}")]
        stub.AcquireBatch(AcquireBatchRequest(acquisitions=both))
        with pytest.raises(grpc.RpcError):
            stub.CountTokens(CountTokensRequest(body=b"no JSON"))
    samples = scrape(server)
    assert value(samples, "bodies_total", outcome="counted") == 3
    assert value(samples, "bodies_total", outcome="invalid") == 2
    assert value(samples, "decisions_total") == 2


def test_refused_callers_are_counted(tmp_path: Path) -> None:
    """Without a key that is known, and without the right or the labels for what they ask, each once
    whatever way they ask; none is a decision of a policy."""
    keys = tmp_path / "keys.yaml"
    write_keys(keys, a_key("search", team="search"))
    with serving_policies(tmp_path, file_of(*POLICIES), *HTTP, "--keys", str(keys)) as server:
        for key in ("", token_of("other")):
            limiter = RemoteLimiter(server.address, api_key=key)
            with limiter, pytest.raises(PermissionDenied):
                limiter.acquire(call("fast"))
        with RemoteLimiter(server.address, api_key=token_of("search")) as limiter:
            with pytest.raises(PermissionDenied):
                limiter.acquire(call("fast", labels=(("team", "batch"),)))
            limiter.penalize(1, model="fast")
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
            RateLimitServiceStub(channel).Acquire(AcquireRequest(model="fast"))
        samples = scrape_until(server, lambda found: value(found, "errors_total") >= 5)
    assert value(samples, "errors_total", reason="UNAUTHENTICATED") == 3
    assert value(samples, "errors_total", reason="PERMISSION_DENIED") == 2
    assert value(samples, "decisions_total") == 0
    assert value(samples, "pauses_total") == 0


def test_callers_make_no_series(server: ServerProcess) -> None:
    """However many keys, models and strange units they name, there are as many as before."""
    with RemoteLimiter(server.address) as limiter:
        limiter.acquire(call("split"))
        with pytest.raises(OpenLimitError):
            limiter.acquire(call("nothing"))
        before = scrape(server).keys()
        for i in range(200):
            strange = {"requests": 1, "tokens": 1, f"unit_{i}": 1}
            limiter.acquire(a_call("split", strange)._replace(key=f"{i}"))
            with pytest.raises(OpenLimitError):
                limiter.acquire(call(f"nothing-{i}"))
    samples = scrape_until(server, lambda found: value(found, "errors_total") == 201)
    assert samples.keys() == before


def test_all_formats_say_the_same(server: ServerProcess) -> None:
    """The text of Prometheus, OpenMetrics and Protobuf, but for what goes on meanwhile."""
    with RemoteLimiter(server.address) as limiter:
        limiter.acquire(call("fast"))
        for _ in range(3):
            limiter.acquire(call("slow"))
        with limiter.limit(model="learned", tokens=100) as reservation:
            reservation.settle({"tokens": 60})
    scrape_until(server, lambda found: value(found, "settled_units_total", unit="tokens") == 60)
    plain, *others = (scrape(server, accept) for accept in ("", OPENMETRICS, PROTOBUF))
    for other in others:
        assert plain.keys() == other.keys()
        differing = {name for name, labels in plain if plain[name, labels] != other[name, labels]}
        moving = ("openlimit_store_seconds", "openlimit_delay_seconds", "openlimit_level_units")
        assert [name for name in differing if not name.startswith(moving)] == []
    assert value(plain, "decisions_total") == 5


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=zzz",
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*",
        "text/plain; version=zzz",
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily",
        PROTOBUF,
        PROTOBUF.replace("q=0.6", "q=nan"),
        f"{PROTOBUF}, {'a/b;q=0.1,' * 500}",
        ";;,=",
    ],
)
def test_any_accept_is_answered(server: ServerProcess, accept: str) -> None:
    """In a format that the parser of its content type reads."""
    assert value(scrape(server, accept), "ready") == 1


def test_reloads_are_counted(server: ServerProcess, tmp_path: Path) -> None:
    """Those that were done, and those refused; and what is counted goes on."""
    config = tmp_path / "limits.yaml"
    with RemoteLimiter(server.address) as limiter:
        limiter.acquire(call("fast"))
        config.write_text("policies: [")
        scrape_until(server, lambda found: value(found, "reloads_total", result="refused") == 1)
        assert value(scrape(server), "invalid_files") == 1
        config.write_text(file_of(policy("fast", "60000/minute burst 1h")))
        scrape_until(server, lambda found: value(found, "reloads_total", result="done") == 1)
        assert value(scrape(server), "invalid_files") == 0
        limiter.acquire(call("fast"))
    assert value(scrape(server), "decisions_total", policy="fast", outcome="granted") == 2


def test_an_outage_is_told(tmp_path: Path) -> None:
    """The store's errors, the service that is not ready, and calls that start all the same."""
    policies = file_of(policy("strict"), policy("lax", on_store_failure="allow"))
    with serving_redis() as redis:
        store = ("--store", f"{redis.url}?timeout=0.2")
        with serving_policies(tmp_path, policies, *store, *HTTP) as server:
            with RemoteLimiter(server.address) as limiter:
                limiter.acquire(call("strict"))
                assert value(scrape(server), "store_errors_total") == 0
                redis.stop()
                with pytest.raises(OpenLimitError):
                    limiter.acquire(call("strict"))
                limiter.acquire(call("lax"))
            samples = scrape(server)
    assert value(samples, "store_errors_total") >= 2
    assert value(samples, "store_seconds_count") >= 3
    unavailable = {"reason": "UNAVAILABLE"}
    assert value(samples, "decisions_total", policy="strict", outcome="error", **unavailable) >= 1
    assert value(samples, "decisions_total", policy="lax", outcome="unlimited", **unavailable) >= 1
    assert value(samples, "errors_total", **unavailable) >= 1
    assert value(samples, "level_units", policy="strict") == 0


def test_workers_are_added_up(tmp_path: Path) -> None:
    """At one address; what a worker has counted stays when it dies, and another takes its place."""
    with serving_redis() as redis:
        options = ("--workers", "2", "--store", redis.url, *HTTP)
        hourly = file_of(policy("fast", "60/hour"))
        with serving_policies(tmp_path, hourly, *options) as server:
            scrape_until(server, lambda found: value(found, "ready") == 2)
            for _ in range(10):  # connections that the kernel gives to either worker
                with RemoteLimiter(server.address) as limiter:
                    limiter.acquire(call("fast"))

            def counts(number: int) -> None:
                scrape_until(
                    server,
                    lambda found: value(found, "decisions_total", policy="fast") == number,
                )

            counts(10)
            level = value(scrape(server), "level_units", policy="fast", unit="requests")
            assert 5 < level <= 10
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGKILL)
            server.wait_for_log("is replaced")
            counts(10)
            scrape_until(server, lambda found: value(found, "ready") == 2)
            with RemoteLimiter(server.address) as limiter:
                limiter.acquire(call("fast"))
            counts(11)


def test_native_histograms_of_workers_are_added_up(tmp_path: Path) -> None:
    """Each wait is in the bucket that holds it, whichever worker has granted it."""
    with serving_redis() as redis:
        options = ("--workers", "2", "--store", redis.url, *HTTP)
        with serving_policies(tmp_path, file_of(policy("slow", SLOW)), *options) as server:
            scrape_until(server, lambda found: value(found, "ready") == 2)
            waits = []
            for _ in range(12):  # connections that the kernel gives to either worker
                with RemoteLimiter(server.address) as limiter:
                    waits.append(limiter.acquire(call("slow")).wait / 1e6)
            scrape_until(server, lambda found: value(found, "decisions_total") == len(waits))
            ends = [ceil(log2(wait) * 2**SCHEMA) for wait in waits if wait]
            assert scrape_native(server, "wait_seconds", "slow") == Counter(ends)


def test_nothing_is_told_unless_asked_for(tmp_path: Path) -> None:
    """Without --http, no port is open but the one of gRPC."""
    with serving_policies(tmp_path, file_of(policy("fast"))) as server:
        assert "http" not in server.said()
        sockets = [
            os.readlink(each)
            for each in Path(f"/proc/{server.pid}/fd").iterdir()
            if _is_socket(each)
        ]
        listening = [
            line.split()[9]
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/{server.pid}/net/{name}").read_text().splitlines()[1:]
            if line.split()[3] == "0A"
        ]
        assert sum(f"socket:[{inode}]" in sockets for inode in listening) == 1


def _is_socket(descriptor: Path) -> bool:
    with suppress(OSError):
        return os.readlink(descriptor).startswith("socket:")
    return False


def test_an_address_in_use_is_named(server: ServerProcess, tmp_path: Path) -> None:
    """The server does not start, and says which address it cannot have."""
    taken = server.address
    with (
        pytest.raises(RuntimeError, match=rf"cannot listen on {taken}: the port is in use"),
        serving_policies(tmp_path, file_of(policy("a")), "--http", taken),
    ):
        pass


def test_many_policies_are_told(tmp_path: Path) -> None:
    """A thousand, while calls are granted."""
    policies = file_of(*(policy(f"p{i}") for i in range(1000)))
    with (
        serving_policies(tmp_path, policies, *HTTP) as server,
        RemoteLimiter(server.address) as limiter,
    ):
        for i in range(1000):
            limiter.acquire(call(f"p{i}"))
        samples = scrape(server)
        assert value(samples, "decisions_total", outcome="granted") == 1000
        assert sum(name == "openlimit_capacity_units" for name, _ in samples) == 2000
