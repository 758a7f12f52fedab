"""The composition root: store, policies, servicers, health, signals and drain."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from openlimit.stores.lines import StoreOfLines
from openlimit.stores.memory import MemoryStore
from openlimit_server import binding, memory, signals
from openlimit_server.audit import record_in
from openlimit_server.config.configuration import Configuration
from openlimit_server.config.reload import Reload, Taker
from openlimit_server.config.settings import MEMORY, Settings
from openlimit_server.config.sources import Sources
from openlimit_server.counting.counter import Counter
from openlimit_server.engine.domains import Domains
from openlimit_server.engine.engine import Engine
from openlimit_server.engine.overrides import Overrides
from openlimit_server.exposure import Claims, warn_if_open
from openlimit_server.observe.process import Observed
from openlimit_server.probe import watch
from openlimit_server.rpc import bounds
from openlimit_server.rpc.admin import SERVICE as ADMIN
from openlimit_server.rpc.admin import AdminServicer
from openlimit_server.rpc.auth import Door
from openlimit_server.rpc.connections import Connections
from openlimit_server.rpc.envoy import SERVICE as ENVOY
from openlimit_server.rpc.envoy import EnvoyServicer
from openlimit_server.rpc.health import HealthServicer
from openlimit_server.rpc.metadata import MetadataBound
from openlimit_server.rpc.open_to_all import OpenToAll
from openlimit_server.rpc.reflection import ReflectionServicer
from openlimit_server.rpc.service import SERVICE, RateLimitServicer
from openlimit_server.rpc.tls import Encryption
from openlimit_server.signals import ORPHANED, Stop
from openlimit_server.snapshot import Snapshot, open_store

_log = logging.getLogger("openlimit")


async def serve(settings: Settings, sources: Sources, *, is_worker: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, then drain within the grace time.

    Policies, keys and certificates are loaded again when their files have changed, and on SIGHUP.
    When it is told to stop, its services are NOT_SERVING, and it serves for the drain delay, unless
    it is told once more. While it drains, new calls are refused, calls in flight finish, and
    streams end. A worker shares its port with others, and also drains when its stdin ends; its
    supervisor looks at the files.
    Raises ConfigurationError for settings that cannot be used, before it serves anything.
    """
    configuration = sources.configuration.load_good()
    keys = sources.keys.load_good()
    certificate = sources.certificates.load_good()
    record_in(settings.audit_log)
    if not is_worker:  # the supervisor of a worker holds the port
        binding.require_free(settings.listen)
    # Without SO_REUSEPORT: two servers on one port would silently share its calls, each with
    # buckets of its own.
    server = grpc.aio.server(options=[*bounds.options(), ("grpc.so_reuseport", int(is_worker))])
    buckets, snapshot = _buckets(settings)
    observed = Observed(settings, buckets)
    store, counts = observed.store, observed.counts
    engine = Engine(configuration.policies, store, counts)
    counter, door, claims = Counter(settings.log_format), Door(keys), Claims(sources)
    service = RateLimitServicer(engine, counter, door, tracing=observed.tracing)
    domains = Domains(configuration.domains, engine.policies)
    proxies = EnvoyServicer(domains, store, engine.lines, door, counts, observed.tracing)
    encryption = Encryption(certificate) if certificate else None
    health = HealthServicer(_services(configuration))
    reflection = ReflectionServicer((*_services(configuration), ADMIN, HEALTH))
    decide_by = _deciding(engine, proxies, health, reflection)
    overrides = Overrides(store.views, configuration, decide_by)
    admin = AdminServicer(engine, overrides, door)
    server.add_generic_rpc_handlers(
        [
            *(MetadataBound(), service, proxies, admin),
            OpenToAll((health.handler(), *reflection.handlers()), door),
        ]
    )
    port = _listen(server, settings.listen, encryption)
    connections = Connections(port, settings.connections_per_address)
    memory.tune()
    reload = Reload(
        *_takers(sources, overrides, service, encryption),
        by_itself=not is_worker,
        then=claims.warn,
    )
    await observed.start(
        *(engine, service, health, reload, counter, overrides, door, connections),
        is_worker=is_worker,
    )
    stop = signals.listen(reload.request, partial(_follow, sources, reload) if is_worker else None)
    watching = asyncio.create_task(watch(store, engine, health.set_serving))
    works = [overrides.run(), reload.run(), memory.collect_young(), connections.run()]
    works += [snapshot.run()] if snapshot else []
    background = [asyncio.create_task(work) for work in works]
    await overrides.look()
    await server.start()
    _announce(settings, claims, port, sources.configuration.loaded, is_worker=is_worker)
    reason = await stop.first
    watching.cancel()
    if reason != ORPHANED and settings.drain_delay:
        reason = await _delay(reason, stop, health, settings.drain_delay)
    for work in background:
        work.cancel()
    for each in (health, reflection, proxies, admin):
        each.drain()
    await _drain(server, service, reason, settings.grace)
    if snapshot:
        await snapshot.aclose()
    counter.close()
    await observed.aclose()
    await store.aclose()
    _log.info("stopped", extra={"event": "stopped"})


def _follow(sources: Sources, reload: Reload, spares: bytes) -> None:
    """Load what the supervisor has loaded."""
    sources.replace_spares(spares.decode())
    reload.request()


async def _delay(reason: str, stop: Stop, health: HealthServicer, seconds: float) -> str:
    """Serve on while balancers learn to send calls elsewhere; returns the latest reason to stop."""
    leaving = {"event": "leaving", "reason": reason, "seconds": seconds}
    _log.info("%s: no longer ready, serving for another %g s", reason, seconds, extra=leaving)
    health.set_serving(False)
    await asyncio.wait([stop.again], timeout=seconds)
    return stop.again.result() if stop.again.done() else reason


async def _drain(
    server: grpc.aio.Server, service: RateLimitServicer, reason: str, grace: float
) -> None:
    """Until calls in flight have ended, or for so long. An orphan frees the port before."""
    draining = {"event": "draining", "reason": reason, "grace": grace}
    _log.info("%s: draining for %g s at most", reason, grace, extra=draining)
    end = asyncio.get_running_loop().time() + grace
    stopping = [asyncio.create_task(server.stop(grace))] if reason == ORPHANED else []
    with suppress(TimeoutError):
        async with asyncio.timeout_at(end):
            await service.drain()
    await server.stop(max(0.0, end - asyncio.get_running_loop().time()))
    await asyncio.gather(*stopping)


def _services(configuration: Configuration) -> tuple[str, ...]:
    """Those that decide: for proxies there is one if there are domains."""
    return (SERVICE, ENVOY) if configuration.domains else (SERVICE,)


def _deciding(
    engine: Engine, proxies: EnvoyServicer, health: HealthServicer, reflection: ReflectionServicer
) -> Callable[[Configuration], None]:
    """Has them decide by a configuration from now on, and tell what decides."""

    def decide_by(configuration: Configuration) -> None:
        engine.replace(configuration.policies)
        proxies.replace(Domains(configuration.domains, engine.policies))
        health.replace(_services(configuration))
        reflection.replace((*_services(configuration), ADMIN, HEALTH))

    return decide_by


def _announce(
    settings: Settings, claims: Claims, port: int, configuration: Configuration, *, is_worker: bool
) -> None:
    if not is_worker:  # its supervisor has
        warn_if_open(settings)
    claims.warn()
    listen = settings.listen
    names = [policy.name for policy in configuration.policies]
    said = listen, port, ", ".join(names)
    serving = {"event": "serving", "address": listen, "port": port, "policies": names}
    _log.info("serving on %s (port %d) with the policies %s", *said, extra=serving)
    if configuration.domains:
        domains = ", ".join(each.domain for each in configuration.domains)
        _log.info("deciding for proxies in the domains %s", domains)


def _takers(
    sources: Sources,
    overrides: Overrides,
    service: RateLimitServicer,
    encryption: Encryption | None,
) -> Iterator[Taker]:
    """Who takes over which files that have changed."""

    yield sources.configuration, overrides.replace
    yield sources.keys, service.replace_keys
    if encryption:
        yield sources.certificates, encryption.replace


def _listen(server: grpc.aio.Server, address: str, encryption: Encryption | None) -> int:
    """Returns the port."""
    try:
        if encryption:
            return server.add_secure_port(address, encryption.credentials())
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise binding.cannot_listen(address, f"gRPC says: {error}") from error


def store_of(settings: Settings) -> StoreOfLines:
    """Where the buckets live."""
    if settings.store == MEMORY:
        return MemoryStore()
    from openlimit.stores.redis.store import RedisBuckets, parse_redis_url

    return RedisBuckets(parse_redis_url(settings.store))


def _buckets(settings: Settings) -> tuple[StoreOfLines, Snapshot | None]:
    if settings.snapshot:
        return open_store(settings.snapshot)
    return store_of(settings), None
