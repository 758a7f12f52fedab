"""What came of a stream's operations, until it is written to the client."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from google.rpc.status_pb2 import Status

from openlimit.errors import OpenLimitError
from openlimit.operations import Acquire, Grant
from openlimit.v1.rate_limit_pb2 import AcquireStreamResponse
from openlimit.wire.columns import AcquireRun, GrantRun, SettleRun, write_grant_run
from openlimit.wire.messages import write_outcome
from openlimit_server.engine.counts import Counts
from openlimit_server.engine.engine import Answer, Work, granted

if TYPE_CHECKING:
    from openlimit_server.rpc.tracing import StreamSpans

_MOST_IN_MESSAGE = 128
_ERROR = 8  # outcomes for which an error counts: it takes so much longer to write
_MOST_BYTES = 1 << 20  # of a message: a quarter of what gRPC's clients take


class _Entry(NamedTuple):
    """Grants of a run, the outcome of one operation, or a number of SettleRuns that are settled."""

    size: int
    ids: Sequence[int]
    work: Work | None
    outcome: Any


class Part:
    """A slice of a message while it is decided."""

    def __init__(self, settled_runs: int) -> None:
        self.settled_runs = settled_runs
        """How many SettleRuns end in it."""
        self.undecided = 1
        """All that is decided at once, and each SettleRun that is decided apart."""


class Outbox:
    """Outcomes in the order in which they came; its length is how many there are."""

    def __init__(self, counts: Counts | None = None, spans: "StreamSpans | None" = None) -> None:
        """``counts`` is where errors are counted, if anybody may ask; ``spans`` end here."""
        self._counts = counts
        self._spans = spans
        self._entries: deque[_Entry] = deque()
        self._size = 0
        self._parts: deque[Part] = deque()
        self._settled_runs = 0
        self._has_beat = False

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._entries) or self._has_beat

    def add(self, ids: Sequence[int], work: Work | None, answer: Answer | Status) -> None:
        """What an operation or a run is answered; an error, also for several ids."""
        if self._spans:
            self._spans.answered(ids, answer)
        if isinstance(answer, GrantRun):
            others = answer.others
            if len(others) < len(ids):
                self._put(_Entry(len(ids) - len(others), ids, work, answer))
            for i, other in others.items():
                if other is not None:  # else it comes later
                    self._put(_Entry(1, [ids[i]], work, other))
        elif isinstance(work, SettleRun) and isinstance(answer, Mapping):
            for i, error in answer.items():
                if error is not False:
                    self._put(_Entry(1, [ids[i]], None, error))
        else:
            for number in ids:
                self._put(_Entry(1, [number], work, answer))

    def begin(self, settled_runs: int) -> Part:
        """The next part of what the client has sent, in which so many SettleRuns end."""
        part = Part(settled_runs)
        self._parts.append(part)
        return part

    def end(self, part: Part) -> None:
        """Something of a part is decided: acknowledge SettleRuns up to the first that is not."""
        part.undecided -= 1
        before = self._settled_runs
        while self._parts and not self._parts[0].undecided:
            self._settled_runs += self._parts.popleft().settled_runs
        if self._settled_runs > before:
            if self._entries and not self._entries[-1].size:  # this count includes that one
                self._entries.pop()
            self._put(_Entry(0, (), None, self._settled_runs))

    def beat(self) -> None:
        """Write a message also if there is nothing in it."""
        self._has_beat = True

    def _put(self, entry: _Entry) -> None:
        if self._counts:
            self._counts.answered(entry.outcome)
        self._entries.append(entry)
        self._size += entry.size

    def next_size(self) -> int:
        """How many entries the next message has, about; grants of a run are one."""
        return min(len(self._entries), _MOST_IN_MESSAGE)

    def next_message(self) -> bytes:
        """Of the outcomes that came first. They are taken out: the message may arrive even if it is
        cut off on the way."""
        most = _MOST_IN_MESSAGE
        self._has_beat = False
        while True:
            response, size, written, taken = AcquireStreamResponse(), 0, 0, 0
            for entry in self._entries:
                if written >= most and entry.size:
                    break
                _write(entry, response)
                size += entry.size
                is_error = isinstance(entry.outcome, OpenLimitError | Status)
                written += _ERROR if is_error else entry.size
                taken += 1
            data: bytes = response.SerializeToString()
            if len(data) <= _MOST_BYTES or most == 1:
                for _ in range(taken):
                    self._entries.popleft()
                self._size -= size
                return data
            most //= 2

    def granted(self) -> Iterator[tuple[Acquire | AcquireRun, Grant]]:
        """What was granted and not written, and to which call, or its run."""
        for _, _, work, outcome in self._entries:
            yield from granted(work, outcome)


def _write(entry: _Entry, response: AcquireStreamResponse) -> None:
    size, ids, work, outcome = entry
    if isinstance(outcome, GrantRun):
        write_grant_run(ids, outcome, response)
    elif not size:
        response.settled_runs = outcome
    else:
        kind = Acquire if isinstance(work, AcquireRun) else type(work)
        write_outcome(ids[0], kind, outcome, response.outcomes.add())
