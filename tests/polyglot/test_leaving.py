"""What becomes of a granted call whose caller leaves before it begins."""

import subprocess
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from openlimit.v1.rate_limit_pb2 import AcquireRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.polyglot.programs import EXAMPLES, PROGRAMS
from tests.support.server_process import ServerProcess

JAVA = """
import com.example.openlimit.*;
import io.grpc.ManagedChannelBuilder;
import java.time.Duration;

class Leaving {
  public static void main(String[] address) throws Exception {
    var channel = ManagedChannelBuilder.forTarget(address[0]).usePlaintext().build();
    try (var limiter = new Limiter(channel, Duration.ofSeconds(5));
        var reservation = limiter.acquire(new Call("line", 1))) {}
  }
}
"""
TYPESCRIPT = """
import { Limiter } from "%s/dist/limiter.js";

const limiter = new Limiter(process.argv[2]);
await (await limiter.acquire({ model: "line", tokens: 1 })).cancel();
limiter.close();
"""


@pytest.mark.parametrize(
    ("language", "name", "source", "command"),
    [
        ("java", "Leaving.java", JAVA, "java -cp target/client.jar"),
        ("typescript", "leaving.mjs", TYPESCRIPT % (EXAMPLES / "typescript"), "node"),
    ],
)
def test_it_keeps_no_slot(
    language: str, name: str, source: str, command: str, server: ServerProcess, tmp_path: Path
) -> None:
    """Though its start had come, so that there was nothing to cancel."""
    PROGRAMS[language].build()
    (tmp_path / name).write_text(source)
    subprocess.run(
        [*command.split(), tmp_path / name, server.address], cwd=EXAMPLES / language, check=True
    )
    with grpc.insecure_channel(server.address) as channel:
        others = RateLimitServiceStub(channel)
        others.Acquire(AcquireRequest(model="line", max_wait=Duration()), timeout=5)
