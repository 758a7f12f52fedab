"""What is said on the connection to one Redis server."""

import logging
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ResponseError

from openlimit.stores.redis.lua import BUCKET
from openlimit.stores.redis.script import Call

_log = logging.getLogger(__name__)


async def load(client: Redis) -> str:
    """Connect, and give the server the script; raises whatever is in the way.

    Returns the policy by which the server evicts keys once its memory is full; empty if it evicts
    none, or does not say.
    """
    # First something short: a server that wants a password cuts a long command off.
    policy = await _evicting(client)
    await client.script_load(BUCKET.text)
    return policy


async def _evicting(client: Redis) -> str:
    try:
        memory = await client.info("memory")
    except ResponseError:  # it is forbidden, or has another name
        return ""
    policy = str(memory.get("maxmemory_policy", ""))
    return policy if memory.get("maxmemory") and policy != "noeviction" else ""


async def hang_up(client: Redis) -> None:
    """Close the connection, whatever state it is in; also if this is cancelled meanwhile."""
    # One at most. By itself, as the pool closes it in another task, which may be cancelled before
    # it has begun.
    pool = client.connection_pool
    try:
        for connection in (*pool._available_connections, *pool._in_use_connections):
            await connection.disconnect()
        await client.aclose()
    except Exception:  # nobody waits for this, and there is nothing left to do about it
        _log.debug("a connection could not be closed", exc_info=True)


def has_ended(client: Redis) -> bool:
    """Whether the server has hung up on a client that is idle, as far as this process has heard."""
    # Of redis-py's own, since its pool does not notice a connection that was reset.
    idle: list[AbstractConnection] = client.connection_pool._available_connections
    ways = [(connection._reader, connection._writer) for connection in idle]
    return any(
        not (reader and writer) or reader.at_eof() or reader.exception() or writer.is_closing()
        for reader, writer in ways
    )


async def evaluate(client: Redis, calls: Sequence[Call], asking: bool) -> list[Any]:
    """The reply to each call, or the error; raises for what hits all."""
    replies = await _send(client, calls, asking)
    unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:  # SCRIPT FLUSH, a failover, a restart; or slots are asked for the first time
        for script in {calls[i].script for i in unknown}:
            await client.script_load(script.text)
        again = await _send(client, [calls[i] for i in unknown], asking)
        for i, reply in zip(unknown, again, strict=True):
            replies[i] = reply
    return replies


async def _send(client: Redis, calls: Sequence[Call], asking: bool) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for call in calls:
        if asking:
            pipeline.execute_command("ASKING")
        pipeline.execute_command("EVALSHA", call.script.sha, *call.encode())
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    if not asking:
        return replies
    # Without leave to come in, the other reply would only send back to where it came from.
    return [
        leave if isinstance(leave, Exception) else reply
        for leave, reply in zip(replies[::2], replies[1::2], strict=True)
    ]
