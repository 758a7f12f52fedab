"""What an operator reads of a Redis that is not as it has to be."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis._parsers import BaseParser
from redis.exceptions import ResponseError

from openlimit.errors import LimiterUnavailable
from openlimit.stores.redis.reasons import reason
from openlimit.stores.redis.url import parse_redis_url
from tests.contracts.store import aask_one
from tests.support.asking import a_second, asking, eventually, wait_of
from tests.support.redis_process import REDIS, VALKEY, RedisProcess, serving_redis
from tests.support.redis_topologies import run
from tests.support.tls_relay import make_certificates, tls_in_front_of


def told(said: str, url: str = "redis://user:hush@h:7") -> str:
    """What is made of a reply, as redis-py hands that over."""
    read: Callable[[str], Exception] = BaseParser.parse_error  # it is not typed
    return reason(read(said), parse_redis_url(url))


IN_SCRIPT_6 = "ERR Error running script (call to f_ab12): @user_script:487: "
IN_SCRIPT_7 = " script: ab12, on @user_script:487."


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("MOVED 12527 127.0.0.1:43385", "a node of a Redis Cluster: use redis+cluster://h:7 ("),
        ("ASK 12527 :43385", "the server is a node of a Redis Cluster: use redis+cluster://h:7 ("),
        ("CLUSTERDOWN The cluster is down", "which is down: use redis+cluster://h:7"),
        ("READONLY You can't write against a read only replica.", "the server is a replica"),
        (f"{IN_SCRIPT_6}-READONLY You can't write", "the server is a replica"),
        ("MASTERDOWN Link with MASTER is down", "the server is a replica"),
        ("NOAUTH Authentication required.", "or as redis://:password@…"),
        ("WRONGPASS invalid username-password pair", "the server refuses this user and password"),
        ("NOPERM this user has no permissions to run the 'evalsha' command", "access list forbids"),
        (f"{IN_SCRIPT_6}The user executing the script can't run this command", "access list"),
        (f"ACL failure in script: User x has no permissions to run the 'zadd'{IN_SCRIPT_7}",
         "access list"),
        ("DENIED Redis is running in protected mode because protected mode is enabled and no "
         "password is set for the default user. In this mode connections are only accepted from "
         "the loopback interface.", "the server is in protected mode"),
        ("LOADING Redis is loading the dataset in memory", "still loads its data"),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL", "SCRIPT KILL ("),
        (f"{IN_SCRIPT_6}-OOM command not allowed when used memory > 'maxmemory'.", "is full"),
        (f"OOM command not allowed when used memory > 'maxmemory'.{IN_SCRIPT_7}", "is full"),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist "
         "to disk.", "the server cannot save to its disk"),
        ("NOREPLICAS Not enough good replicas to write.", "too few replicas"),
        ("CROSSSLOT Keys in request don't hash to the same slot", "report this to openlimit"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "on its way to another node"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "another program"),
        ("ERR max number of clients reached", "takes no more connections"),
        ("ERR DB index is out of range", "has no database of this number"),
        ("ERR unknown command `AUTH`, with args beginning with: `hush`", "unknown command `AUTH`"),
    ],
)  # fmt: skip
def test_what_a_reply_means(said: str, meaning: str) -> None:
    """A sentence that says what to do, then the server's own words, but not what is secret."""
    text = told(said)
    assert meaning in text
    assert len(text) < 400
    for noise in ("hush", "user_script", "f_ab12"):
        assert noise not in text


def test_advice_is_for_the_topology_and_encryption_in_use() -> None:
    """It is an address to copy."""
    moved = "MOVED 1 10.0.0.1:1"
    assert "use rediss+cluster://h:7 (" in told(moved, "rediss://h:7/0")
    assert "use redis+cluster://[::1]:7 (" in told(moved, "redis://u:hush@[::1]:7")
    assert "use redis+cluster://host:port (" in told(moved, "unix:///run/redis.sock")
    down = told("CLUSTERDOWN Hash slot not served", "redis+cluster://a,b")
    assert down.startswith("the cluster has lost nodes")
    assert "sentinel_password=" in told("NOAUTH x", "redis+sentinel://a/m")


async def refused(url: str) -> str:
    """The reason that a caller is given."""
    async with asking(url) as store:
        outcome = await aask_one(store, a_second())
    assert isinstance(outcome, LimiterUnavailable)
    return outcome.reason


async def test_the_wrong_kind_of_server() -> None:
    """Each topology, pointed at a server of another, names the one to use."""
    with ExitStack() as stack:
        single = stack.enter_context(serving_redis())
        node = stack.enter_context(serving_redis("--cluster-enabled", "yes"))
        config = f"sentinel monitor mymaster 127.0.0.1 {single.port} 1"
        sentinel = stack.enter_context(serving_redis("--sentinel", config=config))
        ports = [each.port for each in (single, node, sentinel)]
        at_single, at_node, at_sentinel = (f"127.0.0.1:{port}" for port in ports)
        for url, words in (
            (f"redis+cluster://{at_single}", f"is no Redis Cluster: use redis://{at_single}"),
            (f"redis+cluster://{at_sentinel}", "is no Redis Cluster"),
            (f"redis+sentinel://{at_single}/m", f"is no Sentinel: name the hosts and ports of "
             f"Sentinels, or use redis://{at_single}"),
            (f"redis://{at_sentinel}", "If it is a Sentinel, use redis+sentinel://host:port/"),
            (f"redis+sentinel://{at_sentinel}/other", "no Sentinel knows a master named 'other'"),
            (f"redis+sentinel://127.0.0.1:1,{at_sentinel}/other", "no Sentinel knows a master"),
            ("redis+sentinel://127.0.0.1:1/m", "cannot connect to 127.0.0.1:1: Connection refused"),
            (f"redis://{at_node}", f"a Redis Cluster, which is down: use redis+cluster://{at_node}"),
            (f"redis+cluster://{at_node}", "no node of the cluster has the hash slot of this"),
            (f"redis://{at_single}/99", "has no database of this number"),
            (f"redis://:hush@{at_single}", "leave the password out, or name another user"),
        ):  # fmt: skip
            text = await refused(url)
            assert words in text
            assert "hush" not in text


async def test_a_port_for_tls_and_one_without(tmp_path: Path) -> None:
    """Whoever took the one for the other is told which to use."""
    files = make_certificates(tmp_path)
    with serving_redis() as server, tls_in_front_of(server.port, files) as port:
        trusting = f"rediss://localhost:{port}?ssl_ca_certs={files.authority}"
        plain = f"rediss://localhost:{server.port}"
        assert f"use redis://localhost:{server.port}" in await refused(plain)
        for url, words in (
            (f"redis://localhost:{port}", f"use rediss://localhost:{port}"),
            (f"rediss://localhost:{port}", "is not trusted: name its authority with ssl_ca_certs="),
            (trusting, "name one with ssl_certfile="),
            (trusting.replace("localhost", "127.0.0.1"), "the host as the certificate does"),
        ):
            assert words in await refused(f"{url}{'&' if '?' in url else '?'}timeout=5")


@pytest.mark.parametrize("binary", [REDIS, VALKEY], ids=["redis", "valkey"])
async def test_a_server_that_takes_no_writes(binary: str) -> None:
    """Each reason is told, and calls go on when it is gone."""
    with serving_redis(binary=binary) as server:
        for name, value, words in (
            ("maxmemory", "1", "memory is full: raise its maxmemory"),
            ("min-replicas-to-write", "1", "too few replicas"),
        ):
            run(server, "CONFIG SET", name, value)
            assert words in await refused(server.url)
            run(server, "CONFIG SET", name, 0)
        run(server, "CONFIG SET", "lua-time-limit", 1)
        endless = asyncio.create_task(asyncio.to_thread(run_endlessly, server))
        await eventually(lambda: is_busy(server))
        assert "another program's script keeps the server busy" in await refused(server.url)
        run(server, "SCRIPT KILL")
        await endless
        async with asking(server.url) as store:
            assert await wait_of(store) >= 0


def run_endlessly(server: RedisProcess) -> None:
    with pytest.raises(ResponseError):  # it is killed
        run(server, "EVAL", "while true do end", 0)


def is_busy(server: RedisProcess) -> bool:
    try:
        run(server, "PING")
    except ResponseError:
        return True
    return False
