"""Channels to servers: how they spread, and notice that a server is gone."""

import json
import sys
import time
from functools import partial

import grpc

from openlimit.background import in_background
from openlimit.remote.address import is_local
from openlimit.remote.forks import opening
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub

_SERVICE = "openlimit.v1.RateLimitService"
_SERVICE_CONFIG = {
    # Of several addresses each process takes another, and none whose server drains or is not well.
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": _SERVICE},
}
_OPTIONS = [
    # Connections that know of nobody else: what one fork or failure hangs up is its own.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.service_config_disable_resolution", 1),
    # A server that was restarted is found again within a second or so, not within minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.min_reconnect_backoff_ms", 5000),  # the time that connecting may take
    # When a server goes, its name is asked who is there instead; gRPC would wait up to 30 s for it.
    ("grpc.dns_min_time_between_resolutions_ms", 2000),
    # A peer that vanished without a goodbye is noticed while calls wait for it.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
]

HEALTH_CALL_FAILED = "health check call failed"
"""What gRPC says where a server does not answer how healthy it is."""


class ServerChannel:
    """The gRPC channel of a connection: opened when it is first needed, and again once dropped."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self._address = address
        self._credentials = credentials
        self._asks_health = True
        self._channel: grpc.Channel | None = None
        self.is_proven = False
        """Whether anything was answered over it."""

    def stub(self) -> RateLimitServiceStub:
        """The service, over a channel that is open. ``opening`` is held."""
        if self._channel is None:
            asks_health = self._asks_health
            self._channel = open_channel(self._address, self._credentials, asks_health=asks_health)
            self.is_proven = False
        return RateLimitServiceStub(self._channel)

    def drop(self) -> None:
        """Hang up in the background. The next channel leaves out servers that do not answer."""
        channel, self._channel = self._channel, None
        in_background(partial(_hang_up, channel))

    def abandon(self) -> None:
        """Keep it for ever: gRPC could not start a thread, for which closing it would wait."""
        _unusable.append(self._channel)
        self._channel = None

    def doubt_health(self, reason: str) -> None:
        """A proxy that refuses health checks may let calls through, or refuse them with a better
        reason: the next channel does not check, and the one after that does again."""
        if not self._asks_health or HEALTH_CALL_FAILED in reason:
            self._asks_health = not self._asks_health
            self.drop()

    def close(self) -> None:
        """Hang up."""
        _hang_up(self._channel)


_unusable: list[grpc.Channel | None] = []


def _hang_up(channel: grpc.Channel | None) -> None:
    with opening:
        if channel:
            channel.close()
            opening.closed_at = time.monotonic()


def open_channel(
    address: str, credentials: grpc.ChannelCredentials | None, *, asks_health: bool = True
) -> grpc.Channel:
    """A channel to the server at an address, in plain text where there are no credentials.

    Unless ``asks_health``, it takes a server that can be reached for one that is well.
    """
    # A proxy is for the world outside: it would ask another machine's port, if any.
    options = [
        *_OPTIONS,
        ("grpc.enable_http_proxy", int(not is_local(address))),
        ("grpc.inhibit_health_checking", int(not asks_health)),
    ]
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)


def _is_patched() -> bool:
    """Whether gevent has replaced threads by greenlets."""
    monkey = sys.modules.get("gevent.monkey")
    return bool(monkey and monkey.is_module_patched("threading"))


_WAS_PATCHED = _is_patched()


def cooperate_with_gevent() -> None:
    """gRPC waits in C, where greenlets cannot be switched unless it knows of them.

    Raises RuntimeError where gevent came too late: what was imported before blocks all greenlets.
    """
    if not _is_patched():
        return
    if not _WAS_PATCHED:
        raise RuntimeError(
            "gevent has patched threads after openlimit was imported, and calls would hang: run "
            "gevent.monkey.patch_all() before anything else is imported"
        )
    from grpc.experimental import gevent

    gevent.init_gevent()  # does nothing the second time
