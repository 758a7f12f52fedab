"""The composition root: store, policies, servicers, health, signals and drain."""

import asyncio
import logging
import signal
import sys
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, TextIO

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from openlimit.bucket.slots import AsyncSlots, MemorySlots
from openlimit.errors import LimiterUnavailable
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import AsyncStore
from openlimit_server import binding, collector
from openlimit_server.config.settings import MEMORY, Settings, load_policies
from openlimit_server.engine.engine import Policies
from openlimit_server.probe import probe
from openlimit_server.rpc.health import HealthServicer
from openlimit_server.rpc.reflection import ReflectionServicer
from openlimit_server.rpc.service import SERVICE, RateLimitServicer

_ORPHANED = "the supervisor is gone"
_CHECK_TIMEOUT = 3.0  # seconds
_WATCH_EVERY = 1.0  # seconds
_MOST_MISSED = 2  # probes of the store in a row, until it counts as away

_OPTIONS = [
    # The largest sensible request is a few kilobytes.
    ("grpc.max_receive_message_length", 1 << 20),
    # Else gRPC reads megabytes ahead of each client, and 200 that send too much take a gigabyte.
    ("grpc.http2.bdp_probe", 0),
    # Thousands of callers may ask in the same instant. By default gRPC refuses calls, at random,
    # once 1,000 wait to be picked up; answering takes a fraction of a millisecond each.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    # Clients may look every so often whether the server is still there.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]

_log = logging.getLogger("openlimit")


async def serve(settings: Settings, *, is_worker: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, then drain within the grace time.

    Draining: health turns NOT_SERVING, new calls are refused, calls in flight finish, streams end.
    A worker shares its port with others, and also drains when its stdin ends.
    Raises ConfigurationError, before anything is served, for settings that cannot be used.
    """
    policies = load_policies(settings.config)
    if not is_worker:  # a worker's port is its supervisor's
        binding.require_free(settings.listen)
    # Two servers on one port would silently share its calls, each with buckets of its own.
    server = grpc.aio.server(options=[*_OPTIONS, ("grpc.so_reuseport", int(is_worker))])
    store, slots = _stores(settings)
    rules = Policies(policies, store, slots=slots)
    service = RateLimitServicer(rules)
    health = HealthServicer(SERVICE)
    reflection = ReflectionServicer((SERVICE, HEALTH))
    server.add_generic_rpc_handlers([service, health.handler(), *reflection.handlers()])
    try:
        port = server.add_insecure_port(settings.listen)
    except RuntimeError as error:
        raise binding.cannot_listen(settings.listen, f"gRPC says: {error}") from error
    collector.spare()
    collecting = asyncio.create_task(collector.collect_young())
    stopped = stop_signal(or_end_of=sys.stdin if is_worker else None)
    always = any(policy.on_store_failure == "allow" for policy in policies)
    watching = asyncio.create_task(_watch(store, rules, health, always=always))
    await server.start()
    names = ", ".join(policy.name for policy in policies)
    _log.info("serving on %s (port %d) with the policies %s", settings.listen, port, names)
    reason = await stopped
    _log.info("%s: draining for %g s at most", reason, settings.grace)
    if reason == _ORPHANED:  # and whoever starts the server anew needs its port
        stopping = asyncio.create_task(server.stop(settings.grace))
    end = asyncio.get_running_loop().time() + settings.grace
    watching.cancel()
    health.drain()
    reflection.drain()
    with suppress(TimeoutError):
        async with asyncio.timeout_at(end):
            await service.drain()
    await server.stop(max(0.0, end - asyncio.get_running_loop().time()))
    if reason == _ORPHANED:
        await stopping
    await store.aclose()
    collecting.cancel()
    _log.info("stopped")


def _stores(settings: Settings) -> tuple[AsyncStore, AsyncSlots]:
    if settings.store == MEMORY:
        return MemoryStore(), MemorySlots()
    from openlimit.stores.redis.store import RedisBuckets, parse_redis_url

    buckets = RedisBuckets(parse_redis_url(settings.store))
    return buckets, buckets


async def _watch(
    store: AsyncStore, policies: Policies, health: HealthServicer, *, always: bool
) -> None:
    """Keep the service's health what the store's is, whether it decides; or ``always`` good.

    One answer in time makes it good; it takes several that are missed in a row to make it bad, or
    one before there was any.
    """
    missed = _MOST_MISSED - 1
    while True:
        trouble = await probe(store, policies)
        if trouble and missed + 1 == _MOST_MISSED:
            health.set_serving(always)
            _log.warning("%s%s", "" if always else "NOT_SERVING: ", _said(trouble))
        elif not trouble and missed >= _MOST_MISSED:
            health.set_serving(True)
            _log.warning("the store decides again")
        missed = missed + 1 if trouble else 0
        await asyncio.sleep(_WATCH_EVERY)


def _said(trouble: LimiterUnavailable) -> str:
    """What is wrong with the store, without what its error advises to clients."""
    return (
        f"no decision from {trouble.address}: {trouble.reason}; check that it runs and that "
        "--store leads to it"
    )


def stop_signal(or_end_of: TextIO | None = None) -> "asyncio.Future[str]":
    """The name of the first signal that asks to stop, or that the stream has ended.

    SIGHUP, which reloads other servers and is sent by terminals that close, is ignored.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[str] = loop.create_future()

    def stop(name: str) -> None:
        if not stopped.done():
            stopped.set_result(name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
    loop.add_signal_handler(
        signal.SIGHUP,
        _log.warning,
        "SIGHUP is ignored; restart the server to have it read its configuration again",
    )
    if or_end_of:
        end = or_end_of.fileno()
        loop.add_reader(end, stop, _ORPHANED)
        stopped.add_done_callback(lambda _: loop.remove_reader(end))  # it stays readable
    return stopped


def address_to_ask(listen: str) -> str:
    """Where the server is reached that listens there: on this machine, if it listens everywhere."""
    host, colon, port = listen.rpartition(":")
    with suppress(ValueError):
        everywhere = ip_address(host.removeprefix("[").removesuffix("]"))
        if everywhere.is_unspecified:
            host = "[::1]" if everywhere.version == 6 else "127.0.0.1"
    return host + colon + port


def check(settings: Settings) -> str | None:
    """Ask the server at the listen address for its health; None, or what is wrong with it."""
    address = address_to_ask(settings.listen)
    # A proxy is for the world outside: it would ask another machine's port, if any.
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its calls are not in the type stubs
            answer = stub.Check(HealthCheckRequest(service=SERVICE), timeout=_CHECK_TIMEOUT)
        except grpc.RpcError as error:
            return f"no answer from {address}: {error.code().name}: {error.details()}"
    if answer.status == HealthCheckResponse.SERVING:
        return None
    return f"{address} is {HealthCheckResponse.ServingStatus.Name(answer.status)}"
