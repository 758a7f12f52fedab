"""What operators ask and change: wire to engine and back, for callers that may."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc.aio import ServicerContext

from openlimit.v1 import admin_pb2
from openlimit.v1.admin_pb2 import (
    ExplainRequest,
    ExplainResponse,
    ListBucketsRequest,
    ListBucketsResponse,
    ListOverridesRequest,
    ListOverridesResponse,
    ListPoliciesRequest,
    ListPoliciesResponse,
    RemoveOverrideRequest,
    RemoveOverrideResponse,
    SetOverrideRequest,
    SetOverrideResponse,
)
from openlimit.wire import status as statuses
from openlimit.wire.fields import read_acquire
from openlimit_server.engine.engine import Engine
from openlimit_server.engine.overrides import Overrides
from openlimit_server.engine.picture import policy_info
from openlimit_server.rpc.auth import Door
from openlimit_server.rpc.service import unary
from openlimit_server.rpc.sizes import reader

SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
_Context = ServicerContext[Any, Any]


class AdminServicer(grpc.GenericRpcHandler):
    """Answers ``openlimit.v1.AdminService``; the errors are in the proto's comments."""

    def __init__(self, engine: Engine, overrides: Overrides, door: Door) -> None:
        self._engine = engine
        self._overrides = overrides
        self._door = door
        self._is_draining = False
        answers: dict[str, tuple[Callable[[Any, _Context], Awaitable[Message]], type[Message]]] = {
            "Explain": (self.explain, ExplainRequest),
            "ListPolicies": (self.list_policies, ListPoliciesRequest),
            "ListBuckets": (self.list_buckets, ListBucketsRequest),
            "SetOverride": (self.set_override, SetOverrideRequest),
            "ListOverrides": (self.list_overrides, ListOverridesRequest),
            "RemoveOverride": (self.remove_override, RemoveOverrideRequest),
        }
        self._handlers = {
            name: unary(answer, reader(kind), door, engine.counts)
            for name, (answer, kind) in answers.items()
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """How to answer a call, from its name."""
        service, _, method = handler_call_details.method[1:].partition("/")
        return self._handlers.get(method) if service == SERVICE else None

    def drain(self) -> None:
        """Refuse new calls as UNAVAILABLE. Calls in flight go on."""
        self._is_draining = True

    async def explain(self, request: ExplainRequest, context: _Context) -> ExplainResponse:
        await self._admit(context)
        return await self._engine.explain(read_acquire(request.call))

    async def list_policies(
        self, request: ListPoliciesRequest, context: _Context
    ) -> ListPoliciesResponse:
        await self._admit(context)
        infos = (
            policy_info(policy, self._overrides.of(policy.name))
            for policy in self._overrides.configuration.policies
        )
        return ListPoliciesResponse(policies=infos)

    async def list_buckets(
        self, request: ListBucketsRequest, context: _Context
    ) -> ListBucketsResponse:
        await self._admit(context)
        return await self._engine.list_buckets(request.policy, request.page_size)

    async def set_override(
        self, request: SetOverrideRequest, context: _Context
    ) -> SetOverrideResponse:
        by = await self._admit(context) or request.override.by
        override, replaced = await self._overrides.set(request.override, by)
        return SetOverrideResponse(override=override, replaced=replaced)

    async def list_overrides(
        self, request: ListOverridesRequest, context: _Context
    ) -> ListOverridesResponse:
        await self._admit(context)
        return ListOverridesResponse(overrides=self._overrides.all)

    async def remove_override(
        self, request: RemoveOverrideRequest, context: _Context
    ) -> RemoveOverrideResponse:
        by = await self._admit(context) or request.by
        removed = await self._overrides.remove(request.policy, request.node, by)
        return RemoveOverrideResponse(removed=removed)

    async def _admit(self, context: _Context) -> str:
        """The name of the caller's key, empty where nobody is asked for one. Raises
        PermissionDenied, and LimiterUnavailable while the server drains."""
        caller = await self._door.enter(context)
        if self._is_draining:
            raise statuses.stopping()
        if caller is None:
            return ""
        caller.require("admin")
        return caller.name
