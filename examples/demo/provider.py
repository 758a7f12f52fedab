"""A strict provider with OpenAI's interface, on loopback: ``POST /v1/chat/completions``.

It answers 200 with a chat completion. If a bucket does not have enough for a call, it answers 429
at once, with OpenAI's headers and error body. Like OpenAI, it charges the most that a call may use.
With ``--uses 0.25``, a call uses a quarter of that and, like at Anthropic, is charged for this
quarter when it ends. ``GET /statistics`` returns how much it has accepted and refused. ``POST
/reset`` fills its buckets and starts to count from 0.

    python -m examples.demo.provider --requests 2700 --tokens 900000 --burst 2

This command serves on a free port until SIGTERM, and prints the port.
"""

import argparse
import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from math import ceil
from random import Random
from typing import Any, NamedTuple

from aiohttp import web

from examples.demo.published_rules import Counter, UnknownContent
from examples.demo.quota import Clock, Limits, Quota, Refusal

_REPLY = "Certainly. Here is a short answer from a model that only pretends to think."
_UNITS = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}


class Statistics(NamedTuple):
    """Totals since the start or the last reset."""

    accepted: int
    refused: int
    tokens: int
    """Tokens charged for the accepted calls, after corrections."""
    seconds: float

    def since(self, before: "Statistics") -> "Statistics":
        """The difference to earlier statistics."""
        return Statistics(
            self.accepted - before.accepted,
            self.refused - before.refused,
            self.tokens - before.tokens,
            self.seconds - before.seconds,
        )


class Provider:
    """One account with limits over all models; a reply takes ``latency``: min and max seconds."""

    def __init__(
        self,
        limits: Limits,
        *,
        uses: float | None = None,
        latency: tuple[float, float] = (0.02, 0.08),
        clock: Clock = time.monotonic,
    ) -> None:
        self._limits = limits
        self._uses = uses
        self._latency = latency
        self._clock = clock
        self._counter = Counter()
        self._reply_tokens = self._counter.text(_REPLY)
        self._random = Random(7)
        self._ids = count(1)
        self.reset()

    def reset(self) -> None:
        """Fill the buckets and forget all calls."""
        self._quota = Quota(self._limits, self._clock)
        self._began = self._clock()
        self._accepted = self._refused = self._tokens = 0

    def statistics(self) -> Statistics:
        """Totals since the last reset."""
        seconds = self._clock() - self._began
        return Statistics(self._accepted, self._refused, self._tokens, seconds)

    async def chat(self, request: web.Request) -> web.Response:
        """Answer one call."""
        body = await request.json()
        try:
            usage = self._counter.usage(body)
        except UnknownContent as error:
            return web.json_response(_error(str(error), "invalid_request_error", None), status=400)
        cost = sum(usage)
        refusal = self._quota.charge(cost)
        headers = self._quota.headers()
        if refusal:
            self._refused += 1
            return self._too_many(body["model"], refusal, headers)
        self._accepted += 1
        written = min(usage.output, self._reply_tokens * body.get("n", 1))
        if self._uses is None:
            self._tokens += cost
        await asyncio.sleep(self._random.uniform(*self._latency))
        if self._uses is not None:
            written = max(1, round(self._uses * cost) - usage.prompt)
            self._tokens += usage.prompt + written
            self._quota.give_back(usage.output - written)
            headers = self._quota.headers()
        completion = self._completion(body, usage.prompt, written)
        return web.json_response(completion, headers=headers)

    def _too_many(self, model: str, refusal: Refusal, headers: dict[str, str]) -> web.Response:
        amount = getattr(self._limits, refusal.kind)
        on = f"for {model} in organization org-demo on {_UNITS[refusal.kind]}: Limit {amount:.0f}"
        if refusal.retry_after is None:
            message = f"Request too large {on}, Requested {refusal.requested:.0f}."
        else:
            milliseconds = ceil(refusal.retry_after * 1000)
            headers["retry-after"] = str(ceil(refusal.retry_after))
            headers["retry-after-ms"] = str(milliseconds)
            # Report all that is missing in the bucket as used in the last minute.
            message = (
                f"Rate limit reached {on}, Used {amount - refusal.remaining:.0f}, "
                f"Requested {refusal.requested:.0f}. Please try again in {milliseconds}ms."
            )
        error = _error(message, refusal.kind, "rate_limit_exceeded")
        return web.json_response(error, status=429, headers=headers)

    def _completion(self, body: Any, prompt: int, written: int) -> dict[str, Any]:
        choices = body.get("n", 1)
        return {
            "id": f"chatcmpl-{next(self._ids)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": _REPLY, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
                for index in range(choices)
            ],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": written,
                "total_tokens": prompt + written,
            },
        }


def _error(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[str]:
    """Serve on a free port of loopback; yields the address, such as ``http://127.0.0.1:4711``."""

    async def statistics(_: web.Request) -> web.Response:
        return web.json_response(provider.statistics()._asdict())

    async def reset(_: web.Request) -> web.Response:
        provider.reset()
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.chat)
    app.router.add_get("/statistics", statistics)
    app.router.add_post("/reset", reset)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


async def _main(uses: float | None, limits: Limits) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with serving(Provider(limits, uses=uses)) as address:
        print(address, flush=True)
        await stopped.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, required=True, help="per minute")
    parser.add_argument("--tokens", type=int, required=True, help="per minute")
    parser.add_argument("--burst", type=float, required=True, help="in seconds")
    parser.add_argument("--uses", type=float, help="share of its charge that a call uses")
    arguments = vars(parser.parse_args())
    asyncio.run(_main(arguments.pop("uses"), Limits(**arguments)))
