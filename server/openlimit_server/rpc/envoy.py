"""Envoy's rate limit service: its messages to hits and back, nothing else."""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import ServicerContext

from openlimit.bucket.limit import SECOND
from openlimit.errors import InvalidRequest
from openlimit.stores.lines import StoreOfLines
from openlimit.wire import status as statuses
from openlimit_server.config.hits import HITS, MOST_HITS, UNITS
from openlimit_server.engine.counts import Counts
from openlimit_server.engine.domains import Domains, OwnLabels, Rule, unit_of
from openlimit_server.engine.hits import Asked, Standing, decide
from openlimit_server.engine.hits_in_line import Trees
from openlimit_server.engine.lines import Lines
from openlimit_server.envoy import rls_pb2
from openlimit_server.envoy.descriptors_pb2 import RateLimitDescriptor
from openlimit_server.envoy.rls_pb2 import RateLimitRequest, RateLimitResponse
from openlimit_server.envoy.units_pb2 import RateLimitUnit
from openlimit_server.rpc.auth import Door
from openlimit_server.rpc.service import unary
from openlimit_server.rpc.sizes import reader

if TYPE_CHECKING:
    from openlimit_server.rpc.tracing import Tracing

SERVICE = rls_pb2.DESCRIPTOR.services_by_name["RateLimitService"].full_name
_METHOD = f"/{SERVICE}/ShouldRateLimit"
_OK, _OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
_OUTCOMES = {_OK: "ok", _OVER_LIMIT: "over_limit"}
_MOST_BYTES, _MOST_DESCRIPTORS, _MOST_ENTRIES = 128 << 10, 100, 1000
_MOST_WARNINGS = 100
_read = reader(RateLimitRequest, _MOST_BYTES)
_HEADERS = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")

_log = logging.getLogger("openlimit")


class EnvoyServicer(grpc.GenericRpcHandler):
    """Answers ``envoy.service.ratelimit.v3.RateLimitService``, as docs/envoy.md says.

    What cannot be decided is an error of gRPC: then the proxy's own ``failure_mode_deny`` holds.
    """

    def __init__(
        self,
        domains: Domains,
        store: StoreOfLines,
        lines: Lines,
        door: Door,
        counts: Counts | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        """``lines`` hold the callers of all other calls; ``counts`` is where it counts what it
        decides, if anybody may ask; ``tracing`` begins spans."""
        self._domains = domains
        self._counts = counts
        self._door = door
        self._store = store
        self._trees = Trees(store, lines)
        self._warned: set[str] = set()
        self._handler = unary(self.should_rate_limit, _read, door, counts)
        if tracing:
            self._handler = tracing.traced(_METHOD[1:], self._handler)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """How to answer a call, from its name.

        Without domains, a proxy that is sent here by mistake has to notice.
        """
        is_ours = handler_call_details.method == _METHOD and self._domains.settings
        return self._handler if is_ours else None

    def replace(self, domains: Domains) -> None:
        """Decide by these from now on."""
        self._domains = domains

    def drain(self) -> None:
        """Refuse new calls as UNAVAILABLE. Calls in flight go on."""
        self._handler = unary(_refuse, _read, self._door, self._counts)

    async def should_rate_limit(
        self, request: RateLimitRequest, context: ServicerContext[Any, Any]
    ) -> RateLimitResponse:
        own_labels: OwnLabels = dict
        if caller := await self._door.enter(context):
            caller.require("acquire")
            own_labels = caller.with_fixed
        _require_sensible(request)
        domain = self._domains.settings.get(request.domain)
        if not domain:
            self._warn(
                f"nothing is limited in the domain {request.domain[:100]!r}, which a proxy asks "
                "for: there is none of that name"
            )
        rules = self._rules_of(request, own_labels)
        asked = [
            _asked(rule, descriptor, request.hits_addend) if rule else None
            for rule, descriptor in zip(rules, request.descriptors, strict=True)
        ]
        decided = iter(await decide(self._store, self._trees, [each for each in asked if each]))
        standings = [(each, next(decided)) if each else None for each in asked]
        response = _response(request, standings)
        for i, pair in enumerate(standings):
            if pair and pair[0].is_own and pair[0].is_charged and response.statuses[i].code != _OK:
                self._warn_of_own_hits(request, request.descriptors[i])
        if domain and domain.response_headers:
            _add_headers(response, [pair for pair in standings if pair])
        if self._counts:
            name = domain.domain if domain else ""
            self._counts.proxied[name, _OUTCOMES[response.overall_code]] += 1
        return response

    def _rules_of(self, request: RateLimitRequest, own_labels: OwnLabels) -> list[Rule | None]:
        """What each descriptor is held to, but for limits that others of them replace."""
        rules = [
            self._domains.find(
                request.domain,
                tuple([(entry.key, entry.value) for entry in descriptor.entries]),
                _own_limit(descriptor, i),
                own_labels,
            )
            for i, descriptor in enumerate(request.descriptors)
        ]
        replaced = {name for rule in rules if rule for name in rule.replaces}
        return [None if rule and rule.name in replaced else rule for rule in rules]

    def _warn_of_own_hits(self, request: RateLimitRequest, descriptor: RateLimitDescriptor) -> None:
        keys = ", ".join(entry.key[:100] for entry in descriptor.entries[:10])
        self._warn(
            f"the domain {request.domain!r} refused hits that the descriptor ({keys}) brought "
            "itself, and charged none; if these are told after the response, as by "
            "apply_on_stream_done, set after_response: true beside the limit"
        )

    def _warn(self, text: str) -> None:
        """Once for each text, and of some texts only: proxies choose the names."""
        if text not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add(text)
            _log.warning(text)


async def _refuse(*_: object) -> Any:
    raise statuses.stopping()


def _require_sensible(request: RateLimitRequest) -> None:
    if not request.domain:
        raise InvalidRequest("domain", "must not be empty")
    if not 1 <= len(request.descriptors) <= _MOST_DESCRIPTORS:
        count = len(request.descriptors)
        raise InvalidRequest("descriptors", f"must be 1 to {_MOST_DESCRIPTORS}, not {count}")
    if (count := sum(len(each.entries) for each in request.descriptors)) > _MOST_ENTRIES:
        reason = f"must have at most {_MOST_ENTRIES} entries together, not {count}"
        raise InvalidRequest("descriptors", reason)


def _own_limit(descriptor: RateLimitDescriptor, place: int) -> tuple[int, str] | None:
    if not descriptor.HasField("limit"):
        return None
    limit = descriptor.limit
    unit = RateLimitUnit.Name(limit.unit).lower() if limit.unit in RateLimitUnit.values() else ""
    if unit not in UNITS:
        reason = f"must be a unit of time such as MINUTE, not {limit.unit}"
        raise InvalidRequest(f"descriptors[{place}].limit.unit", reason)
    return limit.requests_per_unit, unit


def _asked(rule: Rule, descriptor: RateLimitDescriptor, of_request: int) -> Asked:
    is_own = descriptor.HasField("hits_addend")
    hits = descriptor.hits_addend.value if is_own else of_request or 1
    return Asked(rule, -hits if descriptor.is_negative_hits else hits, is_own)


def _response(
    request: RateLimitRequest, standings: Sequence[tuple[Asked, Standing] | None]
) -> RateLimitResponse:
    """``standings`` are of its descriptors; None for one that nothing limits."""
    response = RateLimitResponse(overall_code=_OK)
    has_quotas, violations = False, []
    for i, pair in enumerate(standings):
        status = response.statuses.add(code=_OK)
        if not pair:
            continue
        rule, standing = pair[0].rule, pair[1]
        _write(status, rule, standing)
        is_quota = bool(rule.settings and rule.settings.quota_mode)
        has_quotas = has_quotas or is_quota
        if standing.is_over and rule.is_enforced:
            response.overall_code = status.code = _OVER_LIMIT
        elif standing.is_over and is_quota:
            violations.append(i)
    if has_quotas:
        response.dynamic_metadata.update(_metadata(request, violations))
    return response


def _write(status: RateLimitResponse.DescriptorStatus, rule: Rule, standing: Standing) -> None:
    status.limit_remaining = MOST_HITS if rule.is_unlimited else min(standing.remaining, MOST_HITS)
    rate_limit = rule.settings.rate_limit if rule.settings else None
    amount, unit, name = 0, rate_limit.unit if rate_limit else None, rule.name
    if limit := standing.limit:
        amount, unit = int(limit.amount), unit_of(limit)
        name = name or ("" if limit.unit == HITS else limit.name)
        status.duration_until_reset.FromMicroseconds(round(standing.reset * SECOND))
    if not rule.is_unlimited:
        told = RateLimitResponse.RateLimit(
            requests_per_unit=min(amount, MOST_HITS), unit=(unit or "unknown").upper(), name=name
        )
        status.current_limit.CopyFrom(told)


def _metadata(request: RateLimitRequest, violations: Sequence[int]) -> dict[str, Any]:
    """What tells a router which descriptors of quota_mode are over their limit."""
    descriptors = [
        {"entries": [f"{entry.key}={entry.value}" for entry in descriptor.entries]}
        for descriptor in request.descriptors
    ]
    told: dict[str, Any] = {
        "domain": request.domain,
        "descriptors": descriptors,
        "quotaModeEnabled": True,
    }
    if request.hits_addend:
        told["hitsAddend"] = request.hits_addend
    if violations:
        told["quotaModeViolations"] = [*violations]
    return told


def _add_headers(response: RateLimitResponse, shown: Iterable[tuple[Asked, Standing]]) -> None:
    """Of the limit that refuses, else of the one of which the least remains."""
    held = [standing for asked, standing in shown if standing.limit and asked.rule.is_enforced]
    if not held:
        return
    least = min(held, key=lambda each: (not each.is_over, each.remaining))
    assert least.limit
    values = (int(least.limit.amount), least.remaining, -int(-least.reset // 1))
    for name, value in zip(_HEADERS, values, strict=True):
        response.response_headers_to_add.add(key=name, value=str(value))
