"""Settings of the process: every source, every way to get them wrong."""

from pathlib import Path

import pytest

from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.settings import Settings


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option comes from its argument, else its variable, else its default."""
    monkeypatch.setenv("OPENLIMIT_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("OPENLIMIT_GRACE", "7")
    settings = Settings.load(["--listen", "127.0.0.1:2"])
    assert (settings.listen, settings.grace, settings.store) == ("127.0.0.1:2", 7, "memory://")


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a deployment leaves empty keeps its default."""
    for name in ("CONFIG", "LISTEN", "STORE", "GRACE", "CHECK"):
        monkeypatch.setenv(f"OPENLIMIT_{name}", "")
    settings = Settings.load([])
    assert (settings.config, settings.listen, settings.check) == (None, "0.0.0.0:50051", False)


def test_null_is_the_name_of_a_file() -> None:
    """It does not mean the default policies."""
    assert Settings.load(["--config", "null"]).config == Path("null")


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:50051", "127.0.0.1:0", "localhost:65535", "[::1]:1", "[::]:50051",
        "[fe80::1%eth0]:1", "a-b.example:1", "unix:limiter.sock", "unix:/run/limiter.sock", "unix:///run/limiter.sock",
    ],
)  # fmt: skip
def test_an_address_to_listen_on(address: str) -> None:
    """A host or an IPv6 address in brackets with a port, or a socket's path."""
    assert Settings.load(["--listen", address]).listen == address


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:99999", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1", "127.0.0.1:",
        "localhost", ":50051", "50051", "::1:50051", "[::1]", "127.0.0.1:http", "http://[::1]:1",
        "a b:1", "unix:", "unix://limiter.sock", "127.0.0.1:1\n", "127.0.0.1:١",  # noqa: RUF001 - a digit
    ],
)  # fmt: skip
def test_a_typo_in_the_address_is_refused(address: str) -> None:
    """gRPC would take it for another address, or for port 443, and serve there."""
    with pytest.raises(ConfigurationError, match="listen: expected an address such as"):
        Settings.load(["--listen", address])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grace", "-1"], "--grace: expected a number of seconds from 0 to 3600, not '-1'"),
        (["--grace", "nan"], "--grace: expected a number of seconds from 0 to 3600, not 'nan'"),
        (["--grace=soon"], "--grace: expected a number of seconds from 0 to 3600, not 'soon'"),
        (
            ["--drain-delay", "-1"],
            "--drain-delay: expected a number of seconds from 0 to 3600, not",
        ),
        (
            ["--connections-per-address=-1"],
            "--connections-per-address: expected a whole number from",
        ),
        (["--store", "mysql://x"], "--store: expected memory://, or the URL of a Redis, which "),
        (["--store", "redis://x?db=one"], "--store: needs a number for db, not 'one'"),
        (["--workers", "0"], "--workers: expected a whole number from 1 to 256, not '0'"),
        (["--workers", "2"], "--workers: each worker would have buckets of its own in memory"),
        (["--listen", ""], "--listen: expected an address such as 0.0.0.0:50051, "),
        (["--config"], "--config: needs a value"),
        (["--check=maybe"], "--check: takes no value, not 'maybe'"),
        (["--wrokers", "2"], "--wrokers: there is no such option; write --workers"),
        (["--port", "5"], "--port: there is no such option; openlimit-server --help lists"),
        (["serve"], "serve: there is no such option; openlimit-server --help lists the options"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], message: str) -> None:
    """The message names the option and the value."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(arguments)
    assert str(caught.value).startswith(f"openlimit-server: {message}")


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an argument stands as well, only that is looked at, and named."""
    monkeypatch.setenv("OPENLIMIT_GRACE", "5s")
    monkeypatch.setenv("OPENLIMIT_CHECK", "maybe")
    monkeypatch.setenv("OPENLIMIT_WORKERS", "many")
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(["--workers=none"])
    assert str(caught.value).splitlines() == [
        "openlimit-server: --workers: expected a whole number from 1 to 256, not 'none'",
        "openlimit-server: OPENLIMIT_GRACE: expected a number of seconds from 0 to 3600, not '5s'",
        "openlimit-server: OPENLIMIT_CHECK: expected true or false, not 'maybe'",
    ]


@pytest.mark.parametrize(
    ("store", "right"),
    [
        ("memory", "memory://"),
        ("memory:", "memory://"),
        ("localhost:6379", "redis://localhost:6379"),
        ("Redis://user:secret@a", "redis://…"),
    ],
)
def test_the_store_that_was_meant_is_written_out(store: str, right: str) -> None:
    """And no password."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(["--store", store])
    assert str(caught.value).endswith(f"; write {right}")
    assert "secret" not in str(caught.value)
