"""Any input, on either store: it is answered, and what is refused consumes nothing."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from openlimit.errors import InvalidRequest
from openlimit_server.envoy.rls_pb2 import RateLimitRequest
from tests.support.clock import FakeClock
from tests.support.proxy_requests import OK, OVER, codes, descriptor, remaining, request
from tests.system.envoy.conftest import Service

POLICIES = """
policies:
  - name: shared
    models: ["*"]
    limits: {requests: 20/minute burst 1m, tokens: [60000/minute burst 1m, 100000/day]}
    split_by: [model]
    levels:
      - label: team
        limits: {requests: 6/minute burst 1m}
        overrides: {free: {limits: {tokens: 60/minute}}}
      - label: user
  - name: plain
    models: ["*"]
    limits: {requests: 5/second, tokens: [600/minute, 100000/day]}
    split_by: [model, team, user]
domains:
  - domain: d
    response_headers: true
    descriptors:
      - {key: user, limit: 9/minute}
      - {key: quota, quota_mode: true, limit: 1/minute}
      - {key: year, rate_limit: {unit: year, requests_per_unit: 4294967295}}
      - {key: none, rate_limit: {unit: second, requests_per_unit: 0}}
      - {key: all, rate_limit: {unlimited: true}}
      - key: team
        policy: {name: shared}
        descriptors:
          - {key: user, policy: {name: shared, unit: tokens}, after_response: true}
          - {key: model, policy: {name: plain, unit: tokens}, after_response: true}
      - key: model
        policy: {name: plain}
        after_response: true
        descriptors:
          - {key: team, policy: {name: plain, unit: tokens}}
          - {key: user, policy: {name: shared, unit: tokens}}
"""
KEYS = ("user", "quota", "year", "none", "all", "team", "model", "", "unknown", "\0", "k" * 2000)
VALUES = ("", "a", "free", "\0", "ä" * 3000, "🦊", "a:b", "{x}", "v" * 70_000, "*", "%41", "1:a\n")
HITS = (None, 0, 1, 2, 7, 1000, 2**32 - 1, 2**53 + 1, 2**64 - 1, -1, -5, -(2**64 - 1))
LIMITS = (None, None, None, (0, "MINUTE"), (1, "SECOND"), (2**32 - 1, "YEAR"), (5, "UNKNOWN"))
LONGEST = 366 * 86_400  # seconds: a year and a day


@pytest.fixture
def service(service: Service) -> Service:
    service.configure(POLICIES)
    return service


def any_request(draw: random.Random) -> RateLimitRequest:
    """With descriptors that are there twice, no entries, strange values and any hits."""
    descriptors = [
        descriptor(
            *(
                (draw.choice(KEYS), draw.choice(VALUES))
                for _ in range(draw.choice((0, 1, 1, 2, 3)))
            ),
            hits=draw.choice(HITS),
            limit=draw.choice(LIMITS),
        )
        for _ in range(draw.choice((1, 1, 2, 3, 20)))
    ]
    descriptors += descriptors[: draw.choice((0, 0, 2))]
    hits = draw.choice((0, 0, 1, 5, 2**32 - 1))
    return request(draw.choice(("d", "d", "d", "elsewhere", "\0")), *descriptors, hits=hits)


@pytest.mark.parametrize("seed", range(3))
async def test_all_is_answered(service: Service, time: FakeClock, seed: int) -> None:
    """Each descriptor has its status, of a length of time that limits have; and then others are
    decided as ever."""
    draw = random.Random(seed)
    for _ in range(100):
        asked = any_request(draw)
        try:
            response = await service.ask(asked)
        except InvalidRequest as error:
            assert error.field.endswith("limit.unit")  # noqa: PT017 - no other is expected
        else:
            assert len(response.statuses) == len(asked.descriptors)
            assert (OVER in codes(response)[1:]) == (codes(response)[0] == OVER)
            for status in response.statuses:
                assert 0 <= status.duration_until_reset.ToNanoseconds() <= LONGEST * 10**9
        time.advance(draw.choice((0, 0, 0.001, 0.5, 30, 4000)))
    time.advance(LONGEST)
    for key in ("user", "team", "model"):
        assert codes(await service.ask(request("d", descriptor((key, "new"))))) == [OK, OK]


def plain_descriptors(draw: random.Random) -> Iterator[tuple[tuple[str, str], ...]]:
    """Of which each limits its hits, and some limit those of others, too."""
    for _ in range(draw.choice((1, 2, 3, 5))):
        team, user = ("team", draw.choice("abc")), ("user", draw.choice("abc"))
        yield draw.choice(
            ((team,), (user,), (team, user), (("model", "m"),), (("model", "m"), user))
        )


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_refused_consumes_nothing(
    service: Service, time: FakeClock, seed: int
) -> None:
    """Of no bucket, whatever the request has beside it; and what passes consumes of each."""
    draw = random.Random(seed)
    outcomes = set()
    for _ in range(60):
        asked = [*plain_descriptors(draw)]
        hits = draw.choice((1, 1, 2, 3, 6))
        peeks: Any = request("d", *(descriptor(*each, hits=0) for each in asked))
        before = remaining(await service.ask(peeks))
        response = await service.ask(
            request("d", *(descriptor(*each) for each in asked), hits=hits)
        )
        after = remaining(await service.ask(peeks))
        if codes(response)[0] == OK:
            assert all(one - hits >= other for one, other in zip(before, after, strict=True))
        else:
            assert after == before
        outcomes.add(codes(response)[0])
        time.advance(draw.choice((0, 0, 0, 7)))
    assert outcomes == {OK, OVER}
