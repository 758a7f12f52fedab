"""Arguments, environment and the YAML file, validated once into frozen values.

Every error names the field, and for the file its line; it says what was expected and what came.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic import ValidationError as Invalid
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from openlimit.errors import InvalidRequest
from openlimit_server import marked_yaml, notation

MEMORY = "memory://"
_MOST_CONCURRENT = 1_000_000
_MIN_LEASE = 1.0  # seconds
_MOST_LIMITS_OF_A_UNIT = 8  # each is looked at by every decision


class ConfigurationError(Exception):
    """The settings cannot be used; the message has a line for each fault."""


_Duration = Annotated[float, BeforeValidator(notation.duration)]
_Limit = tuple[float, float, float | None]
_Address = Annotated[str, AfterValidator(notation.address)]
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Unit = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


def _renewable(lease: float) -> float:
    if lease < _MIN_LEASE:
        raise ValueError(
            f"must be {_MIN_LEASE:g}s at least, since callers renew it over the network, "
            f"not {lease:g}s"
        )
    return lease


def _one_or_several(value: object, handler: ValidatorFunctionWrapHandler) -> tuple[_Limit, ...]:
    if not isinstance(value, list):
        return (notation.limit(value),)
    if len(value) > _MOST_LIMITS_OF_A_UNIT:
        raise ValueError(f"expected {_MOST_LIMITS_OF_A_UNIT} limits at most, not {len(value)}")
    limits: tuple[_Limit, ...] = handler(value)
    periods = [period for _, period, _ in limits]
    for period in periods:
        if periods.count(period) > 1:
            raise ValueError(f"has more than one limit per {period:g} s; keep one of them")
    return limits


_Limits = Annotated[
    tuple[Annotated[_Limit, BeforeValidator(notation.limit)], ...],
    Field(min_length=1),
    WrapValidator(_one_or_several),
]


def _store(url: object) -> object:
    """The URL, if buckets can live there."""
    if url == MEMORY:
        return url
    try:
        from openlimit.stores.redis import parse_redis_url
    except ImportError as error:
        raise ValueError('Redis needs its client: pip install "openlimitHW[redis]"') from error
    try:
        parse_redis_url(str(url))
    except InvalidRequest as error:
        raise ValueError(f"{error.reason}; or memory://") from error
    return url


class PolicySettings(BaseModel):
    """One rule: which models it covers, its limits, how it is split into buckets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Name
    models: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Patterns with * and ?; the first policy that matches a model covers it."""
    limits: dict[_Unit, _Limits] = Field(min_length=1)
    """By unit, one or several: amount, period in seconds, burst in seconds (None: the default)."""
    split_by: tuple[Literal["model", "key"], ...] = ()
    """What has a bucket of its own; with nothing, all calls share one."""
    max_wait: _Duration | None = None
    """Seconds a caller waits at most that does not say so itself; None: as long as it takes."""
    concurrent: Annotated[int, Field(strict=True, ge=1, le=_MOST_CONCURRENT)] | None = None
    """Calls of a bucket that may run at the same time; None: any number."""
    lease: Annotated[_Duration, AfterValidator(_renewable)] = 30.0
    """Seconds for which a call may run without a sign of life before its slot is another's."""
    on_store_failure: Literal["refuse", "allow"] = "refuse"
    """Whether calls are refused as UNAVAILABLE or start unlimited while the store is away."""
    reserve_output: Literal["max_tokens", "learned"] = "max_tokens"
    """What is reserved for a call's output: all that it may write, or what calls of its model write
    as a rule."""

    @field_validator("reserve_output")
    @classmethod
    def _output_is_limited(cls, value: str, info: ValidationInfo) -> str:
        limits = info.data.get("limits", {"tokens"})
        if value == "learned" and not {"tokens", "output_tokens"} & {*limits}:
            raise ValueError("learned needs a limit of tokens or output_tokens, which it is for")
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
        ["text-*-[0-9][0-9][0-9]", "davinci-*", "babbage-*", "gpt-3.5-turbo-instruct*"],
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
        cli_prog_name="openlimit-server",
        cli_hide_none_type=True,
        cli_parse_none_str="the library's limits",  # in --help; null would be no name of a file
        cli_implicit_flags="toggle",
    )

    config: Path | None = Field(None, description="YAML file of policies")
    listen: _Address = Field("0.0.0.0:50051", description="address to serve on")
    store: Annotated[str, BeforeValidator(_store)] = Field(
        MEMORY,
        description="where the buckets live: memory://, redis://, rediss://, unix://, "
        "redis+sentinel:// or redis+cluster://",
    )
    workers: int = Field(
        1, ge=1, le=256, description="processes that serve the address; several need a Redis store"
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
                "each would have buckets of its own in memory and grant the limits anew; share "
                "them with --store redis://…, or serve with one worker"
            )
        return workers

    @classmethod
    def load(cls, arguments: list[str]) -> "Settings":
        """From arguments, else the environment, else defaults; raises ConfigurationError."""
        try:
            # In model_config, _env_ignore_empty would mean empty arguments as well.
            return cls(_cli_parse_args=arguments, _env_ignore_empty=True)  # type: ignore[call-arg]  # pydantic's
        except Invalid as error:
            raise ConfigurationError(_lines("openlimit-server", error.errors(), None)) from error


def load_policies(path: Path | None) -> tuple[PolicySettings, ...]:
    """The policies of a file, or the default ones; raises ConfigurationError."""
    if path is None:
        return DEFAULT_POLICIES
    try:
        document = marked_yaml.parse(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{path}:{line}: {error.problem}") from error
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}:1: expected a mapping with policies: and a list below it")
    try:
        policies = _File.model_validate(document).policies
    except Invalid as error:
        raise ConfigurationError(_lines(str(path), error.errors(), document)) from error
    _require_unique_names(path, policies, document)
    return policies


def _require_unique_names(path: Path, policies: tuple[PolicySettings, ...], document: Any) -> None:
    first: dict[str, int] = {}
    for i, policy in enumerate(policies):
        if first.setdefault(policy.name, i) != i:
            place = _place(str(path), ("policies", i, "name"), document)
            raise ConfigurationError(
                f"{place}: a policy named {policy.name!r} stands above already; "
                "names must differ, since each has buckets of its own"
            )


def _lines(source: str, faults: list[ErrorDetails], document: Any) -> str:
    def is_within(loc: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
        return loc != outer and loc[: len(outer)] == outer

    return "\n".join(
        f"{_place(source, fault['loc'], document)}: {_expected(fault)}"
        for fault in faults
        # A list with a faulty entry is said to lack it as well.
        if not any(is_within(other["loc"], fault["loc"]) for other in faults)
    )


def _place(source: str, loc: tuple[int | str, ...], document: Any) -> str:
    """``file:line: field``, with the line of the innermost part that the document has."""
    line, field = "", ""
    for part in loc:
        if part == "[key]":
            continue
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else part
        try:
            line = f":{document.lc.data[part][0] + 1}"
            document = document[part]
        except (AttributeError, LookupError, TypeError):
            document = None
    return f"{source}{line}: {field}"


def _expected(fault: ErrorDetails) -> str:
    came = notation.shown(fault["input"])
    match fault["type"]:
        case "missing":
            return "is required"
        case "too_short":
            return "needs at least one entry"
        case "extra_forbidden":
            return "is not a field that openlimit knows; check its spelling"
        case "string_pattern_mismatch":
            return f"has characters or a length that a name cannot have: {came}"
        case "value_error":
            return str(fault["ctx"]["error"])
        case _:
            return f"{fault['msg']}, not {came}"
