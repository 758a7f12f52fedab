"""Teams that wait at several servers of one limit, whatever happens to these, and what they saw."""

from math import inf

from tests.support.sharing_member import Call, Group, most_at_once, overtaken, worst_window

RATE, BURST = 200, 20  # tokens a second, and tokens
CAPPED, SLOTS = 40, 2
"""Of one team: tokens a second, as many at once, and calls that run at the same time."""
LARGEST = 15  # tokens of a call
TEAMS = {"search": (30, 0.0), "batch": (12, 0.0), "capped": (6, 0.4)}
"""Of each, the callers at one server, and for how many seconds their calls run."""
POLICY = f"""
policies:
  - name: shared
    models: ["*"]
    limits: {{tokens: {60 * RATE}/minute burst 0.1s}}
    levels:
      - label: team
        overrides:
          capped: {{limits: {{tokens: {60 * CAPPED}/minute}}, concurrent: {SLOTS}}}
"""
LATE = 1.0
"""Seconds by which a call may reach its server later than one that was asked after it."""
INEXACT = 0.05  # tokens that leak in the microseconds to which starts are known


def teams(port: int) -> list[Group]:
    """Callers of one server, whose queues never empty."""
    return [
        Group({"team": team, "user": "u", "port": str(port)}, callers, (5, LARGEST), holds)
        for team, (callers, holds) in TEAMS.items()
    ]


def require_limits(calls: list[Call], *, more: float = 0) -> None:
    """No window is over any limit; so many more tokens may have started at once."""
    capped = of(calls, "capped")
    assert worst(calls, RATE) <= BURST + more + INEXACT
    assert worst(capped, CAPPED) <= CAPPED + more + INEXACT


def require_slots(calls: list[Call], slots: int = SLOTS) -> None:
    """No more calls run at the same time of the team that has slots."""
    assert most_at_once(of(calls, "capped")) <= slots


def require_order(calls: list[Call]) -> None:
    """No call is overtaken in its leaf by one that was asked later at the same server."""
    for where in {(call.labels["team"], call.labels["port"]) for call in calls}:
        there = [c for c in calls if (c.labels["team"], c.labels["port"]) == where]
        assert overtaken(there) < LATE, where


def require_use(calls: list[Call], begin: float, end: float) -> None:
    """All teams start calls through all servers then, and use what the limits leave."""
    there = [call for call in calls if begin <= call.start < end]
    assert tokens(there) > 0.9 * RATE * (end - begin)
    assert tokens(of(there, "capped")) > 0.5 * CAPPED * (end - begin)
    known = {(call.labels["team"], call.labels["port"]) for call in calls}
    assert {(call.labels["team"], call.labels["port"]) for call in there} == known


def of(calls: list[Call], team: str) -> list[Call]:
    """Those of one team."""
    return [call for call in calls if call.labels["team"] == team]


def tokens(calls: list[Call]) -> int:
    """What they cost."""
    return sum(call.tokens for call in calls)


def worst(calls: list[Call], rate: float) -> float:
    """The most that they cost in any window, beyond what leaks in it."""
    starts = [(call.start, float(call.tokens)) for call in calls if call.start < inf]
    return worst_window(starts, rate)
