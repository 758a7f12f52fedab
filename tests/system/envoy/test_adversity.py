"""Proxies' requests while something goes wrong, or changes: real servers, sockets and Redis."""

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.proxy_requests import METHOD, OK, OVER, codes, descriptor, request, stub
from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.redis_topologies import eventually
from tests.support.server_process import ServerProcess, serving, serving_policies

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
POLICIES = """
policies:
  - {name: plain, models: ["*"], limits: {requests: 100/day}}
  - {name: plain-open, models: ["*"], limits: {requests: 100/day}, on_store_failure: allow}
  - name: shared
    models: ["*"]
    limits: {requests: 100/day}
    levels: [{label: team, limits: {requests: 50/day}}]
  - name: shared-open
    models: ["*"]
    limits: {requests: 100/day}
    levels: [{label: team, limits: {requests: 50/day}}]
    on_store_failure: allow
domains:
  - domain: d
    descriptors:
      - {key: plain, policy: {name: plain}}
      - {key: plain-open, policy: {name: plain-open}}
      - {key: user, limit: 100/day}
      - {key: shared, descriptors: [{key: team, policy: {name: shared}}]}
      - {key: shared-open, descriptors: [{key: team, policy: {name: shared-open}}]}
"""
SHUT = (("user", "ann"),), (("plain", ""),), (("shared", ""), ("team", "ads"))
OPEN = (("plain-open", ""),), (("shared-open", ""), ("team", "ads"))


@pytest.fixture
def redis() -> Iterator[RedisProcess]:
    with serving_redis() as running:
        yield running


class Proxy:
    """A connection to a server."""

    def __init__(self, server: ServerProcess) -> None:
        self._channel = grpc.insecure_channel(server.address)
        self._ask: Any = stub(self._channel)

    def __call__(self, *entries: tuple[str, str], hits: int | None = None) -> Any:
        """The overall code that one descriptor is answered, or why there is none."""
        try:
            answer = self._ask(request("d", descriptor(*entries, hits=hits)), timeout=10)
            return codes(answer)[0]
        except grpc.RpcError as error:
            return error.code()

    def until(self, code: Any, *entries: tuple[str, str], hits: int | None = None) -> None:
        """Ask again until the answer is this code."""
        eventually(lambda: self(*entries, hits=hits) == code)

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def proxy(redis: RedisProcess, tmp_path: Path) -> Iterator[Proxy]:
    with serving_policies(tmp_path, POLICIES, "--store", f"{redis.url}?timeout=1") as server:
        proxy = Proxy(server)
        yield proxy
        proxy.close()


@pytest.mark.parametrize("hangs", [False, True])
def test_without_its_redis_nothing_passes_that_needs_it(
    redis: RedisProcess, proxy: Proxy, hangs: bool
) -> None:
    """Whether it is dead or hangs; what may start without it does; and once it is back, all is
    decided again."""
    for entries in (*SHUT, *OPEN):
        assert proxy(*entries) == OK
    if hangs:
        redis.signal(signal.SIGSTOP)
    else:
        redis.kill()
    for hits in (None, 0, -1):
        assert [proxy(*entries, hits=hits) for entries in SHUT] == [UNAVAILABLE] * len(SHUT)
        assert [proxy(*entries, hits=hits) for entries in OPEN] == [OK] * len(OPEN)
    if hangs:
        redis.signal(signal.SIGCONT)
    else:
        redis.start()
    for entries in (*SHUT, *OPEN):
        proxy.until(OK, *entries)
        proxy.until(OVER, *entries, hits=1000)


def test_policies_can_change_kind_while_proxies_ask(tmp_path: Path) -> None:
    """From a plain one to a shared one and back, again and again: no request fails, and no more
    pass than the limit lets through."""
    limits = "policies:\n  - {name: p, models: ['*'], limits: {requests: 300/day}%s}\n"
    domains = "domains: [{domain: d, descriptors: [{key: team, policy: {name: p}}]}]\n"
    kinds = [limits % more + domains for more in ("", ", levels: [{label: team}]")]
    (config := tmp_path / "limits.yaml").write_text(kinds[0])
    over, answers = threading.Event(), Counter[Any]()
    with serving("--config", str(config)) as server:

        def ask(team: str) -> None:
            proxy = Proxy(server)
            while not over.is_set():
                answers[proxy(("team", team))] += 1
            proxy.close()

        threads = [threading.Thread(target=ask, args=(team,)) for team in "abc"]
        for each in threads:
            each.start()
        for times in range(1, 9):
            config.write_text(kinds[times % 2])
            server.signal(signal.SIGHUP)
            server.wait_for_log("loaded the policies", times=times)
        eventually(lambda: answers[OVER] > 0)
        over.set()
        for each in threads:
            each.join()
    assert set(answers) == {OK, OVER}
    assert answers[OK] == 300


@pytest.mark.parametrize("store", ["memory", "redis"])
async def test_thousands_at_once(redis: RedisProcess, tmp_path: Path, store: str) -> None:
    """Of two kinds of policies, and of a limit of the domain's: as many pass as fit."""
    slow = f"{redis.url}?timeout=30"  # so many at once take a while on a busy machine
    options = ["--store", slow] if store == "redis" else []
    with serving_policies(tmp_path, POLICIES, *options) as server:
        channels = [
            grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
            for _ in range(8)
        ]
        stubs: list[Any] = [stub(channel) for channel in channels]
        asked = [stubs[i % 8](request("d", descriptor(*SHUT[i % 3]))) for i in range(3000)]
        answers: list[Any] = await asyncio.gather(*asked)
        passed = Counter(i % 3 for i, answer in enumerate(answers) if answer.overall_code == OK)
        assert passed == {0: 100, 1: 100, 2: 50}
        for channel in channels:
            await channel.close()


async def test_a_proxy_that_gives_up_leaves_the_server_as_it_was(tmp_path: Path) -> None:
    """Also where its request was just being given back."""
    with serving_policies(tmp_path, POLICIES) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            call: Any = channel.unary_unary(METHOD)
            refused = request("d", *(descriptor(*each) for each in SHUT), hits=70)
            asked = [call(refused.SerializeToString()) for _ in range(200)]
            await asyncio.sleep(0.01)
            for each in asked:
                each.cancel()
            await asyncio.gather(*(asyncio.wait([each]) for each in map(_ended, asked)))
            fits = request("d", *(descriptor(*each) for each in SHUT), hits=50)
            ask: Any = stub(channel)
            for _ in range(1000):
                if (answer := codes(await ask(fits))[0]) == OK:
                    break
                await asyncio.sleep(0.01)
            assert answer == OK


def _ended(call: Any) -> "asyncio.Task[object]":
    return asyncio.ensure_future(call.code())
