"""The key that tokens are signed with: of the settings, or one that the first gateway leaves in the state directory."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from arcray.core.errors import InvalidArgumentError
from arcray.facades.hivemind.tokens import KEY_BYTES
from arcray.hivemind_settings import HivemindSettings
from arcray.state_directory import private

__all__ = ["token_key"]

_FILE: Final = "arcray.hivemind.key"


def token_key(settings: HivemindSettings, state_dir: Path) -> bytes:
    """Returns the key; makes one where there is none yet, whoever else makes one at the same time.

    Raises:
        InvalidArgumentError: the file in the state directory is no key, or cannot be read or made.
    """
    if settings.token_key:
        return settings.token_key.encode()
    path = state_dir / _FILE
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be used: {error.strerror}", field="hivemind.token_key") from error
    if len(key) != KEY_BYTES:
        raise InvalidArgumentError(
            f"{path} is damaged; without it a new one is made, and everybody logs in again", field="hivemind.token_key"
        )
    return key


def _make(path: Path) -> None:
    """Puts a whole key there at once, unless another one is there by then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{_FILE}.{secrets.token_hex(8)}")
    descriptor = private(str(draft), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
