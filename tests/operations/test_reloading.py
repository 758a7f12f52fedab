"""Policies that change while a server decides by them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from openlimit import CostExceedsLimit, RemoteLimiter, UnknownModel
from openlimit.operations import Acquire
from openlimit_server.config.configuration import Configuration, ConfigurationFiles
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.reload import MOST_BYTES, Reload
from tests.support.api_keys import a_key, write_keys
from tests.support.calls import a_call
from tests.support.redis_process import serving_redis
from tests.support.server_process import ServerProcess, serving, serving_policies
from tests.support.tls_relay import make_certificates

FAST = "600000/minute burst 1h"


def policy(name: str, requests: str = FAST, **fields: object) -> str:
    """One, of its own model, in the JSON that is YAML."""
    return json.dumps({"name": name, "models": [name], "limits": {"requests": requests}, **fields})


def write(path: Path, *policies: str) -> None:
    """In place of what was there, at once."""
    new = path.with_suffix(".new")
    new.write_text("policies:\n" + "".join(f"  - {each}\n" for each in policies))
    new.replace(path)


def said(server: ServerProcess, text: str, times: int = 1) -> None:
    """Wait until the server has logged a text so often."""
    until = time.monotonic() + 60
    while server.said().count(text) < times:
        assert time.monotonic() < until, server.said()
        time.sleep(0.01)


def reload(server: ServerProcess, expected: str) -> None:
    """Tell the server, and wait for what it says."""
    before = server.said().count(expected)
    server.signal(signal.SIGHUP)
    said(server, expected, before + 1)


def call(model: str, requests: int = 1) -> Acquire:
    return a_call(model, {"requests": requests, "tokens": 0})


def test_sighup_loads_the_file(tmp_path: Path) -> None:
    """New policies decide, changed ones by their new limits, and those that are gone no more."""
    with (
        serving_policies(tmp_path, f"policies: [{policy('a')}, {policy('b')}]") as server,
        RemoteLimiter(server.address) as limiter,
    ):
        limiter.acquire(call("b"))
        write(tmp_path / "limits.yaml", policy("a", "2/minute"), policy("c"))
        reload(server, "loaded the policies a, c")
        limiter.acquire(call("c"))
        with pytest.raises(UnknownModel):
            limiter.acquire(call("b"))
        with pytest.raises(CostExceedsLimit):
            limiter.acquire(call("a", 3))


def _write_again(config: Path) -> None:
    write(config, policy("b"))


def _write_in_place(config: Path) -> None:
    config.write_text(f"policies: [{policy('b')}]")


@pytest.mark.parametrize("change", [_write_again, _write_in_place])
def test_a_changed_file_is_noticed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Whether another file takes its place, or it is written in place."""
    with serving_policies(tmp_path, f"policies: [{policy('a')}]") as server:
        change(tmp_path / "limits.yaml")
        said(server, "loaded the policies b")


def test_a_configmap_is_noticed(tmp_path: Path) -> None:
    """Kubernetes exchanges a link to the folder in which the file is."""
    for number, name in enumerate(("a", "b")):
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        write(folder / "limits.yaml", policy(name))
    data, config = tmp_path / "..data", tmp_path / "limits.yaml"
    data.symlink_to("..0")
    config.symlink_to("..data/limits.yaml")
    with serving("--config", str(config)) as server:
        (tmp_path / "next").symlink_to("..1")
        (tmp_path / "next").rename(data)
        said(server, "loaded the policies b")


@pytest.mark.parametrize("content", ["policies: [", "policies: []", "", None])
def test_a_bad_file_is_refused_and_the_old_policies_go_on(
    tmp_path: Path, content: str | None
) -> None:
    """With the reason, once; and the next good one is taken."""
    config = tmp_path / "limits.yaml"
    with (
        serving_policies(tmp_path, f"policies: [{policy('a')}]") as server,
        RemoteLimiter(server.address) as limiter,
    ):
        if content is None:
            config.unlink()
        else:
            config.write_text(content)
        said(server, f"ERROR {config}")
        said(server, "the policies from before go on")
        limiter.acquire(call("a"))
        time.sleep(1.5)
        assert server.said().count("go on") == 1
        write(config, policy("b"))
        said(server, "loaded the policies b")
        limiter.acquire(call("b"))


def test_workers_follow(tmp_path: Path) -> None:
    """Each of them; and one that is started while the file is bad decides by the last good one."""
    config = tmp_path / "limits.yaml"
    write(config, policy("a"))
    with serving_redis() as redis:
        options = ("--config", str(config), "--workers", "2", "--store", redis.url + "?timeout=5")
        with serving(*options) as server:
            said(server, "serving on", 2)
            write(config, policy("b"))
            said(server, "loaded the policies b", 3)  # the supervisor's too
            config.write_text("policies: [")
            said(server, "the policies from before go on")
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGKILL)
            said(server, "with the policies b", 1)
            with RemoteLimiter(server.address) as limiter:
                limiter.acquire(call("b"))


def test_workers_agree_on_a_file_that_is_spoiled_before_they_read_it(tmp_path: Path) -> None:
    """All serve what their supervisor has read, and say why it is not what is in the file."""
    config = tmp_path / "limits.yaml"
    write(config, policy("a"))
    with serving_redis() as redis:
        options = ("--config", str(config), "--workers", "2", "--store", redis.url + "?timeout=5")
        with serving(*options) as server:
            said(server, "serving on", 2)
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            for child in children:
                os.kill(int(child), signal.SIGSTOP)
            write(config, policy("b"), *(policy(f"other-{i}") for i in range(500)))
            said(server, "loaded the policies b")
            config.write_text("policies: [")
            said(server, "the policies from before go on")
            for child in children:
                os.kill(int(child), signal.SIGCONT)
            said(server, "loaded the policies b", 3)
            assert server.said().count("the policies from before go on") == 3


def test_a_worker_that_starts_meanwhile_follows_too(tmp_path: Path) -> None:
    """Also if it reads what its supervisor has loaded since together with its settings."""
    config = tmp_path / "limits.yaml"
    write(config, policy("a"))
    with serving_redis() as redis:
        options = ("--config", str(config), "--workers", "2", "--store", redis.url + "?timeout=5")
        with serving(*options) as server:
            said(server, "serving on", 2)
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
            before = {*children.read_text().split()}
            os.kill(int(min(before)), signal.SIGKILL)
            while not (new := {*children.read_text().split()} - before):
                time.sleep(0.001)
            while not Path(f"/proc/{min(new)}/cmdline").read_bytes().endswith(b"worker\0"):
                time.sleep(0.001)  # until then, its supervisor waits for it
            os.kill(int(*new), signal.SIGSTOP)
            write(config, policy("b"))
            said(server, "loaded the policies b", 2)
            config.write_text("policies: [")
            said(server, "the policies from before go on")
            os.kill(int(*new), signal.SIGCONT)
            said(server, "loaded the policies b", 3)


def test_each_process_loads_once_for_a_signal(tmp_path: Path) -> None:
    """Whatever files there are; and what it warned of is not told again while it is so."""
    weighted = policy("a", levels=[{"label": "team", "weights": {"search": 4}}])
    write(tmp_path / "limits.yaml", weighted)
    write_keys(tmp_path / "keys.yaml", a_key("any"))
    with serving_redis() as redis:
        options = ("--config", f"{tmp_path}/limits.yaml", "--keys", f"{tmp_path}/keys.yaml")
        with serving(*options, "--workers", "2", "--store", redis.url + "?timeout=5") as server:
            said(server, "serving on", 2)
            server.signal(signal.SIGHUP)
            said(server, "loaded the keys any", 3)
            time.sleep(1)
            log = server.said()
    assert (log.count("loaded the policies a"), log.count("loaded the keys any")) == (3, 3)
    assert log.count("its weights depend on the label team") == 2  # once for each worker


async def test_what_was_bad_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may become good though nobody writes it, as by a change of its rights; until then, it is
    refused once."""
    monkeypatch.setattr("openlimit_server.config.reload._LOOK_EVERY", 0.001)
    path, looks, taken = tmp_path / "limits.yaml", asyncio.Semaphore(0), asyncio.Event()
    write(path, policy("a"))
    files = ConfigurationFiles(path)
    files.load()
    is_locked = True

    def gather() -> Sequence[bytes]:
        asyncio.run_coroutine_threadsafe(released(), loop)
        if is_locked:
            raise ConfigurationError("cannot be read: Permission denied")
        return ConfigurationFiles.gather(files)

    async def released() -> None:
        looks.release()

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(files, "gather", gather)
    reload = Reload((files, lambda _: taken.set()))
    running = asyncio.create_task(reload.run())
    write(path, policy("b"))
    for _ in range(3):
        await asyncio.wait_for(looks.acquire(), 10)
    assert (reload.refused, reload.invalid, caplog.text.count("Permission denied")) == (1, 1, 1)
    is_locked = False
    await asyncio.wait_for(taken.wait(), 10)
    running.cancel()
    assert (reload.done, reload.invalid, files.loaded.policies[0].name) == (1, 0, "b")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """Such as a log in its place, before it is read: callers would wait meanwhile."""
    path = tmp_path / "limits.yaml"
    write(path, policy("a"))
    with path.open("a") as file:
        file.write("#" * MOST_BYTES)
    with pytest.raises(ConfigurationError, match=r"limits\.yaml: has more than 1 MiB"):
        ConfigurationFiles(path).load()


async def test_a_fault_of_ours_does_not_end_reloading(tmp_path: Path) -> None:
    """A file that cannot be read or taken over is refused and logged. The next change is taken."""
    path = tmp_path / "limits.yaml"
    write(path, policy("a"))
    faults, took = [ZeroDivisionError, KeyError], asyncio.Event()

    class Faulty(ConfigurationFiles):
        def check(self) -> None:
            fail(2)

    def take(_: Configuration) -> None:
        fail(1)
        took.set()

    def fail(left: int) -> None:
        if len(faults) == left:
            raise faults.pop()

    reload = Reload((Faulty(path, None), take))
    running = asyncio.create_task(reload.run())
    while not took.is_set() and not running.done():
        reload.request()
        await asyncio.sleep(0.01)
    running.cancel()
    assert (reload.refused, reload.done, reload.invalid) == (2, 1, 0)


def test_names_of_files_need_not_be_utf_8(tmp_path: Path) -> None:
    """Messages show what is in their place."""
    path = os.fsencode(tmp_path) + b"/\xff.yaml"
    Path(os.fsdecode(path)).write_text("policies: 1")
    files = ConfigurationFiles(Path(os.fsdecode(path)), None)
    with pytest.raises(ConfigurationError, match=r"/\\xff\.yaml:1: policies: expected a list"):
        files.load()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_while_it_starts_does_no_harm(tmp_path: Path, workers: str) -> None:
    """From the server's first line of code on: it starts, and loads the files once it has."""
    write(tmp_path / "limits.yaml", policy("a"))
    with serving_redis() as redis:
        options = ["--listen", "127.0.0.1:0", "--config", f"{tmp_path}/limits.yaml"]
        options += ["--store", redis.url + "?timeout=5", "--workers", workers]
        code = (
            "import os, signal, threading, time\n"
            "from openlimit_server.__main__ import main\n"
            "def keep_telling():\n"
            "    while True: os.kill(os.getpid(), signal.SIGHUP); time.sleep(0.01)\n"
            "from openlimit_server import signals\n"
            "signals.hold_reloads()\n"
            "threading.Thread(target=keep_telling, daemon=True).start()\n"
            f"import sys; sys.argv[1:] = {options!r}\n"
            "main()"
        )
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr
            said = ""
            while said.count("serving on") < int(workers) or "loaded the policies a" not in said:
                line = server.stderr.readline()
                assert line, said
                said += line
            server.terminate()
            assert server.stderr.read().count("stopped") == int(workers)
        assert server.returncode == 0
        assert "is replaced" not in said


def test_the_first_domains_bring_their_service(tmp_path: Path) -> None:
    """To health and reflection too, from the reload on; and the last ones take it along."""
    name = "envoy.service.ratelimit.v3.RateLimitService"
    config, plain = tmp_path / "limits.yaml", f"policies: [{policy('a')}]"
    domains = "\ndomains: [{domain: edge, descriptors: [{key: path, limit: 1/minute}]}]\n"
    with (
        serving_policies(tmp_path, plain) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        tools = ProtoReflectionDescriptorDatabase(channel)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(HealthCheckRequest(service=name), timeout=20)
        assert next(watching).status == HealthCheckResponse.SERVICE_UNKNOWN
        assert name not in tools.get_services()
        config.write_text(plain + domains)
        assert next(watching).status == HealthCheckResponse.SERVING
        assert name in tools.get_services()
        config.write_text(plain)
        assert next(watching).status == HealthCheckResponse.SERVICE_UNKNOWN
        assert name not in tools.get_services()
        watching.cancel()


async def test_callers_and_slots_and_levels_survive(tmp_path: Path) -> None:
    """Who waits goes on waiting, what runs keeps its slot, what is charged stays charged."""
    rate = "6/minute burst 10s"
    policies = policy("slots", concurrent=1, lease="1h"), policy("rate", rate)
    with serving_policies(tmp_path, f"policies: [{', '.join(policies)}]") as server:
        async with RemoteLimiter(server.address, timeout=1) as limiter:
            first = await limiter.aacquire(call("rate"))
            assert first.wait == 0
            order: list[int] = []

            async def wait_in_line(number: int) -> None:
                async with limiter.limit(model="slots", tokens=1):
                    order.append(number)

            async with limiter.limit(model="slots", tokens=1):
                waiting = []
                for number in range(3):
                    waiting.append(asyncio.create_task(wait_in_line(number)))
                    await asyncio.sleep(0.3)
                write(tmp_path / "limits.yaml", policy("new"), *policies)
                await asyncio.to_thread(reload, server, "loaded the policies new, slots, rate")
                await asyncio.sleep(0.5)
                assert order == []
            await asyncio.wait_for(asyncio.gather(*waiting), 10)
            assert order == [0, 1, 2]
            second = await limiter.aacquire(call("rate"))
            assert second.wait > 5_000_000


@pytest.mark.parametrize(
    "after",
    [policy("slots"), policy("slots", concurrent=1, mode="unlimited"), policy("all", models=["*"])],
)
async def test_who_waits_goes_on_where_nobody_is_to_wait_any_more(
    tmp_path: Path, after: str
) -> None:
    """Though the call before it goes on, and nobody asks anew."""
    before = policy("slots", concurrent=1, lease="1h")
    with serving_policies(tmp_path, f"policies: [{before}]") as server:
        async with (
            RemoteLimiter(server.address) as limiter,
            limiter.limit(model="slots", tokens=1),
        ):
            waiting = [asyncio.create_task(limiter.aacquire(call("slots"))) for _ in range(300)]
            await asyncio.sleep(1)
            assert not any(each.done() for each in waiting)
            write(tmp_path / "limits.yaml", after)
            await asyncio.to_thread(reload, server, "loaded the polic")
            await asyncio.wait_for(asyncio.gather(*waiting), 30)


async def test_a_thousand_reloads_lose_no_call_and_leave_nothing(tmp_path: Path) -> None:
    """Under load: every call is granted and settled, and threads and descriptors stay as many."""
    config = tmp_path / "limits.yaml"
    both = policy("a"), policy("a", "500000/minute burst 1h")
    with serving_policies(tmp_path, f"policies: [{both[0]}]") as server:
        async with RemoteLimiter(server.address) as limiter:
            stopped, calls = asyncio.Event(), 0

            async def callers() -> None:
                nonlocal calls
                while not stopped.is_set():
                    async with limiter.limit(model="a", tokens=1) as reservation:
                        reservation.settle({"requests": 1})
                    calls += 1

            tasks = [asyncio.create_task(callers()) for _ in range(20)]
            await asyncio.to_thread(reload, server, "loaded the policies")
            before = _threads_and_descriptors(server)

            def reload_often() -> None:
                for i in range(1000):
                    write(config, both[i % 2])
                    server.signal(signal.SIGHUP)
                    time.sleep(0.002)

            await asyncio.to_thread(reload_often)
            write(config, policy("a"), policy("last"))
            await asyncio.to_thread(said, server, "loaded the policies a, last")
            assert _threads_and_descriptors(server) == before
            stopped.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 10)
            assert calls > 100
        assert "ERROR" not in server.said()
        assert server.said().count("loaded the policies") > 50


def _threads_and_descriptors(server: ServerProcess) -> tuple[int, int]:
    process = Path(f"/proc/{server.pid}")
    return len([*(process / "task").iterdir()]), len([*(process / "fd").iterdir()])


def test_a_mode_for_each_policy(tmp_path: Path) -> None:
    """In the shadow nobody waits, unlimited charges nothing, and off leaves calls to the next."""
    slow = "1/minute"
    policies = [
        policy("shadow", slow, mode="shadow"),
        policy("line", slow, mode="shadow", levels=[{"label": "team"}]),
        policy("unlimited", slow, mode="unlimited"),
        policy("off", slow, mode="off"),
        policy("next", FAST, models=["off", "settled"]),
    ]
    with (
        serving_policies(tmp_path, f"policies: [{', '.join(policies)}]") as server,
        RemoteLimiter(server.address) as limiter,
    ):
        for model in ("shadow", "line"):
            began = time.monotonic()
            grants = [limiter.acquire(call(model)) for _ in range(5)]
            assert [grant.wait for grant in grants] == [0] * 5
            assert [bool(grant.reservation_id) for grant in grants] == [True] + [False] * 4
            assert limiter.acquire(call(model, 1000)).wait == 0
            assert time.monotonic() < began + 30  # two of five would wait for longer
        assert [limiter.acquire(call("unlimited")).wait for _ in range(5)] == [0] * 5
        assert [limiter.acquire(call("off")).wait for _ in range(5)] == [0] * 5


def test_validate_says_what_the_server_would(tmp_path: Path) -> None:
    """Exit 0 and what is in it; or 2 and file, line and field."""
    config = tmp_path / "limits.yaml"
    command = [sys.executable, "-m", "openlimit_server", "--validate", str(config)]
    write(config, policy("a"), policy("b"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"{config}: good, with 2 policies: a, b\n")
    write(config, policy("a"), policy("a"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{config}:3: policies[1].name: a policy named 'a'")


def test_validate_checks_all_files_that_are_given(tmp_path: Path) -> None:
    """Each is told, and so are the faults of all of them."""
    config, keys, domains = (tmp_path / f"{name}.yaml" for name in ("limits", "keys", "domains"))
    certificates = make_certificates(tmp_path)
    tls = ["--tls-cert", str(certificates.server), "--tls-key", str(certificates.server)]
    command = [sys.executable, "-m", "openlimit_server", "--validate", str(config), *tls]
    command += ["--keys", str(keys), "--domains", str(domains)]
    write(config, policy("a"))
    write_keys(keys, a_key("search"), a_key("batch"))
    domains.write_text("domain: edge\ndescriptors: [{key: path, limit: 1/minute}]\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert lines == [
        f"{config}: good, with 1 policies: a",
        f"{domains}: good, with 1 domains: edge",
        f"{keys}: good, with 2 keys: search, batch",
    ]
    assert last.startswith(f"{certificates.server}: good, of localhost")
    write(config, policy("a"), policy("a"))
    write_keys(keys, a_key("search"), a_key("search"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{config}:3: policies[1].name" in done.stderr
    assert f"{keys}:3: keys[1].name" in done.stderr
