"""Runs several real Redis servers: sentinels with a master and a replica, or a cluster."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from tests.support.redis_process import REDIS, RedisProcess, serving_redis

_SLOTS = 16384


def eventually(true: Callable[[], bool], within: float = 20) -> None:
    """Wait until the function returns True; raises AssertionError if it never does."""
    until = time.monotonic() + within
    while True:
        try:
            if true():
                return
        except RedisError:  # on its way up or down
            pass
        assert time.monotonic() < until, "it never became true"
        time.sleep(0.02)


class Watched(NamedTuple):
    """A master and its replica; three sentinels watch them as ``mymaster``."""

    master: RedisProcess
    replica: RedisProcess
    sentinels: list[RedisProcess]

    @property
    def url(self) -> str:
        """The URL of the sentinels."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/mymaster"

    def master_port(self) -> int:
        """The port of the master that all sentinels name; 0 while they disagree."""
        named = {
            int(run(sentinel, "SENTINEL MASTER", "mymaster")["port"]) for sentinel in self.sentinels
        }
        return named.pop() if len(named) == 1 else 0


@contextmanager
def serving_sentinels() -> Iterator[Watched]:
    """Sentinels that know each other and the replica, while the block runs."""
    with ExitStack() as stack:
        master = stack.enter_context(serving_redis())
        replica = stack.enter_context(serving_redis("--replicaof", "127.0.0.1", str(master.port)))
        eventually(lambda: replica.client().info()["master_link_status"] == "up")
        sentinels = [stack.enter_context(_watching(master.port)) for _ in range(3)]
        watched = Watched(master, replica, sentinels)
        eventually(lambda: all(map(_knows_the_others, sentinels)))
        yield watched


def _watching(port: int) -> AbstractContextManager[RedisProcess]:
    config = f"""
        sentinel monitor mymaster 127.0.0.1 {port} 2
        sentinel down-after-milliseconds mymaster 500
        sentinel failover-timeout mymaster 2000
    """
    return serving_redis("--sentinel", config=config)


def _knows_the_others(sentinel: RedisProcess) -> bool:
    state = run(sentinel, "SENTINEL MASTER", "mymaster")
    return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)


class Cluster(NamedTuple):
    """Three masters with a third of the slots each, and maybe a replica of the first."""

    masters: list[RedisProcess]
    replica: RedisProcess | None

    @property
    def url(self) -> str:
        """The URL of all its masters."""
        hosts = ",".join(f"127.0.0.1:{master.port}" for master in self.masters)
        return f"redis+cluster://{hosts}"

    def owner(self, slot: int) -> RedisProcess:
        """The master that has the slot at first."""
        return self.masters[slot * 3 // _SLOTS]


@contextmanager
def serving_cluster(replica: bool = False, binary: str = REDIS) -> Iterator[Cluster]:
    """A complete cluster, while the block runs."""
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
    options += ["--cluster-require-full-coverage", "no"]
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(serving_redis(*options, binary=binary)) for _ in range(3 + replica)
        ]
        cluster = Cluster(nodes[:3], nodes[3] if replica else None)
        for i, master in enumerate(cluster.masters):
            slots = [slot for slot in range(_SLOTS) if cluster.owner(slot) is master]
            run(master, "CLUSTER ADDSLOTS", *slots)
            run(master, "CLUSTER SET-CONFIG-EPOCH", i + 1)
        for node in nodes[1:]:
            run(nodes[0], "CLUSTER MEET", "127.0.0.1", node.port)
        eventually(lambda: all(_is_complete(node, len(nodes)) for node in nodes))
        if cluster.replica:
            run(cluster.replica, "CLUSTER REPLICATE", node_id(cluster.masters[0]))
            eventually(lambda: nodes[3].client().info()["master_link_status"] == "up")
        yield cluster


def run(node: RedisProcess, command: str, *arguments: object) -> Any:
    """Run a command; returns redis-py's reading of the answer."""
    with node.client() as client:
        return client.execute_command(command, *arguments)


def ours(server: RedisProcess) -> list[str]:
    """The ids of the connections that ask for decisions."""
    return [each["id"] for each in run(server, "CLIENT LIST") if each["cmd"] == "evalsha"]


def hang_up(server: RedisProcess) -> None:
    """Close the connections in ``ours``, like a server that closes idle connections."""
    for each in ours(server):
        run(server, "CLIENT KILL", "ID", each)


def node_id(node: RedisProcess) -> str:
    """The id by which other nodes know this node."""
    return str(run(node, "CLUSTER MYID"))


def _is_complete(node: RedisProcess, size: int) -> bool:
    state = node.client().cluster("INFO")
    return state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) == size
