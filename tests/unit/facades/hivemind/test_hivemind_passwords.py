"""Passwords: argon2id, salted, and no quicker about users that do not exist. Hashes here are of the least cost."""

from __future__ import annotations

from arcray.facades.hivemind.passwords import SALT_BYTES, Passwords

CHEAP = Passwords(time_cost=1, memory_kib=8)


def test_a_password_matches_its_hash_and_no_other_does() -> None:
    stored = CHEAP.hash("correct horse", b"s" * SALT_BYTES)
    assert stored.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert "correct" not in stored
    assert CHEAP.matches(stored, "correct horse")
    for wrong in ("", "correct horse ", "Correct horse", "correct horse\0"):
        assert not CHEAP.matches(stored, wrong)


def test_salts_keep_equal_passwords_apart() -> None:
    assert CHEAP.hash("same", b"a" * SALT_BYTES) != CHEAP.hash("same", b"b" * SALT_BYTES)


def test_nobody_has_no_password() -> None:
    for password in ("", "anything", "\0"):
        assert not CHEAP.matches(None, password)


def test_hashes_of_other_costs_stay_valid() -> None:
    stored = CHEAP.hash("same", b"a" * SALT_BYTES)
    assert Passwords(time_cost=2, memory_kib=16).matches(stored, "same")
