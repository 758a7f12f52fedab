"""Which requests are calls that are limited, and their parameters as ``.limit()`` takes them. Pure.

Each provider's file has its paths, and translates its parameters as far as they are counted.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from openlimit.providers import PROVIDERS
from openlimit.providers.bodies import parsed
from openlimit.providers.provider import Params, Provider


class CallParams(NamedTuple):
    """What a request asks for."""

    model: str  # empty where the request names none
    params: Params
    streams: bool


class Route(NamedTuple):
    """What the path of a request says about it."""

    provider: Provider
    model: str  # Azure's, Google's and AWS's; empty for the others
    action: str  # Google's and AWS's; empty for the others


def route_of(method: str, path: str) -> Route | None:
    """Of a request that may be a call; None for what is not limited. The path is unquoted."""
    if method.upper() == "POST":
        for provider in PROVIDERS:
            if found := provider.path.search(path):
                groups = found.groupdict("")
                return Route(provider, groups.get("model", ""), groups.get("action", ""))
    return None


def params_of(route: Route, body: object) -> CallParams | None:
    """The call that a request makes with these parameters, or these bytes; None for no call."""
    params = parsed(body) if isinstance(body, bytes) else body
    if not isinstance(params, Mapping) or not isinstance(params.get("model") or "", str):
        return None
    model = params.get("model") or route.model
    streams = params.get("stream") is True or "stream" in route.action.lower()
    return CallParams(model, {**_translated(params, route), "model": model}, streams)


def _translated(params: Params, route: Route) -> Params:
    translate, action = route.provider.params, route.action
    with suppress(TypeError, LookupError, AttributeError, RecursionError):
        if translate and (translated := translate(params, action)):
            return translated
        if not action or {"messages", "prompt"} & params.keys():
            return params
    return {"messages": [{"role": "user", "content": [{"input": params}]}]}  # the text of it
