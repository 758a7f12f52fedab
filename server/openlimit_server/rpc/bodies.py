"""Acquisitions that bring the body of their call: it is replaced by what it costs."""

from collections.abc import Mapping, Sequence

from openlimit.errors import InvalidRequest, OpenLimitError
from openlimit.units import TOKENS
from openlimit.v1.rate_limit_pb2 import AcquireRequest, CountTokensRequest
from openlimit_server.counting.counter import Counter

Counts = Mapping[str, int]
"""The tokens of a call by unit; empty where it brings no body."""


async def replace_bodies(
    requests: Sequence[AcquireRequest], counter: Counter
) -> list[Counts | OpenLimitError]:
    """What was counted for each, or what is wrong with its body. Changes the messages to those of
    clients that have counted."""
    outcomes: list[Counts | OpenLimitError] = [{}] * len(requests)
    if places := [place for place, request in enumerate(requests) if request.body]:
        bodies = [(requests[place].body, requests[place].model) for place in places]
        for place, counted in zip(places, await counter.count(bodies), strict=True):
            request = requests[place]
            request.ClearField("body")
            if isinstance(counted, OpenLimitError):
                outcomes[place] = counted
            elif request.tokens:
                reason = f"must be 0 where they are counted in the body, not {request.tokens}"
                outcomes[place] = InvalidRequest(TOKENS, reason)
            else:
                _replace(request, counted.model, counted.costs)
                outcomes[place] = counted.costs
    return outcomes


def _replace(request: AcquireRequest, model: str, costs: Counts) -> None:
    request.model = model
    for unit, cost in costs.items():
        if unit == TOKENS:
            request.tokens = cost
        elif unit not in request.units:
            request.units[unit] = cost


async def count_alone(request: CountTokensRequest, counter: Counter) -> Counts:
    """Raises what is wrong with the body."""
    if not request.body:
        raise InvalidRequest("body", "is required: the request body of the call")
    [counted] = await counter.count([(request.body, request.model)])
    if isinstance(counted, OpenLimitError):
        raise counted
    return counted.costs
