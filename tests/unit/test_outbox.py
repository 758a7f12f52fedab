"""What waits to be written to the client of a stream."""

from openlimit.v1.rate_limit_pb2 import AcquireStreamResponse
from openlimit.wire.status import TOO_MANY_IN_FLIGHT
from openlimit_server.rpc.outbox import Outbox


def test_acknowledgements_do_not_pile_up() -> None:
    """A client may send settlements for ever and never read: the latest count says it all, but no
    error comes after the count that covers it."""
    outbox = Outbox()
    for _ in range(1000):
        outbox.end(outbox.begin(2))
    assert len(outbox._entries) == 1
    outbox.add([7], None, TOO_MANY_IN_FLIGHT)
    for _ in range(1000):
        outbox.end(outbox.begin(1))
    assert len(outbox._entries) == 3
    response = AcquireStreamResponse.FromString(outbox.next_message())
    assert [each.id for each in response.outcomes] == [7]
    assert response.settled_runs == 3000
    assert not outbox


def test_an_acknowledgement_goes_with_what_was_decided_with_it() -> None:
    """Also where a message has as many outcomes as it can: else every other one would be all but
    empty."""
    outbox = Outbox()
    part = outbox.begin(1)
    outbox.add(range(16), None, TOO_MANY_IN_FLIGHT)
    outbox.end(part)
    response = AcquireStreamResponse.FromString(outbox.next_message())
    assert len(response.outcomes) == 16
    assert response.settled_runs == 1
    assert not outbox


def test_errors_are_written_few_at_a_time() -> None:
    """They take longer to write than grants, and others wait meanwhile."""
    outbox = Outbox()
    outbox.add(range(20), None, TOO_MANY_IN_FLIGHT)
    sizes = []
    while outbox:
        response = AcquireStreamResponse.FromString(outbox.next_message())
        sizes.append(len(response.outcomes))
    assert sizes == [16, 4]
