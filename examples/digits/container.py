"""A container image for the demonstration, made here so that no registry is needed."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Final

import docker
from docker.errors import DockerException

from arcray.core.errors import UnavailableError

__all__ = ["IMAGE", "build"]

IMAGE: Final = "arcray-demo:busybox"
_SOCKET: Final = Path("/var/run/docker.sock")  # where the SDK looks unless DOCKER_HOST says otherwise
_INTERPRETER: Final = b"/ld-linux"  # of an ELF file that needs the system's libraries, near its beginning


@cache
def build() -> str:
    """Makes ``IMAGE`` of nothing but this machine's busybox, once; returns what is missing for it, "" when it is made.

    Raises:
        UnavailableError: an engine is there and does not work.
    """
    if "DOCKER_HOST" not in os.environ and not _SOCKET.exists():  # the SDK would leave its own socket open
        return f"no container engine answers: no {_SOCKET}"
    try:
        engine = docker.from_env(timeout=60)
    except DockerException as error:
        return f"no container engine answers: {error}"
    with closing(engine):
        busybox = shutil.which("busybox")
        if busybox is None or _INTERPRETER in Path(busybox).read_bytes()[:4096]:
            return "there is no static busybox to make an image of (package busybox-static)"
        repository, _, tag = IMAGE.partition(":")
        try:
            engine.api.import_image_from_data(_layer(Path(busybox)), repository=repository, tag=tag)
        except DockerException as error:
            raise UnavailableError(f"the container engine does not take an image: {error}") from error
    return ""


def _layer(busybox: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(busybox.resolve(), arcname="bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type = tarfile.SYMTYPE
        link.linkname = "busybox"
        archive.addfile(link)
    return content.getvalue()
