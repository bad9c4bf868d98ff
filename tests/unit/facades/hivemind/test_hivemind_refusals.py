"""Errors as the document tells them: a total table, and metadata beside success=false."""

from __future__ import annotations

import pytest

from arcray.core.errors import (
    AlreadyExistsError,
    ArcrayError,
    BusyError,
    Code,
    InsufficientCreditsError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from arcray.facades.hivemind import refusals
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.refusals import ErrorCode, Subject

DOCUMENT = {
    0: "SUCCESS", 1001: "USER_NOT_FOUND", 1002: "INVALID_PASSWORD", 1003: "USER_EXISTS", 1004: "INVALID_SESSION",
    2001: "NODE_NOT_FOUND", 2002: "NODE_OFFLINE", 2003: "INSUFFICIENT_RESOURCES", 3001: "TASK_NOT_FOUND",
    3002: "TASK_FAILED", 3003: "TASK_CANCELLED", 9999: "INTERNAL_ERROR",
}  # fmt: skip


def test_codes_are_the_documents() -> None:
    assert {code.value: code.name for code in ErrorCode} == DOCUMENT


def test_the_table_is_total_and_calls_nothing_a_success() -> None:
    assert refusals.CODES.keys() == set(Subject)
    for table in refusals.CODES.values():
        assert table.keys() == set(Code)
        assert ErrorCode.SUCCESS not in table.values()


@pytest.mark.parametrize(
    ("error", "subject", "code"),
    [
        (NotFoundError(), Subject.USER, 1001),
        (AlreadyExistsError(), Subject.USER, 1003),
        (NotFoundError(), Subject.NODE, 2001),
        (NotFoundError(), Subject.TASK, 3001),
        (InsufficientCreditsError(), Subject.USER, 2003),
        (AlreadyExistsError(), Subject.TASK, 9999),
    ],
)
def test_a_refusal_has_the_code_of_what_it_is_about(error: ArcrayError, subject: Subject, code: int) -> None:
    assert refusals.metadata(error, subject) == (
        ("hivemind-error-code", str(code)),
        ("arcray-code", error.code.value),
    )


def test_a_method_may_know_more_than_the_table() -> None:
    shown = refusals.metadata(InvalidArgumentError(), Subject.USER, ErrorCode.INVALID_PASSWORD)
    assert shown[0] == ("hivemind-error-code", "1002")


@pytest.mark.parametrize(
    ("field", "subject", "named"),
    [
        ("id", Subject.USER, "username"),
        ("id", Subject.TASK, "task_id"),
        ("to", Subject.USER, "receiver_username"),
        ("credits", Subject.USER, "amount"),
        ("credits", Subject.TASK, "user_id"),
        ("spendingLimit", Subject.TASK, "user_id"),
        ("archive", Subject.TASK, "task_data"),
        ("port", Subject.NODE, "port"),
    ],
)
def test_fields_are_named_as_in_the_contract(field: str, subject: Subject, named: str) -> None:
    assert refusals.words(InvalidArgumentError("is odd", field=field), subject) == f"{named}: is odd"


def test_a_refusal_is_an_answer_where_the_answer_can_say_it() -> None:
    refused = refusals.answer(pool.LoginResponse, InvalidArgumentError("is odd", field="username"), Subject.USER)
    assert refused == pool.LoginResponse(success=False, message="username: is odd")
    assert refusals.answer(pool.HealthCheckResponse, InvalidArgumentError(), Subject.NODE) is None
    for error in (UnavailableError(), InternalError(), BusyError()):
        assert refusals.answer(pool.LoginResponse, error, Subject.USER) is None


def test_any_words_can_be_sent() -> None:
    error = InvalidArgumentError("names '\udcff'", field="x\ud800")
    assert refusals.answer(pool.LoginResponse, error, Subject.USER) is not None
