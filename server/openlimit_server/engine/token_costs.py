"""What a policy charges for tokens, where that is not simply what a call says."""

from collections.abc import Iterable, Mapping
from math import inf

from openlimit.bucket.limit import Limit
from openlimit_server.engine.learned_output import LearnedOutput

_TOKENS, _INPUT, _OUTPUT = "tokens", "input_tokens", "output_tokens"
_NO_LIMIT = 2**63 - 1  # as much as can be sent


class TokenCosts:
    """Costs by unit for a policy that limits tokens, input or output.

    ``learned`` is what it has learned of its calls' output; None for a policy that reserves what
    its calls may write. ``default_output`` are the tokens that a call is taken to write that gives
    no maximum, until something is learned.
    """

    def __init__(
        self, limits: Iterable[Limit], learned: LearnedOutput | None, default_output: int
    ) -> None:
        limits = list(limits)
        self._most_tokens, self._most_input, self._most_output = (
            int(min((each.amount for each in limits if each.unit == unit), default=most))
            for unit, most in ((_TOKENS, _NO_LIMIT), (_INPUT, 0), (_OUTPUT, 0))
        )
        self._counts_parts = bool(self._most_input or self._most_output)
        self.learned = learned
        self._default_output = default_output

    def learn(self, model: str, output: int) -> None:
        """What a call has really written, in tokens."""
        if self.learned:
            self.learned.learn(model, output)

    def of(self, model: str, costs: Mapping[str, int]) -> Mapping[str, int]:
        """What a call is charged that says it costs so much.

        A call that says its input alone has no maximum for its output: it is charged for what calls
        of its model write as a rule, be that more or less than anything it says. The output that a
        call says it may write counts as what calls write as a rule, where that is less.

        Of a call that says neither, or its output alone, as much is charged as it could be, so that
        no limit is passed by: its tokens less the other. Whatever a call has not said, it must not
        be refused for: that is never more than the whole limit.
        """
        shown, written = costs.get(_INPUT), costs.get(_OUTPUT)
        if shown is not None and written is None:
            costs = self._without_maximum(model, costs, shown)
        elif written and self.learned:
            output = min(written, self._expected(model, written))
            costs = {**costs, _TOKENS: costs[_TOKENS] - (written - output), _OUTPUT: output}
        if not self._counts_parts:
            return costs
        tokens = costs[_TOKENS]
        return {
            _INPUT: min(tokens - costs.get(_OUTPUT, 0), self._most_input),
            _OUTPUT: min(tokens - costs.get(_INPUT, 0), self._most_output),
            **costs,
        }

    def _without_maximum(
        self, model: str, costs: Mapping[str, int], shown: int
    ) -> Mapping[str, int]:
        output = self._expected(model, self._default_output)
        tokens = max(shown, min(shown + output, self._most_tokens))
        return {**costs, _TOKENS: tokens, _OUTPUT: min(output, self._most_output)}

    def _expected(self, model: str, otherwise: int) -> int:
        """What calls of a model write as a rule, where that is known."""
        estimate = self.learned.estimate(model) if self.learned else inf
        return otherwise if estimate == inf else int(estimate)
