"""What is wrong with a Redis, as its operator reads it."""

import os
import re
from collections.abc import Sequence

from redis.exceptions import RedisError

from openlimit.stores.redis.address import RedisAddress, SentinelsFailed

_MOST_SAID = 160  # characters of the server's own words
# What Redis up to version 6, and from version 7 on, puts around the error of a command in a script.
_OF_SCRIPT = re.compile(r"^.*@user_script: ?\d+: -?|,? script: (\w+, )?on @user_script:\d+\.$")
# A command that is not known is repeated with what may be a password.
_ARGUMENTS = re.compile(r",? with args beginning with.*")
_NOT_CONNECTED = re.compile(r"Error (?P<cause>.*?) connecting to (?P<place>\S+)\.(?P<more>.*)")

# What redis-py or the server says, and what that means. The first that is found counts.
_MEANINGS: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(said), meaning)
    for said, meaning in (
        # The wrong kind of server.
        ("^(MOVED|ASK) ", "the server is a node of a Redis Cluster: use {cluster}"),
        (
            "cluster support disabled|(?i:unknown command .?CLUSTER)",
            "the server is no Redis Cluster: use {single}, or {sentinel} if it is a Sentinel",
        ),
        (
            "(?i)unknown command .?SENTINEL",
            "the server is no Sentinel: name the hosts and ports of Sentinels, or use {single}",
        ),
        (
            "(?i)unknown command .?SCRIPT",
            "the server runs no scripts. If it is a Sentinel, use {sentinel}",
        ),
        (
            "No master found",
            "no Sentinel knows a master named {service!r} that is up: check the name after the "
            "hosts, and SENTINEL MASTERS",
        ),
        (
            "READONLY|MASTERDOWN|previous master is now",
            "the server is a replica, which cannot decide: use the address of its master, or "
            "{sentinel}, which finds it",
        ),
        # TLS.
        (
            "^Protocol error",
            "what answers does not speak as a Redis does. If it is a port for TLS, use {tls}",
        ),
        (
            "WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|record layer failure",
            "the server does not speak TLS at this port: use {plain}",
        ),
        (
            "CERTIFICATE_VERIFY_FAILED",
            "the server's certificate is not trusted: name its authority with ssl_ca_certs=, and "
            "the host as the certificate does",
        ),
        (
            "CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE|BAD_CERTIFICATE|UNKNOWN_CA",
            "the server wants a certificate of its clients: name one that it trusts with "
            "ssl_certfile= and ssl_keyfile=",
        ),
        # Who may do what.
        ("^NOAUTH", "{password}"),
        ("^WRONGPASS|invalid password", "the server refuses this user and password"),
        (
            "called without any password configured",
            "the server has no password for its default user: leave the password out, or name "
            "another user before it",
        ),
        (
            "NOPERM|no permissions|user executing the script can't",
            "the server's access list forbids this user a command or key that is needed: "
            "docs/redis.md lists them",
        ),
        (
            "^DENIED",
            "the server is in protected mode and takes no connection from another machine: set a "
            "password there, and protected-mode no",
        ),
        # The server's own trouble.
        ("^LOADING", "the server has started and still loads its data"),
        ("^BUSY", "another program's script keeps the server busy: see SCRIPT KILL"),
        ("OOM command not allowed", "the server's memory is full: raise its maxmemory"),
        ("MISCONF", "the server cannot save to its disk, so it takes no writes: see its log"),
        ("NOREPLICAS", "the server takes no writes while it has too few replicas"),
        ("max number of clients", "the server takes no more connections: raise its maxclients"),
        ("(?i)DB index", "the server has no database of this number"),
        ("^CLUSTERDOWN", "{down}"),
        ("TRYAGAIN", "the bucket is on its way to another node of the cluster"),
        ("CROSSSLOT", "the server found keys of one bucket in two slots: report this to openlimit"),
        ("WRONGTYPE", "the key belongs to another program: choose another prefix="),
        # The way there.
        (
            "Connection (closed|lost|reset)|^Error (UNKNOWN|32|104) |Connection reset by peer",
            "the server or something on the way there hung up before it answered; {hint}",
        ),
        ("^Timeout connecting", "no connection came about in time"),
        ("^Timeout|^$", "no answer came in time"),
    )
]


def is_expected(error: BaseException) -> bool:
    """Whether it is of the network or of Redis, and no fault of this library's."""
    return isinstance(error, RedisError | OSError)


def reason(error: BaseException, address: RedisAddress) -> str:
    """What to do about an error, and the words in which it came; without passwords."""
    if isinstance(error, SentinelsFailed) and error.__cause__:
        return f"no Sentinel says who the master is: {reason(error.__cause__, address)}"
    said = _said(error)
    for words, meaning in _MEANINGS:
        if words.search(said):
            sentence = meaning.format(**_advice(address))
            return f"{sentence} ({said})" if said else sentence
    return _not_connected(said) or said


def slow_connection(address: RedisAddress) -> str:
    """Why there is no connection yet, as far as anybody can tell."""
    # A server that speaks no TLS takes what opens it for half a command, and waits for the rest.
    hint = f"; {_advice(address)['hint']}" if address.name.startswith("rediss") else ""
    return f"no connection within {address.timeout:g} s{hint}"


def _not_connected(said: str) -> str | None:
    if (error := _NOT_CONNECTED.fullmatch(said)) is None:
        return None
    cause, more = error["cause"], error["more"].strip()
    if cause.isdecimal() and "Connect call failed" in more:
        more = os.strerror(int(cause))
    return f"cannot connect to {error['place']}: {more or cause}"


def _said(error: BaseException) -> str:
    text = _ARGUMENTS.sub("", _OF_SCRIPT.sub("", " ".join(str(error).split())))
    # redis-py takes the first word off errors that it knows.
    code = error.status_code if isinstance(error, RedisError) else None
    said = (f"{code} {text}" if code and code != "ERR" else text).rstrip(".")
    if not said and not isinstance(error, TimeoutError):
        return type(error).__name__
    return said if len(said) <= _MOST_SAID else f"{said[:_MOST_SAID]}…"


def _advice(address: RedisAddress) -> dict[str, str]:
    scheme, _, rest = address.name.partition("://")
    kind, plus, topology = scheme.partition("+")
    tcp = kind.replace("unix", "redis")
    tls, plain = (f"{each}{plus}{topology}://{rest}" for each in ("rediss", "redis"))
    hosts = [
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in address.hosts
    ]
    cluster = f"{tcp}+cluster://{','.join(hosts) or 'host:port'}"
    password = (
        f"the server asks for a password: write it as {scheme}://user:password@…, or as "
        f"{scheme}://:password@… where only a password is set"
    )
    if topology == "sentinel":
        password += ", and that of Sentinels as sentinel_password="
    down = f"the server is a node of a Redis Cluster, which is down: use {cluster}"
    if topology == "cluster":
        down = "the cluster has lost nodes that hold buckets: see CLUSTER INFO"
    hints = {
        "unix": "see its log",
        "redis": f"if its port is for TLS, use {tls}",
        "rediss": f"if it speaks no TLS at this port, use {plain}; if it wants its clients' "
        "certificates, name one with ssl_certfile=",
    }
    return {
        "cluster": cluster,
        "single": f"{kind}://{(hosts or [''])[0]}",
        "sentinel": f"{tcp}+sentinel://host:port/name-of-the-master",
        "tls": tls,
        "plain": plain,
        "service": address.service,
        "password": password,
        "down": down,
        "hint": hints[kind],
    }
