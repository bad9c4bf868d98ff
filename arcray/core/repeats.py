"""Commands that come again: because their sender never heard an answer, and cannot know whether they were acted on.

Most mean the same twice by what they name. What lives here is about those that do not.
"""

from __future__ import annotations

from arcray.core.commands import Command, DetachNode, IssueCredits, RemoveModel, RevokeKey, TransferCredits
from arcray.core.errors import ArcrayError, NotFoundError, StaleReportError
from arcray.core.ids import AccountId

__all__ = ["entry_key", "was_done_before"]


def entry_key(command: IssueCredits | TransferCredits) -> tuple[AccountId, str]:
    """Returns under what an entry is known when it is asked for again.

    Without an idempotency key it is the entry's own id: a client whose scheduler died asks again by itself, and whoever
    sent no key would pay twice.
    """
    return command.asked_by, command.request_id or command.id


def was_done_before(command: Command, refusal: ArcrayError) -> bool:
    """Returns whether a refusal means that what a command wants is so already.

    For whoever asked again because an acknowledgement was lost: most commands mean the same twice and say so by their
    reply; these are refused the second time, which would tell of a failure where there was none.
    """
    match command:
        case RemoveModel() | RevokeKey():
            return isinstance(refusal, NotFoundError)
        case DetachNode():
            return isinstance(refusal, StaleReportError)
        case _:
            return False
