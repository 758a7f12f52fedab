"""What the limiters of one process and those of one Redis have in common."""

import secrets
from collections.abc import Mapping
from math import inf

from openlimit.errors import InvalidRequest
from openlimit.leaky_bucket import Decision, Limit
from openlimit.rate_limiter import RateLimiter
from openlimit.stores import Demand, Observation, Pause, Settlement, Store, Withdrawal
from openlimit.telling import pause_of


class LocalLimiter(RateLimiter):
    """Fixed limits over a store: one bucket for all calls, whatever their model."""

    def __init__(
        self,
        request_limit: float,
        token_limit: float,
        bucket_size_in_seconds: float,
        store: Store,
        bucket_key: str,
    ) -> None:
        for name, value in (
            ("request_limit", request_limit),
            ("token_limit", token_limit),
            ("bucket_size_in_seconds", bucket_size_in_seconds),
        ):
            if not (isinstance(value, int | float) and 0 < value < inf):
                raise InvalidRequest(name, f"must be a number above 0, not {value!r}")
        self._limits = (
            Limit.per("requests", request_limit, 60, bucket_size_in_seconds),
            Limit.per("tokens", token_limit, 60, bucket_size_in_seconds),
        )
        self._store = store
        self._bucket = bucket_key

    def __repr__(self) -> str:
        requests, tokens = self._limits
        return (
            f"<{type(self).__name__} of {requests.amount:g} requests "
            f"and {tokens.amount:g} tokens a minute>"
        )

    def reserve(self, model: str, costs: Mapping[str, int]) -> Decision:
        [outcome] = self._store.reserve([self._demand(costs)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def areserve(self, model: str, costs: Mapping[str, int]) -> Decision:
        [outcome] = await self._store.areserve([self._demand(costs)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def cancel(self, decision: Decision) -> None:
        self._store.tell(Withdrawal(self._bucket, self._limits, decision.reservation_id))

    def settle(
        self, decision: Decision, reserved: Mapping[str, int], used: Mapping[str, int]
    ) -> None:
        costs = self._charges(reserved)
        actual = [
            used.get(limit.unit, cost) for limit, cost in zip(self._limits, costs, strict=True)
        ]
        self._store.tell(
            Settlement(self._bucket, self._limits, decision.reservation_id, costs, actual)
        )

    def release(self, decision: Decision) -> None:
        """Nothing to do: concurrency is not limited here."""

    def _penalize(self, model: str, retry_after: float) -> None:
        self._store.tell(Pause(self._bucket, self._limits, pause_of(retry_after)))

    def _observe(self, model: str, remaining: Mapping[str, float]) -> None:
        left = [remaining.get(limit.unit, inf) for limit in self._limits]
        self._store.tell(Observation(self._bucket, self._limits, left))

    def close(self) -> None:
        self._store.close()

    def _demand(self, costs: Mapping[str, int]) -> Demand:
        charges = self._charges(costs)
        return Demand(self._bucket, self._limits, charges, inf, secrets.token_hex(8))

    def _charges(self, costs: Mapping[str, int]) -> list[int]:
        return [costs[limit.unit] for limit in self._limits]
