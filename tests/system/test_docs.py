"""Every Python snippet of the README and docs/ runs, their YAML is valid, and their links lead."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo.provider import Provider
from examples.demo.provider import serving as serving_provider
from examples.demo.quota import Limits
from openlimit_server.config.configuration import Contents, read
from openlimit_server.config.keys import read_keys
from tests.support.redis_process import RedisProcess, serving_redis
from tests.support.server_process import ServerProcess, serving, serving_policies

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def snippets(language: str) -> list[tuple[str, str]]:
    """The fenced blocks of one language, each with the page and the line where it begins."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, block.start()) + 1
            found.append((f"{page.relative_to(ROOT)}:{line}", block[1]))
    return found


def named(language: str, but: str = "nowhere") -> list[object]:
    """The snippets of all pages but one as parameters that are told by their place."""
    found = snippets(language)
    return [pytest.param(code, id=place) for place, code in found if not place.startswith(but)]


def recipes() -> list[object]:
    """Each Python snippet about sharing, with the policies that stand before it."""
    policies = ""
    found: list[object] = []
    page = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")
    for block in re.finditer(r"^```(yaml|python)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if block[1] == "yaml":
            policies = block[2]
        else:
            line = page.count("\n", 0, block.start()) + 1
            found.append(pytest.param(policies, block[2], id=f"docs/sharing.md:{line}"))
    return found


async def run(code: str, api: str) -> subprocess.CompletedProcess[str]:
    """Run a snippet in a process of its own, whose provider is at this address."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", code],
        env={"OPENAI_BASE_URL": f"{api}/v1", "OPENAI_API_KEY": "unused"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with serving_redis() as redis:
        yield redis


@pytest.mark.parametrize("snippet", named("python", but="docs/sharing.md"))
async def test_a_snippet_runs(snippet: str, server: ServerProcess, redis: RedisProcess) -> None:
    """It runs against a real server and a provider on loopback, and says nothing on stderr."""
    provider = Provider(Limits(requests=6000, tokens=10**6, burst=60))
    async with serving_provider(provider) as api:
        code = snippet.replace("localhost:50051", server.address)
        assert code != snippet or "RemoteLimiter" not in snippet
        code = code.replace("redis://localhost:5050", redis.url + "?timeout=5")
        if "def call_openai()" in code:  # what the snippet defines is called as well
            code += "\nimport asyncio\nasyncio.run(call_openai())\n"
            code += "call_openai_limited(**chat_params)\n"
        done = await run(code, api)
    assert (done.returncode, done.stderr) == (0, "")
    assert provider.statistics().accepted == snippet.count("create(")


@pytest.mark.parametrize(("policies", "snippet"), recipes())
async def test_a_recipe_does_what_it_says(policies: str, snippet: str, tmp_path: Path) -> None:
    """At a server with the recipe's policies, it prints what its comments say."""
    provider = Provider(Limits(requests=6000, tokens=10**6, burst=60))
    with serving_policies(tmp_path, policies) as server:
        async with serving_provider(provider) as api:
            done = await run(snippet.replace("localhost:50051", server.address), api)
    assert (done.returncode, done.stderr) == (0, "")
    said = re.findall(r"^ *(?:print\(.*\)  )?# (.*)$", snippet, re.MULTILINE)
    assert done.stdout.splitlines() == said
    assert provider.statistics().accepted == (7 if "create(" in snippet else 0)


def test_there_are_snippets() -> None:
    """The pattern above still finds them."""
    assert len(snippets("python")) == 15
    assert len(snippets("yaml")) == 11
    assert len(recipes()) == 5


@pytest.mark.parametrize("snippet", named("yaml", but="docs/envoy.md"))
def test_a_configuration_is_valid(snippet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The YAML is accepted as it stands, of policies and of keys."""
    monkeypatch.setenv("BATCH_KEY", "olk_" + "x" * 43)
    content = snippet.encode()
    if snippet.startswith("keys:"):
        names = [key.name for key in read_keys(content, "")]
    else:
        policies = read(Contents(policies=("", content))).policies
        names = [policy.name for policy in policies]
    assert names == re.findall(r"^  - name: (.*)$", snippet, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    """Those to files of the project; a heading is named as forges name it."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings
            }


def test_the_readme_is_short() -> None:
    """It is for a person in a hurry: what takes longer is in docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 800
