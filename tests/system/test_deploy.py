"""The compose file: what can be checked of it without Docker."""

from pathlib import Path

from ruamel.yaml import YAML

from openlimit_server.config.configuration import ConfigurationFiles
from openlimit_server.config.settings import Settings
from tests.support.redis_process import REDIS, RedisProcess

ROOT = Path(__file__).parents[2]
COMPOSE = YAML(typ="safe").load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))


def test_both_servers_start_after_redis_is_healthy() -> None:
    """Each depends on the health check that Redis has, and is built from this Dockerfile."""
    services = COMPOSE["services"]
    servers = [service for service in services.values() if "build" in service]
    assert len(servers) == 2
    for server in servers:
        assert server["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert (ROOT / "deploy" / server["build"] / "Dockerfile").exists()
    assert services["redis"]["healthcheck"]["test"]
    assert {port for server in servers for port in server["ports"]} == {
        "50051:50051",
        "50052:50051",
    }


def test_the_servers_accept_their_environment() -> None:
    """The variables are options, and in the mounted folder, where changes are noticed whatever an
    editor does, is a valid configuration."""
    environment = COMPOSE["services"]["openlimit-1"]["environment"]
    options = {name.removeprefix("OPENLIMIT_").lower(): text for name, text in environment.items()}
    assert Settings(**options).store == "redis://redis:6379"
    assert options.keys() <= Settings.model_fields.keys()
    [mount] = COMPOSE["services"]["openlimit-1"]["volumes"]
    here, there, _ = mount.split(":")
    config = Path(environment["OPENLIMIT_CONFIG"]).relative_to(there)
    assert (ROOT / "deploy" / here).is_dir()
    assert ConfigurationFiles(ROOT / "deploy" / here / config).load().policies


def test_redis_takes_its_command() -> None:
    """A real server starts with the options, and keeps an append-only file."""
    program, *options = COMPOSE["services"]["redis"]["command"]
    assert program == "redis-server"
    server = RedisProcess(*options, binary=REDIS)
    try:
        assert server.client().config_get("append*")["appendfsync"] == "always"
    finally:
        server.stop()
