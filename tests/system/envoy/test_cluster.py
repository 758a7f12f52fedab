"""On a Redis Cluster, where the descriptors of one request have buckets on several nodes."""

from pathlib import Path

from openlimit.stores.redis.store import RedisBuckets, parse_redis_url
from tests.support.proxy_requests import OK, OVER, codes, descriptor, remaining, request
from tests.support.redis_topologies import serving_cluster
from tests.system.envoy.conftest import Service

DOMAIN = """
domain: d
descriptors:
  - key: user
    rate_limit: {unit: day, requests_per_unit: 10}
  - key: team
    rate_limit: {unit: day, requests_per_unit: 5}
"""


async def test_a_refused_request_consumes_nothing_on_any_node(tmp_path: Path) -> None:
    """Though no script sees the buckets of all."""
    users = [descriptor(("user", f"user {i}")) for i in range(20)]
    peeks = [descriptor(("user", f"user {i}"), hits=0) for i in range(20)]
    with serving_cluster() as cluster:
        store = RedisBuckets(parse_redis_url(cluster.url + "?timeout=5"))
        service = Service(store, tmp_path)
        service.configure(DOMAIN)
        team = descriptor(("team", "x"))
        assert codes(await service.ask(request("d", *users, team, hits=4))) == [OK] * 22
        refused = await service.ask(request("d", *users, team, hits=4))
        assert codes(refused) == [OVER, *[OK] * 20, OVER]
        assert remaining(refused) == [*[6] * 20, 1]
        assert remaining(await service.ask(request("d", *peeks))) == [6] * 20
        keys = [node.client().dbsize() for node in cluster.masters]
        await store.aclose()
    assert sum(keys) == 21
    assert all(keys)
