"""Every Python snippet of the README runs as it stands, and its YAML is a valid configuration."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo.provider import Provider
from examples.demo.provider import serving as serving_provider
from examples.demo.quota import Limits
from openlimit_server.settings import load_policies
from tests.redis_process import serving_redis
from tests.server_process import serving

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("snippet", snippets("python"))
async def test_a_snippet_runs(snippet: str) -> None:
    """It runs against a real server and a provider on loopback, and says nothing on stderr."""
    provider = Provider(Limits(requests=6000, tokens=10**6, burst=60))
    async with serving_provider(provider) as api:
        with serving() as server, serving_redis() as redis:
            code = snippet.replace("localhost:50051", server.address)
            assert code != snippet or "RemoteLimiter" not in snippet
            code = code.replace("redis://localhost:5050", redis.url)
            if "def call_openai" in code:  # what the snippet defines is called as well
                code += "\nimport asyncio\nasyncio.run(call_openai())\n"
                code += "call_openai_limited(**chat_params)\n"
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-W", "error", "-c", code],
                env={"OPENAI_BASE_URL": f"{api}/v1", "OPENAI_API_KEY": "unused"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
    assert (done.returncode, done.stderr) == (0, "")
    assert provider.statistics().accepted == snippet.count("create(")


def test_there_are_snippets() -> None:
    """The pattern above still finds them."""
    assert len(snippets("python")) == 6
    assert len(snippets("yaml")) == 1


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    """The YAML example is accepted as it stands."""
    config = tmp_path / "limits.yaml"
    config.write_text(snippets("yaml")[0])
    policies = load_policies(config)
    assert [policy.name for policy in policies] == ["gpt-4o", "claude", "everything-else"]
