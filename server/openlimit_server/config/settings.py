"""Arguments, environment and the YAML file, validated once into frozen values.

Every error names the field, and for the file its line; it says what was expected and what came.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic import ValidationError as Invalid
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from openlimit.errors import InvalidRequest
from openlimit_server.config import faults, fields, marked_yaml, notation, spelling

MEMORY = "memory://"
_COMMAND = "openlimit-server"
_UNIT = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


class ConfigurationError(Exception):
    """The settings cannot be used; the message has a line for each fault."""


def _unit(name: str) -> str:
    if name in PolicySettings.model_fields:
        raise ValueError("is a field of the policy, not a unit: write it beside limits:")
    nearest = spelling.nearest_unit(name)
    if nearest and nearest != name:
        raise ValueError(
            f"is not a unit that calls cost, so it would limit nothing; write {nearest}, such as "
            f"{nearest}: 3500/minute"
        )
    if not _UNIT.fullmatch(name):
        raise ValueError(
            "expected a unit such as requests, tokens or images: 1 to 64 lower-case letters, "
            "digits and _, beginning with a letter"
        )
    return name


def _store(url: object) -> object:
    """The URL, if buckets can live there. A message repeats nothing that a password could be in."""
    if url == MEMORY:
        return url
    try:
        from openlimit.stores.redis.store import parse_redis_url
        from openlimit.stores.redis.url import SCHEMES
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


class PolicySettings(BaseModel):
    """One rule: which models it covers, its limits, how it is split into buckets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: fields.Name
    models: tuple[fields.Model, ...] = Field(min_length=1)
    """Names, and patterns in which * and ? are wild; the first policy that matches decides. ""
    is for calls without a model, which no pattern covers."""
    limits: dict[Annotated[str, AfterValidator(_unit)], fields.Limits] = Field(min_length=1)
    """By unit, one or several: amount, period in seconds, burst in seconds (None: the default)."""
    split_by: tuple[Literal["model", "key"], ...] = ()
    """What has a bucket of its own; with nothing, all calls share one."""
    max_wait: fields.Duration | None = None
    """Seconds a caller waits at most that does not say so itself; None: as long as it takes."""
    concurrent: fields.Concurrent | None = None
    """Calls of a bucket that may run at the same time; None: any number."""
    lease: fields.Lease = 30.0
    """Seconds for which a call may run without a sign of life before its slot is another's."""
    on_store_failure: Literal["refuse", "allow"] = "refuse"
    """Whether calls are refused as UNAVAILABLE or start unlimited while the store is away."""
    reserve_output: Literal["max_tokens", "learned"] = "max_tokens"
    """What is reserved for a call's output: all that it may write, or what calls of its model write
    as a rule."""
    default_output: fields.Output = 1000
    """Tokens reserved for the output of a call that gives no maximum, until more is learned."""
    max_pause: fields.Duration = 3600.0
    """Seconds: a provider that says to try again later than that is believed no longer."""

    @field_validator("reserve_output", "default_output")
    @classmethod
    def _output_is_limited(cls, value: str | int, info: ValidationInfo) -> str | int:
        limits = info.data.get("limits", {"tokens"})
        if value != "max_tokens" and not {"tokens", "output_tokens"} & {*limits}:
            raise ValueError(
                f"{value} needs a limit of tokens or output_tokens, which it is for; add one, or "
                "leave it out"
            )
        return value

    @field_validator("lease")
    @classmethod
    def _lease_is_of_a_slot(cls, lease: float, info: ValidationInfo) -> float:
        if info.data.get("concurrent", ...) is None:
            raise ValueError(
                "is for how long a slot is held, so it needs concurrent, such as concurrent: 50"
            )
        return lease


def _default(name: str, models: Iterable[str], tokens: int) -> PolicySettings:
    limits = {"requests": ((3500, 60, None),), "tokens": ((tokens, 60, None),)}
    return PolicySettings.model_construct(
        name=name, models=tuple(models), limits=limits, split_by=("model",)
    )


DEFAULT_POLICIES = (
    _default("embedding", ["text-embedding-*"], 70_000_000),
    _default(
        "completion",
        ["text-*-00?", "davinci-*", "babbage-*", "gpt-3.5-turbo-instruct*"],
        350_000,
    ),
    _default("chat", ["*"], 90_000),
)
"""What is served without a configuration: the limits of the local limiters, for each model."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    policies: tuple[PolicySettings, ...] = Field(min_length=1)


class Settings(BaseSettings):
    """A rate limiter for callers of LLM APIs, over gRPC. Each option can also be set in the
    environment: OPENLIMIT_CONFIG, OPENLIMIT_LISTEN and so on."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="OPENLIMIT_",
        cli_prog_name=_COMMAND,
        cli_exit_on_error=False,
        cli_hide_none_type=True,
        cli_parse_none_str="the library's limits",  # in --help; null would be no name of a file
        cli_implicit_flags="toggle",
    )

    config: Path | None = Field(None, description="YAML file of policies")
    listen: fields.Address = Field("0.0.0.0:50051", description="address to serve on")
    store: Annotated[str, BeforeValidator(_store)] = Field(
        MEMORY,
        description="where the buckets live: memory://, redis://, rediss://, unix://, "
        "redis+sentinel:// or redis+cluster://",
    )
    workers: fields.Workers = Field(
        1, description="processes that serve the address; several need a Redis store"
    )
    grace: float = Field(
        5.0, ge=0, le=3600, description="seconds that calls in flight get when the server stops"
    )
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

    @classmethod
    def load(cls, arguments: list[str]) -> "Settings":
        """From arguments, else the environment, else defaults; raises ConfigurationError."""
        try:
            # In model_config, _env_ignore_empty would mean empty arguments as well.
            return cls(_cli_parse_args=arguments, _env_ignore_empty=True)  # type: ignore[call-arg]  # pydantic's
        except Invalid as error:
            wrong = faults.of_options(_COMMAND, error.errors(), arguments)
            raise ConfigurationError(wrong) from error
        except SettingsError as error:
            wrong = faults.of_arguments(_COMMAND, str(error), cls.model_fields)
            raise ConfigurationError(wrong) from error


def load_policies(path: Path | None) -> tuple[PolicySettings, ...]:
    """The policies of a file, or the default ones; raises ConfigurationError."""
    if path is None:
        return DEFAULT_POLICIES
    try:
        document = marked_yaml.parse(path.read_text(encoding="utf-8"))
    except marked_yaml.NotYAML as error:
        place = f"{path}:{error.line}" if error.line else path
        raise ConfigurationError(f"{place}: {error}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ConfigurationError(
            f"{path}:{line}: has the byte {byte:#04x}, which is not UTF-8; save the file as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(
            f"{path}:1: expected a mapping with policies: and a list below it, "
            f"not {notation.shown(document)}"
        )
    try:
        policies = _File.model_validate(document).policies
    except Invalid as error:
        known = {1: _File.model_fields, 3: PolicySettings.model_fields}
        wrong = faults.of_file(str(path), error.errors(), document, known)
        raise ConfigurationError(wrong) from error
    _require_unique_names(path, policies, document)
    return policies


def _require_unique_names(path: Path, policies: tuple[PolicySettings, ...], document: Any) -> None:
    first: dict[str, int] = {}
    for i, policy in enumerate(policies):
        if first.setdefault(policy.name, i) != i:
            place = faults.place(str(path), ("policies", i, "name"), document)
            raise ConfigurationError(
                f"{place}: a policy named {policy.name!r} stands above already; "
                "names must differ, since each has buckets of its own"
            )
