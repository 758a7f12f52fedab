"""What operators ask a server, see protos/openlimit/v1/admin.proto."""

from typing import Any

import grpc
from google.protobuf.message import Message

from openlimit.errors import LimiterUnavailable
from openlimit.remote.address import require_address, require_sendable
from openlimit.remote.channels import open_channel
from openlimit.remote.stream import error_of_call
from openlimit.v1.admin_pb2_grpc import AdminServiceStub
from openlimit.wire.fields import AUTHORIZATION, BEARER

_HEALTH = "/grpc.health.v1.Health/Check"
_SERVICE = b"openlimit.v1.RateLimitService"
_SERVING = b"\x08\x01"  # the message whose only field, the status, says so


class Operators:
    """The server at an address, for those who may ``admin``. Blocks; use it in ``with``.

    ``api_key`` is empty for none; without ``credentials`` it speaks plain text. ``timeout`` bounds
    each call, in seconds.
    """

    def __init__(
        self,
        address: str,
        api_key: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = 5.0,
    ) -> None:
        require_address(address)
        if api_key:
            require_sendable(api_key, address, is_encrypted=credentials is not None)
        self._address = address
        self._timeout = timeout
        self._metadata = ((AUTHORIZATION, BEARER + api_key),) if api_key else ()
        # Also a server that is not well has something to tell.
        self._channel = open_channel(address, credentials, asks_health=False)
        self._stub: Any = AdminServiceStub(self._channel)

    def ask(self, method: str, request: Message) -> Any:
        """The response of one of the service's methods; raises OpenLimitError."""
        return self._call(getattr(self._stub, method), request)

    def check(self) -> None:
        """Raises LimiterUnavailable unless the server decides."""
        ask: Any = self._channel.unary_unary(_HEALTH)  # the client has no stubs for two fields
        health = self._call(ask, bytes([10, len(_SERVICE)]) + _SERVICE)
        if health != _SERVING:
            raise LimiterUnavailable(
                self._address, "it runs but cannot decide, as while its store is away: see its log"
            )

    def _call(self, ask: Any, request: Message | bytes) -> Any:
        try:
            return ask(request, metadata=self._metadata, timeout=self._timeout)
        except grpc.RpcError as error:
            raise error_of_call(error, self._address) from error

    def __enter__(self) -> "Operators":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
