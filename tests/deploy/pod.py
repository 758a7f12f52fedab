"""A pod of the chart without Kubernetes: its server runs as the manifest says, on this machine."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import join
from tempfile import TemporaryDirectory
from typing import Any

from tests.deploy.helm import Manifest
from tests.support.server_process import ServerProcess

_NEEDED = Path(sys.base_prefix), Path(__file__).parents[2]
STRANGER = 1000650000
"""A user of the range from which OpenShift takes them; no file tells who it is."""

_CONTAINED = (
    f"setpriv --reuid={STRANGER} --regid=0 --clear-groups --no-new-privs "
    "--inh-caps=-all --bounding-set=-all"
)

_ANY_PORT = "127.0.0.1:0"

Files = Mapping[str, str]
"""What a ConfigMap or a Secret holds, by the names of the files."""


class Pod:
    """Where the server of a rendered chart runs: ``folder`` has what Kubernetes would mount.

    ``others`` are the ConfigMaps and Secrets that the chart does not make, such as "Secret redis".
    """

    def __init__(
        self, manifests: Mapping[str, Manifest], others: Mapping[str, Files], folder: Path
    ) -> None:
        self._folder = folder
        made = {
            name: files
            for name, each in manifests.items()
            if (files := each.get("data") or each.get("stringData"))
        }
        self._files: dict[str, Files] = {**made, **others}
        [deployment] = (each for each in manifests.values() if each["kind"] == "Deployment")
        spec = deployment["spec"]["template"]["spec"]
        [self.container] = spec["containers"]
        self._volumes = {volume["name"]: _source(volume) for volume in spec["volumes"]}
        for mount in self.container["volumeMounts"]:
            self.change(self._files[self._volumes[mount["name"]]], mount["mountPath"])

    def _here(self, place: str) -> str:
        """A path or an address on this machine, for one of the container."""
        return place.replace("/etc/openlimit", str(self._folder)).replace("0.0.0.0:9090", _ANY_PORT)

    def change(self, files: Files, mount: str) -> None:
        """Mount files, or others in their place, as Kubernetes does: at once, behind a link."""
        folder = Path(self._here(mount))
        data = folder / f"..{len([*folder.glob('..*')])}"
        data.mkdir(parents=True)
        for name, content in files.items():
            (data / name).write_text(content)
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")
        (folder / "..next").symlink_to(data.name)
        (folder / "..next").rename(folder / "..data")

    def environment(self) -> dict[str, str]:
        """The server's, with this machine's places in place of the container's."""
        return {each["name"]: self._here(self._value(each)) for each in self.container["env"]}

    def _value(self, variable: dict[str, Any]) -> str:
        if "value" in variable:
            return str(variable["value"])
        key = variable["valueFrom"]["secretKeyRef"]
        return self._files[f"Secret {key['name']}"][key["key"]]

    @contextmanager
    def running(self) -> Iterator[ServerProcess]:
        """As a user whom nobody knows, without rights, on a file system that cannot be written."""
        with TemporaryDirectory() as kept:
            script = "\n".join([*_readable(Path(kept)), "mount -o remount,bind,ro /", 'exec "$@"'])
            contained = ["unshare", "--mount", "sh", "-ec", script, "sh", *_CONTAINED.split()]
            server = ServerProcess(in_front=contained, environment=self.environment())
            try:
                yield server
            finally:
                server.stop()


def _source(volume: dict[str, Any]) -> str:
    if "configMap" in volume:
        return f"ConfigMap {volume['configMap']['name']}"
    return f"Secret {volume['secret']['secretName']}"


def _readable(kept: Path) -> Iterator[str]:
    """Commands that give a stranger the way to what is in the home folder, and to no more of it."""
    home = Path.home()
    needed = [each for each in _NEEDED if each.is_relative_to(home)]
    for number, each in enumerate(needed):
        (kept / f"{number}").mkdir()
        yield join(["mount", "--bind", f"{each}", f"{kept / str(number)}"])
    yield join(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{home}"])
    for number, each in enumerate(needed):
        yield join(["mkdir", "-p", f"{each}"])
        yield join(["mount", "--bind", f"{kept / str(number)}", f"{each}"])


@contextmanager
def pod(
    manifests: Mapping[str, Manifest], others: Mapping[str, Files] | None = None
) -> Iterator[Pod]:
    """One whose folder everybody can read, as those of a container."""
    if os.getuid() != 0 or sys.platform != "linux":
        raise RuntimeError("a pod needs a mount namespace: run this as root on Linux")
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Pod(manifests, others or {}, Path(folder))
