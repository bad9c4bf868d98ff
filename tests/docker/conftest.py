"""A real engine, and an image made here: no registry is needed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import pytest

IMAGE = "arcray-test/busybox:1"
BUSYBOX = Path("/bin/busybox")


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """The SDK's own client, to look at what we did."""
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
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as bundle:
        bundle.add(BUSYBOX, "bin/busybox")
        for name in ("cat", "echo", "httpd", "sh", "sleep", "seq", "tail", "wc"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            bundle.addfile(link)
        for name in ("tmp", "data", "proc"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            bundle.addfile(folder)
    repository, tag = IMAGE.split(":")
    docker_client.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag)
    return IMAGE
