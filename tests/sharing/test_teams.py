"""Teams share one limit from many processes, by their weights."""

import time
from math import inf

from openlimit.bucket.line import HORIZON
from tests.sharing.conftest import Servers
from tests.support.sharing_member import Group, members, overtaken, worst_window

RATE = 6_000  # tokens a second
WEIGHTS = {"search": 4, "batch": 1, "crawl": 1}
POLICY = f"""
policies:
  - name: shared
    models: ["*"]
    limits: {{tokens: {60 * RATE}/minute}}
    levels:
      - label: team
        weights: {{search: 4}}
"""
WINDOW, STEP = 5.0, 0.25  # seconds
LARGEST = 35


def test_teams_get_their_shares_whoever_comes_and_whatever_dies(servers: Servers) -> None:
    """Within 3 % over any five seconds, and all of the limit is used, also around the death of one
    of two servers; no call is lost or overtaken in its team, and a newcomer waits for no queue."""
    running = servers(POLICY)
    addresses = [each.address for each in running]
    known = [f"ipv4:{','.join(addresses)}", f"ipv4:{','.join(reversed(addresses))}"]
    teams = [
        Group({"team": "search"}, 60, (5, LARGEST)),
        Group({"team": "batch"}, 30, (5, LARGEST)),
        Group({"team": "crawl"}, 30, (5, LARGEST)),
    ]
    guests = [Group({"team": "guest"}, 10, (5, LARGEST), away=1.0)]
    processes = [(known[n % 2], teams + guests * (n < 2)) for n in range(8)]
    with members(*processes) as calls:
        time.sleep(4)
        if len(running) > 1:
            running[0].stop()
        time.sleep(4.5)
    begin = min(call.start for call in calls) + 1  # what may start at once has started
    end = max(call.start for call in calls if call.start < inf) - 1
    starts = [(call.start, float(call.tokens)) for call in calls if call.start < inf]
    assert worst_window(starts, RATE) <= RATE + 0.05  # starts are known to some microseconds
    at = begin
    while at + WINDOW <= end:
        there = [call for call in calls if at <= call.start < at + WINDOW]
        served = sum(call.tokens for call in there)
        assert served >= 0.99 * RATE * WINDOW - LARGEST
        shares = {
            team: sum(call.tokens for call in there if call.labels["team"] == team) / weight
            for team, weight in WEIGHTS.items()
        }
        mean = sum(shares.values()) / len(shares)
        assert all(abs(share / mean - 1) < 0.03 for share in shares.values()), shares
        at += STEP
    assert at > begin
    for team in (*WEIGHTS, "guest"):
        assert overtaken([call for call in calls if call.labels["team"] == team]) < 1
    visits = {call.visit for call in calls} - {0}
    assert visits
    usual = sorted(call.wait for call in calls if call.labels["team"] == "search")
    for visit in visits:
        first = min(call.wait for call in calls if call.visit == visit)
        assert first < HORIZON / 1e6 + usual[len(usual) // 2] / 2
