"""URLs of Redis: what each part means, what is refused, and that no password is told."""

from pathlib import Path
from typing import Any

import pytest

from openlimit.errors import InvalidRequest, LimiterUnavailable
from openlimit.stores.protocol import Repeat, Secret
from openlimit.stores.redis.store import RedisStore
from openlimit.stores.redis.url import parse_redis_url
from tests.contracts.once import once, settle_all
from tests.contracts.store import Granted, acquire, ask, ask_one, cancel
from tests.support.redis_process import REDIS, VALKEY, serving_redis
from tests.support.tls_relay import make_certificates, tls_in_front_of


@pytest.mark.parametrize(
    ("url", "topology", "hosts", "service", "database"),
    [
        ("redis://a", "single", [("a", 6379)], "", 0),
        ("redis://a/", "single", [("a", 6379)], "", 0),
        ("rediss://a.example.org:7000/3", "single", [("a.example.org", 7000)], "", 3),
        ("redis://127.0.0.1/0?db=4", "single", [("127.0.0.1", 6379)], "", 4),
        ("redis://[::1]", "single", [("::1", 6379)], "", 0),
        ("redis://user:pw@[2001:db8::7]:7000", "single", [("2001:db8::7", 7000)], "", 0),
        ("unix:///run/redis.sock", "single", [], "", 0),
        ("unix://u:p@/run/redis.sock?db=2", "single", [], "", 2),
        ("redis+sentinel://a/main", "sentinel", [("a", 26379)], "main", 0),
        ("redis+sentinel://a,b:7,[::1]:8/m/5", "sentinel", [("a", 26379), ("b", 7), ("::1", 8)],
         "m", 5),
        ("rediss+sentinel://a/main/?db=1", "sentinel", [("a", 26379)], "main", 1),
        ("redis+cluster://a", "cluster", [("a", 6379)], "", None),
        ("rediss+cluster://[::1],a:7,b/0", "cluster", [("::1", 6379), ("a", 7), ("b", 6379)],
         "", None),
    ],
)  # fmt: skip
def test_where_a_url_leads(
    url: str, topology: str, hosts: list[tuple[str, int]], service: str, database: int | None
) -> None:
    """Topology, hosts with the port that is usual there, service and database."""
    address = parse_redis_url(url)
    assert (address.topology, list(address.hosts)) == (topology, hosts)
    assert (address.service, address.options.get("db")) == (service, database)
    assert address.options.get("ssl", False) == url.startswith("rediss")
    assert address.sentinel_options.get("ssl", False) == url.startswith("rediss")


def test_who_asks_and_with_what() -> None:
    """User, password and every option, percent-encoded where need be, reach redis-py."""
    address = parse_redis_url(
        "redis+sentinel://us%40er:p%2F%3A%3F%23%40ss:word@a/main"
        "?prefix=team/limits&timeout=1.5&sentinel_username=w&sentinel_password=%40%26"
    )
    assert (address.prefix, address.timeout) == ("team/limits", 1.5)
    assert address.options.items() >= {"username": "us@er", "password": "p/:?#@ss:word"}.items()
    assert address.sentinel_options.items() >= {"username": "w", "password": "@&"}.items()
    plain = parse_redis_url("redis://:only@a")
    assert (plain.prefix, plain.timeout) == ("openlimit", 0.25)
    assert plain.options.items() >= {"username": None, "password": "only"}.items()


def test_a_socket_has_its_path_and_its_password() -> None:
    """What follows the hosts, were there any, is the file's path."""
    address = parse_redis_url("unix://:p%40ss@/run/my%20redis.sock?db=1")
    expected = {"unix_socket_path": "/run/my redis.sock", "password": "p@ss", "db": 1}
    assert address.options.items() >= expected.items()
    assert str(address) == "unix:///run/my%20redis.sock"


@pytest.mark.parametrize("topology", ["", "+sentinel", "+cluster"])
def test_tls(tmp_path: Path, topology: str) -> None:
    """Authorities and the client's certificate are for the server and for the sentinels alike."""
    files = {name: str(tmp_path / name) for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")}
    for file in files.values():
        Path(file).touch()
    options = "&".join(f"{name}={file}" for name, file in files.items())
    address = parse_redis_url(f"rediss{topology}://a/0?{options}&ssl_check_hostname=False")
    expected = {"ssl": True, "ssl_check_hostname": False, **files}
    assert address.options.items() >= expected.items()
    assert address.sentinel_options.items() >= expected.items()


SPECIAL = "must have / ? # @ in a user, password or option as %2F %3F %23 %40"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must begin with one of redis, rediss, unix, redis+sentinel, "),
        ("localhost:6379", "must begin with one of redis"),
        ("postgres://a", "must begin with one of redis"),
        ("unixs:///run/redis.sock", "must begin with one of redis"),
        ("user:secret@a", "must begin with one of redis"),
        (None, "must begin with one of redis"),
        (b"redis://a", "must begin with one of redis"),
        ("redis://", "must name one host"),
        ("redis://user:secret@", "must name one host"),
        ("redis://a,b", "must name one host; or several, with redis+sentinel or redis+cluster"),
        ("redis+cluster://", "must name one host"),
        ("redis+cluster://a,,b", "must have each host as name, name:port or [IPv6]:port"),
        ("redis://a:port", "must have each host as name, name:port or [IPv6]:port"),
        ("redis://a:0", "must have each host as"),
        ("redis://a:65536", "must have each host as"),
        ("redis://a:\u0661", "must have each host as"),
        ("redis://::1", "must have each host as"),
        ("redis://[::1", "must have each host as"),
        ("redis://a b", "must have each host as"),
        ("redis://user:secret", "must have each host as"),
        ("redis://:sec/ret@a", SPECIAL),
        ("redis://user:12/secret@a", SPECIAL),
        ("redis://:sec?ret@a", SPECIAL),
        ("redis://:sec#ret@a", SPECIAL),
        ("redis://a?sentinel_password=secret#", SPECIAL),
        ("redis://a/x", "must name the database by its number, not 'x'"),
        ("redis://a/1/2", "must name the database by its number, not '1/2'"),
        ("redis://a/-1", "must name the database by its number, not '-1'"),
        ("redis+sentinel://a", "must name the service after the hosts, such as /mymaster"),
        ("redis+sentinel://a//1", "must name the service after the hosts, such as /mymaster"),
        ("redis+sentinel://a/m/x", "must name the database by its number, not 'x'"),
        ("redis+cluster://a/1", "cannot name a database of a cluster: it has only 0"),
        ("redis+cluster://a?db=1", "cannot name a database of a cluster: it has only 0"),
        ("unix://", "must have the path of a socket after unix://, beginning with a /"),
        ("unix:///", "must have the path of a socket after unix://, beginning with a /"),
        ("unix://run/redis.sock", "must have the path of a socket after unix://"),
        ("redis://a?time=1", "has an option 'time'; there are only prefix, timeout, db, "),
        ("redis://a?timeout=", "needs seconds above 0 and up to 60 for timeout, not ''"),
        ("redis://a?timeout=0", "needs seconds above 0 and up to 60 for timeout, not '0'"),
        ("redis://a?timeout=61", "needs seconds above 0 and up to 60 for timeout, not '61'"),
        ("redis://a?timeout=nan", "needs seconds above 0 and up to 60 for timeout, not 'nan'"),
        ("redis://a?db=one", "needs a number for db, not 'one'"),
        ("redis://a?prefix=", "needs letters, digits and . : / _ - for prefix, not ''"),
        ("redis://a?prefix={x}", "needs letters, digits and . : / _ - for prefix, not '{x}'"),
        ("redis://a?ssl_check_hostname=true", "takes ssl_check_hostname with rediss only"),
        ("redis://a?sentinel_password=secret", "takes sentinel_password with sentinel only"),
        ("rediss://a?ssl_check_hostname=1", "needs true or false for ssl_check_hostname, not '1'"),
        ("rediss://a?ssl_ca_certs=/no/such", "needs a file for ssl_ca_certs, not '/no/such'"),
        (f"rediss://a?ssl_keyfile={__file__}", "needs ssl_certfile beside ssl_keyfile"),
    ],
)
def test_a_mistake_is_named(url: Any, reason: str) -> None:
    """The error says which part is wrong and what was expected, but nothing that is secret."""
    with pytest.raises(InvalidRequest) as caught:
        parse_redis_url(url)
    assert str(caught.value).startswith(f"redis_url: {reason}")
    for secret in ("secret", "sec", "ret@"):
        assert secret not in str(caught.value).removeprefix(f"redis_url: {reason}")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hush@a:7/1",
        "redis://:hu%73h@a?prefix=x",
        "unix://user:hush@/run/redis.sock",
        "redis+sentinel://user:hush@a,b/main?sentinel_password=hush",
        "rediss+cluster://user:hush@a,b",
    ],
)
def test_no_text_has_the_password(url: str) -> None:
    """What is logged of an address or a store tells where it is, never how to get in."""
    address = parse_redis_url(url)
    for text in (str(address), repr(address), f"{address}", repr(RedisStore(address))):
        assert "hush" not in text
        assert "hu%73h" not in text
        assert address.name in text


@pytest.mark.parametrize("binary", [REDIS, VALKEY], ids=["redis", "valkey"])
def test_a_user_that_may_do_nothing_else(binary: str) -> None:
    """What docs/redis.md lists is enough, on the prefix's keys."""
    allowed = (
        "+eval +evalsha +script|load +get +set +getrange +setrange +setbit +hmget +hget +hset "
    )
    allowed += "+hdel +pttl +pexpire +time"
    page = (Path(__file__).parents[3] / "docs" / "redis.md").read_text(encoding="utf-8")
    assert f"`~openlimit:* {allowed}`" in " ".join(page.split())
    config = f"user limiter on >p@ss ~openlimit:* {allowed}\nuser default off"
    with serving_redis(binary=binary, config=config) as server:
        store = RedisStore(parse_redis_url(f"redis://limiter:p%40ss@127.0.0.1:{server.port}"))
        first, second = ask(store, [acquire(costs=(1, 100), lot=lot) for lot in "ab"])
        assert isinstance(first, Granted)
        assert isinstance(second, Granted)
        assert second.wait > 0
        assert ask_one(store, cancel("b", "b"))
        assert ask_one(store, Secret("secret")) == "secret"
        again = once("r", lot="lot")
        reserved, repeated = ask(store, [again, again])
        assert isinstance(reserved, Granted)
        assert isinstance(repeated, Repeat)
        assert ask_one(store, cancel("b", "lot", reserved.start)) is True
        assert isinstance(ask_one(store, again), InvalidRequest)
        assert ask(store, [settle_all("lot", [1, 0, 1], first.start)]) == [True, False, False]
        store.close()


@pytest.mark.parametrize(
    ("login", "reason"),
    [("limiter:hush@", "invalid username-password"), ("", "Authentication required")],
)
def test_a_wrong_password_is_an_outage_that_says_so(login: str, reason: str) -> None:
    """The message repeats what Redis objects to, without the password that was tried."""
    with serving_redis(config="user limiter on >p@ss ~* +@all\nuser default off") as server:
        store = RedisStore(parse_redis_url(f"redis://{login}127.0.0.1:{server.port}"))
        outcome = ask_one(store, acquire())
        store.close()
    assert isinstance(outcome, LimiterUnavailable)
    assert reason in str(outcome)
    assert "hush" not in str(outcome)


def test_tls_with_certificates_for_both_sides(tmp_path: Path) -> None:
    """Without the authority, the client's certificate or the right host there is no decision."""
    files = make_certificates(tmp_path)
    authority, client = f"ssl_ca_certs={files.authority}", f"ssl_certfile={files.client}"
    with serving_redis() as server, tls_in_front_of(server.port, files) as port:
        for host, options, is_trusted in (
            ("localhost", [authority, client], True),
            ("127.0.0.1", [authority, client, "ssl_check_hostname=false"], True),
            ("127.0.0.1", [authority, client], False),
            ("localhost", [authority], False),
            ("localhost", [client], False),
        ):
            url = f"rediss://{host}:{port}?timeout=5&{'&'.join(options)}"
            store = RedisStore(parse_redis_url(url))
            outcome = ask_one(store, acquire())
            store.close()
            assert isinstance(outcome, Granted if is_trusted else LimiterUnavailable)
