"""The process's settings: arguments and environment, validated once into a frozen value."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
from pydantic import ValidationError as Invalid
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from openlimit.errors import InvalidRequest
from openlimit.remote.address import is_local
from openlimit_server.config import faults, notation, spelling
from openlimit_server.logs import LogFormat

MEMORY = "memory://"
_COMMAND = "openlimit-server"


def _store(url: object) -> object:
    """The URL itself if it is one of a store. Messages never repeat it: it may hold a password."""
    if url == MEMORY:
        return url
    try:
        from openlimit.stores.redis.url import SCHEMES, parse_redis_url
    except ImportError as error:
        raise ValueError('Redis needs its client: pip install "openlimitHW[redis]"') from error
    if str(url).partition("://")[0] not in SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        guess = spelling.store(str(url))
        raise ValueError(
            f"expected memory://, or the URL of a Redis, which begins with one of {schemes}"
            + (f"; write {guess}" if guess else "")
        )
    try:
        parse_redis_url(str(url))
    except InvalidRequest as error:
        raise ValueError(error.reason) from error
    return url


class Settings(BaseSettings):
    """A rate limiter for callers of LLM APIs, over gRPC. Each option can also be set in the
    environment: OPENLIMIT_CONFIG, OPENLIMIT_LISTEN and so on."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="OPENLIMIT_",
        cli_prog_name=_COMMAND,
        cli_exit_on_error=False,
        cli_hide_none_type=True,
        cli_parse_none_str="not given",  # in --help; null would be no name of a file
        cli_implicit_flags="toggle",
        cli_kebab_case=True,
        # Their fields cannot be called so: pydantic has methods of these names.
        cli_shortcuts={
            "validate-file": "validate",
            "print-schema": "schema",
            "print-version": "version",
        },
    )

    config: Path | None = Field(
        None, description="YAML file of policies; else the library's limits hold"
    )
    domains: Path | None = Field(
        None, description="YAML file of a domain for Envoy, or a folder of such files"
    )
    listen: notation.Address = Field("0.0.0.0:50051", description="address to serve on")
    store: Annotated[str, BeforeValidator(_store)] = Field(
        MEMORY,
        description="where the buckets live: memory://, redis://, rediss://, unix://, "
        "redis+sentinel:// or redis+cluster://",
    )
    snapshot: Path | None = Field(
        None,
        description="file in which buckets in memory are kept over restarts: written every ten "
        "seconds and at the end, loaded at the start",
    )
    workers: notation.Workers = Field(
        1, description="processes that serve the address; several need a Redis store"
    )
    connections_per_address: int = Field(
        1000,
        ge=0,
        le=1_000_000,
        description="TCP connections that a client's address may have to each process; those "
        "beyond are ended, the newest first; 0 for any number",
    )
    grace: float = Field(
        5.0, ge=0, le=3600, description="seconds that calls in flight get when the server stops"
    )
    drain_delay: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="seconds for which a server that was told to stop still serves, no longer "
        "ready, so that balancers send no more calls before it refuses them",
    )
    tls_cert: Path | None = Field(None, description="PEM file of the server's certificate chain")
    tls_key: Path | None = Field(
        None, validate_default=True, description="PEM file of its private key"
    )
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the authorities whose certificates clients have to show"
    )
    keys: Path | None = Field(
        None, description="YAML file of API keys; only their callers are served"
    )
    http: notation.HttpAddress = Field(
        "",
        description="address on which to serve a page, /metrics, /healthz and /readyz over HTTP, "
        "such as 0.0.0.0:9090; unless it is given, nothing is counted",
    )
    audit_log: Path | None = Field(
        None, description="file to which a line is appended for whatever operators change"
    )
    log_format: LogFormat = Field(
        "console", description="how to log: lines to read, or one JSON object a line"
    )
    validate_file: Path | None = Field(
        None,
        description="check this file of policies as the server would load it, and the --domains, "
        "--keys and certificates that are given, then exit",
    )
    print_schema: bool = Field(
        False, description="print the JSON schema of the file of policies, then exit"
    )
    new_key: bool = Field(
        False, description="print a new API key and its hash for the file of keys, then exit"
    )
    print_version: bool = Field(False, description="print the version, then exit")
    check: bool = Field(
        False, description="ask the server at the listen address for its health, then exit"
    )

    @field_validator("workers")
    @classmethod
    def _memory_is_of_one_process(cls, workers: int, info: ValidationInfo) -> int:
        if workers > 1 and info.data.get("store") == MEMORY:
            raise ValueError(
                "each worker would have buckets of its own in memory and grant the limits anew; "
                "share them with --store redis://…, or serve with one worker"
            )
        return workers

    @field_validator("snapshot")
    @classmethod
    def _snapshot_is_of_memory(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None:
            return path
        if info.data.get("store", MEMORY) != MEMORY:
            raise ValueError("is for buckets in memory; those of --store outlive the server anyway")
        if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
            raise ValueError(f"{path} cannot be written: name a file in a folder of this user")
        return path

    @field_validator("tls_key")
    @classmethod
    def _key_is_of_a_certificate(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if (key is None) != (info.data.get("tls_cert") is None):
            raise ValueError("--tls-cert and --tls-key need each other")
        return key

    @field_validator("tls_client_ca")
    @classmethod
    def _clients_meet_a_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path and not info.data.get("tls_cert"):
            raise ValueError("needs --tls-cert: clients show theirs over TLS only")
        return path

    @property
    def is_open_to_others(self) -> bool:
        """Whether other machines can reach it, and what they say is in plain text."""
        return not (self.tls_cert or is_local(self.listen))

    @classmethod
    def load(cls, arguments: list[str]) -> "Settings":
        """From arguments, else the environment, else defaults; raises ConfigurationError."""
        try:
            # In model_config, _env_ignore_empty would mean empty arguments as well.
            return cls(_cli_parse_args=arguments, _env_ignore_empty=True)  # type: ignore[call-arg]  # pydantic's
        except Invalid as error:
            raise faults.of_options(_COMMAND, error.errors(), arguments) from error
        except SettingsError as error:
            raise faults.of_arguments(_COMMAND, str(error), cls.model_fields) from error
