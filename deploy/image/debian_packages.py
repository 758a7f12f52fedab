"""Adds what the base image brings to an SBOM of Python packages: Python itself, and Debian.

Run it as ``cyclonedx-py environment VENV | python debian_packages.py > sbom.cdx.json``.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

_FIELDS = "${db:Status-Status} ${Package} ${Version} ${Architecture}\n"


def components() -> Iterator[dict[str, Any]]:
    """As CycloneDX writes them."""
    version = platform.python_version()
    licence = {"license": {"id": "PSF-2.0"}}
    yield _component(
        "application", "python", version, f"generic/python@{version}", licenses=[licence]
    )
    system = platform.freedesktop_os_release()
    show = ["dpkg-query", "--show", f"--showformat={_FIELDS}"]
    listed = subprocess.run(show, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in listed.splitlines():
        status, name, version, architecture = line.split()
        if status != "installed":  # only its settings are left
            continue
        url = (
            f"deb/{system['ID']}/{quote(name)}@{quote(version)}"
            f"?arch={architecture}&distro={system['ID']}-{system['VERSION_ID']}"
        )
        text = {"name": "openlimit:copyright", "value": f"/usr/share/doc/{name}/copyright"}
        yield _component("library", name, version, url, properties=[text])


def _component(kind: str, name: str, version: str, url: str, **more: Any) -> dict[str, Any]:
    fields = {"type": kind, "name": name, "version": version}
    return {**fields, "bom-ref": f"pkg:{url}", "purl": f"pkg:{url}", **more}


if __name__ == "__main__":
    sbom = json.load(sys.stdin)
    sbom["components"] += components()
    json.dump(sbom, sys.stdout, indent=2)
