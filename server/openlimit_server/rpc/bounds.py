"""What gRPC lets clients do: how large, how many, for how long."""

from typing import Any, NamedTuple


class Times(NamedTuple):
    """Seconds of connections."""

    handshake: float = 10.0
    """Until a new one has said that it speaks HTTP/2, and TLS if need be."""
    idle: float = 300.0
    """Without a call."""
    age: float = 3600.0
    """Until its client is sent to a new one, which may be to another server. gRPC varies it by a
    tenth, so that not all come back at once."""
    ping: float = 60.0
    """Of silence, after which the client is asked for a sign of life."""
    pong: float = 20.0
    """For that sign."""

    @property
    def stream(self) -> float:
        """Until a stream ends, with good manners: who waits in line keeps the place. By then its
        client was sent to another connection, and this one is not cut off yet."""
        return 1.15 * self.age

    @property
    def goodbye(self) -> float:
        """That the calls of a connection get to end when it is so old."""
        return self.age / 3


TIMES = Times()
"""Of a server."""


def options(times: Times = TIMES) -> list[tuple[str, Any]]:
    """For a gRPC server."""
    return [
        # The largest sensible request is a few kilobytes.
        ("grpc.max_receive_message_length", 1 << 20),
        # Otherwise gRPC buffers megabytes for each client: 200 that send too much take a gigabyte.
        ("grpc.http2.bdp_probe", 0),
        # Ten thousand callers of one process may ask at the same time, each by a call of its own.
        # Not less: a client of gRPC that has more calls than that to make opens one as soon as
        # another is answered. The server may not have closed that yet, and then refuses it.
        ("grpc.max_concurrent_streams", 10_000),
        # Thousands of callers may ask at the same instant. By default, gRPC refuses random calls
        # once 1,000 are waiting. An answer takes a fraction of a millisecond.
        ("grpc.server.max_pending_requests", 100_000),
        ("grpc.server.max_pending_requests_hard_limit", 200_000),
        # Clients may ping every 10 s, to notice when the server is gone; whoever pings more often
        # is hung up on.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A client that vanished without a goodbye does not keep its calls for ever.
        ("grpc.keepalive_time_ms", _milliseconds(times.ping)),
        ("grpc.keepalive_timeout_ms", _milliseconds(times.pong)),
        ("grpc.http2.ping_timeout_ms", _milliseconds(times.pong)),
        ("grpc.server_handshake_timeout_ms", _milliseconds(times.handshake)),
        ("grpc.max_connection_idle_ms", _milliseconds(times.idle)),
        ("grpc.max_connection_age_ms", _milliseconds(times.age)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(times.goodbye)),
    ]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
