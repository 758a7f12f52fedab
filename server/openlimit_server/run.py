"""The composition root: store, policies, servicers, health, signals and drain."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, TextIO

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from openlimit.stores.lines import StoreOfLines
from openlimit.stores.memory import MemoryStore
from openlimit.stores.protocol import AsyncStore
from openlimit_server import binding, collector
from openlimit_server.config.policies import Policies, PolicySettings
from openlimit_server.config.reload import PolicyFile, Reload
from openlimit_server.config.settings import MEMORY, Settings
from openlimit_server.engine.engine import Engine
from openlimit_server.observe.process import Observed
from openlimit_server.probe import probe
from openlimit_server.rpc.health import HealthServicer
from openlimit_server.rpc.reflection import ReflectionServicer
from openlimit_server.rpc.service import SERVICE, RateLimitServicer

_ORPHANED = "the supervisor is gone"
_CHECK_TIMEOUT = 3.0  # seconds
_WATCH_EVERY = 1.0  # seconds
_MOST_MISSED = 2  # failed probes in a row after which the store counts as away

_OPTIONS = [
    # The largest sensible request is a few kilobytes.
    ("grpc.max_receive_message_length", 1 << 20),
    # Otherwise gRPC buffers megabytes for each client: 200 that send too much take a gigabyte.
    ("grpc.http2.bdp_probe", 0),
    # Thousands of callers may ask at the same instant. By default, gRPC refuses random calls once
    # 1,000 are waiting. An answer takes a fraction of a millisecond.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    # Clients may ping every 10 s, to notice when the server is gone.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]

_log = logging.getLogger("openlimit")


async def serve(settings: Settings, file: PolicyFile, *, is_worker: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, then drain within the grace time.

    The policies are loaded again when their file has changed, and on SIGHUP. While it drains,
    health is NOT_SERVING, new calls are refused, calls in flight finish, and streams end. A worker
    shares its port with others, and also drains when its stdin ends; its supervisor looks at the
    file.
    Raises ConfigurationError for settings that cannot be used, before it serves anything.
    """
    policies = file.load_good()
    if not is_worker:  # the supervisor of a worker holds the port
        binding.require_free(settings.listen)
    # Without SO_REUSEPORT: two servers on one port would silently share its calls, each with
    # buckets of its own.
    server = grpc.aio.server(options=[*_OPTIONS, ("grpc.so_reuseport", int(is_worker))])
    observed = Observed(settings, store_of(settings))
    store = observed.store
    engine = Engine(policies, store, observed.counts)
    service = RateLimitServicer(engine)
    health = HealthServicer(SERVICE)
    reflection = ReflectionServicer((SERVICE, HEALTH))
    server.add_generic_rpc_handlers([service, health.handler(), *reflection.handlers()])
    try:
        port = server.add_insecure_port(settings.listen)
    except RuntimeError as error:
        raise binding.cannot_listen(settings.listen, f"gRPC says: {error}") from error
    collector.spare()

    def take_over(policies: Policies) -> None:
        engine.replace(policies)
        for warning in claims(policies):
            _log.warning(warning)

    reload = Reload(file, take_over, by_itself=not is_worker)
    await observed.start(engine, service, health, reload, is_worker=is_worker)
    stopped = stop_signal(reload.request, or_end_of=sys.stdin if is_worker else None)
    background = [
        asyncio.create_task(work)
        for work in (
            _watch(store, engine, health),
            reload.run(),
            collector.collect_young(),
        )
    ]
    await server.start()
    names = ", ".join(policy.name for policy in policies)
    for warning in claims(policies):
        _log.warning(warning)
    _log.info("serving on %s (port %d) with the policies %s", settings.listen, port, names)
    reason = await stopped
    _log.info("%s: draining for %g s at most", reason, settings.grace)
    if reason == _ORPHANED:  # free the port now: a new supervisor may need it
        stopping = asyncio.create_task(server.stop(settings.grace))
    end = asyncio.get_running_loop().time() + settings.grace
    for work in background:
        work.cancel()
    health.drain()
    reflection.drain()
    with suppress(TimeoutError):
        async with asyncio.timeout_at(end):
            await service.drain()
    await server.stop(max(0.0, end - asyncio.get_running_loop().time()))
    if reason == _ORPHANED:
        await stopping
    await observed.aclose()
    await store.aclose()
    _log.info("stopped")


def claims(policies: Iterable[PolicySettings]) -> list[str]:
    """What callers can gain by what they say of themselves, a warning for each policy."""
    return [
        f"policy {policy.name}: its weights depend on the label {level.label}, and any caller may "
        f"claim any {level.label}, since this server does not know who its callers are"
        for policy in policies
        for level in policy.levels
        if level.weights
    ]


def store_of(settings: Settings) -> StoreOfLines:
    """Where the buckets live."""
    if settings.store == MEMORY:
        return MemoryStore()
    from openlimit.stores.redis.store import RedisBuckets, parse_redis_url

    return RedisBuckets(parse_redis_url(settings.store))


async def _watch(store: AsyncStore, engine: Engine, health: HealthServicer) -> None:
    """Set the service's health to the store's: SERVING while it decides, or some calls may start.

    One decision in time makes the health good. Several failed probes in a row make it bad, or a
    single one if no probe has succeeded yet.
    """
    missed = _MOST_MISSED - 1
    while True:
        trouble = await probe(store, engine)
        if trouble and missed + 1 == _MOST_MISSED:
            state = "" if engine.always_answers else "NOT_SERVING: "
            # With advice for operators in place of the error's own for clients.
            advice = "check that it runs and that --store leads to it"
            _log.warning("%sno decision from %s: %s; %s", state, *trouble.args, advice)
        elif not trouble and missed >= _MOST_MISSED:
            health.set_serving(True)
            _log.warning("the store decides again")
        missed = missed + 1 if trouble else 0
        if missed >= _MOST_MISSED:  # the policies may have changed meanwhile
            health.set_serving(engine.always_answers)
        await asyncio.sleep(_WATCH_EVERY)


def stop_signal(
    reload: Callable[[], None], or_end_of: TextIO | None = None
) -> "asyncio.Future[str]":
    """Why to stop: the name of the first SIGTERM or SIGINT, or the end of the stream.

    SIGHUP calls ``reload``.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[str] = loop.create_future()

    def stop(name: str) -> None:
        if not stopped.done():
            stopped.set_result(name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
    loop.add_signal_handler(signal.SIGHUP, reload)
    if or_end_of:
        end = or_end_of.fileno()
        loop.add_reader(end, stop, _ORPHANED)
        # A stream that has ended stays readable.
        stopped.add_done_callback(lambda _: loop.remove_reader(end))
    return stopped


def address_to_ask(listen: str) -> str:
    """How to reach a server on this machine that listens on ``listen``, such as 0.0.0.0:50051."""
    host, colon, port = listen.rpartition(":")
    with suppress(ValueError):
        everywhere = ip_address(host.removeprefix("[").removesuffix("]"))
        if everywhere.is_unspecified:
            host = "[::1]" if everywhere.version == 6 else "127.0.0.1"
    return host + colon + port


def check(settings: Settings) -> str | None:
    """Ask the server at the listen address for its health. Returns None if good, else the fault."""
    address = address_to_ask(settings.listen)
    # Without a proxy: it would connect to a port of its own machine.
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its calls are not in the type stubs
            answer = stub.Check(HealthCheckRequest(service=SERVICE), timeout=_CHECK_TIMEOUT)
        except grpc.RpcError as error:
            return f"no answer from {address}: {error.code().name}: {error.details()}"
    if answer.status == HealthCheckResponse.SERVING:
        return None
    return f"{address} is {HealthCheckResponse.ServingStatus.Name(answer.status)}"
