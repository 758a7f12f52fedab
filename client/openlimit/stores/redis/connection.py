"""What is said on a connection to one Redis server."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from openlimit.stores.redis.address import GUIDE_TIMEOUT, RedisAddress, SentinelsFailed, shuffled
from openlimit.stores.redis.lua import BUCKET
from openlimit.stores.redis.script import Call

_log = logging.getLogger(__name__)


async def load(connection: AbstractConnection) -> str:
    """Connect, and give the server the script; raises whatever is in the way.

    Returns the policy by which the server evicts keys once its memory is full; empty if it evicts
    none, or does not say.
    """
    # First something short: a server that wants a password cuts a long command off.
    await connection.connect()  # type: ignore[no-untyped-call] # redis-py does not type it
    [memory] = await _send(connection, [("INFO", "memory")])
    await _ask(connection, "SCRIPT", "LOAD", BUCKET.text)
    if isinstance(memory, ResponseError):  # it is forbidden, or has another name
        return ""
    said = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
    policy = said.get("maxmemory_policy", "")
    return policy if said.get("maxmemory", "0") != "0" and policy != "noeviction" else ""


async def hang_up(connection: AbstractConnection) -> None:
    """Close the connection, whatever state it is in; also if this is cancelled meanwhile."""
    try:
        await connection.disconnect()
    except Exception:  # nobody waits for this, and there is nothing left to do about it
        _log.debug("a connection could not be closed", exc_info=True)


def has_ended(connection: AbstractConnection) -> bool:
    """Whether the server has hung up on an idle connection, or said what nobody asked for."""
    reader, writer = connection._reader, connection._writer  # redis-py does not notice a reset
    if not (reader and writer) or reader.exception() or writer.is_closing():
        return True
    return reader.at_eof() or bool(reader._buffer)  # type: ignore[attr-defined] # not typed


async def evaluate(
    connection: AbstractConnection, calls: Sequence[Call], asking: bool
) -> list[Any]:
    """The reply to each call, or the error; raises for what hits all."""
    replies = await _evaluate(connection, calls, asking)
    unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:  # SCRIPT FLUSH, a failover, a restart; or slots are asked for the first time
        for script in {calls[i].script for i in unknown}:
            await _ask(connection, "SCRIPT", "LOAD", script.text)
        again = await _evaluate(connection, [calls[i] for i in unknown], asking)
        for i, reply in zip(unknown, again, strict=True):
            replies[i] = reply
    return replies


async def ask_guide(connection: AbstractConnection, *command: str) -> Any:
    """What a Sentinel, or a node of a cluster, answers; raises what it objects to."""
    try:
        async with asyncio.timeout(GUIDE_TIMEOUT):
            await connection.connect()  # type: ignore[no-untyped-call] # redis-py does not type it
            return await _ask(connection, *command)
    finally:
        await hang_up(connection)


async def master_of(address: RedisAddress) -> tuple[str, int]:
    """Where the first Sentinel that knows it says that the master is."""
    failure: Exception | None = None
    has_answered = False
    for sentinel in shuffled(address.hosts):
        try:
            masters = await ask_guide(address.sentinel(*sentinel), "SENTINEL", "MASTERS")
        except (RedisError, OSError) as error:
            failure = error
            continue
        has_answered = True
        for fields in masters:
            state = dict(zip(fields[::2], fields[1::2], strict=True))
            flags = set(state[b"flags"].split(b","))
            is_up = b"master" in flags and not flags & {b"s_down", b"o_down"}
            if is_up and state[b"name"] == address.service.encode():
                return state[b"ip"].decode(), int(state[b"port"])
    message = f"No master found for {address.service!r}"
    raise SentinelsFailed(message) from (None if has_answered else failure)


async def _evaluate(
    connection: AbstractConnection, calls: Sequence[Call], asking: bool
) -> list[Any]:
    commands = [("EVALSHA", call.script.sha, *call.encode()) for call in calls]
    if not asking:
        return await _send(connection, commands)
    pairs = [each for command in commands for each in (("ASKING",), command)]
    replies = await _send(connection, pairs)
    # Without leave to come in, the other reply would only send back to where it came from.
    return [
        leave if isinstance(leave, Exception) else reply
        for leave, reply in zip(replies[::2], replies[1::2], strict=True)
    ]


async def _ask(connection: AbstractConnection, *command: str) -> Any:
    [reply] = await _send(connection, [command])
    if isinstance(reply, Exception):
        raise reply
    return reply


async def _send(connection: AbstractConnection, commands: Sequence[Sequence[Any]]) -> list[Any]:
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies = list[Any]()
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies
