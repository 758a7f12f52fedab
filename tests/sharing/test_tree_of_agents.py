"""Sub-agents in several processes, whose run has one budget below that of its team."""

import asyncio
import json
import sys
import time
from subprocess import PIPE, Popen
from typing import Any

import httpx2
import openai

import openlimit
from openlimit import RemoteLimiter
from openlimit.bucket.limit import SECOND
from openlimit.integrations.http import AsyncLimitedTransport
from openlimit.operations import Acquire, Grant, Release, Report, Settle
from tests.sharing.conftest import Servers
from tests.support import loopback_provider
from tests.support.sharing_member import Call, most_at_once, worst_window

RUN, TEAM = 100, 130  # tokens a second
POLICY = f"""
policies:
  - name: agents
    models: ["*"]
    limits: {{tokens: 6000000/minute}}
    levels:
      - label: team
        limits: {{tokens: {60 * TEAM}/minute}}
      - label: run
        limits: {{tokens: {60 * RUN}/minute}}
        concurrent: 3
"""
SECONDS, AGENTS = 5.0, 5  # of each process
HELLO: Any = [{"role": "user", "content": "Hello!"}]


class Witness(RemoteLimiter):
    """Notes what it is granted, and when its calls end."""

    grants: list[tuple[Acquire, Grant, float]]
    ends: dict[str, float]

    async def aacquire(self, call: Acquire, *told: Any) -> Grant:
        grant = await super().aacquire(call, *told)
        self.grants.append((call, grant, time.time() + grant.wait / SECOND))
        return grant

    def tell(self, operation: Report) -> None:
        if isinstance(operation, Settle | Release):
            self.ends[operation.reservation_id] = time.time()
        super().tell(operation)


async def main(address: str, provider: str, run: str) -> None:
    """One process: agents that call the provider by its SDK, and say only once whose they are."""
    with Witness(address) as limiter:
        limiter.grants, limiter.ends = [], {}
        client = openai.AsyncOpenAI(
            base_url=f"{provider}/v1",
            api_key="unused",
            http_client=httpx2.AsyncClient(transport=AsyncLimitedTransport(limiter)),
        )
        until = time.monotonic() + SECONDS

        async def agent() -> None:
            while time.monotonic() < until:
                await client.chat.completions.create(
                    model="gpt-4o", messages=HELLO, max_tokens=7, timeout=30
                )

        async with client:
            with openlimit.labels(team="research", run=run):
                await asyncio.gather(*(agent() for _ in range(AGENTS)))
        for call, grant, begun in limiter.grants:
            start = int(grant.reservation_id.split(".")[2]) / SECOND
            lasted = limiter.ends[grant.reservation_id] - begun
            whose, tokens = dict(call.labels), call.costs["tokens"]
            print(json.dumps(Call(whose, tokens, 0.0, 0.0, begun, begun + lasted, 0)))
            print(json.dumps([start, run]))


def test_agents_of_one_run_share_its_budget(servers: Servers) -> None:
    """20 in four processes make no more than 3 calls at a time and keep the run's tokens a minute
    in every window; a run beside them gets the rest of what their team has."""
    running = servers(POLICY)
    with loopback_provider.serving() as provider:
        command = [sys.executable, "-m", "tests.sharing.test_tree_of_agents"]
        agents = [
            Popen(
                [*command, running[n % len(running)].address, provider.url, run],
                stdout=PIPE,
                text=True,
            )
            for n, run in enumerate(["one"] * 4 + ["two"])
        ]
        try:
            outputs = [each.communicate(timeout=120)[0] for each in agents]
        finally:
            for each in agents:
                each.kill()
                each.wait()
    assert not any(each.returncode for each in agents)
    lines = [json.loads(line) for output in outputs for line in output.splitlines()]
    calls = [Call(*line) for line in lines[::2]]
    decided = [(start, 16.0, run) for start, run in lines[1::2]]
    assert {call.tokens for call in calls} == {16}  # which is what the provider says they used
    assert all(call.labels["team"] == "research" for call in calls)
    of_run = [call for call in calls if call.labels["run"] == "one"]
    assert len(of_run) == sum(run == "one" for *_, run in decided)
    starts = [(start, cost) for start, cost, run in decided if run == "one"]
    assert worst_window(starts, RUN) <= RUN + 1e-3
    assert worst_window([(start, cost) for start, cost, _ in decided], TEAM) <= TEAM + 1e-3
    assert most_at_once(of_run) <= 3


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
