"""Containers for workers: packed as a program that runs one, and read again by those who can do that better.

The wire has programs alone. So a container goes as an archive whose ``main.py`` runs it by Docker's command line, with
the limits that arcray's own nodes set, and stays its child: whoever ends the program ends the container. Beside it lies
what was asked, from which arcray's agent runs it by its own engine instead.

Only workers that say so by ``docker_status`` get any: in the protocol's own words a worker with Docker runs programs
*inside* of it, where there is no Docker.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from arcray.core.errors import InvalidArgumentError, UnsupportedError
from arcray.core.orders import StartWorkload
from arcray.core.resources import Demand
from arcray.core.workload import Container
from arcray.wire.archives import BROKEN

__all__ = ["OFFERS_CONTAINERS", "Asked", "asked_of", "files_of_container", "offers_containers"]

OFFERS_CONTAINERS: Final = "enabled, containers"
"""What a worker says as its ``docker_status`` that runs containers which tasks ask for."""

_WORD: Final = "containers"
_FILE: Final = "arcray-container.json"
_MAIN: Final = """\
import json, os, sys

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "arcray-container.json"), encoding="utf-8") as file:
    asked = json.load(file)
command = ["docker", "run", "--rm", "--init", "--name", asked["name"]]
command += ["--security-opt", "no-new-privileges", "--cap-drop", "ALL", "--pids-limit", "4096"]
if asked["cpu_milli"]:
    command += ["--cpus", str(asked["cpu_milli"] / 1000)]
if asked["memory_bytes"]:
    command += ["--memory", str(asked["memory_bytes"])]
if asked["gpus"]:
    command += ["--gpus", str(asked["gpus"])]
for name, value in asked["env"]:
    command += ["--env", name + "=" + value]
args = asked["command"][1:] + asked["args"]
if asked["command"]:
    command += ["--entrypoint", asked["command"][0]]
try:
    os.execvp("docker", command + ["--", asked["image"]] + args)
except OSError as error:
    sys.exit("this worker has no Docker: " + str(error))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A container that was packed."""

    container: Container
    demand: Demand


def offers_containers(docker_status: str) -> bool:
    """Returns whether a worker runs containers that tasks ask for."""
    return _WORD in docker_status.replace(",", " ").lower().split()


def files_of_container(order: StartWorkload, container: Container) -> Mapping[str, bytes]:
    """Returns the files of the archive that a worker is sent.

    Raises:
        UnsupportedError: it wants what the wire cannot tell of: ports, or files of its node.
    """
    if container.ports:
        raise UnsupportedError("a HiveMind worker cannot tell which ports it publishes", field="ports")
    if container.volumes:
        raise UnsupportedError("a HiveMind worker has no directories to give", field="volumes")
    asked = {
        "name": f"arcray-{order.workload_id}-{order.attempt}",
        "image": container.image,
        "command": container.command,
        "args": container.args,
        "env": container.env,
        "cpu_milli": order.demand.cpu_milli,
        "memory_bytes": order.demand.memory_bytes,
        "gpus": order.demand.gpus,
    }
    return {"main.py": _MAIN.encode(), _FILE: json.dumps(asked).encode()}


def asked_of(archive: bytes) -> Asked | None:
    """Returns the container that an archive of ours asks for; None where it asks for none.

    Only to be asked about work of other protocols: a task is what its sender has uploaded.

    Raises:
        InvalidArgumentError: what it asks for is none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as bundle:
            if _FILE not in bundle.namelist():
                return None
            asked: Any = json.loads(bundle.read(_FILE))
        return Asked(
            container=Container(
                image=str(asked["image"]),
                command=tuple(map(str, asked["command"])),
                args=tuple(map(str, asked["args"])),
                env=tuple((str(name), str(value)) for name, value in asked["env"]),
            ),
            demand=Demand(
                cpu_milli=int(asked["cpu_milli"]), memory_bytes=int(asked["memory_bytes"]), gpus=int(asked["gpus"])
            ),
        )
    except (*BROKEN, OSError, LookupError, TypeError) as error:
        raise InvalidArgumentError(f"asks for no container: {error}", field="task_data") from error
