"""Keys of the blob store: where programs, models, logs and results live, so that writers and readers agree.

Names of result files are the only part that is not ours. Letters and digits of any script stand in the key as they are,
which keeps a name within what a file system allows; of all else but ``.``, ``_`` and ``-`` each byte of its UTF-8 is
spelled ``=C3``. So names that differ have keys that differ, and the key tells the name.

A few bytes are their own key (``key_for``): they go where the key goes, and no store has them.
"""

from __future__ import annotations

import re
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import WorkloadId, canonical_uuid

__all__ = [
    "INLINE_BYTES",
    "OWNED",
    "foreign_log_key",
    "inline",
    "is_of_submission",
    "key_for",
    "log_key",
    "model_key",
    "own_keys",
    "owner_of",
    "program_key",
    "result_key",
    "result_path",
    "result_prefix",
    "stdin_key",
    "workload_of_log",
]

INLINE_BYTES: Final = 4096
"""The largest blob that is its own key. 100,000 programs of that size that wait take half a gigabyte."""

_INLINE: Final = "inline:"  # no store takes a key with a colon
_FOREIGN: Final = re.compile(r"[^\w./-]")
_FOREIGN_TO_ASCII: Final = re.compile(r"[^A-Za-z0-9_./-]")
_SPELLED: Final = re.compile(r"(?<!=)(?:=[0-9A-F]{2})+")
_SHORTENED: Final = re.compile(r"==[0-9a-f]{32}")
_PART_BYTES: Final = 255  # what file systems take for a name
_PATH_CHARACTERS: Final = 440  # what a key has left beside the workload's id


def key_for(data: bytes, otherwise: str) -> str:
    """Returns the key of a blob: its own bytes where it is small, else the one under which a store keeps it."""
    return f"{_INLINE}{b64encode(data).decode()}" if len(data) <= INLINE_BYTES else otherwise


def inline(key: str) -> bytes | None:
    """Returns the blob that the key is itself; None where a store has it."""
    return b64decode(key[len(_INLINE) :]) if key.startswith(_INLINE) else None


def log_key(workload_id: WorkloadId) -> str:
    """Returns the key of a workload's log; the attempts of one workload share it, in order."""
    return f"logs/{workload_id}.log"


def workload_of_log(key: str) -> WorkloadId | None:
    """Returns whose log the key leads to, None when it leads to something else."""
    return WorkloadId(key[len("logs/") : -len(".log")]) if key.startswith("logs/") and key.endswith(".log") else None


OWNED = ("logs", "programs", "results", "stdin")
"""Directories in which every entry belongs to one workload."""

MODELS = "models"
"""The directory of model files, which belong to the models that name them."""


def owner_of(entry: str) -> WorkloadId | None:
    """Returns whose an entry of one of the ``OWNED`` directories is; None where its name is none of ours.

    Args:
        entry: a name without its directory.
    """
    stem = entry.partition(".")[0]
    try:
        return WorkloadId(canonical_uuid(stem))
    except InvalidArgumentError:
        return None


def result_prefix(workload_id: WorkloadId) -> str:
    """Returns what the keys of all its result files begin with."""
    return f"results/{workload_id}/"


def result_key(workload_id: WorkloadId, path: str, attempt: int = 1) -> str:
    """Returns the key of a result file; no other path has the same.

    Attempts share no key: a machine that was given up for lost, and works on, must not write over the results of the
    attempt that took its place.

    Args:
        path: relative to the result directory, with ``/`` between its parts. What is too long for a key ends in, or
            lies in, a digest of it, and is then not told by its key.
    """
    # Some file systems compose letters and accents, so only what is composed may stand as it is.
    foreign = _FOREIGN if unicodedata.is_normalized("NFC", path) else _FOREIGN_TO_ASCII
    named = "/".join(_fitting(part, foreign) for part in path.split("/"))
    if len(named) > _PATH_CHARACTERS:
        named = f"=={_digest(path)}/{named.rpartition('/')[2]}"
    if named.startswith("-"):  # that is what the directories of later attempts begin with
        named = f"=2D{named[1:]}"
    return f"{result_prefix(workload_id)}{named if attempt == 1 else f'-{attempt}/{named}'}"


def result_path(key: str) -> str:
    """Returns the path of a result file by its key; no two keys of one attempt show the same.

    That is its name, unless the name is no UTF-8 or was too long, or would read like what is shown of such a one: those
    are shown as they are spelled.
    """
    path = key.split("/", 2)[2]
    spelled = path.split("/", 1)[1] if path.startswith("-") else path
    return _told(spelled) or spelled


def foreign_log_key(workload_id: WorkloadId) -> str:
    """Returns the key of what machines of another protocol log about a workload; it goes with its results."""
    return f"{result_prefix(workload_id)}-log"  # no result file begins so


def program_key(workload_id: WorkloadId, *, archive: bool, submission: str = "") -> str:
    """Returns the key of a program's code: a zip archive, or the text of one file.

    Args:
        submission: an id of the submission, of ``[A-Za-z0-9-]``, where others may come with the same workload id.
    """
    own = f".{submission}" if submission else ""
    return f"programs/{workload_id}{own}.{'zip' if archive else 'py'}"


def stdin_key(workload_id: WorkloadId) -> str:
    """Returns the key of what a program reads from its standard input."""
    return f"stdin/{workload_id}"


def own_keys(workload_id: WorkloadId) -> tuple[str, ...]:
    """Returns the keys that every workload has by its id alone; its results lie below ``result_prefix``."""
    programs = (program_key(workload_id, archive=archive) for archive in (False, True))
    return (log_key(workload_id), stdin_key(workload_id), *programs)


def is_of_submission(key: str, workload_id: WorkloadId) -> bool:
    """Returns whether a key is of a program that a submission of this workload has stored for itself."""
    return key.startswith(f"programs/{workload_id}.") and key not in own_keys(workload_id)


def model_key(sha256: str) -> str:
    """Returns the key of a model file; by content, so that the same file is kept once."""
    return f"{MODELS}/{sha256}.onnx"


def _fitting(part: str, foreign: re.Pattern[str]) -> str:
    spelled = foreign.sub(_spell, part)
    if len(spelled.encode()) <= _PART_BYTES:
        return spelled
    end = f"=={_digest(part)}"
    return "".join(_within((foreign.sub(_spell, one) for one in part), _PART_BYTES - len(end))) + end


def _within(pieces: Iterator[str], size_bytes: int) -> Iterator[str]:
    for piece in pieces:
        size_bytes -= len(piece.encode())
        if size_bytes < 0:
            return
        yield piece


def _spell(found: re.Match[str]) -> str:
    # A file name that is no UTF-8 comes with its bytes as lone surrogates.
    return "".join(f"={byte:02X}" for byte in found.group().encode("utf-8", "surrogateescape"))


def _told(spelled: str) -> str | None:
    """Returns the name that is spelled so; None where it is shown as it is spelled."""
    if _SHORTENED.search(spelled):
        return None
    try:
        name = _SPELLED.sub(_read, spelled)
    except UnicodeDecodeError:
        return None
    # A name that reads like a spelling must not read like one that is shown.
    return name if name == spelled or _told(name) is not None else None


def _read(found: re.Match[str]) -> str:
    return bytes.fromhex(found.group().replace("=", "")).decode()


def _digest(name: str) -> str:
    return blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
