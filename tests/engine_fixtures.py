"""A real engine, and an image made here: no registry is needed."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import pytest

IMAGE = "arcray-test/busybox:1"
BUSYBOX = Path("/bin/busybox")
SOCKET = "/var/run/docker.sock"  # where the SDK looks unless DOCKER_HOST says otherwise


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """The SDK's own client, to look at what we did."""
    if "DOCKER_HOST" not in os.environ and not _listens(SOCKET):  # the SDK would leave its own socket open
        pytest.skip(f"no container engine listens at {SOCKET}")
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no container engine answers: {error}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def image(docker_client: docker.DockerClient) -> str:
    """An image of busybox alone."""
    if not BUSYBOX.exists():
        pytest.skip("no /bin/busybox; install busybox-static")
    return _import(docker_client, IMAGE)


@pytest.fixture(scope="session")
def runner_image(docker_client: docker.DockerClient, image: str) -> str:
    """The same with a ``python3`` that is busybox's shell: it drops its first argument, ``-u``."""
    return _import(docker_client, "arcray-test/runner:1", python3=b'#!/bin/sh\nshift\nexec /bin/sh "$@"\n')


def _import(docker_client: docker.DockerClient, name: str, **scripts: bytes) -> str:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as bundle:
        bundle.add(BUSYBOX, "bin/busybox")
        for command in ("cat", "echo", "httpd", "sh", "sleep", "seq", "tail", "wc"):
            link = tarfile.TarInfo(f"bin/{command}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            bundle.addfile(link)
        for path in ("tmp", "data", "proc"):
            folder = tarfile.TarInfo(path)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            bundle.addfile(folder)
        for script, text in scripts.items():
            file = tarfile.TarInfo(f"bin/{script}")
            file.size, file.mode = len(text), 0o755
            bundle.addfile(file, io.BytesIO(text))
    repository, tag = name.split(":")
    docker_client.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag)
    return name


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0
