"""Who calls: by metadata, by the token in the message, or nobody in particular."""

from __future__ import annotations

from datetime import timedelta

import pytest

from arcray.core.errors import InvalidArgumentError, UnauthenticatedError
from arcray.core.ids import AccountId
from arcray.facades.hivemind.callers import ANYBODY, Caller, Callers
from arcray.facades.hivemind.tokens import KEY_BYTES, Tokens
from arcray.testing.builders import T0

ANA, BO = AccountId("ana"), AccountId("bo")
TOKENS = Tokens(b"k" * KEY_BYTES)
LENIENT, STRICT = Callers(TOKENS, strict=False), Callers(TOKENS, strict=True)
OF_ANA, OF_BO = TOKENS.issue(ANA, T0), TOKENS.issue(BO, T0)


@pytest.mark.parametrize("callers", [LENIENT, STRICT])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_metadata_tells_who_calls(callers: Callers, scheme: str) -> None:
    assert callers.of_call("StopTask", [f"{scheme} {OF_ANA}"], T0) == Caller(ANA)


def test_a_call_without_metadata_is_nobodys_unless_mode_is_strict() -> None:
    assert LENIENT.of_call("StopTask", [], T0) == ANYBODY
    assert ANYBODY.sees is None
    for method in ("Register", "Login"):
        assert STRICT.of_call(method, [], T0) == ANYBODY
    with pytest.raises(UnauthenticatedError, match="authorization: is required"):
        STRICT.of_call("StopTask", [], T0)


@pytest.mark.parametrize("method", ["Register", "StopTask"])
@pytest.mark.parametrize("shown", ["", "bad", "Bearer", "Bearer ", "Bearer bad", f"Basic {OF_ANA}", OF_ANA])
def test_metadata_that_is_shown_is_checked_in_every_mode(method: str, shown: str) -> None:
    for callers in (LENIENT, STRICT):
        with pytest.raises(UnauthenticatedError) as caught:
            callers.of_call(method, [shown], T0)
        assert caught.value.field == "authorization"


def test_metadata_is_shown_once_and_in_time() -> None:
    with pytest.raises(UnauthenticatedError):
        LENIENT.of_call("StopTask", [f"Bearer {OF_ANA}", f"Bearer {OF_ANA}"], T0)
    with pytest.raises(UnauthenticatedError, match="has expired"):
        LENIENT.of_call("StopTask", [f"Bearer {OF_ANA}"], T0 + timedelta(days=1))


def test_a_token_in_the_message_tells_too() -> None:
    assert LENIENT.of_message(ANYBODY, OF_ANA, T0) == Caller(ANA)
    assert LENIENT.of_message(Caller(ANA), OF_ANA, T0) == Caller(ANA)
    assert LENIENT.of_message(Caller(ANA), "", T0) == Caller(ANA)
    assert LENIENT.user_of_message(Caller(ANA), "", T0) == ANA


def test_two_tokens_show_one_user() -> None:
    with pytest.raises(UnauthenticatedError, match="another user's"):
        LENIENT.of_message(Caller(ANA), OF_BO, T0)


@pytest.mark.parametrize("token", ["garbage", "x" * 4097, "a\0b"])
def test_a_wrong_token_in_the_message_is_refused(token: str) -> None:
    with pytest.raises((UnauthenticatedError, InvalidArgumentError)) as caught:
        LENIENT.of_message(Caller(ANA), token, T0)
    assert caught.value.field == "token"


def test_where_a_user_is_needed_nobody_in_particular_is_refused() -> None:
    with pytest.raises(UnauthenticatedError, match="token: is required; log in"):
        LENIENT.user_of_message(ANYBODY, "", T0)
