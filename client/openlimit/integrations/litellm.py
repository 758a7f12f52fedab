"""A callback for LiteLLM: ``litellm.callbacks = [LimitedLogger(limiter)]``."""

from collections.abc import Mapping
from functools import partial
from http.client import OK
from typing import Any

from openlimit.background import when_dropped
from openlimit.integrations import _from_extra
from openlimit.integrations._attempt import Attempt, Headers, aenter, enter, reserved
from openlimit.limiter import RateLimiter
from openlimit.reservation import Reservation

with _from_extra("litellm"):
    import litellm
    from litellm.integrations.custom_logger import CustomLogger

_KEY = "openlimit"  # in what LiteLLM keeps of a call
_SYNC = {"completion": "messages", "text_completion": "prompt"}
_SYNC |= {"embedding": "input", "responses": "input"}
_COUNTED = _SYNC | {f"a{kind}": name for kind, name in _SYNC.items()}
_COUNTED["anthropic_messages"] = "messages"
"""The parameter that is counted, by the kinds of calls that are limited."""


class LimitedLogger(CustomLogger):  # type: ignore[misc] # mypy does not follow LiteLLM
    """Limits each call of LiteLLM and of its Router, and tells the limiter how it went.

    Chat and text completions, embeddings, responses and messages, sync and async, streamed or not,
    of any provider, under the model's name without the provider's prefix. When the answer is
    complete, its usage settles the reservation; for a stream without a usage, LiteLLM's own count
    does. Failed calls, and streams that are left early, keep their charge.

    In asynchronous calls what the limiter raises, such as WaitTooLong, reaches the caller. In
    synchronous ones LiteLLM only logs it and makes the call: where refusals matter, use
    ``limiter.is_limited()(litellm.completion)`` instead.

    LiteLLM shows its callbacks each attempt of a Router, but no retries without a Router: neither
    the SDK's (``max_retries``) nor its own (``num_retries``), which repeat refused calls too. It
    calls them before it looks into its cache.
    """

    def __init__(self, limiter: RateLimiter) -> None:
        super().__init__()
        self._limiter = limiter

    def __repr__(self) -> str:
        return f"<LimitedLogger of {self._limiter!r}>"

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> None:
        """LiteLLM's: wait for the start of an asynchronous call."""
        kind = getattr(call_type, "value", "")
        if kind in _COUNTED:
            call = kwargs["litellm_logging_obj"]
            given = next((kwargs[n] for n in ("messages", "prompt", "input") if n in kwargs), None)
            model = _without_prefix(kwargs.get("model") or call.model, kwargs)
            reservation = self._reserve(model, kind, given or call.messages, kwargs)
            await aenter(reservation)
            call.model_call_details[_KEY] = _Held(reservation)

    def log_pre_api_call(self, model: str, messages: Any, kwargs: dict[str, Any]) -> None:
        """LiteLLM's: wait for the start of a synchronous call."""
        kind = kwargs.get("call_type", "")
        if kind in _SYNC and not isinstance(kwargs.get(_KEY), _Held):
            options = kwargs.get("optional_params") or {}
            given = kwargs.get("input") or messages
            enter(reservation := self._reserve(model, kind, given, options))
            kwargs[_KEY] = _Held(reservation)

    def log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """LiteLLM's: a synchronous call's answer is complete."""
        hidden = getattr(response_obj, "_hidden_params", None) or {}
        self._over(kwargs, OK, hidden.get("additional_headers") or {}, "", response_obj)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """LiteLLM's: an asynchronous call's answer is complete."""
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    def log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """LiteLLM's: a synchronous call has failed."""
        error = kwargs.get("exception")
        headers = getattr(error, "litellm_response_headers", None) or {}
        # What an answer says that has begun well is an error without a status.
        try:
            status = int(getattr(error, "status_code", OK if kwargs.get("stream") else 0))
        except (TypeError, ValueError):  # whatever it is, the call is over
            status = 0
        self._over(kwargs, status, headers, f"{error} {getattr(error, 'body', '')}")

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """LiteLLM's: an asynchronous call has failed."""
        self.log_failure_event(kwargs, response_obj, start_time, end_time)

    def _reserve(self, model: str, kind: str, given: Any, options: dict[str, Any]) -> Reservation:
        chat = isinstance(given, list) and given and isinstance(given[0], Mapping)
        asked = "messages" if chat and kind not in {"responses", "aresponses"} else _COUNTED[kind]
        rest = {n: v for n, v in options.items() if n not in {"messages", "prompt", "input"}}
        return reserved(self._limiter, model, {**rest, "model": model, asked: given})

    def _over(
        self, call: dict[str, Any], status: int, headers: Headers, error: str, response: Any = None
    ) -> None:
        held = call.get(_KEY)
        if not isinstance(held, _Held):
            return
        call[_KEY] = None
        attempt = Attempt(self._limiter, held.reservation, streams=bool(call.get("stream")))
        attempt.heard(status, {n.removeprefix("llm_provider-"): str(v) for n, v in headers.items()})
        anthropic = isinstance(response, Mapping)
        usage = response.get("usage") if anthropic else getattr(response, "usage", None)
        attempt.over(usage, error)
        held.forgotten.detach()  # last: where anything above raises, that frees the slot


class _Held:
    """The reservation of a call. LiteLLM says nothing of streams that are left: it just goes."""

    def __init__(self, reservation: Reservation) -> None:
        self.reservation = reservation
        self.forgotten = when_dropped(self, partial(reservation.__exit__, None, None, None))


def _without_prefix(model: str, options: Mapping[str, Any]) -> str:
    """The model as the provider calls it, as synchronous calls have it."""
    try:
        found = litellm.get_llm_provider(
            model=model,
            custom_llm_provider=options.get("custom_llm_provider"),
            api_base=options.get("api_base"),
        )
    except Exception:  # one that LiteLLM does not know: it will say so itself
        return model
    return str(found[0])
