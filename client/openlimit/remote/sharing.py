"""Who uses which connection, and how long one stays open that nobody uses any more."""

import atexit
import time
from functools import partial

import grpc

from openlimit.background import in_background
from openlimit.remote.closing import close
from openlimit.remote.connection import Connection
from openlimit.remote.forks import opening

_LINGER = 2.0  # seconds
_MOST_LINGERING = 32  # with credentials of its own, each call may leave one
_Key = tuple[str, float, grpc.ChannelCredentials | None, str]

_shared: dict[_Key, Connection] = {}


def shared(
    address: str,
    timeout: float,
    credentials: grpc.ChannelCredentials | None,
    api_key: str,
    user: object = None,
) -> Connection:
    """The connection that all share whose parameters are the same; open, until ``release``."""
    # By the timeout too: the server is told how long the callers of a stream wait.
    key = address, timeout, credentials, api_key
    with opening:
        connection = _shared.get(key)
        if connection is None or connection.is_closed:
            connection = _shared[key] = Connection(*key)
        if user is not None:
            connection.users.add(user)
    return connection


def release(connection: Connection, user: object = None) -> None:
    """Close a while after the last user has left. Safe to call from the garbage collector."""
    connection.users.discard(user)
    connection.idle_since = time.monotonic()
    if not connection.users and not connection.is_lingering:
        connection.is_lingering = True
        in_background(partial(_linger, connection))


def _linger(connection: Connection) -> None:
    while True:
        within = _LINGER if len(_shared) <= _MOST_LINGERING else 0.0
        time.sleep(max(0.0, connection.idle_since + within - time.monotonic()))
        if connection.reports.owing:  # until the server is back
            connection.send_again()
            connection.idle_since = time.monotonic()
        with opening:
            connection.is_lingering = False  # first: who leaves from now on starts another
            if connection.users or connection.is_closed:
                return
            if time.monotonic() >= connection.idle_since + within:
                for key in [key for key, each in _shared.items() if each is connection]:
                    del _shared[key]
                break
            connection.is_lingering = True
    close(connection, connection.timeout)


@atexit.register
def _close_all() -> None:
    """The last reservations that were given back must reach their store or server."""
    began = time.monotonic()
    for connection in list(_shared.values()):
        close(connection, began + connection.timeout - time.monotonic())
