"""Tokens: what we wrote, for a day, and nothing else."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcray.core.errors import InvalidArgumentError, UnauthenticatedError
from arcray.core.ids import AccountId
from arcray.facades.hivemind.tokens import KEY_BYTES, Tokens
from arcray.testing.builders import T0

ANA = AccountId("ana")
KEY = b"k" * KEY_BYTES
TOKENS = Tokens(KEY)
DAY = timedelta(hours=24)


def segment(token: str, index: int) -> Any:
    part = token.split(".")[index]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def forged(claims: dict[str, Any], key: bytes = KEY, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm=algorithm)


def test_a_token_is_a_jwt_by_hs256_for_a_day() -> None:
    token = TOKENS.issue(ANA, T0)
    assert token.count(".") == 2
    assert segment(token, 0) == {"alg": "HS256", "typ": "JWT"}
    assert segment(token, 1) == {"user_id": "ana", "iat": T0.timestamp(), "exp": T0.timestamp() + 86_400}


def test_a_token_tells_whose_it_is_until_it_expires() -> None:
    token = TOKENS.issue(ANA, T0)
    assert TOKENS.read(token, T0) == ANA
    assert TOKENS.read(token, T0 + DAY - timedelta(seconds=1)) == ANA
    with pytest.raises(UnauthenticatedError, match="has expired; log in again"):
        TOKENS.read(token, T0 + DAY)


def unsigned(header: dict[str, str]) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims())}."


def claims(**changed: Any) -> dict[str, Any]:
    kept = {"user_id": "ana", "iat": T0.timestamp(), "exp": int(T0.timestamp()) + 86_400} | changed
    return {name: value for name, value in kept.items() if value is not None}


@pytest.mark.parametrize(
    "token",
    [
        "",
        "garbage",
        "a.b.c",
        "é.è.à",
        unsigned({"alg": "none", "typ": "JWT"}),
        unsigned({"alg": "None"}),
        unsigned({"alg": "HS256"}),
        forged(claims(), key=b"x" * KEY_BYTES),
        forged(claims(), key=KEY + KEY, algorithm="HS512"),
        forged(claims(exp=None)),
        forged(claims(user_id=None)),
        forged(claims(user_id="")),
        forged(claims(user_id=["ana"])),
        forged(claims(exp=True)),
        forged(claims(exp=T0.timestamp() + 10.5)),
        forged({"sub": "ana", "exp": int(T0.timestamp()) + 10}),
        TOKENS.issue(ANA, T0)[:-2],
        TOKENS.issue(ANA, T0) + ".",
    ],
)
def test_what_we_did_not_write_is_refused(token: str) -> None:
    with pytest.raises(UnauthenticatedError, match="is not one of ours; log in again") as caught:
        TOKENS.read(token, T0)
    assert caught.value.field == "token"


@given(st.text(), st.text(), st.text())
def test_no_text_is_a_token(header: str, body: str, signature: str) -> None:
    with pytest.raises(UnauthenticatedError):
        TOKENS.read(f"{header}.{body}.{signature}", T0)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="must have 32 bytes or more"):
        Tokens(KEY[:-1])
