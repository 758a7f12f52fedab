"""Which Redis a URL means, on every topology.

    redis://[user:password@]host[:port][/database]
    unix://[user:password@]/path/of/socket
    redis+sentinel://[user:password@]host[:port],host[:port].../service[/database]
    redis+cluster://[user:password@]host[:port],host[:port]...

With TLS: ``rediss://``, ``rediss+sentinel://``, ``rediss+cluster://``. Options follow a ``?``:

    prefix       begins the name of each key; openlimit
    timeout      seconds a decision may take; 0.25
    db           the database; 0
    ssl_ca_certs, ssl_certfile, ssl_keyfile    files: authorities, the client's own certificate
    ssl_check_hostname     whether the certificate must name the host; true
    sentinel_username, sentinel_password       what the sentinels want; nothing
"""

import re
from collections.abc import Callable, Mapping
from os.path import isfile
from typing import Any
from urllib.parse import parse_qsl, unquote

from openlimit.errors import InvalidRequest
from openlimit.stores.redis.address import RedisAddress

SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)
_REST = re.compile(
    r"(?:(?P<login>[^/?#]*)@)?(?P<hosts>[^/?#@]*)(?P<path>/[^?#@]*)?(?:\?(?P<query>[^#@]*))?"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\],\s]+)(?::(?P<port>\d{1,5}))?", re.ASCII)


def parse_redis_url(url: str) -> RedisAddress:
    """The address that a URL means; raises InvalidRequest that says what is wrong with it.

    The error repeats nothing of the URL that a password could be in.
    """
    scheme, parts = _split(url)
    kind, _, topology = scheme.partition("+")
    hosts = _hosts(parts["hosts"], 26379 if topology == "sentinel" else 6379)
    if kind != "unix" and len(hosts) != 1 and not (hosts and topology):
        raise _invalid(f"must name one host; or several, with {kind}+sentinel or {kind}+cluster")
    given = _options(parts["query"], scheme)
    tls = {name: given[name] for name in given if name.startswith("ssl_")}
    common = {"ssl": True, **tls} if kind == "rediss" else {}
    service, path = _service(topology, unquote(parts["path"]))
    if kind == "unix":
        if hosts or not path.strip("/"):
            raise _invalid("must have the path of a socket after unix://, beginning with a /")
        database = {"unix_socket_path": path, "db": given.get("db", 0)}
    else:
        database = _database(topology, given.get("db", path.strip("/")))
    username, _, password = parts["login"].partition(":")
    return RedisAddress(
        name=f"{scheme}://{parts['hosts']}{parts['path']}",
        topology=topology or "single",
        hosts=hosts,
        service=service,
        prefix=given.get("prefix", "openlimit"),
        timeout=given.get("timeout", 0.25),
        options={
            **common,
            **database,
            "username": unquote(username) or None,
            "password": unquote(password) or None,
        },
        sentinel_options={
            **common,
            "username": given.get("sentinel_username"),
            "password": given.get("sentinel_password"),
        },
    )


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest("redis_url", reason)


def _where(is_good: Callable[[str], object], read: Callable[[str], Any]) -> Callable[[str], Any]:
    def option(text: str) -> Any:
        if not is_good(text):
            raise ValueError
        return read(text)

    return option


_prefix = _where(re.compile(r"[\w.:/-]{1,200}").fullmatch, str)
_seconds = _where(lambda text: 0 < float(text) <= 60, float)
_FLAGS = {"true": True, "false": False}
_file = _where(isfile, str)
_number = _where(re.compile(r"\d{1,5}", re.ASCII).fullmatch, int)
# How each is read, what is expected of it, and what the scheme has to contain.
_OPTIONS: Mapping[str, tuple[Callable[[str], Any], str, str]] = {
    "prefix": (_prefix, "letters, digits and . : / _ -", ""),
    "timeout": (_seconds, "seconds above 0 and up to 60", ""),
    "db": (_number, "a number", ""),
    "ssl_ca_certs": (_file, "a file", "rediss"),
    "ssl_certfile": (_file, "a file", "rediss"),
    "ssl_keyfile": (_file, "a file", "rediss"),
    "ssl_check_hostname": (lambda text: _FLAGS[text.lower()], "true or false", "rediss"),
    "sentinel_username": (str, "a name", "sentinel"),
    "sentinel_password": (str, "a password", "sentinel"),
}


def _split(url: str) -> tuple[str, dict[str, str]]:
    """The scheme; and by name the login, hosts, path and query, empty where there are none."""
    scheme, _, rest = str(url).partition("://")
    if scheme not in SCHEMES:
        raise _invalid(f"must begin with one of {', '.join(SCHEMES)} and ://")
    match = _REST.fullmatch(rest)
    if match is None:
        raise _invalid("must have / ? # @ in a user, password or option as %2F %3F %23 %40")
    return scheme, match.groupdict("")


def _options(query: str, scheme: str) -> dict[str, Any]:
    given = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise _invalid(f"has an option {name!r}; there are only {', '.join(_OPTIONS)}")
        read, expected, needed = _OPTIONS[name]
        if needed not in scheme:
            raise _invalid(f"takes {name} with {needed} only")
        try:
            given[name] = read(text)
        except (ValueError, KeyError):
            raise _invalid(f"needs {expected} for {name}, not {text!r}") from None
    if "ssl_keyfile" in given and "ssl_certfile" not in given:
        raise _invalid("needs ssl_certfile beside ssl_keyfile")
    return given


def _hosts(places: str, usual_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for place in places.split(",") if places else []:
        match = _HOST.fullmatch(place)
        port = int(match["port"] or usual_port) if match else 0
        if not match or not 0 < port < 65536:
            raise _invalid("must have each host as name, name:port or [IPv6]:port, between commas")
        hosts.append((match["host"].strip("[]"), port))
    return tuple(hosts)


def _service(topology: str, path: str) -> tuple[str, str]:
    """What the sentinels watch, and the rest of the path."""
    if topology != "sentinel":
        return "", path
    service, _, rest = path[1:].partition("/")
    if not service:
        raise _invalid("must name the service after the hosts, such as /mymaster")
    return service, rest


def _database(topology: str, text: int | str) -> dict[str, int]:
    try:
        database = _number(str(text) or "0")
    except ValueError:
        raise _invalid(f"must name the database by its number, not {text!r}") from None
    if topology != "cluster":
        return {"db": database}
    if database:
        raise _invalid("cannot name a database of a cluster: it has only 0")
    return {}
