"""What a policy charges for calls, as columns: by unit, a number for each of them."""

from collections.abc import Sequence
from math import inf

from openlimit.bucket.limit import Limit
from openlimit.units import INPUT_TOKENS, MAX_AMOUNT, OUTPUT_TOKENS, TOKENS, include_parts
from openlimit_server.engine.learned_output import LearnedOutput

Columns = dict[str, Sequence[int]]


class TokenCosts:
    """The rules of a policy that limits tokens, input or output.

    ``learned`` is what it has learned of its calls' output; None for a policy that reserves what
    its calls may write. ``default_output`` are the tokens that a call is taken to write that gives
    no maximum, until something is learned.
    """

    def __init__(
        self, limits: Sequence[Limit], learned: LearnedOutput | None, default_output: int
    ) -> None:
        self._most_tokens, self._most_input, self._most_output = (
            int(min((each.amount for each in limits if each.unit == unit), default=most))
            for unit, most in ((TOKENS, MAX_AMOUNT), (INPUT_TOKENS, 0), (OUTPUT_TOKENS, 0))
        )
        self._counts_parts = bool(self._most_input or self._most_output)
        self.learned = learned
        self._default_output = default_output

    def learn(self, model: str, output: int) -> None:
        """What a call has really written, in tokens."""
        if self.learned:
            self.learned.learn(model, output)

    def charge(self, model: str, costs: Columns) -> None:
        """Replace what calls of a model say they cost by what they are charged.

        A call that gives its input alone has no maximum for its output: it is charged for what
        calls of its model usually write, whatever else it says. The output that a call may write
        counts as what calls usually write, if that is less.

        A call that gives neither, or its output alone, is charged as much as it could be, so that
        no limit is exceeded: its tokens less the other part. It must not be refused for what it has
        not said: that is never more than the whole limit.
        """
        given, written = costs.get(INPUT_TOKENS), costs.get(OUTPUT_TOKENS)
        if given is not None or written is not None:
            include_parts(costs)
        tokens = costs[TOKENS]
        if given is not None and written is None:
            output = self._expected(model, self._default_output)
            tokens = [max(own, min(own + output, self._most_tokens)) for own in given]
            written = [min(output, self._most_output)] * len(given)
        elif written is not None and self.learned:
            expected = [self._expected(model, most) for most in written]
            output_of = [*map(min, written, expected)]
            tokens = [
                each - (most - output)
                for each, most, output in zip(tokens, written, output_of, strict=True)
            ]
            written = output_of
        costs[TOKENS] = tokens
        if written is not None:
            costs[OUTPUT_TOKENS] = written
        if not self._counts_parts:
            return
        for part, other, most in (
            (INPUT_TOKENS, written, self._most_input),
            (OUTPUT_TOKENS, given, self._most_output),
        ):
            if part not in costs:
                others = other or [0] * len(tokens)
                costs[part] = [
                    min(each - less, most) for each, less in zip(tokens, others, strict=True)
                ]

    def _expected(self, model: str, otherwise: int) -> int:
        """What calls of a model usually write, where that is known."""
        estimate = self.learned.estimate(model) if self.learned else inf
        return otherwise if estimate == inf else int(estimate)
