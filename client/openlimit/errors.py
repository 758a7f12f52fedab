"""The errors openlimit raises.

    OpenLimitError
    ├── CostExceedsLimit     the call can never be served: split it or raise the limit
    ├── WaitTooLong          not now: the wait would exceed max_wait; nothing was charged
    ├── UnknownModel         no policy of the server covers the model
    ├── UnknownReservation   nothing of that name can be cancelled or settled here
    ├── InvalidRequest       a parameter is missing or malformed
    ├── Queued               not yet: all slots are taken; only between client and server
    └── LimiterUnavailable   the limiter did not decide: try again, or go on without

Each carries its data as attributes, says in its message what to do next, and survives pickling.
"""

_MOST_SHOWN = 100  # characters of a name that may be long


class OpenLimitError(Exception):
    """Root of every error that openlimit raises on purpose."""


class CostExceedsLimit(OpenLimitError):
    """The cost in one unit is larger than the limit's whole amount, so no wait would help.

    Attributes: ``unit``; ``cost`` and ``amount``, both in that unit.
    """

    def __init__(self, unit: str, cost: float, amount: float) -> None:
        super().__init__(unit, cost, amount)
        self.unit = unit
        self.cost = cost
        self.amount = amount

    def __str__(self) -> str:
        return (
            f"this call costs {self.cost:.15g} {self.unit} but the limit is {self.amount:.15g} "
            "per period, so it can never be served; split the call or raise the limit"
        )


class WaitTooLong(OpenLimitError):
    """The call would have to wait longer than ``max_wait``; nothing was charged.

    Attributes: ``retry_after``, the wait in seconds that a call now would have;
    ``limited_by``, the unit that sets it, ``concurrent`` where it is how many calls may run at the
    same time (then the wait is an estimate), empty when not known.
    """

    def __init__(self, retry_after: float, limited_by: str = "") -> None:
        super().__init__(retry_after, limited_by)
        self.retry_after = retry_after
        self.limited_by = limited_by

    def __str__(self) -> str:
        if self.limited_by == "concurrent":
            return (
                "no slot became free within max_wait; nothing was charged; try again in about "
                f"{self.retry_after:.6g} s or raise max_wait"
            )
        cause = f" for {self.limited_by}" if self.limited_by else ""
        return (
            f"the wait{cause} would be {self.retry_after:.6g} s, longer than max_wait; nothing was "
            "charged; try again later or raise max_wait"
        )


class UnknownModel(OpenLimitError):
    """No policy of the server covers the model. Attribute: ``model``, empty if none is named."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model

    def __str__(self) -> str:
        if not self.model:
            return (
                'no policy covers calls without a model; pass the model, or list "" in the models '
                "of a policy in the server's configuration"
            )
        return (
            f"no policy covers the model {self.model!r}; check its spelling, or add a policy to "
            'the server\'s configuration whose models include it (models: ["*"] covers all)'
        )


class UnknownReservation(OpenLimitError):
    """The reservation is not known here, is another key's, or has expired; nothing was changed.

    Attributes: ``reservation_id``; ``expired``, whether only its time is over.
    """

    def __init__(self, reservation_id: str, expired: bool = False) -> None:
        super().__init__(reservation_id, expired)
        self.reservation_id = reservation_id
        self.expired = expired

    def __str__(self) -> str:
        name = self.reservation_id
        name = repr(name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}…")
        if self.expired:
            return (
                f"the reservation {name} has expired and keeps its charge; settle a call within 15 "
                "minutes from its start"
            )
        return (
            f"no reservation {name} of this key is known, or it has no slot any more; nothing was "
            "changed; pass the id and the key of the acquisition, and expect ids to end when the "
            "server's limits change, or with a server whose buckets are in memory"
        )


class InvalidRequest(OpenLimitError):
    """A parameter is missing or malformed; nothing was charged.

    Attributes: ``field``, the parameter's name; ``reason``, what was expected and what came.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class Queued(OpenLimitError):
    """As many calls run as the policy lets run at once, and this one has a place in their queue.

    What a server tells a client, which asks again; users never see it. Attribute: ``ticket``, the
    ``request_id`` with which to ask, for the same place.
    """

    def __init__(self, ticket: str) -> None:
        super().__init__(ticket)
        self.ticket = ticket

    def __str__(self) -> str:
        return (
            "all slots are taken and the call waits for one; ask again at once with the "
            f"request_id {self.ticket!r}, or its place is lost"
        )


class LimiterUnavailable(OpenLimitError):
    """The limiter could not decide within its timeout: it is down, slow or out of reach.

    Attributes: ``address``, where it was sought; ``reason``, what happened there.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"no decision from {self.address}: {self.reason}; check that it runs and can be reached"
        )
