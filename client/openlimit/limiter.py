"""The front end that every limiter shares, local or remote."""

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self

from openlimit.bucket.limit import MAX_RETRY_AFTER
from openlimit.clock import Clock
from openlimit.context import labels_inside
from openlimit.decorator import MISPLACED, F, limited
from openlimit.errors import InvalidRequest, invalid, shown
from openlimit.operations import Observe, Penalize
from openlimit.reservation import Backend, Reservation
from openlimit.tokens.counting import count_costs, is_absent
from openlimit.units import MAX_AMOUNT, real_number, whole_number


class RateLimiter(Backend):
    """The front end that every limiter shares. One object serves threads and event loops alike."""

    _clock = Clock()

    def limit(
        self,
        /,
        *,
        model: Any = None,
        tokens: Any = None,
        units: Any = None,
        max_wait: Any = None,
        labels: Any = None,
        **params: Any,
    ) -> Reservation:
        """The place in the queue of the API call with these parameters, for with or async with.

        Takes exactly what the call takes: chat, completion, embedding and Responses calls are
        told apart by their parameters, and their tokens counted: ``tokens``, and of these
        ``input_tokens`` and ``output_tokens``. A call that sets no maximum tells no
        ``output_tokens``, so that a server may charge what it knows of its model; its ``tokens``
        have 15 for the output. With ``tokens=n`` nothing is counted and nothing split.
        ``units={"images": 2}`` adds costs in further units, or replaces those of the same name.
        Units without a limit cost nothing. ``max_wait`` is the longest wait that this call accepts,
        in seconds: entering raises WaitTooLong for a longer one, and then nothing is charged and no
        place is kept. 0 tries without waiting; None leaves it to the limiter. ``labels`` such as
        ``{"team": "search"}`` say whose call it is, on top of those of ``openlimit.labels``.

        Reserves nothing before it is entered. Counting blocks: microseconds for most calls, about
        0.1 s for a megabyte of text, and longer the first time, see ``count_split``.

        Raises InvalidRequest where a parameter has no sensible reading, and for ``key``, ``label``
        and ``unit``, which would else be taken for parameters of the call.
        """
        if params and (misplaced := MISPLACED.keys() & params.keys()):
            name = min(misplaced)
            raise InvalidRequest(name, f"is no parameter of a call; {MISPLACED[name]}")
        if not isinstance(model, str):
            model = _name_of(model)
        if max_wait is not None:
            max_wait = require_wait(max_wait)
        if type(tokens) is int and 0 <= tokens <= MAX_AMOUNT:  # as nearly always
            costs = {"requests": 1, "tokens": tokens}
        elif tokens is None:
            costs = {"requests": 1, **count_costs({**params, "model": model})}
        else:
            costs = {"requests": 1, "tokens": _cost("tokens", tokens)}
        if units is not None:
            costs |= _further_costs(units)
            if tokens is not None and "input_tokens" in costs:  # the rest is output
                costs.setdefault("output_tokens", max(0, costs["tokens"] - costs["input_tokens"]))
        return Reservation(self, model, costs, max_wait, labels_inside(self._labels, labels))

    def is_limited(self, max_wait: float | None = None) -> Callable[[F], F]:
        """Decorate a function that takes what the API call takes: each of its calls is limited.

        It may be a function, a coroutine function, a generator or an asynchronous generator;
        positional and default arguments count like keywords. ``max_wait`` is that of ``limit``,
        for calls that do not give their own.
        """
        if callable(max_wait):
            raise InvalidRequest("is_limited", "needs parentheses: write @limiter.is_limited()")
        require_wait(max_wait)
        return partial(limited, partial(self.limit, max_wait=max_wait))

    async def wait_for_capacity(self, num_tokens: int, model: str = "") -> None:
        """Reserve one request of so many tokens and wait for its start.

        Nobody tells when the call ends: limits on concurrency see none that lasts.
        """
        async with self.limit(model=model, tokens=_cost("tokens", num_tokens)):
            pass

    def wait_for_capacity_sync(self, num_tokens: int, model: str = "") -> None:
        """``wait_for_capacity`` that blocks the thread."""
        with self.limit(model=model, tokens=_cost("tokens", num_tokens)):
            pass

    def penalize(self, retry_after: float, model: str = "") -> None:
        """Let no call of the model start for so many seconds: the provider has answered 429.

        For everyone who shares the limit; starts that were granted before stay as they are.
        Neither blocks nor raises for an outage; a RemoteLimiter sends the rest of the pause when
        its server is back. More than a day counts as a day; 0 lifts a pause. A RemoteLimiter needs
        the model; those of one process or one Redis have one bucket for all.
        """
        if not (seconds := real_number(retry_after)) >= 0:
            raise invalid("retry_after", "seconds, 0 or more", retry_after)
        self._require_model(name := _name_of(model))
        pause = min(seconds, MAX_RETRY_AFTER)
        self.tell(Penalize(name, self._key, pause, labels_inside(self._labels)))

    def observe(self, remaining: Mapping[str, float], model: str = "") -> None:
        """Correct the model's bucket by what the provider says remains, by unit.

        It is taken for what remains now, of which what leaks in a second is left to others. It can
        only make calls wait longer, for everyone who shares the limit. Units that are not
        limited are ignored. Neither blocks nor raises for an outage. A RemoteLimiter needs the
        model.
        """
        if not isinstance(remaining, Mapping):
            raise invalid("remaining", "such as {'tokens': 9}", remaining)
        _require_names("remaining", remaining)
        left = {unit: real_number(amount) for unit, amount in remaining.items()}
        for unit, amount in left.items():
            if not amount >= 0:
                raise invalid(f"remaining[{unit!r}]", "a number, 0 or more", remaining[unit])
        self._require_model(name := _name_of(model))
        self.tell(Observe(name, self._key, left, labels_inside(self._labels)))

    def _require_model(self, model: str) -> None:
        """Raise InvalidRequest unless it is a model that users may name."""

    @abstractmethod
    def close(self) -> None:
        """Let what is under way end, and hang up. Blocks meanwhile."""

    async def aclose(self) -> None:
        """``close`` for event loops."""
        # In a thread of its own: the loop's own may all be asleep in limiters.
        thread = ThreadPoolExecutor(1, "openlimit-close")
        try:
            await asyncio.get_running_loop().run_in_executor(thread, self.close)
        finally:
            thread.shutdown(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def require_wait(max_wait: object) -> float | None:
    """The seconds of a longest wait, or None for None; raises InvalidRequest for anything else."""
    if max_wait is None:
        return None
    if not (seconds := real_number(max_wait)) >= 0:
        raise invalid("max_wait", "seconds, 0 or more", max_wait)
    return seconds


def _name_of(model: object) -> str:
    if isinstance(model, str):
        return model
    if is_absent(model):
        return ""
    raise invalid("model", "a text such as 'gpt-4o'", model)


def _further_costs(units: object) -> dict[str, int]:
    if not isinstance(units, Mapping):
        raise invalid("units", "such as {'images': 2}", units)
    if "tokens" in units:
        raise InvalidRequest("units", "tokens has a parameter of its own: tokens=512")
    _require_names("units", units)
    return {unit: _cost(f"units.{unit}", cost) for unit, cost in units.items()}


def _require_names(field: str, units: Iterable[object]) -> None:
    for unit in units:
        if not isinstance(unit, str):
            raise InvalidRequest(field, f"a unit is a name such as images, not {shown(unit)}")


def _cost(field: str, value: object) -> int:
    number = whole_number(value)
    if number is None or not 0 <= number <= MAX_AMOUNT:
        raise invalid(field, "a whole number, 0 or more", value)
    return number
