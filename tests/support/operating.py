"""Asks a server what operators ask."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc

from openlimit.remote.stream import error_of_call
from openlimit.v1 import admin_pb2 as messages
from openlimit.v1.admin_pb2_grpc import AdminServiceStub
from openlimit.v1.rate_limit_pb2 import AcquireRequest
from tests.support.api_keys import token_of


class Operator:
    """Asks one server; raises what openlimit's client would."""

    def __init__(self, channel: grpc.Channel, address: str, key: str | None = None) -> None:
        self._stub: Any = AdminServiceStub(channel)
        self._address = address
        self._metadata = (("authorization", f"Bearer {token_of(key)}"),) if key else ()

    def ask(self, method: str, request: Any) -> Any:
        try:
            return getattr(self._stub, method)(request, metadata=self._metadata, timeout=20)
        except grpc.RpcError as error:
            raise error_of_call(error, self._address) from error

    def explain(self, model: str, **fields: Any) -> Any:
        call = AcquireRequest(model=model, **fields)
        return self.ask("Explain", messages.ExplainRequest(call=call))

    def policies(self) -> dict[str, Any]:
        """By name."""
        found = self.ask("ListPolicies", messages.ListPoliciesRequest()).policies
        return {policy.name: policy for policy in found}

    def buckets(self, policy: str = "", page_size: int = 0) -> Any:
        request = messages.ListBucketsRequest(policy=policy, page_size=page_size)
        return self.ask("ListBuckets", request)

    def overrides(self) -> list[Any]:
        return [*self.ask("ListOverrides", messages.ListOverridesRequest()).overrides]

    def set(
        self,
        policy: str,
        limits: Mapping[str, str],
        seconds: float = 60,
        **fields: Any,
    ) -> Any:
        """An override for so many seconds."""
        override = override_of(policy, limits, seconds, **fields)
        return self.ask("SetOverride", messages.SetOverrideRequest(override=override))

    def remove(self, policy: str, by: str = "me", **node: str) -> bool:
        request = messages.RemoveOverrideRequest(policy=policy, node=node, by=by)
        return bool(self.ask("RemoveOverride", request).removed)


def override_of(
    policy: str, limits: Mapping[str, str], seconds: float = 60, **fields: Any
) -> messages.Override:
    """By me, since it is a test."""
    fields = {"why": "a test", "by": "me"} | fields
    override = messages.Override(policy=policy, limits=limits, **fields)
    override.until.FromNanoseconds(time.time_ns() + int(seconds * 1e9))
    return override


@contextmanager
def operating(address: str, key: str | None = None) -> Iterator[Operator]:
    """An operator of the server at an address."""
    with grpc.insecure_channel(address) as channel:
        yield Operator(channel, address, key)
