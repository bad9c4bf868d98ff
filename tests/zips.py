"""Zip archives whose entries say what a test wants them to say."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Mapping
from typing import Final

__all__ = ["PLAIN_FILE", "a_zip"]

PLAIN_FILE: Final = stat.S_IFREG | 0o644


def a_zip(files: Mapping[str, bytes], *, mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Returns an archive.

    Args:
        mode: of every entry, as Unix has it; 0 says nothing.
    """
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as bundle:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            bundle.writestr(entry, data, method)
    return written.getvalue()
