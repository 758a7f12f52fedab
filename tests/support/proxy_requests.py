"""Requests as a proxy sends them to Envoy's rate limit service."""

from collections.abc import Callable
from typing import Any

from openlimit_server.envoy.descriptors_pb2 import RateLimitDescriptor
from openlimit_server.envoy.rls_pb2 import RateLimitRequest, RateLimitResponse

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
OK, OVER = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT


def descriptor(
    *entries: tuple[str, str], hits: int | None = None, limit: tuple[int, str] | None = None
) -> RateLimitDescriptor:
    """Hits below 0 are given back; a limit is so many of a unit's period."""
    message = RateLimitDescriptor(
        entries=[RateLimitDescriptor.Entry(key=key, value=value) for key, value in entries]
    )
    if hits is not None:
        message.hits_addend.value = abs(hits)
        message.is_negative_hits = hits < 0
    if limit:
        amount, unit = limit
        own = RateLimitDescriptor.RateLimitOverride(requests_per_unit=amount, unit=unit)
        message.limit.CopyFrom(own)
    return message


def request(domain: str, *descriptors: RateLimitDescriptor, hits: int = 0) -> RateLimitRequest:
    """0 hits are none of its own: then each descriptor has one."""
    return RateLimitRequest(domain=domain, descriptors=descriptors, hits_addend=hits)


def stub(channel: Any) -> Callable[[RateLimitRequest], Any]:
    """What asks over this channel."""
    call: Callable[[RateLimitRequest], Any] = channel.unary_unary(
        METHOD, RateLimitRequest.SerializeToString, RateLimitResponse.FromString
    )
    return call


def codes(response: RateLimitResponse) -> list[int]:
    """The overall one, and that of each descriptor."""
    return [response.overall_code, *(status.code for status in response.statuses)]


def remaining(response: RateLimitResponse) -> list[int]:
    """Of each descriptor."""
    return [status.limit_remaining for status in response.statuses]
