"""What is counted in a process that serves, and who is told."""

import os

from openlimit.stores.lines import StoreOfLines
from openlimit_server.config.reload import Reload
from openlimit_server.config.settings import Settings
from openlimit_server.counting.counter import Counter
from openlimit_server.engine.counts import Counts
from openlimit_server.engine.engine import Engine
from openlimit_server.engine.overrides import Overrides
from openlimit_server.observe.levels import levels
from openlimit_server.observe.numbers import Numbers, build, of_counts, of_reloads
from openlimit_server.observe.page.answers import Page
from openlimit_server.observe.site import Site
from openlimit_server.observe.teller import Teller
from openlimit_server.observe.timed_store import TimedStore
from openlimit_server.observe.tracing import traces_of
from openlimit_server.rpc.auth import Door
from openlimit_server.rpc.connections import Connections
from openlimit_server.rpc.health import HealthServicer
from openlimit_server.rpc.internal_errors import internal_errors
from openlimit_server.rpc.service import RateLimitServicer


class Observed:
    """A server's numbers, over HTTP; or a worker's, for its supervisor. And its traces.

    ``counts`` is where its engine counts, and ``store`` the one that it asks. Where the settings
    name no address, these are None and the store itself, and nothing is ever told. ``tracing``
    begins spans; None unless the environment asks for them. Raises ConfigurationError where that
    cannot be.
    """

    def __init__(self, settings: Settings, store: StoreOfLines) -> None:
        self._address = settings.http
        self._timed = TimedStore(store) if settings.http else None
        self.store = self._timed or store
        self.counts = Counts() if settings.http else None
        self._traces = traces_of(os.environ)
        self.tracing = self._traces.tracing if self._traces else None
        self._told: Site | Teller | None = None

    async def start(
        self,
        engine: Engine,
        service: RateLimitServicer,
        health: HealthServicer,
        reload: Reload,
        counter: Counter,
        overrides: Overrides,
        door: Door,
        connections: Connections,
        *,
        is_worker: bool,
    ) -> None:
        """Raises ConfigurationError for an address at which it cannot listen."""
        if self.counts is None or self._timed is None:
            return
        process = _Process(self.counts, self._timed, engine, service, health, counter, connections)
        if is_worker:
            self._told = Teller(process.numbers, process.busiest)
            await self._told.start()
            return

        def numbers() -> Numbers:
            return {**process.numbers(), **of_reloads(reload), **build()}

        async def collect() -> Numbers:
            filled = await levels(self.store, engine.policies, process.busiest())
            return {**numbers(), **filled}

        page = Page(engine, overrides, door, numbers)
        site = Site(collect, lambda: health.is_serving, page)
        await site.start(self._address)
        self._told = site

    async def aclose(self) -> None:
        """Tell nobody any more, but for the last spans."""
        if self._told:
            await self._told.aclose()
        if self._traces:
            await self._traces.aclose()


class _Process:
    def __init__(
        self,
        counts: Counts,
        store: TimedStore,
        engine: Engine,
        service: RateLimitServicer,
        health: HealthServicer,
        counter: Counter,
        connections: Connections,
    ) -> None:
        self._connections = connections
        self._counts = counts
        self._counter = counter
        self._store = store
        self._engine = engine
        self._service = service
        self._health = health

    def numbers(self) -> Numbers:
        """As they are at this moment."""
        numbers: Numbers = dict(of_counts(self._counts))
        numbers.update(self._store.numbers())
        for outcome, many in self._counter.outcomes.items():
            numbers["bodies", outcome] = [many]
        in_line = self._engine.in_line()
        for policy in self._engine.policies:
            numbers["line_calls", policy.name] = [in_line[policy.name]]
        numbers[("internal_errors",)] = [internal_errors.count]
        numbers[("streams",)] = [self._service.streams]
        numbers[("connections",)] = [self._connections.open]
        numbers[("connections_ended",)] = [self._connections.ended]
        numbers[("ready",)] = [int(self._health.is_serving)]
        return numbers

    def busiest(self) -> dict[str, str]:
        """By policy, the bucket with the longest wait since this was last asked."""
        found = {}
        for name, tally in self._counts.by_policy.items():
            found[name], tally.longest = tally.busiest, 0.0
        return found
