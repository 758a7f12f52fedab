"""The error tree: one root, data, messages that say what to do."""

import pickle

import pytest

from openlimit import errors

EXAMPLES = [
    (errors.CostExceedsLimit("tokens", 6001, 6000), "split the call or raise the limit"),
    (errors.CostExceedsLimit("tokens", 2, 1, ("search", "")), "the limit of search/'' is 1 per"),
    (errors.WaitTooLong(12.5, "tokens"), "the wait for tokens would be 12.5 s"),
    (errors.WaitTooLong(1, "tokens", ()), "the wait for tokens would be 1 s"),
    (errors.WaitTooLong(1, "tokens", ("search", "ann")), "for tokens at search/ann would be 1 s"),
    (errors.WaitTooLong(1, "", ("search",)), "the wait at search would be 1 s"),
    (errors.WaitTooLong(1, "concurrent", ("search",)), "no slot at search became free"),
    (errors.WaitTooLong(12.5), "try again later or raise max_wait"),
    (errors.WaitTooLong(0.6, "concurrent"), "no slot became free within max_wait"),
    (errors.UnknownModel("gpt-9"), "add a policy"),
    (errors.UnknownModel(""), 'pass the model, or list "" in the models of a policy'),
    (errors.UnknownReservation("a.b"), "pass the id and the key of the acquisition"),
    (errors.UnknownReservation("a.b", expired=True), "settle a call within 15 minutes"),
    (errors.InvalidRequest("tokens", "must not be negative"), "tokens: must not be negative"),
    (errors.PermissionDenied("", "pass api_key"), "pass api_key"),
    (errors.PermissionDenied("ci", "may not penalize"), "the API key ci may not penalize"),
    (errors.Queued("t1"), "ask again at once with the request_id 't1'"),
    (errors.LimiterUnavailable("host:1", "refused"), "check that it runs and can be reached"),
]


@pytest.mark.parametrize(("error", "advice"), EXAMPLES)
def test_each_error_says_what_to_do(error: errors.OpenLimitError, advice: str) -> None:
    """The message has the values and the next step."""
    assert advice in str(error)


@pytest.mark.parametrize(("error", "advice"), EXAMPLES)
def test_each_error_survives_pickling(error: errors.OpenLimitError, advice: str) -> None:
    """Errors cross process boundaries, as in process pools, with their data."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), vars(copy), str(copy)) == (type(error), vars(error), str(error))


def test_there_is_one_root() -> None:
    """Every public error is an OpenLimitError."""
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    kinds = [kind for kind in kinds if issubclass(kind, BaseException)]
    assert all(issubclass(kind, errors.OpenLimitError) for kind in kinds)
    assert len(kinds) == 10
