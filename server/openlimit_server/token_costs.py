"""What a policy charges for tokens, where that is not simply what a call says."""

from collections.abc import Iterable, Mapping

from openlimit.leaky_bucket import Limit
from openlimit_server.learned_output import LearnedOutput

_INPUT, _OUTPUT = "input_tokens", "output_tokens"


class TokenCosts:
    """Costs by unit for a policy that limits input or output alone, or learns its calls' output.

    ``learned`` is what it has learned; None for a policy that reserves what its calls may write.
    """

    def __init__(self, limits: Iterable[Limit], learned: LearnedOutput | None) -> None:
        limits = list(limits)
        self._most_input, self._most_output = (
            int(min((each.amount for each in limits if each.unit == unit), default=0))
            for unit in (_INPUT, _OUTPUT)
        )
        self.learned = learned

    def learn(self, model: str, output: int) -> None:
        """What a call has really written, in tokens."""
        if self.learned:
            self.learned.learn(model, output)

    def of(self, model: str, costs: Mapping[str, int]) -> Mapping[str, int]:
        """What a call is charged that says it costs so much.

        Of a call that does not say its input or its output, as much is charged as it could be, so
        that no limit is passed by: its tokens less the other, but no more than the whole limit, for
        it must not be refused for what it has not said. The output that a call says it may write
        counts as what calls write as a rule, where that is known and less.
        """
        tokens = costs["tokens"]
        if self.learned and (output := costs.get(_OUTPUT, 0)):
            expected = self.learned.estimate(model)
            if expected < output:
                tokens -= output - int(expected)
                costs = {**costs, "tokens": tokens, _OUTPUT: int(expected)}
        return {
            _INPUT: min(tokens - costs.get(_OUTPUT, 0), self._most_input),
            _OUTPUT: min(tokens - costs.get(_INPUT, 0), self._most_output),
            **costs,
        }
