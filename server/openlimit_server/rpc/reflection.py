"""Server reflection, as v1 and as v1alpha, whose streams end when the server drains.

The versions differ in their package only, so that the messages of one serve for both.
"""

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from functools import lru_cache
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc.aio import ServicerContext
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

_ALPHA = reflection.SERVICE_NAME
_V1 = _ALPHA.replace("v1alpha", "v1")


class ReflectionServicer(reflection.aio.ReflectionServicer):
    """Describes the services to tools, which may keep a stream open for as long as they run."""

    def __init__(self, services: Iterable[str]) -> None:
        _describe_v1()
        self.replace(services)
        self._is_draining = False
        self._waits: set[asyncio.Timeout] = set()

    def replace(self, services: Iterable[str]) -> None:
        """Name these from now on."""
        super().__init__({*services, _ALPHA, _V1})

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """Of both versions, for a server."""
        info = grpc.stream_stream_rpc_method_handler(
            self.ServerReflectionInfo,
            request_deserializer=ServerReflectionRequest.FromString,
            response_serializer=ServerReflectionResponse.SerializeToString,
        )
        return [
            grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": info})
            for name in (_ALPHA, _V1)
        ]

    def drain(self) -> None:
        """End the streams once what was asked is answered. Does not block."""
        self._is_draining = True
        for wait in self._waits:
            wait.reschedule(0)

    async def ServerReflectionInfo(  # type: ignore[override]  # writes, as grpc.aio also takes
        self,
        request_iterator: AsyncIterable[ServerReflectionRequest],
        context: ServicerContext[Any, Any],
    ) -> None:
        asked = self._until_draining(request_iterator)
        answers: Any = super().ServerReflectionInfo(asked, context)
        try:
            async for answer in answers:
                await context.write(_with_json_names(answer))
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    async def _until_draining(
        self, requests: AsyncIterable[ServerReflectionRequest]
    ) -> AsyncIterator[ServerReflectionRequest]:
        """The requests; raises TimeoutError rather than wait for one while the server drains.

        Only waiting is cut short: gRPC cannot end a stream in the midst of a write.
        """
        each = aiter(requests)
        while True:
            async with asyncio.timeout(0 if self._is_draining else None) as wait:
                self._waits.add(wait)
                try:
                    request = await anext(each, None)
                finally:
                    self._waits.discard(wait)
            if request is None:
                return
            yield _of_its_service(request)


def _of_its_service(request: ServerReflectionRequest) -> ServerReflectionRequest:
    """The same, but for a method: some tools such as ghz ask for one, and Python's pool of
    descriptors finds services only."""
    pool = descriptor_pool.Default()
    service, _, method = request.file_containing_symbol.rpartition(".")
    try:
        is_method = method in pool.FindServiceByName(service).methods_by_name
    except KeyError:
        return request
    return ServerReflectionRequest(file_containing_symbol=service) if is_method else request


def _with_json_names(answer: ServerReflectionResponse) -> ServerReflectionResponse:
    """The same, in which fields have their names in JSON, such as maxWait. protoc leaves these out
    for Python, and tools such as ghz would not take them."""
    if files := answer.file_descriptor_response.file_descriptor_proto:
        files[:] = map(_file_with_json_names, files)
    return answer


@lru_cache
def _file_with_json_names(data: bytes) -> bytes:
    file = FileDescriptorProto.FromString(data)
    messages = [*file.message_type]
    for message in messages:
        messages.extend(message.nested_type)
        for field in message.field:
            field.json_name = re.sub("_(.?)", lambda after: after[1].upper(), field.name)
    return file.SerializeToString()


def _describe_v1() -> None:
    """Make it known to reflection itself: grpcio-reflection has v1alpha only."""
    try:
        descriptor_pool.Default().FindFileContainingSymbol(_V1)
    except KeyError:
        alpha, v1 = FileDescriptorProto(), FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
        text_format.Parse(text_format.MessageToString(alpha).replace("v1alpha", "v1"), v1)
        descriptor_pool.Default().AddSerializedFile(v1.SerializeToString())
