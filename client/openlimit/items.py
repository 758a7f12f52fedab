"""The items of a stream: questions, and the answers to them. No I/O."""

from collections.abc import Iterable

from google.rpc.status_pb2 import Status

from openlimit.errors import InvalidRequest, OpenLimitError
from openlimit.leaky_bucket import Decision
from openlimit.statuses import error_of, status_of
from openlimit.v1.rate_limit_pb2 import AcquireStreamResponse, Question
from openlimit.wire import Call, read_response, readable, write_call, write_decision

MOST_IN_FLIGHT = 10_000
"""Questions of one stream that may be undecided."""

Asked = Call | str
"""A call to be granted, or the id of a reservation to be cancelled."""


def read_questions(questions: Iterable[Question]) -> list[Asked | InvalidRequest]:
    """What each asks, or what is wrong with it."""
    asked: list[Asked | InvalidRequest] = []
    for question in questions:
        if question.HasField("acquire"):
            asked.append(readable(question.acquire))
        elif question.HasField("cancel"):
            asked.append(question.cancel.reservation_id)
        else:
            asked.append(InvalidRequest("question", "must be set, to acquire or cancel"))
    return asked


def write_question(number: int, asked: Asked, question: Question) -> None:
    """Fill an empty message with an acquisition, or the cancellation of a reservation's id."""
    question.id = number
    if isinstance(asked, str):
        question.cancel.reservation_id = asked
    else:
        write_call(asked, question.acquire)


def write_answers(
    answers: Iterable[tuple[int, Decision | bool | OpenLimitError | Status]],
    response: AcquireStreamResponse,
) -> None:
    """Add the answers to the numbered questions."""
    add = response.answers.add
    for number, answer in answers:
        message = add()
        message.id = number
        if isinstance(answer, Decision):
            write_decision(answer, message.granted)
        elif isinstance(answer, bool):
            message.cancelled.cancelled = answer
        else:
            status = answer if isinstance(answer, Status) else status_of(answer)[1]
            message.error.CopyFrom(status)


def read_answers(
    response: AcquireStreamResponse, address: str
) -> list[tuple[int, Decision | bool | OpenLimitError]]:
    """What the server at the address answered, by the questions' numbers."""
    answers: list[tuple[int, Decision | bool | OpenLimitError]] = []
    for answer in response.answers:
        if answer.HasField("granted"):
            answers.append((answer.id, read_response(answer.granted)))
        elif answer.HasField("error"):
            answers.append((answer.id, error_of(answer.error, address)))
        else:
            answers.append((answer.id, answer.cancelled.cancelled))
    return answers
